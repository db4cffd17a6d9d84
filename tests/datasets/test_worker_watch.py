"""Workers that die or hang: the run ends at once, says who, how, at which file and why, and leaves nothing behind."""

import argparse
import ctypes
import glob
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import paddle
import pytest

from passl.datasets import build_dataloader, worker_watch
from passl.datasets.loader import explain_failure
from passl.utils.errors import DataError

pytestmark = [pytest.mark.skipif(sys.platform != 'linux', reason='signals and /proc'),
              pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')]
AT = 41             # the scene at which a worker gets into trouble


def trouble(kind):
    if kind.startswith('SIG'):
        os.kill(os.getpid(), getattr(signal, kind))
        time.sleep(0.6)
    elif kind == 'crash':
        ctypes.string_at(0)
    elif kind == 'sleep':
        time.sleep(1000)
    elif kind == 'loop in C':       # holds the interpreter: no handler of the worker runs
        sum(itertools.repeat(0))
    else:
        os._exit(int(kind))


def loader_with(kind, only=lambda: True, **options):
    loader = build_dataloader({'loader': {'num_workers': 2, **options}, 'sampler': {'batch_size': 4, 'shuffle': False},
                               'dataset': {'name': 'Synthetic', 'size': 16, 'num_images': 80}})
    load = loader.dataset.load

    def load_or_fail(index):
        if index == AT and only():
            trouble(kind)
        return load(index)
    loader.dataset.load = load_or_fail
    return loader


def children():
    """Worker processes of this one."""
    found = []
    for stat in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(stat) as f:
                fields = f.read().rsplit(')', 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.split('/')[2]))
    return found


def fails(loader, epochs=1):
    """The message; checks that no worker and no batch is left. Without the watch it would not come."""
    files, before = set(os.listdir('/dev/shm')), set(children())
    mine = set()
    with pytest.raises(DataError) as e:
        for _ in range(epochs):
            for _ in loader:
                mine |= set(children()) - before
    assert len(mine) >= 2 and not mine & set(children())
    left = [f for f in set(os.listdir('/dev/shm')) - files if any(f.startswith(f'paddle_{p}_') for p in mine)]
    assert not left
    return str(e.value)


@pytest.mark.parametrize('kind, parts', [
    ('SIGKILL', ['killed by SIGKILL', 'out-of-memory killer', 'lower loader.num_workers']),
    ('SIGBUS', ['SIGBUS', '/dev/shm is full', '--shm-size', 'use_shared_memory: false']),
    ('crash', ['SIGSEGV', 'A library crashed', 'decoder', '--resume auto']),
    ('0', ['exit code 0', 'ended the process']), ('137', ['exit code 137, that of SIGKILL'])])
def test_a_dead_worker_is_named_at_once(kind, parts):
    message = fails(loader_with(kind))
    for part in ['A data loader worker ended, number 0 (pid ', f"while it read '{AT}'", *parts]:
        assert part in message


def test_a_worker_is_named_whose_batches_vanish_before_it_is_dead():
    worker = multiprocessing.get_context('fork').Process(target=lambda: (time.sleep(0.5), os._exit(9)))
    worker.start()
    batches = argparse.Namespace(_workers=[worker], _thread_done_event=threading.Event())
    batches._thread_done_event.set()            # as Paddle leaves it when it cannot open a batch
    watch = worker_watch.WorkerWatch(batches, None)
    try:
        found = explain_failure(argparse.Namespace(dataset=None), SystemError('Blocking queue is killed'), watch)
        assert isinstance(found, DataError) and f'number 0 (pid {worker.pid}): exit code 9' in str(found)
    finally:
        watch.stop()


@pytest.mark.parametrize('options', [{'persistent_workers': True}, {'use_shared_memory': False}],
                         ids=['persistent', 'pipes'])
def test_in_every_mode(options):
    assert 'killed by SIGKILL' in fails(loader_with('SIGKILL', **options))
    assert 'it is stopped (SIGSTOP)' in fails(loader_with('SIGSTOP', timeout=1, **options))


