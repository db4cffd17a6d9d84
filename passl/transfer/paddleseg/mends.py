"""What PaddleSeg 2.8.0 lacks on Paddle 2.6.2 and 3.3.1, put right from outside.

* its trainer reads `loss[0]`, but a loss is a 0-D tensor now: `loss_computation` gives tensors of shape [1];
* `CrossEntropyLoss` multiplies float32 by int64, which Paddle 3 refuses: a subclass takes its place in the registry;
* a file that can no longer be read ends the run at the next step (`lost`), where the loader would wait for ever;
* `metrics.calculate_area` joins 0-D tensors: it counts with numpy here, which is faster too;
* several processes evaluate with the batch-norm statistics of process 0, which are saved, and not each with its own;
* weights are read with `paddle.load`, which runs what a pickle says: they go through this project's reader, and must
  match completely.
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import paddle

from ...utils.distributed import dist
from ...utils.weights.checkpoint import load_file
from ...utils.errors import CheckpointError
from ...utils.weights import load_into, load_weights
from ..lost import lost

_done = False
# what each evaluation within the present training gave: {'mIoU', 'accuracy', 'class_IoU'}
evaluations: list[dict[str, Any]] = []


def apply() -> None:
    """Put the mends in place; once per process."""
    global _done
    if _done:
        return
    import paddleseg.core  # noqa: F401  the name `paddleseg.core.train` is a function, the module is found like this
    from paddleseg import utils
    from paddleseg.cvlibs import manager
    from paddleseg.models.losses import CrossEntropyLoss
    train: Any = sys.modules['paddleseg.core.train']
    train.loss_computation = _at_least_1d(train.loss_computation)
    train.evaluate = _remembered(train.evaluate)
    train.resume = resume
    utils.metrics.calculate_area = calculate_area
    places: list[Any] = [utils, sys.modules['paddleseg.utils.utils']]           # PaddleSeg calls them from both
    for place in places:
        place.load_entire_model = place.load_pretrained_model = load_model
    manager.LOSSES.components_dict['CrossEntropyLoss'] = _mended_loss(CrossEntropyLoss)
    _done = True


def _at_least_1d(compute):
    def loss_computation(*args, **kwargs):
        lost.check()
        return [loss.reshape([1]) if loss.ndim == 0 else loss for loss in compute(*args, **kwargs)]
    return loss_computation


def _remembered(evaluate):
    def evaluate_and_remember(model, *args, **kwargs):
        share_statistics(model)
        result = evaluate(model, *args, **kwargs)
        lost.check()
        evaluations.append(as_figures(result))
        return result
    return evaluate_and_remember


def share_statistics(model: paddle.nn.Layer) -> None:
    """Give every process the batch-norm statistics of process 0, whose model is the one that is saved.

    Where norms are not synchronised (on the CPU) each process has its own, and an evaluation by several processes
    would be one of several models.
    """
    if dist.world_size() == 1:
        return
    own = {name: t for name, t in model.state_dict().items() if name.endswith(('._mean', '._variance'))}
    first: Any = dist.broadcast_object({name: t.numpy() for name, t in own.items()} if dist.is_main() else None)
    for name, tensor in own.items():
        tensor.set_value(first[name])


def as_figures(result: Sequence) -> dict[str, Any]:
    """{'mIoU', 'accuracy', 'class_IoU'} (shares, 0..1) of what PaddleSeg's `evaluate` returns."""
    miou, accuracy, class_iou = result[:3]
    return {'mIoU': float(miou), 'accuracy': float(accuracy), 'class_IoU': [float(v) for v in class_iou]}


def _mended_loss(original):
    class CrossEntropyLoss(original):
        """PaddleSeg's loss with its settings; see `average`."""

        def _post_process_loss(self, logit, label, semantic_weights, loss):
            if loss.ndim > label.ndim:
                loss = loss.squeeze(-1)
            if semantic_weights is not None:
                loss = loss * semantic_weights
            return average(loss, label, self.ignore_index, self.avg_non_ignore, self.weight, self.top_k_percent_pixels)

    return CrossEntropyLoss


