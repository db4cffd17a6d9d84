"""Choice of the device."""

import paddle

from ..utils.errors import DeviceError
from ..utils.logger import get_logger

KINDS = ('cpu', 'gpu', 'xpu', 'npu')


def select_device(device=None, no_cuda=False):
    """Set Paddle's device and return its name.

    Args:
        device: None (a GPU if this Paddle has one, else the CPU) or one of KINDS.
        no_cuda: use the CPU whatever `device` says.
    Raises:
        DeviceError: the device cannot be had. A CPU build of Paddle with `device: gpu`, as configs written for
            GPUs have it, runs on the CPU with a warning.
    """
    if device is not None and device not in KINDS:
        raise DeviceError(f"'device' is {device!r}; it must be one of {', '.join(KINDS)}, or left out.")
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if no_cuda or device == 'cpu' or (device is None and not gpus):
        return paddle.set_device('cpu')
    if device in (None, 'gpu'):
        if not paddle.is_compiled_with_cuda():
            get_logger().warning("'device: gpu', but this Paddle is the CPU build: running on the CPU, many times "
                                 'slower. For a GPU install paddlepaddle-gpu (docs/INSTALL.md); --no-cuda silences '
                                 'this.')
            return paddle.set_device('cpu')
        if not gpus:
            raise DeviceError("'device: gpu', but Paddle sees no GPU. Check the driver (nvidia-smi) and "
                              'CUDA_VISIBLE_DEVICES, or run on the CPU with --no-cuda.')
        return paddle.set_device('gpu')
    try:
        return paddle.set_device(device)
    except Exception as e:
        raise DeviceError(f"'device: {device}' is not available in this Paddle build: {e}. Use --no-cuda, or a build "
                          f'for {device}.') from None
