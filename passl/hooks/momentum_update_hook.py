"""The momentum encoder and the queues."""

from typing import TYPE_CHECKING

from .builder import HOOKS
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class MomentumUpdateHook(Hook):
    """Before the step: k <- m k + (1 - m) q. After it: this step's keys enter the queues.

    Both once per optimizer step, however many micro-batches it has. Using q's weights of before the step is
    the authors' order: at the very first step the update changes nothing.

    On log steps the record gets `queue_fill`, the share of the run's own keys in a queue in percent (the others are the
    random vectors that it began with), and `queue_age`, the steps since the oldest of them was written. Both follow
    from counts: nothing is read.
    """

    priority = Priority.MOMENTUM_UPDATE
    writes = 'queue_fill', 'queue_age'

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        trainer.model.update_key_encoder()

    def train_iter_end(self, trainer: 'Trainer') -> None:
        trainer.model.flush_queues()
        size = getattr(trainer.model, 'negatives', None)
        if trainer.is_log_step and size:
            trainer.record['queue_fill'] = min(100.0, 100.0 * trainer.iteration * trainer.global_batch_size / size)
            trainer.record['queue_age'] = min(trainer.iteration, trainer.steps_to_fill) - 1
