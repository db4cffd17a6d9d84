"""Hostile .safetensors, packed files, CIFAR archives and logs."""

import gc
import hashlib
import io
import os
import struct
import tarfile
import threading

import numpy as np
import pytest

from passl.datasets import build_dataset, packed
from passl.datasets.cifar import _read_batch
from passl.datasets.image import ImageReadError
from passl.utils.weights.checkpoint import load_file
from passl.utils.errors import CheckpointError, DataError, PasslError
from passl.pictures.curves import plot_loss

from . import hostile
from .guard import guarded

F4 = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}
SAFETENSORS = {
    'overlap': ({'a': F4, 'b': F4}, 'overlap'),
    'many names for the same bytes': ({f'n{i}': {'dtype': 'U8', 'shape': [10**6], 'data_offsets': [0, 10**6]}
                                       for i in range(1000)}, 'overlap'),
    'negative': ({'a': dict(F4, data_offsets=[-4, 0])}, 'no pair of rising numbers'),
    'falling': ({'a': dict(F4, data_offsets=[4, 0])}, 'no pair of rising numbers'),
    'beyond the end': ({'a': dict(F4, data_offsets=[10**9, 10**9 + 4])}, 'ends too early'),
    'overflowing': ({'a': dict(F4, data_offsets=[2**63, 2**64])}, 'ends too early'),
    'a float': ({'a': dict(F4, data_offsets=[0.0, 4.0])}, 'no pair of rising numbers'),
    'a flag': ({'a': dict(F4, data_offsets=[False, True])}, 'no pair of rising numbers'),
    'a text': ({'a': dict(F4, data_offsets='04')}, 'no pair of rising numbers'),
    'three': ({'a': dict(F4, data_offsets=[0, 2, 4])}, 'no pair of rising numbers'),
    'shape and bytes': ({'a': dict(F4, shape=[2])}, 'damaged'),
    'shape overflows': ({'a': dict(F4, shape=[2**32, 2**32, 2**32])}, 'damaged'),
    'shape of a huge number': ({'a': dict(F4, shape=[10**400])}, 'damaged'),
    'negative shape': ({'a': dict(F4, shape=[-1, -1])}, 'damaged'),
    'shape of texts': ({'a': dict(F4, shape=['1'])}, 'damaged'),
    'shape of 1000 axes': ({'a': dict(F4, shape=[1] * 1000)}, 'damaged'),
    'objects': ({'a': dict(F4, dtype='O')}, 'has the type O'),
    'V1000000000': ({'a': dict(F4, dtype='V1000000000')}, 'has the type V1'),
    'type of a list': ({'a': dict(F4, dtype=['F32'])}, 'not supported'),
    'no description': ({'a': 3}, 'no description'),
    'half a description': ({'a': {'dtype': 'F32'}}, 'no description'),
    'a list': ([1], 'not a mapping'),
    'twice the same name': (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 'appears twice'),
    'nested 100000 deep': (b'[' * 100000, 'damaged'),
    'no JSON': (b'{"a": __import__("os").system("x")}', 'damaged'),
    'no text': (b'{\xff\xfe', 'damaged'),
    'number of 100000 digits': (b'{"a": ' + b'9' * 100000 + b'}', 'damaged'),
    'NaN': (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, Infinity]}}', 'no pair'),
}


def refused(reader, *args, errors=PasslError, match='', **limits):
    done = guarded(reader, *args, allowed=errors, **limits)
    assert done.error is not None, f'accepted as {done.value!r:.200}'
    assert match in str(done.error) and len(str(done.error)) < 2000, done.error
    return done


@pytest.mark.parametrize('name', sorted(SAFETENSORS))
def test_safetensors(tmp_path, name):
    header, match = SAFETENSORS[name]
    (tmp_path / 'x.safetensors').write_bytes(hostile.safetensors(header,
                                                                 bytes(16) if 'many' not in name else bytes(10**6)))
    refused(load_file, str(tmp_path / 'x.safetensors'), errors=CheckpointError, match=match, seconds=5, megabytes=100)


@pytest.mark.parametrize('length', [2**64 - 1, 2**63, 10**12, 10**8 + 1, 1000])
def test_safetensors_header_longer_than_the_file(tmp_path, length):
    (tmp_path / 'x.safetensors').write_bytes(hostile.safetensors({'a': F4}, bytes(4), length))
    refused(load_file, str(tmp_path / 'x.safetensors'), errors=CheckpointError, match='too early', megabytes=50)


# ------------------------------------------------------------------------------------------------- packed files

@pytest.fixture
def packed_file(tmp_path):
    rng = np.random.RandomState(0)
    images = [rng.bytes(n) for n in (1, 700, 3000, 5000, 0, 12, 30000, 4080, 8176, 4096) * 20]
    file = str(tmp_path / 'p.pack')
    packed.write_packed(file, [images], [f'n{i}' for i in range(len(images))], np.arange(len(images)) % 3,
                        ['a', 'b', 'c'])
    return file, images


def read_all(file):
    """How many images cannot be read."""
    dataset, unreadable = build_dataset({'name': 'PackedImages', 'dataroot': file, 'return_label': True}), 0
    for i in range(len(dataset)):
        try:
            dataset.read_bytes(i)
        except ImageReadError:
            unreadable += 1
    return unreadable