def average(loss: paddle.Tensor, label: paddle.Tensor, ignore_index: int = 255, avg_non_ignore: bool = True,
            weight: Optional[paddle.Tensor] = None, top_k: float = 1.0) -> paddle.Tensor:
    """The mean over pixels of `loss`, which is already multiplied by the class weights.

    Args:
        loss: [N, H, W] float.
        label: [N, H, W] int64.
        ignore_index: label of pixels without loss.
        avg_non_ignore: False: those pixels count in the divisor, as in mmsegmentation.
        weight: [C] class weights that the divisor takes into account, or None.
        top_k: share of the pixels with the highest loss that count, (0, 1].
    Returns:
        0-D tensor.
    """
    valid = label != ignore_index
    counted = valid.astype(loss.dtype)
    loss = loss * counted
    share = paddle.ones_like(loss)
    if weight is not None:
        classes = paddle.where(valid, label, paddle.zeros_like(label)).flatten()
        share = paddle.gather(weight, classes).reshape(loss.shape)
    if top_k < 1:
        loss, where = paddle.topk(loss.flatten(), max(1, int(top_k * loss.size)))
        share = paddle.gather(share.flatten(), where)
    elif avg_non_ignore:
        share = share * counted
    return loss.mean() / (share.detach().mean() + 1e-8)


def calculate_area(pred: paddle.Tensor, label: paddle.Tensor, num_classes: int,
                   ignore_index: int = 255) -> tuple[paddle.Tensor, ...]:
    """Pixels per class: (of both, of the prediction, of the label), int64 tensors [num_classes].

    Args:
        pred, label: integer tensors [N, H, W] or [N, 1, H, W] of equal size.
        ignore_index: pixels with this label do not count.
    """
    found, truth = pred.numpy().reshape(-1), label.numpy().reshape(-1)
    if found.shape != truth.shape:
        raise ValueError(f'The prediction has {found.size} pixels, the label {truth.size}.')
    found, truth = found[truth != ignore_index], truth[truth != ignore_index]
    return tuple(paddle.to_tensor(np.bincount(v[(v >= 0) & (v < num_classes)], minlength=num_classes), dtype='int64')
                 for v in (found[found == truth], found, truth))


def load_model(model: paddle.nn.Layer, path: Optional[str]) -> None:
    """Put all weights of `path`, a model.pdparams of PaddleSeg's trainer, into `model`; None leaves it as it is.

    Raises:
        CheckpointError: unreadable, unsafe, an address, or a tensor of the model is not in it.
    """
    if path is None:
        return
    if '://' in str(path):
        raise CheckpointError(f"'{path}' is an address. Nothing is downloaded here: get the file and name it.")
    load_into(model, load_weights(path), 'model', source=f"'{path}'")


def resume(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, folder: Optional[str]) -> int:
    """Load a checkpoint folder `iter_N` of PaddleSeg's trainer; returns N (0 if `folder` is None).

    Raises:
        CheckpointError: no such folder, a file is missing or unsafe, or it belongs to another model.
    """
    if folder is None:
        return 0
    match = re.fullmatch(r'iter_(\d+)', os.path.basename(os.path.normpath(folder)))
    if not match or not os.path.isdir(folder):
        raise CheckpointError(f"--resume '{folder}' must be a folder iter_N that a training wrote into its run folder.")
    load_model(model, os.path.join(folder, 'model.pdparams'))
    path = os.path.join(folder, 'model.pdopt')
    state = load_file(path)
    lost = [name for name, p in model.named_parameters()
            if not p.stop_gradient and not any(str(key).startswith(f'{p.name}_') for key in state)]
    if lost:
        raise CheckpointError(f"'{path}' has no state for {len(lost)} of the model's parameters "
                              f"({', '.join(lost[:5])}, ...): it was written by another model or optimizer.")
    optimizer.set_state_dict(state)
    return int(match.group(1))
