"""Two processes: signals to one or all, time-based saves; every continuation is exact. (SIGKILL: test_restart.py.)"""

import contextlib
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from passl.utils.weights.checkpoint import load_file
from tests.tiny import densecl_config, with_long_steps, write_config

from .test_two_processes import launching, logged, train

pytestmark = pytest.mark.slow
STEPS = 12


def config(images, tmp, **checkpoint):
    cfg = densecl_config(images, tmp / 'out', epochs=None, total_iters=STEPS, workers=1,
                         lr_scheduler={'name': 'CosineAnnealingDecay', 'learning_rate': 0.02, 'T_max': 4},
                         checkpoint={'name': 'CheckpointHook', 'by_epoch': False, 'interval': 100, **checkpoint})
    return with_long_steps(cfg, 0.4)


class Job:
    """A launched run with two processes.

    `script` is called with `before`, the config and `flags`; `environment`: variables for it.
    """

    def __init__(self, tmp, name, cfg, *flags, script='tools/train.py', before=(), environment=None):
        self.folder, self.log = os.path.join(cfg['output_dir'], name), tmp / f'log_{name}_{time.monotonic_ns()}'
        command, settings = launching(self.log, script, *before, '-c', write_config(cfg, tmp, name), '--allow-imports',
                                      *flags, **environment or {})
        self.launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
        self.text = ''

    def until(self, part):
        for line in self.launcher.stdout:
            self.text += line
            if part in line:
                return
        raise AssertionError(f'{part!r} did not come:\n{self.output()}')

    def pids(self):
        """{rank: pid} of the training processes."""
        done = subprocess.run(['pgrep', '-P', str(self.launcher.pid)], capture_output=True, text=True)
        found = {}
        for pid in map(int, done.stdout.split()):
            with contextlib.suppress(OSError), open(f'/proc/{pid}/environ', 'rb') as f:     # it may have ended
                for entry in f.read().split(b'\0'):
                    if entry.startswith(b'PADDLE_TRAINER_ID='):
                        found[int(entry.split(b'=')[1])] = pid
        return found

    def wait(self, limit=120):
        """The launcher's exit code, once it and the processes are gone."""
        pids = self.pids()
        self.text += self.launcher.communicate(timeout=limit)[0]
        end = time.monotonic() + 40
        while any(os.path.exists(f'/proc/{p}') for p in pids.values()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(os.path.exists(f'/proc/{p}') for p in pids.values()), self.output()
        return self.launcher.returncode

    def output(self):
        for log in sorted(self.log.glob('workerlog.*')):
            self.text += f'\n--- {log.name}\n' + log.read_text(errors='replace')[-4000:]
        return self.text


def assert_equal(whole, folder):
    a, b = (load_file(os.path.join(d, f'iter_{STEPS}.pdparams')) for d in (whole, folder))
    assert len(a['state_dict']) == len(b['state_dict']) == 34
    for name in a['state_dict']:
        assert np.array_equal(a['state_dict'][name], b['state_dict'][name]), name
    assert np.array_equal(a['statistics']['values'], b['statistics']['values'])
    losses = [{r['iteration']: r['loss'] for r in logged(d)} for d in (whole, folder)]
    assert losses[0] == losses[1] and sorted(losses[0]) == list(range(1, STEPS + 1))


@pytest.mark.parametrize('whom', ['the launcher', 'rank 1'])
def test_a_signal_stops_all_at_the_same_step(tmp_path, images, whole, whom):
    cfg = config(images, tmp_path)
    job = Job(tmp_path, 'parts', cfg)
    job.until('Epoch [1/4][1/3]')
    pids = job.pids()
    job.until('Epoch [2/4][1/3]')
    os.kill(job.launcher.pid if whom == 'the launcher' else pids[int(whom[-1])], signal.SIGTERM)
    job.wait()
    output = job.output()
    assert output.count('everything is saved. Go on with --resume auto.') >= 2, output
    state = load_file(os.path.join(job.folder, 'latest.pdparams'))
    assert 4 <= state['iteration'] < STEPS
    train(tmp_path, 'parts', cfg, '--resume', 'auto')
    assert_equal(whole, job.folder)


def test_saves_by_time_are_agreed_on(tmp_path, images, whole):
    """Process 0's clock decides for both; saving at any step changes nothing."""
    folder = train(tmp_path, 'timed', config(images, tmp_path, every_minutes=1e-6))
    names = [n for n in os.listdir(folder) if n.startswith('iter_')]
    assert 4 <= len(names) <= STEPS
    assert_equal(whole, folder)
