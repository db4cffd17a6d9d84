"""Choice of the device, and what is set and said about it."""

import contextlib
from typing import Iterator, Optional

import paddle

from ..utils.errors import DeviceError
from ..utils.logger import get_logger

KINDS = ('cpu', 'gpu', 'xpu', 'npu')


def select_device(device: Optional[str] = None, no_cuda: bool = False, deterministic: bool = False) -> str:
    """Set Paddle's device and return its name.

    On a GPU matrix products are computed in float32 (Paddle 2.6 would take TF32 on newer cards, 3.x does not);
    convolutions are left to cuDNN, TF32 included, unless they are to be `deterministic`.

    Args:
        device: None (a GPU if this Paddle has one, else the CPU) or one of KINDS.
        no_cuda: use the CPU whatever `device` says.
        deterministic: the same numbers from the same step. A CPU gives them in any case.
    Raises:
        DeviceError: the device cannot be had, or cannot be made deterministic. A CPU build of Paddle with
            `device: gpu`, as configs written for GPUs have it, runs on the CPU with a warning.
    """
    if device is not None and device not in KINDS:
        raise DeviceError(f"'device' is {device!r}; it must be one of {', '.join(KINDS)}, or left out.")
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if no_cuda or (device is None and not gpus):
        device = 'cpu'
    elif device == 'gpu' and not paddle.is_compiled_with_cuda():
        get_logger().warning("'device: gpu', but this Paddle is the CPU build: running on the CPU, many times slower. "
                             'For a GPU install paddlepaddle-gpu (docs/INSTALL.md); --no-cuda silences this.')
        device = 'cpu'
    elif device == 'gpu' and not gpus:
        raise DeviceError("'device: gpu', but Paddle sees no GPU. Check the driver (nvidia-smi) and "
                          'CUDA_VISIBLE_DEVICES, or run on the CPU with --no-cuda.')
    device = device or 'gpu'
    if device == 'gpu':
        _set_precision(deterministic)
    elif deterministic and device != 'cpu':
        raise DeviceError(f"'deterministic: true' is known for the CPU and for GPUs, not for {device}. Leave it out.")
    try:
        paddle.set_device(device)
    except Exception as e:
        raise DeviceError(f"'device: {device}' is not available in this Paddle build: {e}. Use --no-cuda, or a build "
                          f'for {device}.') from None
    return paddle.get_device()


def _set_precision(deterministic):
    paddle.base.core.set_cublas_switch(False)           # TF32: ties of the loss would come apart by rounding
    if deterministic:
        paddle.base.core.set_cudnn_switch(False)        # and its algorithms differ from call to call
        paddle.set_flags({'FLAGS_cudnn_deterministic': True})


def describe_device(name: str, deterministic: bool = False) -> str:
    """`name` of a device as the log has it: a GPU with its model, capability and libraries."""
    if not name.startswith('gpu'):
        return name
    cuda, core = paddle.device.cuda, paddle.base.core
    capability = '.'.join(map(str, cuda.get_device_capability()))
    return (f'{name} ({cuda.get_device_name()}, capability {capability}, CUDA {paddle.version.cuda()}, cuDNN '
            f"{paddle.version.cudnn()}, TF32 {'in convolutions' if core.get_cudnn_switch() else 'off'}, "
            f"{'deterministic' if deterministic else 'not deterministic'})")


@contextlib.contextmanager
def memory_advice() -> Iterator[None]:
    """Turns the error of a device or a host without room into a DeviceError that says what takes less.

    Raises:
        DeviceError: see above.
    """
    try:
        yield
    except MemoryError as e:            # Paddle's ResourceExhausted is one, too
        what = next((line.strip() for line in str(e).splitlines() if 'ut of memory' in line), str(e)[:300] or 'no room')
        raise DeviceError(
            f'Not enough memory: {what}\nTake a smaller dataloader.train.sampler.batch_size (with '
            'optimizer_config.accumulate_steps: 2 half of it trains on as many images per step, with the BN statistics '
            'of half as many), model.backbone.recompute: true, use_amp: true on a GPU, or smaller crops; and see with '
            'nvidia-smi that nobody else uses the card. Nothing that was saved is lost: --resume auto goes on.') from e
