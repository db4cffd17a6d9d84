"""`passl env --check`: every check is right here, goes red when its part is broken, and the command ends with words."""

import argparse
import contextlib
import functools
import subprocess
import sys
from types import SimpleNamespace

import paddle
import pytest

from passl.environment import (arithmetic, checks, child, command, method, mixed_precision, paddle_facts, processes,
                               timing)
from passl.environment.words import NO, NOT_HERE, OK, REFUSED
from passl.modules import contrastive_loss, ema, feature_queue
from passl.modules.cpu import bfloat16, channels_last
from passl.utils.errors import ConfigError

ON_CPU = [n for n in command.FIRST if n not in command.GPU_ONLY]
STEP = arithmetic.step_of_resnet
RIGHT = functools.cache(STEP)


def steps(monkeypatch, anew=lambda kind: False):
    """Steps of ResNet-18 that nothing breaks are made once for all tests."""
    for room in (arithmetic, mixed_precision):
        monkeypatch.setattr(room, 'step_of_resnet', lambda kind: (STEP if anew(kind) else RIGHT)(kind))


@pytest.mark.parametrize('name', ON_CPU)
def test_here_it_works(name, monkeypatch):
    steps(monkeypatch)
    state, words = checks.CHECKS[name]()
    assert state == OK and len(words) > 20, words


def test_every_check_has_a_place():
    assert set(checks.CHECKS) == set(command.FIRST + command.AMP + command.CPU_ONLY + command.SPEED)


# --- each goes red -------------------------------------------------------------------------------------------------

def off_by(factor, function):
    def wrong(*args, **kwargs):
        out = function(*args, **kwargs)
        return (out[0] * factor, *out[1:]) if isinstance(out, tuple) else out * factor
    return wrong


def red(name, *words):
    state, text = checks.CHECKS[name]()
    assert state == NO and all(w in text for w in words), (state, text)


def push_without_wrap(self, keys):
    at = int(self.pointer[0])
    room = min(keys.shape[0], self.size - at)
    self.tensor[:, at:at + room] = keys[:room].t()
    paddle.assign((self.pointer + keys.shape[0]) % self.size, output=self.pointer)


FUSED, INFO_NCE, TO_TENSOR = ema._fused_update_, method.info_nce, paddle.to_tensor


@pytest.mark.parametrize('name, room, part, broken, words', [
    ('convolution', arithmetic.F, 'conv2d', off_by(1 + 1e-4, arithmetic.F.conv2d),
     ['the convolution is wrong here', 'value 1.0e-04 (limit 2e-05)']),
    ('batch norm', arithmetic.nn, 'BatchNorm2D', lambda n: paddle.nn.layer.norm.BatchNorm2D(n, momentum=0.8),
     ['batch norm is wrong here']),
    ('momentum update', ema, '_fused_update_', lambda *args: FUSED(*args[:-1], args[-1] + 1e-4),
     ['the momentum update is wrong here', '(limit 1e-06)']),
    ('queue', feature_queue.FeatureQueue, 'push', push_without_wrap, ['24 of 65536 keys are wrong']),
    ('contrastive loss', method, 'info_nce', off_by(1.001, INFO_NCE),
     ['the contrastive loss is wrong here', 'value 1.0e-03', 'gradient 1.0e-03']),
    ('contrastive loss', method, 'info_nce', lambda *a, **k: (INFO_NCE(*a, **k)[0], INFO_NCE(*a, **k)[1] + 1),
     ['96 of 96 positives have a wrong rank']),
    # as with matrix products in TF32: the negatives come out a little smaller than the positive
    ('collapsed features', contrastive_loss, '_TIE', -1e-5, ['acc1 is 100 where 0 is right for 200 of 200']),
    ('versions', paddle, 'to_tensor', lambda a: TO_TENSOR(a + 1 if a.dtype == 'int64' else a),
     ['do not exchange int64 arrays', "pip install 'numpy<2'"])])
def test_what_is_broken_is_told(name, room, part, broken, words, monkeypatch):
    monkeypatch.setattr(room, part, broken)
    red(name, *words)


def test_a_wrong_step(monkeypatch):
    steps(monkeypatch, lambda kind: kind == 'float32')
    build = arithmetic.build_optimizer
    monkeypatch.setattr(arithmetic, 'build_optimizer', lambda cfg, lr, net: build(
        cfg, lr * 1.1 if net[0].conv1.weight.dtype == paddle.float32 else lr, net))
    red('ResNet-18 step', 'a training step of ResNet-18 is wrong here', 'change of the weights 1.0e-01')


