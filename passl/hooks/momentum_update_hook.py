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
    """

    priority = Priority.MOMENTUM_UPDATE

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        trainer.model.update_key_encoder()

    def train_iter_end(self, trainer: 'Trainer') -> None:
        trainer.model.flush_queues()