@pytest.mark.parametrize('kind, state', [('sleep', 'it sleeps'), ('loop in C', 'it computes')])
def test_a_hanging_worker_ends_the_run_after_the_time_limit(kind, state, capfd):
    message = fails(loader_with(kind, timeout=1))
    for part in ('No batch came for 1 s (loader.timeout)', 'worker 0 (pid ', f"while it read '{AT}'; {state}",
                 'raise loader.timeout', '--resume auto'):
        assert part in message, message
    if kind == 'sleep':
        assert 'in trouble' in capfd.readouterr().err       # the stack of the worker


def test_a_slow_main_process_is_no_hang():
    loader = loader_with('0', only=lambda: False, timeout=1)
    count = 0
    for _ in loader:
        if count == 1:
            time.sleep(1.6)
        count += 1
    assert count == 20


def test_the_limit_is_half_an_hour_and_may_be_lifted():
    assert loader_with('0').batch_timeout == 1800 and loader_with('0', timeout=0).batch_timeout == 0
    assert loader_with('0', timeout=None).batch_timeout == 1800


def test_a_worker_that_dies_between_epochs():
    """Paddle would wait for its answer for ever."""
    loader = loader_with('0', only=lambda: False, persistent_workers=True)
    before = set(children())
    list(loader)
    worker = sorted(set(children()) - before)[-1]
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(DataError, match=f'pid {worker}.*SIGKILL'):
        list(loader)
    assert len(list(loader)) == 20          # with new workers
    assert worker not in children() and set(children()) - before
    loader.close()
    assert set(children()) <= before and len(list(loader)) == 20
    loader.close()
    loader.close()


def test_paddles_own_handler_of_dead_workers_leaves_ours_alone(monkeypatch):
    """It stays after any loader of Paddle's, and raises a SystemError wherever the main thread is."""
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr('paddle.io.multiprocess_utils._SIGCHLD_handler_set', False)
    try:
        assert len(list(paddle.io.DataLoader(list(range(4)), num_workers=1))) == 4
        handler = signal.getsignal(signal.SIGCHLD)
        assert handler is not before and handler.__module__.startswith('paddle')
        loader = loader_with('0', only=lambda: False, persistent_workers=True)
        assert len(list(loader)) == 20
        loader.close()
        assert 'killed by SIGKILL' in fails(loader_with('SIGKILL'))
        assert signal.getsignal(signal.SIGCHLD) is handler      # other loaders still have it
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigterm_to_all_processes_lets_the_step_be_finished(monkeypatch):
    """A batch system sends it to the workers too, and the main process still needs batches to save and leave."""
    from passl.datasets import loader as module
    loader = loader_with('SIGTERM')
    assert len(list(loader)) == 20
    monkeypatch.setattr(module, '_NOTICE', 0.3)
    assert 'that of SIGTERM' in fails(loader_with('SIGTERM'))


def test_stopping_early_and_reading_twice_at_once():
    before, loader = set(children()), loader_with('0', only=lambda: False)
    for _ in loader:
        break
    assert set(children()) <= before
    assert sum(1 for _ in zip(loader, loader)) == 20
    assert set(children()) <= before


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(worker_watch, '_GRACE', 0.5)
    before, loader = set(children()), loader_with('SIGSTOP', timeout=30)
    for number, _ in enumerate(loader):
        if number == 6:                     # the worker gets batch 10 now; 8 may be stopped on its way
            time.sleep(0.3)
            break
    assert set(children()) <= before


EXIT = '''
import sys
from passl.datasets import build_dataloader
loader = build_dataloader({'loader': {'num_workers': 2, 'persistent_workers': sys.argv[1] == 'persistent'},
                           'sampler': {'batch_size': 4}, 'dataset': {'name': 'Synthetic', 'size': 16}})
batches = iter(loader)
next(batches)
if sys.argv[2] == 'error':
    raise ValueError
'''


@pytest.mark.parametrize('words', ['persistent end', 'new error'])
def test_a_program_may_end_in_the_middle(words, project_root):
    done = subprocess.run([sys.executable, '-c', EXIT, *words.split()], cwd=project_root, timeout=120,
                          stderr=subprocess.DEVNULL)
    assert done.returncode == (1 if 'error' in words else 0)
