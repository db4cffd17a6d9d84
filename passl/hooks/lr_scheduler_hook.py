"""The learning rate."""

from typing import TYPE_CHECKING

from ..utils.errors import ConfigError
from .builder import HOOKS
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class LRSchedulerHook(Hook):
    """Steps the schedule after every iteration, or after every epoch.

    Args:
        unit: 'iter' or 'epoch'.
    """

    priority = Priority.LR_SCHEDULER

    def __init__(self, unit='iter', priority=None):
        super().__init__(priority)
        if unit not in ('iter', 'epoch'):
            raise ConfigError(f"'lr_config.unit' is {unit!r}; it must be 'iter' or 'epoch'.")
        self.unit = unit

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if self.unit == 'iter':
            trainer.lr_scheduler.step()

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        if self.unit == 'epoch':
            trainer.lr_scheduler.step()
