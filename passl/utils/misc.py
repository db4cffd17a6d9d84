"""Meters, accuracy, remaining time and memory, numbers of ImageNet and of grids. Paddle is imported where needed."""

import datetime
import math
import sys
from typing import TYPE_CHECKING, Optional, Sequence, Union

import numpy as np

if TYPE_CHECKING:
    import paddle

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]      # of RGB in 0..1, as in pre-training
CELL = 32                       # pixels of a crop that one cell of a backbone's last map stands for


class AverageMeter:
    """The latest value of a figure and its running average.

    Attributes:
        val: latest value.
        sum, count: weighted sum and the number of samples in it.
        avg: sum / count; 0.0 before the first update.
    """

    def __init__(self, name: str = '', fmt: str = '.4f') -> None:
        self.name, self.fmt = name, fmt
        self.reset()

    def reset(self) -> None:
        self.val, self.sum, self.count = 0.0, 0.0, 0

    @property
    def avg(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def update(self, value: 'Union[float, paddle.Tensor]', n: int = 1) -> None:
        """Take in `value`, the mean over `n` samples. A tensor is read from its device here."""
        self.val = float(value)
        if n:                   # no samples, no weight: 0 * nan would poison the sum
            self.sum += self.val * n
            self.count += n

    def __str__(self):
        return f'{self.name} {self.val:{self.fmt}} ({self.avg:{self.fmt}})'.lstrip()


def hits(output: 'paddle.Tensor', target: 'paddle.Tensor', topk: Sequence[int]) -> 'list[paddle.Tensor]':
    """Number of samples whose class is among the k highest scores; arguments and result as of `accuracy`."""
    import paddle

    with paddle.no_grad():
        ks = [min(k, output.shape[1]) for k in topk]
        _, predicted = output.astype('float32').topk(max(ks), axis=1)
        hit = predicted.astype('int64') == target.astype('int64').reshape([-1, 1])
        hit = hit.astype('float32')
        return [hit[:, :k].sum() for k in ks]


def accuracy(output: 'paddle.Tensor', target: 'paddle.Tensor', topk: Sequence[int] = (1, 5)) -> 'list[paddle.Tensor]':
    """Share of samples, in percent, whose class is among the k highest scores.

    Args:
        output: scores [N, C], a Paddle tensor of any float type; N >= 1.
        target: integer classes [N] or [N, 1].
        topk: the values of k; a k beyond C counts as C.

    Returns:
        list of float32 tensors without gradient, 0-D, one per k (nothing is read from the device).
    """
    return [hit * (100.0 / output.shape[0]) for hit in hits(output, target, topk)]


def power_of_two(at_most: float) -> int:
    """The largest power of two that is not above `at_most` (at least 1)."""
    return 1 << max(0, int(at_most).bit_length() - 1)


def evenly(number: int, at_most: int) -> np.ndarray:
    """Indices of `number` things, or of `at_most` of them that lie evenly among all: int64 [n], rising."""
    return np.unique(np.linspace(0, number - 1, min(number, at_most)).astype(int))


def format_eta(seconds: Optional[float]) -> str:
    """Seconds as '1:02:03' or '2 days, 1:02:03'; never negative, '--' when it is not known yet."""
    if seconds is None or not math.isfinite(seconds):
        return '--'
    return str(datetime.timedelta(seconds=int(max(0, seconds))))


def peak_memory_mb() -> float:
    """Highest memory use in MiB since `reset_peak_memory`, or so far: the GPU allocator's, or this process's.

    Returns:
        float; 0.0 on systems that do not tell (Windows).
    """
    cuda = _cuda_in_use()
    if cuda is not None:
        return cuda.max_memory_allocated() / 2**20
    try:                    # not ru_maxrss: a child process inherits that from the one that started it
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 2**10 for line in f if line.startswith('VmHWM:'))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)    # bytes there, KiB on Linux


def reset_peak_memory() -> None:
    """Forget the peak of what came before, such as building the model and reading a checkpoint. Where the system
    cannot (not Linux, Paddle 2.6 on a GPU) the peak stays that of the whole process."""
    cuda = _cuda_in_use()
    if cuda is not None:
        getattr(cuda, 'reset_max_memory_allocated', lambda: None)()
        return
    try:
        with open('/proc/self/clear_refs', 'w') as f:
            f.write('5')                # VmHWM only
    except OSError:
        pass


def _cuda_in_use():
    """paddle.device.cuda if Paddle is there and computes on a GPU, else None."""
    paddle = sys.modules.get('paddle')
    used = paddle is not None and paddle.is_compiled_with_cuda() and paddle.get_device().startswith('gpu')
    return paddle.device.cuda if used else None
