"""Signals: the step is finished and saved, the exit code tells which it was, and the run goes on exactly."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from passl.cli import train_main
from passl.engine import signals
from passl.engine.signals import StopSignals
from passl.hooks import HOOKS, Hook
from passl.utils.config import merge
from passl.utils.distributed.store import signals_end_at_once
from passl.utils.weights.checkpoint import load_file
from tests.conftest import ROOT

from .small import assert_same_state, call, clas, moco, records, train, write_config


@HOOKS.register()
class SendSignal(Hook):
    """Sends `number` to this process at `point`, in iteration `at` (finished steps)."""

    def __init__(self, number, at=0, point='train_iter_begin', priority=None):
        super().__init__(priority)
        self.number, self.at, self.point = number, at, point

    def __getattribute__(self, name):
        if name in ('run_begin', 'train_iter_begin', 'train_forward_end', 'train_iter_end', 'val_begin'):
            return lambda trainer: self.send(trainer, name)
        return super().__getattribute__(name)

    def send(self, trainer, point):
        if point == self.point and trainer.iteration == self.at:
            os.kill(os.getpid(), self.number)


def sending(number, at=0, point='train_iter_begin'):
    return {'custom_config': [{'name': 'SendSignal', 'number': int(number), 'at': at, 'point': point}]}


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """{unit of the schedule: run folder} of runs that no signal reaches."""
    cfg = moco(data, output_dir=str(tmp_path_factory.mktemp('whole')))
    for unit in 'iter', 'epoch':
        assert train_main(['-c', write_config(merge(cfg, {'lr_config': {'unit': unit}}), unit)]) == 0
    return {unit: os.path.join(cfg['output_dir'], unit) for unit in ('iter', 'epoch')}


@pytest.mark.parametrize('number, code, word, point, at, last', [
    (signal.SIGTERM, 143, 'SIGTERM', 'train_iter_begin', 3, 'iter_4'),
    (signal.SIGTERM, 143, 'SIGTERM', 'train_iter_end', 4, 'iter_4'),
    (signal.SIGINT, 130, 'Ctrl-C', 'train_forward_end', 3, 'iter_4'),
    (signal.SIGHUP, 129, 'SIGHUP', 'train_forward_end', 3, 'iter_4'),
    (signal.SIGUSR1, 138, 'SIGUSR1', 'train_forward_end', 3, 'iter_4'),
    (signal.SIGUSR2, 140, 'SIGUSR2', 'train_iter_begin', 3, 'iter_4'),
    # the epoch's checkpoint, with the schedule's step of that epoch, and without its evaluation
    (signal.SIGTERM, 143, 'SIGTERM', 'train_iter_begin', 2, 'epoch_1')])
def test_saves_after_the_step_and_goes_on_exactly(data, out, whole, capfd, number, code, word, point, at, last):
    unit = last.split('_')[0]
    cfg = moco(data, **out, lr_config={'unit': unit})
    done = call(train_main, ['-c', write_config(merge(cfg, sending(number, at, point)), 'parts')], capfd)
    assert done.code == code
    folder, left = os.path.join(out['output_dir'], 'parts'), 3 if unit == 'epoch' else 4
    assert f'{word}: saving and leaving after this step' in done.err
    assert f'Stopped by {word} after iteration {left} of 6; everything is saved. Go on with --resume auto.' in done.out
    assert os.readlink(os.path.join(folder, 'latest.pdparams')) == f'{last}.pdparams'
    assert load_file(f'{folder}/{last}.pdparams')['epoch'] == 1 and 'iter_3.pdparams' not in os.listdir(folder)
    train(cfg, capfd, '--resume', 'auto', '--allow-changes', name='parts')
    assert_same_state(*(os.path.join(d, 'epoch_2.pdparams') for d in (whole[unit], folder)))
    assert [r['loss'] for r in records(whole[unit])] == [r['loss'] for r in records(folder)]


def test_in_the_last_step_of_all(data, out, capfd):
    done = call(train_main, ['-c', write_config(moco(data, **out, **sending(signal.SIGTERM, 5)))], capfd)
    assert done.code == 0 and 'Done: ' in done.out and 'Stopped' not in done.out


def test_an_evaluation_is_interrupted_and_the_epoch_saved(data, out, capfd):
    cfg = clas(data, **out, epochs=3)
    cfg['custom_config'] = [{'name': 'EvaluateHook'}] + sending(signal.SIGTERM, 3, 'val_begin')['custom_config']
    done = call(train_main, ['-c', write_config(cfg)], capfd)
    folder = os.path.join(out['output_dir'], 'small')
    assert done.code == 143 and 'The evaluation was interrupted' in done.out
    assert os.readlink(os.path.join(folder, 'latest.pdparams')) == 'epoch_1.pdparams' and not records(folder, 'val')
    cfg['custom_config'] = cfg['custom_config'][:1]
    train(cfg, capfd, '--resume', 'auto', '--allow-changes')
    assert [r['epoch'] for r in records(folder, 'val')] == [2, 3]


def test_before_the_loop_there_is_nothing_to_save(data, out, capfd):
    for number, code in ((signal.SIGINT, 130), (signal.SIGUSR2, 140)):
        cfg = moco(data, **out, **sending(number, point='run_begin'))
        done = call(train_main, ['-c', write_config(cfg, f'n{code}')], capfd)
        assert done.code == code
        assert not [n for n in os.listdir(os.path.join(out['output_dir'], f'n{code}')) if n.endswith('.pdparams')]


def test_handlers_are_put_back_and_those_of_a_long_wait_end_the_process():
    before = [signal.getsignal(n) for n in signals.EXIT_CODES]
    with StopSignals() as stop:
        with signals_end_at_once():
            assert {signal.getsignal(n) for n in signals.EXIT_CODES} == {signal.SIG_DFL}
        assert {signal.getsignal(n) for n in signals.EXIT_CODES} == {stop._handle}
    assert [signal.getsignal(n) for n in signals.EXIT_CODES] == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            stop.armed = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_terminal_has_gone(monkeypatch):
    def gone(*_):
        raise OSError(5, 'Input/output error')
    monkeypatch.setattr(signals.os, 'write', gone)
    stop = StopSignals()
    stop.armed = True
    stop._handle(signal.SIGHUP, None)
    assert (stop.received, stop.exit_code, stop.name) == (signal.SIGHUP, 129, 'SIGHUP')


WAITS = """
import os, sys, signal, time
os.environ.update(PADDLE_TRAINERS_NUM='2', PADDLE_TRAINER_ID=sys.argv[1], PADDLE_MASTER=sys.argv[2],
                  PADDLE_TRAINER_ENDPOINTS=sys.argv[2] + ',127.0.0.1:1', PADDLE_CURRENT_ENDPOINT=sys.argv[2])