def test_without_the_fused_operator_it_is_slower_and_right(monkeypatch):
    monkeypatch.setattr(ema, '_fused_works', lambda: False)
    state, words = checks.CHECKS['momentum update']()
    assert state == OK and 'parameter by parameter' in words


# --- what only a GPU answers ---------------------------------------------------------------------------------------

@pytest.fixture
def gpu(monkeypatch):
    """set(compute capability, codes in the build): as if on such a GPU."""
    def set_gpu(major, minor, codes):
        monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
        monkeypatch.setattr(paddle.device.cuda, 'get_device_properties', lambda i: SimpleNamespace(
            major=major, minor=minor, name='Some GPU', total_memory=8 * 2**30))
        monkeypatch.setattr(arithmetic, 'machine_code', lambda: codes)
        monkeypatch.delenv('NVIDIA_TF32_OVERRIDE', raising=False)
    return set_gpu


PYPI = list(paddle_facts.PYPI_GPU_CODE)


@pytest.mark.parametrize('major, minor, codes, state, words', [
    (8, 6, PYPI, OK, 'float16 yes, bfloat16 yes'), (8, 9, PYPI, OK, '8.9'),
    (7, 5, PYPI, OK, 'float16 yes, bfloat16 no'), (6, 1, PYPI, OK, 'float16 no, bfloat16 no'),
    (6, 0, PYPI, NO, 'machine code for 6.1, 7.0, 7.5, 8.0, 8.6 only'), (9, 0, PYPI, NO, 'install a build for this GPU'),
    (12, 0, [80, 90], NO, '8.0, 9.0 only'), (9, 0, [], OK, '9.0')])
def test_machine_code_for_the_gpu(gpu, major, minor, codes, state, words):
    gpu(major, minor, codes)
    got, text = checks.CHECKS['GPU generation']()
    assert got == state and words in text


def test_machine_code_that_is_known_of_one_build(monkeypatch):
    monkeypatch.setattr(paddle, '__version__', '2.6.2')
    monkeypatch.setattr(paddle.version, 'cuda', lambda: '11.8')
    monkeypatch.setattr(paddle.version, 'cuda_archs', list, raising=False)
    assert paddle_facts.machine_code() == [61, 70, 75, 80, 86]
    monkeypatch.setattr(paddle.version, 'cuda', lambda: '12.0')
    assert paddle_facts.machine_code() == []
    monkeypatch.setattr(paddle.version, 'cuda_archs', lambda: [80, 90], raising=False)
    assert paddle_facts.machine_code() == [80, 90]


def test_gpus_are_named(monkeypatch):
    cuda = paddle.device.cuda
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(cuda, 'get_device_properties', lambda i: SimpleNamespace(
        major=8, minor=i, name=f'Card {i}', total_memory=(8 + i) * 2**30))
    assert paddle_facts.gpus() == ['0: Card 0, compute capability 8.0, 8.0 GiB',
                                   '1: Card 1, compute capability 8.1, 9.0 GiB']
    monkeypatch.setattr(cuda, 'device_count', lambda: 0)
    assert paddle_facts.gpus() == 'none that Paddle sees'


def test_tf32(gpu, monkeypatch):
    switches = {'get_cudnn_switch': True, 'get_cublas_switch': False}
    for name in switches:
        monkeypatch.setattr(paddle.base.core, name, lambda name=name: switches[name], raising=False)
    gpu(8, 0, PYPI)
    assert arithmetic.tf32() == {'convolutions'} and 'on for convolutions:' in checks.CHECKS['TF32']()[1]
    switches['get_cublas_switch'] = True
    assert 'convolutions and matrix products' in checks.CHECKS['TF32']()[1]
    monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '0')
    assert arithmetic.tf32() == set() and checks.CHECKS['TF32']()[1].startswith('off')
    gpu(7, 5, PYPI)
    assert arithmetic.tf32() == set()


def test_tf32_widens_the_limits(monkeypatch):
    monkeypatch.setattr(method, 'info_nce', off_by(1.001, method.info_nce))
    monkeypatch.setattr(method, 'tf32', lambda: {'matrix products'})
    state, words = checks.CHECKS['contrastive loss']()
    assert state == OK and '(limit 2e-03)' in words


