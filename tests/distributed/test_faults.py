"""Two processes, one of which dies, hangs, is slow, or is not like the other."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from passl.utils.distributed import dist, watch
from passl.utils.weights.checkpoint import load_file
from passl.utils.distributed.watch import Peer, process_state
from tests.tiny import densecl_config, linear_config

from .test_stop_and_kill import Job
from .test_two_processes import HERE, logged

FAULTY = os.path.join(HERE, 'faulty.py')


def job(tmp, cfg, kind, rank=1, iteration=2, **environment):
    return Job(tmp, kind.replace(' ', '_'), cfg, script=FAULTY, before=[kind, rank, iteration], environment=environment)


def status(folder):
    with open(os.path.join(folder, 'status.json'), encoding='utf-8') as f:
        return json.load(f)


# ------------------------------------------------------------------------------------------- the end of a process

@pytest.mark.slow
@pytest.mark.parametrize('what, rank, said', [
    (signal.SIGKILL, 0, 'has ended'), (signal.SIGSTOP, 1, 'was stopped (SIGSTOP')])
def test_a_process_that_dies_or_is_stopped_ends_the_job(tmp_path, images, what, rank, said):
    running = Job(tmp_path, 'parts', densecl_config(images, tmp_path / 'out', epochs=200))
    running.until('Epoch [2/200]')
    pid = running.pids()[rank]
    os.kill(pid, what)
    assert running.wait() != 0
    output = running.output()
    first = re.search(r'rocess (\d) \(pid', output)        # the other one may be named as the one that ended after it
    if what == signal.SIGKILL and first is None:           # gloo aborted the other one while gradients were averaged
        assert 'gloo::IoException' in output and re.search(r'[Cc]ode -(6|9)\b', output), output
        assert status(running.folder)['state'] == 'running'
        return
    assert first and int(first.group(1)) == rank and f"rocess {rank} (pid {pid} on '" in output, output
    assert said in output and f'This process {1 - rank} has finished' in output and '--resume auto' in output
    assert what == signal.SIGSTOP or f'rocess {1 - rank} (pid' not in output, output
    if rank == 1:
        assert status(running.folder)['state'] == 'failed' and status(running.folder)['code'] == 75
        with open(os.path.join(running.folder, 'log.txt'), encoding='utf-8') as f:
            assert f"rocess {rank} (pid {pid} on '" in f.read()


@pytest.mark.slow
def test_a_process_that_leaves_ends_the_job(tmp_path, images):
    running = job(tmp_path, densecl_config(images, tmp_path / 'out', epochs=200), 'error')
    assert running.wait() != 0
    output = running.output()
    assert 'Process 1 (pid' in output and 'has ended. This process 0 has finished 2 iterations' in output, output
    with open(os.path.join(running.folder, 'log.txt'), encoding='utf-8') as f:
        assert 'RuntimeError: planted' in f.read()


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_job(tmp_path, images):
    """It gives signs of life, but gets on no more: for that there is dist_timeout."""
    running = job(tmp_path, densecl_config(images, tmp_path / 'out', epochs=200, dist_timeout=10), 'sleep')
    assert running.wait() != 0
    output = running.output()
    assert 'longer than dist_timeout: 10' in output, output


@pytest.mark.slow
def test_one_process_may_work_for_longer_than_gloo_waits(tmp_path, make_images):
    """In a step, at a save and in an evaluation: three jobs, which wait at the same time."""
    make_images(tmp_path / 'train', 8, classes=2)
    make_images(tmp_path / 'val', 3, classes=2)
    jobs = []
    for what in ('step', 'save', 'evaluation'):
        cfg = linear_config(tmp_path / 'train', tmp_path / 'val', tmp_path / what)
        jobs.append(job(tmp_path, cfg, f'slow {what}', rank=0, iteration=1))
    for running in jobs:
        assert running.wait(300) == 0, running.output()
        assert (running.log / 'workerlog.0').read_text().count('planted: a pause of 36 s') == 1
        assert load_file(os.path.join(running.folder, 'latest.pdparams'))['iteration'] == 2
        assert status(running.folder)['state'] == 'done' and logged(running.folder, 'val')[0]['num_samples'] == 6


# ------------------------------------------------------------------------------------- one that is not like the other

@pytest.mark.slow
def test_other_code_and_config(tmp_path, images):
    running = job(tmp_path, densecl_config(images, tmp_path / 'out'), 'other code and config')
    assert running.wait() != 0
    output = running.output()
    for said in ('code (hash of its files)', '/ another', 'model.m: 0.9 / 0.5', 'seed: 3 / 9'):
        assert said in output, output
    assert output.count('Processes 0 and 1 differ') >= 2, output
    assert not os.path.exists(running.folder)


@pytest.mark.slow
def test_other_data(tmp_path, images):
    """As many images; other numbers are in `test_two_processes.py`."""
    for rank in '01':
        shutil.copytree(images, tmp_path / 'data' / rank / 'images')
    renamed = sorted((tmp_path / 'data' / '1' / 'images').iterdir())[3]
    renamed.rename(renamed.with_name('x.png'))
    running = job(tmp_path, densecl_config('images', tmp_path / 'out'), 'other data',
                  DATA_OF_RANKS=str(tmp_path / 'data'))
    assert running.wait() != 0
    output = running.output()
    assert output.count('26 images each, with other names or labels') >= 2, output


# --------------------------------------------------------------------------------------------- the parts of the watch

@pytest.fixture
def child():
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def until(state, pid):
    end = time.monotonic() + 5
    while process_state(pid)[0] not in state and time.monotonic() < end:
        time.sleep(0.01)


def test_trouble_of_a_process_of_this_machine(child):
    now = time.monotonic()
    peer = Peer(3, 'here', child, process_state(child)[1])
    assert peer.trouble(True, now) is None
    os.kill(child, signal.SIGSTOP)
    until('T', child)
    assert peer.trouble(True, now) is None                          # it may go on at once, with the whole job
    assert peer.trouble(True, now + watch.STOPPED) == \
        f"process 3 (pid {child} on 'here') was stopped (SIGSTOP, or a debugger)"
    os.kill(child, signal.SIGCONT)
    until('SR', child)
    assert peer.trouble(True, now + 9) is None and peer.stopped is None
    os.kill(child, signal.SIGKILL)
    until('Z', child)                                               # nobody has asked how it ended
    assert 'has ended' in peer.trouble(True, now)
    os.waitpid(child, 0)
    assert 'has ended' in peer.trouble(True, now)


def test_another_process_under_the_same_number_is_another_one(child):
    assert 'has ended' in Peer(1, 'here', child, process_state(child)[1] - 1).trouble(True, time.monotonic())


def test_trouble_of_a_process_elsewhere():
    peer = Peer(2, 'there', 1, 1)
    now = peer.heard
    assert peer.trouble(False, now + watch.SILENCE) is None
    assert peer.trouble(False, now + watch.SILENCE + 1) == \
        "process 2 (pid 1 on 'there') has given no sign of life for 61 s"


def test_no_watch_in_a_world_of_one():
    dist.watch(10)
    dist.progress('training', 3)
    dist.meet()
    with pytest.raises(ValueError), dist.name_the_lost():
        raise ValueError
    dist.end_watch()
    assert watch._running is None and dist.store() is None


def test_fingerprint_of_a_listing():
    from passl.datasets.path_list import Names, PathList

    def listing(names, counts, labels=None, folders=('/a/', '/b/')):
        return PathList(Names.of(names), Names.of(list(folders)), counts, None if labels is None else np.array(labels))
    one = listing(['x', 'y', 'z'], [2, 1], [0, 0, 1])
    assert one.fingerprint() == listing(['x', 'y', 'z'], [2, 1], [0, 0, 1], ('/c/', '/d/')).fingerprint()
    others = [listing(['x', 'y', 'w'], [2, 1], [0, 0, 1]), listing(['x', 'y', 'z'], [1, 2], [0, 0, 1]),
              listing(['x', 'y', 'z'], [2, 1], [0, 1, 1]), listing(['x', 'y', 'z'], [2, 1]),
              listing(['y', 'x', 'z'], [2, 1], [0, 0, 1])]
    assert len({o.fingerprint() for o in others} | {one.fingerprint()}) == 6


def test_hash_of_the_code(tmp_path, monkeypatch):
    from passl.engine import consistency
    before = consistency.code_hash()
    assert before == consistency.code_hash() and len(before) == 16
    plugin = tmp_path / 'plugin.py'
    plugin.write_text('a = 1\n')
    import types
    module = types.SimpleNamespace(__name__='plugin', __file__=str(plugin))
    one = consistency.code_hash([module])
    plugin.write_text('a = 2\n')
    assert len({before, one, consistency.code_hash([module])}) == 3