import paddle
from passl.engine.signals import StopSignals
from passl.utils.distributed import dist
from passl.utils.logger import setup_logger
setup_logger()
with StopSignals():
    paddle.set_device('cpu')
    dist.init(60)
"""


@pytest.mark.parametrize('rank, number', [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_process_that_waits_for_others_can_be_ended(rank, number):
    """Paddle waits in C and keeps Python's lock: no handler of ours would run for as long."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        at = f'127.0.0.1:{free.getsockname()[1]}'
    waits = subprocess.Popen([sys.executable, '-c', WAITS, str(rank), at], env=dict(os.environ, PYTHONPATH=ROOT),
                             cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in waits.stdout:           # Paddle's own line, from inside the call
            if 'Successfully connected' in line or 'Retry to connect' in line:
                break
        time.sleep(0.5)
        waits.send_signal(number)
        assert waits.wait(20) == -number
    finally:
        waits.kill()
        waits.communicate()


@pytest.mark.slow
@pytest.mark.parametrize('closed', ['2>&-', '<&- >&- 2>&-'])
def test_closed_streams(data, out, closed):
    """The log's file would get the number of stderr, and what libraries write there would go into it."""
    path = write_config(moco(data, **out, epochs=1, custom_imports=['tests.engine.small']))
    words = f'exec {shlex.quote(sys.executable)} tools/train.py -c {shlex.quote(path)} --allow-imports {closed}'
    environment = dict(os.environ, PYTHONPATH=ROOT)
    assert subprocess.run(['sh', '-c', words], cwd=ROOT, env=environment, timeout=300).returncode == 0
    with open(os.path.join(out['output_dir'], 'small', 'log.txt')) as f:
        text, _, summary = f.read().partition(' INFO: Done after ')
    assert summary and all(line.startswith('[20') for line in text.splitlines())
    words = words.replace('-c ', '-o epochs=nonsense -c ')
    assert subprocess.run(['sh', '-c', words], cwd=ROOT, env=environment, timeout=300).returncode == 2


def test_nobody_reads_what_is_written(data, out):
    path = write_config(moco(data, **out, epochs=1, custom_imports=['tests.engine.small']))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, 'tools/train.py', '-c', path, '--allow-imports'], cwd=ROOT, stdout=write,
                          stderr=write, env=dict(os.environ, PYTHONPATH=ROOT), timeout=300)
    os.close(write)
    assert done.returncode == 0 and os.path.exists(os.path.join(out['output_dir'], 'small', 'epoch_1.pdparams'))


def test_a_second_ctrl_c_leaves_at_once(monkeypatch, capfd):
    now = [100.0]
    monkeypatch.setattr(signals.time, 'monotonic', lambda: now[0])
    stop = StopSignals()
    stop.armed = True
    stop._handle(signal.SIGINT, None)
    now[0] += 0.5                           # the terminal's and the launcher's
    stop._handle(signal.SIGINT, None)
    now[0] += 5
    stop._handle(signal.SIGTERM, None)      # nothing new
    stop.armed = False                      # saved, and leaving
    stop._handle(signal.SIGTERM, None)
    assert (stop.received, stop.exit_code) == (signal.SIGINT, 130)
    assert capfd.readouterr().err.count('\n') == 2
    with pytest.raises(KeyboardInterrupt):
        stop._handle(signal.SIGINT, None)


@pytest.mark.slow
def test_workers_outlive_a_signal_to_the_whole_group(tmp_path, make_images):
    """The launcher and job schedulers send SIGTERM to every process; the main one still needs its workers."""
    from tests.tiny import densecl_config
    from tests.tiny import write_config as write
    make_images(tmp_path / 'images', 12)
    cfg = densecl_config(tmp_path / 'images', tmp_path / 'out', workers=2, epochs=200)
    main = subprocess.Popen([sys.executable, 'tools/train.py', '-c', write(cfg, tmp_path), '--allow-imports'], cwd=ROOT,
                            env=dict(os.environ, PYTHONPATH=ROOT), start_new_session=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in main.stdout:
            lines.append(line)
            if 'Epoch [2/200][2/3]' in line:
                os.killpg(main.pid, signal.SIGTERM)
            if 'Epoch [4/' in line:
                break
        main.wait(60)
        assert main.returncode == 143, ''.join(lines[-20:])
        folder = tmp_path / 'out' / 'tiny'
        state = load_file(folder / 'latest.pdparams')
        assert state['iteration'] in (5, 6) and np.isfinite(state['state_dict']['queue']).all()
        time.sleep(1)
        with pytest.raises(ProcessLookupError):
            os.killpg(main.pid, 0)              # no worker is left
    finally:
        main.kill()
        main.wait()
