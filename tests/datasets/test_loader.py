"""Batches: seeding over workers, ranks and epochs, bad files, worker failures, wrong settings."""

import errno
import gc
import multiprocessing
import os
import random
import signal
import sys
import time

import numpy as np
import pytest
from paddle.base import core

from passl.datasets import SampleKey, build_dataloader, build_dataset
from passl.datasets.base import ImageDataset
from passl.datasets.builder import explain_failure
from passl.datasets.worker_watch import not_started
from passl.utils.errors import ConfigError, DataError

RECIPE = [{'name': 'RandomResizedCrop', 'size': 8}, {'name': 'ColorJitter', 'brightness': 0.4},
          {'name': 'RandomHorizontalFlip'}, {'name': 'ToTensor'}]


def config(n=12, batch=4, workers=0, shuffle=True, drop_last=True, **dataset):
    dataset = dataset or dict(name='Synthetic', num_images=n, size=16, transforms=RECIPE,
                              return_two_sample=True,
                              return_label=True)
    return dict(loader=dict(num_workers=workers), dataset=dataset,
                sampler=dict(batch_size=batch, shuffle=shuffle, drop_last=drop_last))


def read(cfg, epoch=0, start=0, **options):
    loader = build_dataloader(cfg, **options)
    loader.batch_sampler.set_epoch(epoch, start)
    return [[np.asarray(t.numpy()) for t in batch] for batch in loader]


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))


def test_batches_have_the_documented_form():
    out = read(config())
    assert len(out) == 3 and [len(b) for b in out] == [3] * 3
    view1, view2, label = out[0]
    assert view1.shape == view2.shape == (4, 3, 8, 8) and view1.dtype == np.float32
    assert label.shape == (4,) and label.dtype == np.int64
    assert not np.array_equal(view1, view2)


def test_same_numbers_for_any_number_of_workers():
    one = read(config(workers=0), epoch=1, seed=3)
    assert equal(one, read(config(workers=1), epoch=1, seed=3))
    assert equal(one, read(config(workers=2), epoch=1, seed=3))


def test_continuing_in_the_middle_of_an_epoch_gives_the_rest():
    whole = read(config(workers=0), epoch=2)
    assert equal(whole[2:], read(config(workers=1), epoch=2, start=2))


def test_two_processes_share_the_batches_of_one():
    one = read(config(batch=4), seed=1)
    ranks = [read(config(batch=2), seed=1, rank=r, world_size=2) for r in (0, 1)]
    for whole, first, second in zip(one, *ranks):
        for field, (a, b) in enumerate(zip(first, second)):
            assert np.array_equal(whole[field], np.concatenate([a, b]))


def test_views_differ_between_epochs_seeds_and_images():
    ds = build_dataset(config(n=20)['dataset'])
    ds.load = lambda index: np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)    # one image for all
    views = [ds[SampleKey(i, s)][v].tobytes() for i in range(4) for s in range(4) for v in (0, 1)]
    assert len(set(views)) == 32
    assert ds[SampleKey(2, 3)][0].tobytes() == ds[SampleKey(2, 3)][0].tobytes()


def test_sample_seeding_leaves_the_global_generators_alone():
    ds = build_dataset(config()['dataset'])
    random.seed(1), np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1), np.random.seed(1)
    ds[SampleKey(0, 5)]
    assert (random.random(), np.random.rand()) == expected


def test_evaluation_reads_every_image_once_in_order():
    cfg = config(n=10, name='Synthetic', num_images=10, size=16, return_label=True, shuffle=False,
                 drop_last=False)
    labels = [b[1] for b in read(cfg, training=False)]
    assert np.concatenate(labels).tolist() == list(range(10)) and [len(x) for x in labels] == [4, 4, 2]
    parts = [read(cfg, training=False, rank=r, world_size=3) for r in range(3)]
    assert sorted(int(k) for p in parts for b in p for k in b[1]) == list(range(10))


def test_num_workers_directly_below_train():
    cfg = config()
    del cfg['loader']
    cfg['num_workers'] = 1
    assert build_dataloader(cfg).num_workers == 1
    cfg['sampler']['name'] = 'DistributedBatchSampler'
    assert len(build_dataloader(cfg)) == 3


