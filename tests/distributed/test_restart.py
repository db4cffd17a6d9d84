"""The loop around the launcher that the documentation shows, run as it stands there."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.test_docs import FENCE, read
from tests.tiny import write_config

from .test_stop_and_kill import assert_equal, config as settings
from .test_two_processes import ROOT, logged

PAGE = 'docs/Train_DenseCL_model.md'
AFTER_KILL = re.compile(r'Resumed from .*: (\d+) iterations')


def shown_loop():
    """The loop of the page; one block has it."""
    loop, = [block for _, block in FENCE.findall(read(PAGE)) if 'for attempt in' in block]
    return loop


def replaced(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Loop:
    """The shown loop with another config, two CPU processes and this Python.

    `words`: put before the training's arguments; every attempt is counted by a line in `attempts`.
    """

    def __init__(self, tmp, cfg, words=''):
        self.folder = os.path.join(cfg['output_dir'], 'loop')
        self.attempts, self.out = tmp / 'attempts', tmp / 'out.txt'
        path = write_config(cfg, tmp, 'loop')
        script = replaced(shown_loop(), 'run=output_dir/densecl_r50', f"run='{self.folder}'")
        script = replaced(script, '--gpus="0,1,2,3,4,5,6,7"', f"--nproc_per_node 2 --log_dir '{tmp / 'log'}'")
        script = replaced(script, '-c configs/densecl/densecl_r50.yaml', f"-c '{path}' --allow-imports {words}")
        script = replaced(script, '    rm -f', f"    echo $attempt >> '{self.attempts}'\n    rm -f")
        script = replaced(script, 'python -m', f"'{sys.executable}' -m")
        env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
        with open(self.out, 'w') as out:
            self.shell = subprocess.Popen(['sh', '-c', script], cwd=ROOT, stdout=out, stderr=out,
                                          env=dict(env, OMP_NUM_THREADS='1', PYTHONPATH=ROOT))

    def iterations(self):
        path = os.path.join(self.folder, 'log.jsonl')
        return len(logged(self.folder)) if os.path.exists(path) else 0

    def children(self, pid):
        done = subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True)
        return list(map(int, done.stdout.split()))

    def training_process(self, rank):
        """pid of the process of this rank, of the attempt that runs now; waits for it."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for pid in [w for launcher in self.children(self.shell.pid) for w in self.children(launcher)]:
                with contextlib.suppress(OSError), open(f'/proc/{pid}/environ', 'rb') as f:     # it may have ended
                    if f'PADDLE_TRAINER_ID={rank}'.encode() in f.read().split(b'\0'):
                        return pid
            time.sleep(0.05)
        raise AssertionError(self.out.read_text()[-4000:])

    def until(self, iterations):
        end = time.monotonic() + 90
        while self.iterations() < iterations:
            assert self.shell.poll() is None and time.monotonic() < end, self.out.read_text()[-4000:]
            time.sleep(0.05)

    def wait(self):
        return self.shell.wait(150)

    def count(self):
        return len(self.attempts.read_text().split())

    def status(self):
        with open(os.path.join(self.folder, 'status.json'), encoding='utf-8') as f:
            return json.load(f)


@pytest.fixture
def loop(tmp_path):
    """Makes a Loop; what it started is gone afterwards."""
    started = []

    def make(cfg, words=''):
        started.append(Loop(tmp_path, cfg, words))
        return started[-1]
    yield make
    for one in started:
        launchers = one.children(one.shell.pid)
        one.shell.kill()
        one.shell.wait(10)
        for pid in launchers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)        # it ends the training processes
        end = time.monotonic() + 40
        while any(os.path.exists(f'/proc/{pid}') for pid in launchers) and time.monotonic() < end:
            time.sleep(0.1)


def config(images, tmp):
    return settings(images, tmp, interval=1, max_keep_ckpts=2)


@pytest.mark.slow
def test_the_loop_goes_on_after_either_process_was_killed(tmp_path, images, whole, loop):
    running = loop(config(images, tmp_path))
    for victim, seen in ((0, 3), (1, 7)):
        running.until(seen)
        os.kill(running.training_process(victim), signal.SIGKILL)
        end = time.monotonic() + 60
        while running.count() < victim + 2 and time.monotonic() < end:
            time.sleep(0.05)
    assert running.wait() == 0, running.out.read_text()
    assert running.count() == 3 and running.status()['state'] == 'done'
    with open(os.path.join(running.folder, 'log.txt'), encoding='utf-8') as f:
        assert len(AFTER_KILL.findall(f.read())) == 2
    assert_equal(whole, running.folder)


@pytest.mark.slow
def test_the_loop_leaves_after_a_signal(tmp_path, images, loop):
    cfg = dict(config(images, tmp_path), total_iters=500)
    cfg['lr_scheduler'].pop('T_max')            # the schedule follows
    running = loop(cfg)
    running.until(2)
    os.kill(running.training_process(1), signal.SIGTERM)
    assert running.wait() != 0 and running.count() == 1
    assert running.status()['state'] == 'stopped' and running.status()['code'] == 143


@pytest.mark.slow
@pytest.mark.parametrize('words, code', [('-o no_such_key=1', None),
                                         ('-o dataloader.train.dataset.dataroot=/nowhere', 2)])
def test_the_loop_leaves_after_a_mistake(tmp_path, images, loop, words, code):
    """Also when it is found before there is a run folder, and an older status.json says that a run was under way."""
    os.makedirs(tmp_path / 'out' / 'loop')
    (tmp_path / 'out' / 'loop' / 'status.json').write_text('{"state": "running", "code": null}\n')
    running = loop(config(images, tmp_path), words)
    assert running.wait() != 0 and running.count() == 1, running.out.read_text()
    if code is None:
        assert not os.path.exists(os.path.join(running.folder, 'status.json'))
    else:
        assert running.status()['code'] == code
