"""Classification accuracy, exact over processes."""

import sys
import time

import paddle
from tqdm import tqdm

from ..utils.distributed import dist
from ..utils.errors import DataError


@paddle.no_grad()
def evaluate(model, loader, auto_cast, topk=(1, 5), interrupted=None):
    """Top-k accuracy in percent of `model` on `loader`.

    Every process counts the hits of its own samples; the counts are added, so a last batch of another size
    or an uneven share changes nothing. k beyond the number of classes counts as that number.

    Args:
        model: architecture with mode 'test'.
        loader: gives (image [N, 3, H, W], label [N]).
        auto_cast: context of mixed precision.
        topk: which accuracies.
        interrupted: asked before every batch; True ends the evaluation.
    Returns:
        {'acc1': ..., 'acc5': ..., 'num_samples': n, 'time': seconds}, equal on every process; None if interrupted.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    hits, count = [0.0] * len(topk), 0
    show = dist.is_main() and sys.stderr.isatty()
    stopped = False
    for batch in tqdm(loader, desc='validate', unit='batch', leave=False, disable=not show, dynamic_ncols=True):
        stopped = interrupted is not None and interrupted()
        if stopped:
            break
        if len(batch) < 2:
            raise DataError("Evaluation needs labels. Set 'return_label: true' in dataloader.val.dataset.")
        image, label = batch[0], batch[-1].reshape([-1, 1]).astype('int64')
        with auto_cast():
            scores = model(image, mode='test').astype('float32')
        order = scores.argsort(axis=1, descending=True)
        right = (order == label).astype('float32')
        for i, k in enumerate(topk):
            hits[i] += float(right[:, :k].sum())
        count += image.shape[0]
    if was_training:
        model.train()
    if stopped:
        return None
    dist.meet()             # shares may differ in size and speed
    *hits, count = dist.sum_over_processes(hits + [count])
    if not count:
        raise DataError("The validation data is empty. Check 'dataloader.val.dataset'.")
    out = {f'acc{k}': 100.0 * h / count for k, h in zip(topk, hits)}
    out.update(num_samples=int(count), time=time.perf_counter() - start)
    return out