def spoil(files, which):
    for i in which:
        with open(files[i], 'wb') as f:
            f.write(b'broken')


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_files_are_replaced_named_and_counted(tmp_path, make_images, capfd, caplog, workers):
    files = make_images(tmp_path, 20)
    spoil(files, [3, 7])
    cfg = config(batch=5, workers=workers, name='UnlabelledFolder', dataroot=str(tmp_path))
    loader = build_dataloader(cfg)
    epochs = []
    for epoch in (0, 0):
        loader.batch_sampler.set_epoch(epoch)
        epochs.append([b[0].numpy() for b in loader])
    assert [len(b) for b in epochs[0]] == [5] * 4
    assert equal(epochs[:1], epochs[1:])                    # the replacement is always the same
    assert loader.dataset.num_bad == 2
    text = capfd.readouterr().err + capfd.readouterr().out + caplog.text
    if workers == 0:
        assert text.count('0003.png') >= 1 and text.count('0007.png') >= 1


def test_replacement_takes_its_own_label(tmp_path, make_images):
    files = make_images(tmp_path, 10, classes=2)
    spoil(files, range(3))
    ds = build_dataset(dict(name='ImageFolder', dataroot=str(tmp_path), max_bad=0.5))
    for i in range(3):
        img, label = ds[i]
        source = [j for j in range(3, 20) if np.array_equal(ds[j][0], img)]
        assert source and label == ds.samples[source[0]][1]


def test_too_many_bad_files_stop(tmp_path, make_images):
    files = make_images(tmp_path, 20)
    spoil(files, range(4))
    ds = build_dataset(dict(name='UnlabelledFolder', dataroot=str(tmp_path)))
    with pytest.raises(DataError, match='3 of 20 images are unreadable.*max_bad'):
        [ds[i] for i in range(20)]
    ds = build_dataset(dict(name='UnlabelledFolder', dataroot=str(tmp_path), max_bad=0.2))
    assert len([ds[i] for i in range(20)]) == 20 and ds.num_bad == 4
    ds = build_dataset(dict(name='UnlabelledFolder', dataroot=str(tmp_path), on_error='raise'))
    with pytest.raises(DataError, match='0000.png'):
        ds[0]
    spoil(files, range(20))
    ds = build_dataset(dict(name='UnlabelledFolder', dataroot=str(tmp_path), max_bad=1.0))
    with pytest.raises(DataError, match='No readable image'):
        ds[0]


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_the_reason_of_a_stopped_worker_reaches_the_main_process(tmp_path, make_images):
    files = make_images(tmp_path, 8)
    spoil(files, range(8))
    loader = build_dataloader(config(workers=1, name='UnlabelledFolder', dataroot=str(tmp_path)))
    with pytest.raises(DataError, match='worker stopped.*images are unreadable'):
        list(loader)
    assert 'images are unreadable' in loader.dataset.failure
    other = SystemError('Blocking queue is killed')
    assert explain_failure(build_dataloader(config()), other) is other


def test_without_workers_an_error_arrives_as_it_is(tmp_path, make_images):
    spoil(make_images(tmp_path, 4), [0, 1, 2, 3])
    loader = build_dataloader(config(name='UnlabelledFolder', dataroot=str(tmp_path), on_error='raise'))
    with pytest.raises(DataError, match='is not an image of a known kind'):
        next(iter(loader))


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_images_that_do_not_stack_are_explained(tmp_path, make_images):
    make_images(tmp_path / 'a', 2, size=16)
    make_images(tmp_path / 'b', 2, size=24)
    with pytest.raises(DataError, match='different sizes.*RandomResizedCrop'):
        read(config(name='UnlabelledFolder', dataroot=str(tmp_path)))
    with pytest.raises(DataError, match='different sizes'):
        read(config(workers=1, name='UnlabelledFolder', dataroot=str(tmp_path)))


def test_a_copy_made_by_pickling_works(tmp_path, make_images):
    import pickle
    spoil(make_images(tmp_path, 20), [0])
    ds = build_dataset(dict(name='UnlabelledFolder', dataroot=str(tmp_path)))
    ds[0]
    copy = pickle.loads(pickle.dumps(ds))
    assert copy.num_bad == 1 and np.array_equal(copy[5][0], ds[5][0])
    synthetic = build_dataset(dict(name='Synthetic', num_images=3))
    assert np.array_equal(pickle.loads(pickle.dumps(synthetic))[1][0], synthetic[1][0])