@pytest.mark.parametrize('sealed', [False, True])
def test_packed_files_with_any_changed_number(packed_file, tmp_path, sealed):
    """Every number of head and index set to extremes; `sealed`: with a checksum that is right."""
    file, images = packed_file
    whole = open(file, 'rb').read()
    start, = struct.unpack_from('<Q', whole, 16)
    rng = np.random.RandomState(1)
    assert read_all(file) == 0
    for at in [16, 24, *rng.choice(np.arange(start, len(whole) - 8), 200)]:
        changed = bytearray(whole)
        values = b'\xff' * 8, bytes(8), b'\1' + bytes(7), b'\xff' * 7 + b'\x7f', rng.bytes(8)
        changed[at:at + 8] = values[rng.randint(5)]
        if sealed and at >= start:
            changed[32:64] = hashlib.sha256(changed[start:]).digest()
        with open(tmp_path / 'changed', 'wb') as f:
            f.write(changed)
        done = guarded(read_all, str(tmp_path / 'changed'), allowed=DataError, seconds=10, megabytes=100)
        assert sealed or changed == whole or done.error is not None


def test_a_packed_file_of_a_huge_hole(packed_file, tmp_path):
    """Its sizes fit, and its index would fill the memory."""
    file, _ = packed_file
    with open(tmp_path / 'hole', 'wb') as f:
        f.write(struct.pack('<16sQQ32s', b'PASSL packed 2\n\0', 64, 2**40, bytes(32)))
        f.truncate(64 + 2**40)
    refused(read_all, str(tmp_path / 'hole'), errors=DataError, match='do not fit', seconds=5, megabytes=50)


# ------------------------------------------------------------------------------------------------- CIFAR and logs

@pytest.mark.parametrize('name', sorted(hostile.calls('x')))
def test_cifar_batches(tmp_path, name):
    canary = tmp_path / 'canary'
    for body in hostile.places(hostile.calls(canary)[name]).values():
        guarded(_read_batch, hostile.pickled(body, protocol=2), 'data_batch_1', allowed=DataError, seconds=5)
        assert not canary.exists()


def test_cifar_archive_with_foreign_names_and_sizes(tmp_path):
    """Only the base names that are looked for are read; nothing is unpacked to the disk."""
    file = tmp_path / 'in' / 'cifar-10-python.tar.gz'
    file.parent.mkdir()
    with tarfile.open(file, 'w:gz') as tar:
        for name in ('../../canary', '/canary', 'cifar-10-batches-py/data_batch_1'):
            info = tarfile.TarInfo(name)
            info.size = 10
            tar.addfile(info, io.BytesIO(b'x' * 10))
        link = tarfile.TarInfo('cifar-10-batches-py/data_batch_2')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
    refused(build_dataset, {'name': 'CIFAR10', 'dataroot': str(file)}, errors=DataError, match='lacks data_batch_2')
    assert os.listdir(tmp_path) == ['in'] and os.listdir(file.parent) == [file.name]


LINES = ['{"iteration": ' + '9' * 5000 + '}', '[' * 5000, '{"iteration": [1], "mode": "train"}',
         '{"iteration": {}, "loss": 1}',
         '{"iteration": 1, "mode": [], "loss": 1}', '{"iteration": 1, "mode": "train", "loss": "abc"}', '"x"', 'null',
         '{"iteration": 1, "mode": "train", "loss": [1]}', '{"iteration": 1e999, "mode": "train"}',
         '{"iteration": "1"}',
         '{"iteration": true, "mode": "train", "loss": 1}', '\0', '{"iteration": 2, "mode": "val", "acc1": {"a": 1}}']


def test_logs_with_lines_of_others(tmp_path, monkeypatch):
    """Only lines that are records of this project are drawn."""
    from passl.pictures import curves
    drawn = []
    monkeypatch.setattr(curves, 'save', lambda figure, path: drawn.append(figure))
    (tmp_path / 'config.yaml').write_text('a: &a [x]\nb: [*a, *a]\n<<: {model: {K: 3}}\n!!python/name:os.system : 1\n')
    log = tmp_path / 'log.jsonl'
    log.write_text('\n'.join(LINES))
    with pytest.raises(DataError, match='no logged step'):
        plot_loss(str(log), 'x.png')
    log.write_text('\n'.join(LINES + ['{"mode": "train", "iteration": 1, "loss": 2.5, "lr": 0.1}',
                                      '{"mode": "train", "iteration": 2, "loss": "nan", "lr": 0.1}']))
    plot_loss(str(log), 'x.png')
    assert [line.get_ydata()[0] for line in drawn[0].axes[0].lines] == [2.5, 2.5]


def test_the_guard_sees_what_the_reader_does_and_nothing_else(tmp_path):
    """Threads and garbage that tests before have left may write and remove files meanwhile; the reader may not."""
    stop, wrote = threading.Event(), threading.Event()

    def write():
        while not stop.wait(0.001):
            (tmp_path / 'other').write_text('x')
            wrote.set()

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            os.mkdir(tmp_path / 'garbage')

    def reads():
        wrote.clear()
        assert wrote.wait(60)
        return len([[] for _ in range(10**5)])      # the collector would have come by

    def starts_a_thread():
        thread = threading.Thread(target=os.mkdir, args=(tmp_path / 'new',))
        thread.start()
        thread.join()
    other = threading.Thread(target=write)
    other.start()
    try:
        Garbage()
        assert guarded(reads).value == 10**5
        gc.collect()
        assert (tmp_path / 'garbage').exists()
        for does_more in (lambda: os.mkdir(tmp_path / 'mine'), starts_a_thread):
            with pytest.raises(AssertionError, match='did more than read.*os.mkdir'):
                guarded(does_more)
    finally:
        stop.set()
        other.join()
