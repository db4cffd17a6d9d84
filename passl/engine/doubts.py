"""What is doubtful about the settings of a contrastive training, said before its first step."""

import math
from typing import TYPE_CHECKING, Any, Optional

from ..datasets.preprocess.geometric import RandomResizedCrop
from ..utils.logger import warn_for_all
from ..utils.misc import CELL, power_of_two

if TYPE_CHECKING:
    from .trainer import Trainer


def doubts(images: int, side: int, per_step: int, steps: int, rate_: float, method: str,
           queue_: Optional[int] = None) -> list[str]:
    """What is doubtful about the settings of a contrastive run, one sentence each: see docs/PRETRAIN.md.

    Args:
        images: of the training set.  side: of the crops in pixels.  per_step: images of all processes.
        steps: length of the run.  rate_: highest learning rate.  queue_: K; None for a method without queue.
    """
    found = []
    if queue_ is not None and queue_ >= images:
        found.append(f'K = {queue_} negatives, but only {images} images: the queue holds older copies of the image '
                     f'itself, which are no negatives. Set model.K to {power_of_two(images / 2)} or less.')
    if queue_ is not None and steps * per_step < 2 * queue_:
        found.append(f'{steps} steps of {per_step} images hardly fill the queue of K = {queue_} (it takes '
                     f'{math.ceil(queue_ / per_step)} steps): most negatives are random vectors. Train longer, or '
                     'lower model.K.')
    cells = -(-side // CELL)
    if method == 'densecl' and cells <= 3:
        found.append(f'crops of {side} px give {cells} x {cells} cells: all of them lie at a border, which tells them '
                     'apart without any content. Use crops of 112 px or more.')
    low, high = 0.03 * per_step / 256 / 4, 0.3 * per_step / 256 * 4
    if not low <= rate_ <= high:
        found.append(f'the rate {rate_:g} is far from the rule for {per_step} images per step: {4 * low:.2g} '
                     f'(ImageNet) to {high / 4:.2g} (COCO, small sets).')
    return found


def crop_of(dataset: Any) -> Optional[int]:
    """Shorter side of a data set's crops in pixels; None if its recipe does not begin with one."""
    crops = getattr(getattr(dataset, 'recipe', None), 'crops', None)
    return min(min(crop.size) for crop in crops if isinstance(crop, RandomResizedCrop)) if crops else None


def rate_of(schedule: Any) -> Optional[float]:
    """The highest rate of an `lr_scheduler` of a config, as it says itself; None if it does not."""
    while isinstance(schedule, dict):
        schedule = schedule.get('learning_rate')
    return float(schedule) if isinstance(schedule, (int, float)) else None


def tell_doubts(trainer: 'Trainer') -> None:
    """Warn of what `doubts` finds in a training that contrasts and trains all of its backbone."""
    model, cfg = trainer.model, trainer.cfg
    rate, side = rate_of(cfg.get('lr_scheduler')), crop_of(trainer.train_loader.dataset)
    if not hasattr(model, 'queues') or rate is None or (cfg.get('optimizer') or {}).get('name') != 'Momentum':
        return
    found = doubts(len(trainer.train_loader.dataset), side or 224, trainer.global_batch_size, trainer.max_iters, rate,
                   'densecl' if hasattr(model, 'loss_lambda') else 'moco', model.negatives)
    for sentence in found:
        warn_for_all(f'Doubtful: {sentence}')