def test_a_gpu_that_is_too_small_for_the_measurement(monkeypatch):
    def speed(name):
        raise MemoryError('ResourceExhaustedError: Out of memory error on GPU 0')
    monkeypatch.setattr(timing, 'speed', speed)
    assert checks.CHECKS['speed of DenseCL']()[0] == NOT_HERE


# --- mixed precision, as far as a CPU goes -------------------------------------------------------------------------

def test_what_the_project_refuses_is_no_failure(monkeypatch):
    def build_amp(cfg):
        assert cfg['use_amp'] and cfg['AMP'] == {'level': 'O2', 'dtype': 'bfloat16'}
        raise ConfigError("'AMP.level' is O2 with bfloat16: use O1.")
    monkeypatch.setattr(mixed_precision, 'build_amp', build_amp)
    assert checks.CHECKS['AMP O2 bfloat16']() == (REFUSED, "'AMP.level' is O2 with bfloat16: use O1.")


def test_without_half_precision_it_is_not_on():
    red('AMP O1 float16', 'mixed precision is not on here')


def test_a_cpu_without_units(monkeypatch):
    monkeypatch.setattr(bfloat16, 'why_not', lambda: 'it has no units')
    assert checks.CHECKS['mixed precision']() == (NOT_HERE, 'use_amp: true trains in float32 here: it has no units')


@pytest.mark.skipif(bool(bfloat16.why_not()), reason=bfloat16.why_not() or 'usable')
def test_bfloat16_on_a_cpu(monkeypatch):
    steps(monkeypatch, lambda _: bfloat16.is_on())
    state, words = checks.CHECKS['mixed precision']()
    assert state == OK and 'off float32 by loss' in words
    norm = channels_last.norm
    monkeypatch.setattr(channels_last, 'norm', lambda layer, x, *args, **kwargs: norm(
        layer, -x if x.dtype == paddle.bfloat16 else x, *args, **kwargs))
    red('mixed precision', 'a step of ResNet-18 is off by', 'use_amp: false')
    monkeypatch.setattr(bfloat16, '_on', False)
    monkeypatch.setattr(bfloat16, 'used', contextlib.nullcontext)
    red('mixed precision', 'mixed precision is not on here')


@pytest.fixture
def half(monkeypatch):
    monkeypatch.setattr(mixed_precision._Training, 'is_half', lambda self: True)


def test_steps_and_resume_in_float32(half):
    """The logic of these checks, with what the CPU makes of mixed precision."""
    assert checks.CHECKS['AMP O1 bfloat16']()[0] == OK
    assert checks.CHECKS['AMP O2 bfloat16']()[0] == OK


def test_an_overflow_that_is_not_skipped(half):
    red('AMP O1 float16', 'whose gradients overflow changes the weights')       # on the CPU nothing scales


def test_a_resume_that_loses_the_momentum(half, monkeypatch):
    monkeypatch.setattr(mixed_precision, 'load_optimizer_state', lambda *args: None)
    red('AMP O2 float16', 'after a resume the next step is off by')


def test_numpy_and_the_loss_scaler(half, monkeypatch):
    def update(self):
        raise TypeError('only 0-dimensional arrays can be converted to Python scalars')
    monkeypatch.setattr(paddle.amp.GradScaler, 'update', update)
    red('AMP O1 float16', "use AMP.dtype: bfloat16, or pip install 'numpy<2.4'")


# --- processes of their own ----------------------------------------------------------------------------------------

def sabotage(folder, source):
    """Environment in which every Python runs `source` at its start."""
    (folder / 'sitecustomize.py').write_text(source)
    return str(folder)


BREAKS = """
import sys
from importlib.machinery import PathFinder

class Break:
    def find_spec(self, name, path=None, target=None):
        if name != 'passl.environment.checks':
            return None
        sys.meta_path.remove(self)
        from passl.environment import method
        method.queue, method.loss, method.momentum_update = crash, hang, leave
        return PathFinder.find_spec(name, path)

def crash():
    import os, signal
    os.kill(os.getpid(), signal.SIGABRT)

def hang():
    import time
    time.sleep(600)

def leave():
    sys.exit(7)

sys.meta_path.insert(0, Break())
"""


