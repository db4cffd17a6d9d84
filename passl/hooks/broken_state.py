"""What is no number is not saved."""

from typing import TYPE_CHECKING

import paddle

from ..utils.distributed.dist import gather_objects, world_size
from ..utils.errors import PasslError

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

_SEE = 'To see that step: the same command with --resume auto -o health_config.check=step.'


def check_state(trainer: 'Trainer') -> None:
    """Stop before weights, queues or BN statistics that are no numbers take the place of good ones in the folder.

    All processes call, and all stop if one of them must: weights and queues are the same everywhere, statistics are
    each process's own. The device is asked once, and again only if something is broken.

    Raises:
        PasslError: on every process.
    """
    broken = broken_names(trainer.model)
    found = gather_objects(broken)
    at = next((r for r, names in enumerate(found) if names), None)
    if at is None:
        return
    kind, names = _worst(trainer.model, found[at])
    others = f' and {len(names) - 1} other {kind}' if len(names) > 1 else f', one of the {kind},'
    verb = 'are' if len(names) > 1 else 'is'
    of = f' of process {at}' if world_size() > 1 else ''
    raise PasslError(f"'{names[0]}'{others}{of} {verb} nan or inf after iteration {trainer.iteration} (epoch "
                     f'{trainer.epoch}, lr {trainer.lr:.3e}): not saved, older checkpoints are kept. {_WAY_OUT[kind]}')


_WAY_OUT = {
    'weights': 'Lower lr_scheduler.learning_rate, or add optimizer.grad_clip.',
    'queues': f'Keys of a step whose numbers broke have entered the queue. {_SEE}',
    'BN statistics': 'A forward pass gave values that are no numbers, even if its loss was one (a ReLU makes 0 of '
                     f'nan). {_SEE} With float16: -o AMP.dtype=bfloat16.'}


def broken_names(model: paddle.nn.Layer) -> list[str]:
    """Names of the model's tensors that hold nan or inf. One value is read from the device if there are none."""
    named = [(n, v) for n, v in model.state_dict().items() if v.is_floating_point()]
    if not named:
        return []
    with paddle.no_grad():
        fine = paddle.stack([v.astype('float32').isfinite().all() for _, v in named])
    return [] if bool(fine.all()) else [n for (n, _), ok in zip(named, fine.numpy()) if not ok]


def _worst(model, names):
    """(kind, those of `names` that are of it): weights first, then queues, then BN statistics."""
    statistics = [n for n in names if n.endswith(('._mean', '._variance'))]
    queues = [n for n in names if n in getattr(model, 'queues', ())]
    weights = [n for n in names if n not in statistics and n not in queues]
    return next((kind, found) for kind, found in (('weights', weights), ('queues', queues),
                                                  ('BN statistics', statistics)) if found)