@pytest.mark.parametrize('change, error, match', [
    (dict(sampler=dict(batch_size=16, drop_last=True)), DataError,
     r'batch \(16\) is larger than the data set \(12 images\).*drop_last=False'),
    (dict(sampler=dict(batch_size='8')), ConfigError, 'batch_size'),
    (dict(sampler=dict()), ConfigError, 'batch_size. is missing'),
    (dict(sampler=dict(batch_size=2, shufle=True)), ConfigError, "Did you mean 'shuffle'"),
    (dict(sampler=dict(batch_size=2, shuffle='yes')), ConfigError, 'true or false'),
    (dict(sampler=dict(batch_size=2, name='RandomSampler')), ConfigError, 'unknown sampler'),
    (dict(loader=dict(num_worker=2)), ConfigError, "Did you mean 'num_workers'"),
    (dict(loader=dict(num_workers=-1)), ConfigError, 'whole number of 0 or more'),
    (dict(samplers={}), ConfigError, "Did you mean 'sampler'"),
    (dict(dataset=dict(name='Synthetic', split='test')), ConfigError, 'one of train, val'),
    (dict(dataset=dict(name='Synthetic', num_images=0)), ConfigError, 'num_images')])
def test_wrong_settings(change, error, match):
    with pytest.raises(error, match=match):
        build_dataloader({**config(), **change})


def test_batch_message_counts_the_processes():
    with pytest.raises(DataError, match=r'8 x 2 processes = 16'):
        build_dataloader(config(batch=8), world_size=2)
    assert len(build_dataloader(config(batch=16, drop_last=False))) == 1


def test_the_base_class_asks_for_its_two_methods():
    ds = ImageDataset()
    with pytest.raises(NotImplementedError):
        ds.load(0)


def reading(connection):
    """Body of a main process with workers."""
    loader = build_dataloader(config(workers=2))
    signal.signal(signal.SIGTERM, lambda *_: None)      # as a trainer that stops at the next step
    batches = iter(loader)
    next(batches)
    connection.send([p.pid for p in multiprocessing.active_children()])
    time.sleep(600)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_workers_start_ends_none(monkeypatch, number):
    """A stopped job gets signals in all its processes, and a worker that starts then has Paddle's handlers first."""
    paddles = core._set_process_signal_handler

    def disturbed():
        paddles()
        os.kill(os.getpid(), number)
    monkeypatch.setattr(core, '_set_process_signal_handler', disturbed)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        loader = build_dataloader(config(workers=2))
        assert sum(1 for _ in loader) == len(loader) > 0
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(sys.platform != 'linux', reason='uses /proc and prctl')
def test_workers_end_with_a_killed_main_process():
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    main = context.Process(target=reading, args=(theirs,))
    main.start()
    theirs.close()
    workers = ours.recv()
    main.kill()
    main.join()
    assert len(workers) == 2
    end = time.time() + 10
    while time.time() < end and any(alive(w) for w in workers):
        time.sleep(0.1)
    assert not any(alive(w) for w in workers)
    left = [f for f in os.listdir('/dev/shm') if any(f.startswith(f'paddle_{w}_') for w in workers)]
    assert not left, left


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.parametrize('number, way', [
    (errno.EMFILE, 'ulimit -n'), (errno.ENFILE, 'ulimit -n'), (errno.ENOSPC, 'num_workers: 0'),
    (errno.EROFS, 'num_workers: 0'), (errno.EACCES, 'num_workers: 0'), (errno.ENOENT, 'num_workers: 0'),
    (errno.EAGAIN, 'ulimit -u'), (errno.ENOMEM, 'ulimit -u')])
def test_what_workers_lack_is_said(number, way):
    assert way in str(not_started(OSError(number, os.strerror(number))))


@pytest.mark.parametrize('number, at', [(errno.EMFILE, 0), (errno.ENOSPC, 1), (errno.EAGAIN, 2), (errno.EMFILE, 3)])
def test_workers_that_cannot_start_leave_none_behind(number, at, monkeypatch, capfd):
    """`at`: how many queues there are when the system says no: of the data, then of a worker each."""
    from paddle.incubate import multiprocessing as theirs
    queue, made = theirs.Queue, []

    def few(*arguments):
        if len(made) == at:
            made.clear()                # so that the second attempt fails as the first does
            raise OSError(number, os.strerror(number))
        made.append(1)
        return queue(*arguments)
    monkeypatch.setattr(theirs, 'Queue', few)
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError) as e:
        read(config(workers=3))
    e.value.__cause__ = None
    gc.collect()
    assert os.strerror(number) in str(e.value)
    assert set(multiprocessing.active_children()) == before and 'Traceback' not in capfd.readouterr().err


def test_a_second_attempt_after_the_last_iteration_has_gone(monkeypatch):
    from paddle.incubate import multiprocessing as theirs
    queue, calls = theirs.Queue, []

    def once(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EMFILE, 'Too many open files')
        return queue(*arguments)
    monkeypatch.setattr(theirs, 'Queue', once)
    assert equal(read(config(workers=2), epoch=1), read(config(workers=0), epoch=1))