@pytest.mark.slow
def test_a_check_that_ends_or_hangs_is_told_and_the_next_ones_are_done(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', sabotage(tmp_path, BREAKS))
    names = ['queue', 'batch norm', 'contrastive loss', 'momentum update', 'convolution']
    got = list(child.results('checks', 'cpu', names, limit=4))
    assert [name for name, _, _ in got] == names
    assert [value[0] if value else None for _, value, _ in got] == [None, OK, None, None, OK]
    assert 'the process ended with signal SIGABRT' in got[0][2] and got[2][2] == 'gave no answer for 4 s'
    assert 'exit code 7' in got[3][2]


def test_the_job_that_a_process_is_part_of_is_not_the_childrens(monkeypatch):
    for name in ('PADDLE_TRAINER_ID', 'PADDLE_TRAINERS_NUM', 'PADDLE_MASTER', 'MASTER_PORT', 'FLAGS_selected_gpus'):
        monkeypatch.setenv(name, '3')
    monkeypatch.setenv('FLAGS_cudnn_deterministic', '1')
    env = child.surroundings()
    assert env['FLAGS_cudnn_deterministic'] == '1' and not [k for k in env if k.startswith(('PADDLE_TR', 'MASTER'))]
    assert 'PADDLE_MASTER' not in env and 'FLAGS_selected_gpus' not in env


@pytest.mark.parametrize('visible, gpus, words', [
    (None, 0, ['--nproc_per_node', '2']), (None, 4, ['--devices', '0,1']), ('3,5,7', 3, ['--devices', '3,5'])])
def test_the_launcher_is_paddles(monkeypatch, visible, gpus, words):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    line = processes.launch_command('', gpus, 'folder')
    assert line[1:5] == ['-m', 'paddle.distributed.launch', *words] and line[-3:] == [processes.PAIR, 'folder', '']


def test_one_gpu_needs_no_launcher(monkeypatch):
    monkeypatch.setattr(processes, '_run', lambda *args: pytest.fail('started'))
    (name, state, words), = processes.outcomes('', False, 1)
    assert state == NOT_HERE and '--check --no-cuda' in words


def answers(monkeypatch, *ranks, how='the launcher ended with exit code 1', log=''):
    monkeypatch.setattr(processes, '_run', lambda *args: how)
    monkeypatch.setattr(processes, '_told', lambda path: ranks[int(path[-7])])
    monkeypatch.setattr(processes, '_log', lambda folder: log)
    return {name: (state, words) for name, state, words in processes.outcomes('', False, 2)}


def test_what_two_processes_told(monkeypatch):
    fine = dict.fromkeys(('start', *processes.NAMES), (OK, 'fine'))
    assert answers(monkeypatch, fine, fine) == dict.fromkeys(processes.NAMES, (OK, 'fine'))
    wrong = {**fine, 'gathers': (NO, 'wrong in process 1')}
    assert answers(monkeypatch, fine, wrong)['gathers'] == (NO, 'wrong in process 1')
    part = {'start': (OK, ''), 'exchange': (OK, 'fine')}
    got = answers(monkeypatch, fine, part, how='it was ended after 100 s')
    assert got['exchange'] == (OK, 'fine') and got['lost process'] == (OK, 'fine')
    assert got['no_sync'] == (NO, 'process 1 did not get to the end of it: it was ended after 100 s')
    assert answers(monkeypatch, {}, {}, log='x\nOSError: libnccl.so: cannot open shared object file') == {
        'two processes': (NO, 'libnccl.so was not found: install it in the version that this Paddle was built with, '
                              'and add its folder to LD_LIBRARY_PATH, see docs/INSTALL.md.')}
    assert answers(monkeypatch, {'start': (NO, 'no device')}, fine) == {'two processes': (NO, 'no device')}


# --- the command ---------------------------------------------------------------------------------------------------

def run_command(monkeypatch, capsys, outcomes, found, no_cuda=True, pair=()):
    """Exit code and output of --check, with given answers."""
    monkeypatch.setattr(command, 'tell_facts', lambda device: {'failed': None, 'GPU': None, **found})
    monkeypatch.setattr(child, 'results', lambda kind, device, names: [(n, *outcomes.get(n, ((OK, 'fine'), None)))
                                                                       for n in names])
    monkeypatch.setattr(processes, 'outcomes', lambda *args: [(n, OK, 'fine') for n in processes.NAMES] + list(pair))
    code = command.env(argparse.Namespace(check=True, no_cuda=no_cuda))
    return code, capsys.readouterr().out


def test_all_works(monkeypatch, capsys):
    code, out = run_command(monkeypatch, capsys, {}, {'device': 'cpu'})
    assert code == 0 and 'Verdict for the device cpu: all that was checked works.' in out
    for name in ON_CPU + list(processes.NAMES) + ['mixed precision', 'speed']:
        assert f'\n{name} ' in out
    assert 'AMP' not in out and '  Mixed precision: works.' in out


def test_a_cpu_without_mixed_precision(monkeypatch, capsys):
    code, out = run_command(monkeypatch, capsys, {'mixed precision': ((NOT_HERE, 'no units'), None)}, {'device': 'cpu'})
    assert code == 0 and '\nmixed precision     not here no units\n' in out
    assert '  Mixed precision: not checked here.' in out


def test_what_does_not_work_comes_with_words(monkeypatch, capsys):
    bad = {'queue': ((NO, 'keys are wrong'), None), 'convolution': (None, 'the process ended with signal SIGSEGV'),
           'AMP O2 bfloat16': ((REFUSED, 'use O1'), None)}
    code, out = run_command(monkeypatch, capsys, bad, {'device': 'gpu:0', 'GPU': ['0: X']}, no_cuda=False,
                            pair=[('two processes', NO, 'they do not start')])
    assert code == 1 and 'Verdict for the device gpu:0: 3 of 22 checks fail.' in out
    assert '\nqueue               no       keys are wrong\n' in out and '\nAMP O2 bfloat16     refused  use O1\n' in out
    assert '  Training in float32: does not work: convolution, queue; works: versions' in out
    assert '  Mixed precision: refused at the start: AMP O2 bfloat16; works: AMP O1 float16' in out
    assert '\n  convolution: the process ended with signal SIGSEGV\n' in out


def test_a_refusal_alone_is_no_failure(monkeypatch, capsys):
    code, out = run_command(monkeypatch, capsys, {'AMP O2 bfloat16': ((REFUSED, 'use O1'), None)},
                            {'device': 'gpu:0', 'GPU': ['0: X']}, no_cuda=False)
    assert code == 0 and 'all that was checked works' in out


@pytest.mark.parametrize('no_cuda, code', [(False, 1), (True, 0)])
def test_a_gpu_build_that_sees_no_gpu(monkeypatch, capsys, no_cuda, code):
    found = {'device': 'cpu', 'built with': 'CUDA 11.8', 'GPU': 'none'}
    got, out = run_command(monkeypatch, capsys, {}, found, no_cuda)
    assert got == code and ('sees none: trainings run on the CPU' in out) == bool(code)


def test_a_device_that_cannot_be_set(monkeypatch, capsys):
    code, out = run_command(monkeypatch, capsys, {'versions': (None, 'driver too old')}, {})
    assert code == 1 and 'versions            no       driver too old' in out and 'nothing can run here' in out


def test_other_processes_of_a_job_say_nothing(monkeypatch, capsys):
    monkeypatch.setenv('PADDLE_TRAINER_ID', '1')
    assert command.env(argparse.Namespace(check=True, no_cuda=True)) == 0 and capsys.readouterr().out == ''


@pytest.mark.slow
def test_the_command_on_the_cpu(project_root):
    done = subprocess.run([sys.executable, '-m', 'passl', 'env', '--check', '--no-cuda'], cwd=project_root, text=True,
                          capture_output=True, timeout=300)
    lines = {line[:19].strip(): line[20:28].strip() for line in done.stdout.split('\n\n')[1].splitlines()}
    want = dict.fromkeys(ON_CPU + list(processes.NAMES), OK)
    half = NOT_HERE if bfloat16.why_not() else OK
    assert lines == {**want, 'mixed precision': half, 'speed': NOT_HERE}, done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.endswith('  Several processes: works.\n') and done.stderr == ''


SWAPS = """
import sys
from importlib.machinery import PathFinder

class Break:
    def find_spec(self, name, path=None, target=None):
        if name != 'passl.modules.batch_shuffle':
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            shuffle = module.BatchShuffle.shuffle
            paddle = module.paddle
            module.BatchShuffle.shuffle = lambda self, x: paddle.gather(shuffle(self, x), paddle.to_tensor([2, 1, 0]))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Break())
"""


@pytest.mark.slow
def test_an_exchange_that_swaps_rows(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', sabotage(tmp_path, SWAPS))
    got = {name: (state, words) for name, state, words in processes.outcomes('cpu', True, 0)}
    assert got['exchange'] == (NO, 'rows of images come from the wrong place: train with one process')
    assert got['gathers'][0] == got['no_sync'][0] == got['lost process'][0] == OK
