"""Classification accuracy, exact over processes."""

import sys
import time
from typing import Callable, Iterable, Optional, Sequence

import paddle
from tqdm import tqdm

from ..modeling.architectures.base import Architecture
from ..modules.freeze import quiet
from ..utils.distributed import dist
from ..utils.errors import DataError
from ..utils.logger import get_logger
from ..utils.misc import hits
from .amp import AutoCast


def evaluate(model: Architecture, loader: Iterable[Sequence[paddle.Tensor]], auto_cast: AutoCast,
             topk: Sequence[int] = (1, 5),
             interrupted: Optional[Callable[[], bool]] = None) -> Optional[dict[str, float]]:
    """Top-k accuracy in percent of `model` on `loader`.

    Every process counts the hits of its own samples; the counts are added, so a last batch of another size
    or an uneven share changes nothing. k beyond the number of classes counts as that number.

    Args:
        model: architecture with mode 'test'.
        loader: gives (image [N, 3, H, W], label [N]); a label of -1 stands for an image that could not be read.
        auto_cast: context of mixed precision.
        topk: which accuracies.
        interrupted: asked before every batch; True ends the evaluation.
    Returns:
        {'acc1': ..., 'acc5': ..., 'num_samples': n, 'time': seconds}, equal on every process; None if interrupted.
    """
    start = time.perf_counter()
    right, count, unreadable = [0.0] * len(topk), 0.0, 0.0
    show = dist.is_main() and sys.stderr.isatty()
    stopped = False
    with quiet(model):
        for batch in tqdm(loader, desc='validate', unit='batch', leave=False, disable=not show, dynamic_ncols=True):
            stopped = interrupted is not None and interrupted()
            if stopped:
                break
            if len(batch) < 2:
                raise DataError("Evaluation needs labels. Set 'return_label: true' in dataloader.val.dataset.")
            with auto_cast():
                scores = model(batch[0], mode='test')
            # what could not be read has the label -1, which no score can hit, and is not counted
            right = [a + float(b) for a, b in zip(right, hits(scores, batch[-1], topk))]
            missing = int((batch[-1] < 0).sum())
            count, unreadable = count + batch[0].shape[0] - missing, unreadable + missing
    if stopped:
        return None
    dist.meet()             # shares may differ in size and speed
    *right, count, unreadable = dist.sum_over_processes(right + [count, unreadable])
    if not count:
        raise DataError(f"The validation data is empty ({int(unreadable)} unreadable images). Check "
                        "'dataloader.val.dataset'.")
    if unreadable:
        get_logger().warning('%d of %d validation images could not be read; the figures are of the others.', unreadable,
                             count + unreadable)
    out = {f'acc{k}': 100.0 * h / count for k, h in zip(topk, right)}
    out.update(num_samples=int(count), time=time.perf_counter() - start)
    return out
