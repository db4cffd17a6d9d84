"""The learning rate."""

from typing import Literal, Optional, TYPE_CHECKING

from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class LRSchedulerHook(Hook):
    """Steps the schedule after every iteration, or after every epoch.

    Args:
        unit: 'iter' or 'epoch'.
    """

    priority = Priority.LR_SCHEDULER

    def __init__(self, unit: Literal['iter', 'epoch'] = 'iter', priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.unit = unit

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if self.unit == 'iter':
            trainer.lr_scheduler.step()

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        if self.unit == 'epoch':
            trainer.lr_scheduler.step()
