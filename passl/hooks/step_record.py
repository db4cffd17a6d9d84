"""The file that keeps the images of a step whose numbers broke."""

import glob
import itertools
import os
from typing import TYPE_CHECKING, Any, Optional, Sequence

from ..utils.weights.checkpoint import save_file
from ..utils.distributed.dist import gather_objects, rank, world_size
from ..utils.errors import CheckpointError
from ..utils.numerics import as_array

if TYPE_CHECKING:
    from ..engine.trainer import Trainer
    import paddle

MOST_FILES = 8                  # of one process in a folder: a loop that starts a run again and again fills no disk


def losses_of(outputs: dict[str, Any]) -> dict[str, float]:
    """{name: float} of the losses among a model's outputs."""
    return {k: float(as_array(v)) for k, v in outputs.items() if 'loss' in k and hasattr(v, 'astype')}


def scale_of(trainer: 'Trainer') -> float:
    """The loss scale of mixed precision, which must be on."""
    return float(as_array(trainer.scaler.state_dict()['scale']).item())         # an array of one value


def save_step(trainer: 'Trainer', batches: 'Sequence[Sequence[paddle.Tensor]]', seen: dict[str, Any]) -> Optional[str]:
    """Write `nonfinite_iter_N[_rank_R].pdparams` to the run folder; every process calls and writes its own.

    It holds what no checkpoint has: {'iteration', 'epoch', 'lr', 'rank', 'images' (names), 'batches' (arrays),
    'losses', 'gradients', 'state' (broken tensors)}. `passl.utils.weights.checkpoint.load_file` reads it.

    Args:
        batches: the step's micro-batches, as the loader gave them.
        seen: {'losses', 'gradients', 'state'}, as the message has them.
    Returns:
        the path, or None for a run without a folder.
    Raises:
        CheckpointError: it cannot be written, or the folder holds MOST_FILES of them.
    """
    if trainer.run_dir is None:
        return None
    end = f'_rank_{rank()}.pdparams' if world_size() > 1 else '.pdparams'
    stem = os.path.join(trainer.run_dir, f'nonfinite_iter_{trainer.iteration}')
    free = next(n for n in itertools.count(1) if not os.path.lexists(_numbered(stem, n) + end))
    there = len(glob.glob(os.path.join(glob.escape(trainer.run_dir), 'nonfinite_iter_*' + end)))
    found = gather_objects((free, there))                           # the same decision on every process
    if max(n for _, n in found) >= MOST_FILES:
        raise CheckpointError(f"'{trainer.run_dir}' already holds {MOST_FILES} files nonfinite_iter_*{end}. Move them "
                              'away if another one is wanted.')
    path = _numbered(stem, max(n for n, _ in found)) + end
    save_file({'iteration': trainer.iteration, 'epoch': trainer.epoch, 'lr': float(trainer.lr), 'rank': rank(),
               'images': image_names(trainer, len(batches)),
               'batches': [[as_array(x) for x in batch] for batch in batches], **seen}, path)
    return path


def _numbered(stem, n):
    return stem if n == 1 else f'{stem}_{n}'


def image_names(trainer: 'Trainer', count: int) -> Optional[list[list[str]]]:
    """[[name of each image] of each of the step's `count` micro-batches], from the order of the epoch; None where the
    loader does not tell."""
    loader = trainer.train_loader
    sampler: Any = getattr(loader, 'batch_sampler', None)
    dataset: Any = getattr(loader, 'dataset', None)
    if not hasattr(sampler, 'start_batch') or not hasattr(dataset, 'image_name'):
        return None
    at = (trainer.iteration - 1) % trainer.iters_per_epoch * trainer.accumulate_steps - sampler.start_batch
    try:
        replaced = set(dataset.bad_names())
        return [[_name(dataset.image_name(key.index), replaced) for key in keys]
                for keys in itertools.islice(sampler, max(0, at), max(0, at) + count)]
    except (LookupError, TypeError, AttributeError):        # a data set of one's own: the names are only a help
        return None


def _name(name, replaced):
    return name + ' (unreadable: another image stood in its place)' if name in replaced else name
