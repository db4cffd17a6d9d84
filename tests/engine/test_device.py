"""The choice of the device, and what a GPU is told: played on a build without one."""

import os
import subprocess
import sys
import textwrap

import paddle
import pytest

from passl.engine import device, trainer as trainer_module
from passl.engine.builder import build_trainer
from passl.engine.device import describe_device, memory_advice, select_device
from passl.utils.distributed import dist, world
from passl.utils.config import with_defaults
from passl.utils.errors import DeviceError, PaddleMissingError
from passl.utils.paddle_env import require_paddle
from tests.engine.small import densecl, write_data
from tests.transfer.nets import R18, state_of


@pytest.fixture
def gpu(monkeypatch):
    """A Paddle built for GPUs that sees `gpus` of them; what it is asked for is kept in `asked`."""
    asked = {'gpus': 1}
    core = paddle.base.core
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: asked['gpus'])
    monkeypatch.setattr(paddle, 'set_device', lambda name: asked.update(device=name))
    monkeypatch.setattr(paddle, 'get_device', lambda: f"{asked['device']}:0")
    monkeypatch.setattr(paddle, 'set_flags', lambda flags: asked.update(flags))
    for name in ('cublas', 'cudnn'):
        monkeypatch.setattr(core, f'set_{name}_switch', lambda on, name=name: asked.update({name: on}), raising=False)
        monkeypatch.setattr(core, f'get_{name}_switch', lambda name=name: asked.get(name, True), raising=False)
    return asked


def test_products_are_float32_and_convolutions_cudnns_choice(gpu):
    assert select_device() == 'gpu:0'
    assert gpu == {'gpus': 1, 'device': 'gpu', 'cublas': False}


def test_deterministic(gpu):
    select_device('gpu', deterministic=True)
    assert gpu == {'gpus': 1, 'device': 'gpu', 'cublas': False, 'cudnn': False, 'FLAGS_cudnn_deterministic': True}


@pytest.mark.parametrize('how', [{'no_cuda': True}, {'device': 'cpu'}, {'device': 'gpu', 'no_cuda': True}])
def test_the_cpu_of_a_gpu_machine(gpu, how):
    select_device(**how, deterministic=True)
    assert gpu == {'gpus': 1, 'device': 'cpu'}


def test_what_cannot_be_had_is_said(gpu, monkeypatch):
    gpu['gpus'] = 0
    with pytest.raises(DeviceError, match='sees no GPU.*nvidia-smi.*--no-cuda'):
        select_device('gpu')
    with pytest.raises(DeviceError, match="'deterministic: true' is known for the CPU and for GPUs, not for xpu"):
        select_device('xpu', deterministic=True)
    with pytest.raises(DeviceError, match="'device' is 'tpu'; it must be one of cpu, gpu"):
        select_device('tpu')

    def cannot(name):
        raise ValueError('not compiled with it')
    monkeypatch.setattr(paddle, 'set_device', cannot)
    with pytest.raises(DeviceError, match="'device: xpu' is not available in this Paddle build: not.*Use --no-cuda"):
        select_device('xpu')


def test_words_for_the_log(gpu, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: (8, 6))
    monkeypatch.setattr(paddle.device.cuda, 'get_device_name', lambda: 'Some Card')
    monkeypatch.setattr(paddle.version, 'cuda', lambda: '11.8')
    monkeypatch.setattr(paddle.version, 'cudnn', lambda: '8.6.0')
    assert describe_device('cpu') == 'cpu'
    select_device()
    assert describe_device('gpu:0') == ('gpu:0 (Some Card, capability 8.6, CUDA 11.8, cuDNN 8.6.0, TF32 in '
                                        'convolutions, not deterministic)')
    select_device(deterministic=True)
    assert describe_device('gpu:0', True).endswith('TF32 off, deterministic)')


@pytest.mark.parametrize('text, said', [
    ('\n\nResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 2.0GB memory on GPU 0, 15GB has '
     'been allocated.\n\nPlease check whether',
     'Not enough memory: Out of memory error on GPU 0. Cannot allocate 2.0GB'),
    ('Unable to allocate 3 GiB for an array', 'Not enough memory: Unable to allocate 3 GiB')])
def test_no_memory_left(text, said):
    with pytest.raises(DeviceError) as e:
        with memory_advice():
            raise MemoryError(text)
    for word in (said, 'batch_size', 'accumulate_steps', 'recompute', '--resume auto'):
        assert word in str(e.value)
    with pytest.raises(RuntimeError, match='something else'), memory_advice():
        raise RuntimeError('something else')


@pytest.mark.parametrize('why, error, said', [
    ('library', OSError('libnccl.so: cannot open shared object'), 'could not load what connects GPUs (NCCL): libnccl'),
    ('others', ValueError('no'), 'Process 1 of 2 could not join the others: no')])
