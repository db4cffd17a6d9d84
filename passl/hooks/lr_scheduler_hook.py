"""The learning rate."""

from typing import Literal, Optional

from .builder import HOOKS
from .hook import Hook, Order, Priority


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

    def train_iter_end(self, trainer):
        if self.unit == 'iter':
            trainer.lr_scheduler.step()

    def train_epoch_end(self, trainer):
        if self.unit == 'epoch':
            trainer.lr_scheduler.step()
