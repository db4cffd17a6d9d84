"""Is /dev/shm large enough?"""

import collections

import numpy as np
import pytest

from passl.datasets import build_dataloader, shared_memory
from passl.datasets.base import ImageDataset
from passl.utils.errors import ConfigError

Room = collections.namedtuple('Room', 'f_bavail f_frsize')
CROP = [{'name': 'RandomResizedCrop', 'size': 64}, {'name': 'Transpose'},
        {'name': 'NormalizeImage', 'mean': [0.5] * 3, 'std': [0.5] * 3}]
FLOAT, BYTE = 32 * 2 * 3 * 64 * 64 * 4, 32 * 2 * 3 * 64 * 64         # a batch of 32 with two views


def loader(monkeypatch, free, shared=None, transport='float32', **options):
    monkeypatch.setattr(shared_memory.os, 'statvfs', lambda folder: Room(free // 4096, 4096))
    settings = {'num_workers': 2, 'use_shared_memory': shared, 'transport': transport}
    return build_dataloader({'loader': settings, 'sampler': {'batch_size': 32}, 'dataset': {
        'name': 'Synthetic', 'num_images': 64, 'return_two_sample': True, 'transforms': CROP}}, **options)


@pytest.mark.parametrize('transport, size', [('float32', FLOAT), ('uint8', BYTE)])
def test_the_estimate_is_the_size_of_a_real_batch(monkeypatch, transport, size):
    made = loader(monkeypatch, 2**40, transport=transport)
    assert shared_memory.batch_bytes(made.dataset, made.collate_fn, 32) == size
    batch = made.collate_fn([made.dataset[key] for key in next(iter(made.batch_sampler))])
    assert sum(np.asarray(field).nbytes for field in batch) == size
    assert made.use_shared_memory


def test_images_that_keep_their_size_are_judged_by_the_first(monkeypatch):
    monkeypatch.setattr(shared_memory.os, 'statvfs', lambda folder: Room(2**30, 4096))
    made = build_dataloader({'loader': {'num_workers': 1}, 'sampler': {'batch_size': 8}, 'dataset': {
        'name': 'Synthetic', 'num_images': 8, 'size': 48, 'return_label': True}})
    assert shared_memory.batch_bytes(made.dataset, made.collate_fn, 8) == 8 * (48 * 48 * 3 * 4 + 8)


def test_too_little_room_switches_it_off_and_training_goes_on(monkeypatch, caplog):
    made = loader(monkeypatch, 6 * FLOAT - 4096)
    assert not made.use_shared_memory and len(list(made)) == 2
    for part in ('/dev/shm is too small: 18 MiB are needed', '2 workers x 2 ahead + 2', '--shm-size=1g', '--ipc=host',
                 'num_workers', 'transport: uint8'):
        assert part in caplog.text
    caplog.clear()
    assert loader(monkeypatch, 6 * FLOAT + 4096).use_shared_memory and 'too small' not in caplog.text
    assert loader(monkeypatch, 6 * FLOAT - 4096, transport='uint8').use_shared_memory
    assert not loader(monkeypatch, 2**40, shared=False).use_shared_memory


def test_where_it_was_asked_for_the_run_does_not_start(monkeypatch):
    with pytest.raises(ConfigError, match=r"'dataloader.train.loader.use_shared_memory' is true.*too small: 18 MiB.*"
                                          r'9 MiB are free.*--shm-size=1g.*use_shared_memory: false'):
        loader(monkeypatch, 3 * FLOAT, shared=True)
    assert loader(monkeypatch, 6 * FLOAT, shared=True).use_shared_memory


def test_the_processes_of_a_machine_share_it(monkeypatch):
    assert not loader(monkeypatch, 11 * FLOAT, world_size=2).use_shared_memory
    assert loader(monkeypatch, 12 * FLOAT, world_size=2).use_shared_memory
    monkeypatch.setenv('PADDLE_LOCAL_SIZE', '1')            # each on its own machine
    assert loader(monkeypatch, 6 * FLOAT, world_size=2).use_shared_memory


def test_a_machine_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, 'FOLDER', str(tmp_path / 'none'))
    assert not shared_memory.use_shared_memory(None, 1, 2, 2, 1, 'loader')
    with pytest.raises(ConfigError, match='There is no '):
        shared_memory.use_shared_memory(True, 1, 2, 2, 1, 'loader')
    assert shared_memory.batch_bytes(object(), list, 4) == 0
    assert issubclass(ImageDataset, object) and hasattr(ImageDataset, 'example')