def test_a_start_that_fails_is_said(monkeypatch, why, error, said):
    def init_parallel_env():
        raise error
    monkeypatch.setenv('PADDLE_TRAINER_ID', '1')
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '2')
    monkeypatch.setattr('paddle.distributed.init_parallel_env', init_parallel_env)
    with pytest.raises(DeviceError) as e:
        world._join()
    assert said in str(e.value) and '--no-cuda' in str(e.value)


@pytest.mark.parametrize('name, backend', [('cpu', 'gloo'), ('gpu:0', None)])
def test_no_cuda_holds_under_a_launcher(monkeypatch, name, backend):
    """A Paddle built for GPUs goes back to the GPU in init_parallel_env unless it is told to talk over gloo."""
    seen = []
    monkeypatch.delenv('PADDLE_DISTRI_BACKEND', raising=False)
    monkeypatch.setattr(paddle, 'get_device', lambda: name)
    monkeypatch.setattr('paddle.distributed.init_parallel_env',
                        lambda: seen.append(os.environ.get('PADDLE_DISTRI_BACKEND')))
    world._join()
    monkeypatch.delenv('PADDLE_DISTRI_BACKEND', raising=False)
    assert seen == [backend]


def test_several_accelerators_meet_every_ten_steps(tmp_path, make_images, monkeypatch):
    """That is when a signal can be granted: not only where a log line makes all wait."""
    trainer = build_trainer(with_defaults(densecl(write_data(str(tmp_path), make_images), epochs=8,
                                                  lr_scheduler={'T_max': 8}, log_config={'interval': 1000},
                                                  checkpoint={'interval': 100})))
    trainer.on_cpu, met, waited = False, [], []
    monkeypatch.setattr(dist, 'meet', lambda: met.append(trainer.iteration))
    monkeypatch.setattr(trainer.agreement, 'due', lambda *_: waited.append(trainer.iteration))
    monkeypatch.setattr(type(trainer), 'all_wait', property(lambda t: t.met))
    trainer.run()
    assert met == [0, 10, 20] and waited == [1, 11, 21] and trainer.iteration == 24
    assert trainer_module.MEET_EVERY == 10 and device.KINDS[0] == 'cpu'


def test_the_limit_holds_where_nobody_gets_pythons_lock():
    """As behind a collective that never ends: the main thread waits in C, with the lock; no other thread can speak."""
    done = subprocess.run([sys.executable, '-c', textwrap.dedent('''
        import ctypes
        from passl.utils.distributed import watch
        watch.LAST_WORD = 0.5
        held = watch.Watch.__new__(watch.Watch)
        held.limit, held.timed, held.on_cpu = 0.5, None, False
        held.progress('training', 3)
        ctypes.PyDLL(None).sleep(60)            # PyDLL keeps the lock
        print('never')
        ''')], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and 'never' not in done.stdout
    assert 'Timeout (0:00:01)!' in done.stderr and 'line 8 in <module>' in done.stderr


def test_gradients_are_forgotten_and_not_set_to_zero(tmp_path, make_images):
    """Zeros would be a kernel per parameter, and keep the memory."""
    trainer = build_trainer(with_defaults(densecl(write_data(str(tmp_path), make_images), epochs=None, total_iters=2)))
    trainer.run()
    assert [n for n, p in trainer.model.named_parameters() if p.grad is not None] == []


def test_detection_asks_for_the_device_as_training_does(gpu):
    from passl.transfer.paddledet.run import _start_device
    gpu['gpus'] = 0
    with pytest.raises(DeviceError, match='sees no GPU.*nvidia-smi'):
        _start_device(paddle, {}, no_cuda=False)
    cfg = {}
    _start_device(paddle, cfg, no_cuda=True)
    assert gpu['device'] == 'cpu' and cfg['use_gpu'] is False


def test_a_proof_is_computed_on_the_cpu(gpu):
    """Where its tolerance holds: a GPU's convolutions in TF32 are off by ten times as much."""
    from passl.transfer.weights.exporting import backbone
    select_device()
    assert gpu['device'] == 'gpu'
    backbone(R18, state_of(R18), 'the file')
    assert gpu['device'] == 'cpu'


@pytest.mark.parametrize('version, old', [('2.6.1', True), ('2.6.2', False), ('3.0.0-beta1', False), ('0.0.0', False)])
def test_the_oldest_paddle(monkeypatch, version, old):
    """2.6.0 and 2.6.1 have another put_along_axis, with which the queue is written."""
    monkeypatch.setattr(paddle, '__version__', version)
    if not old:
        assert require_paddle() is paddle
        return
    with pytest.raises(PaddleMissingError, match='2.6.1 is too old: 2.6.2 or newer'):
        require_paddle()
