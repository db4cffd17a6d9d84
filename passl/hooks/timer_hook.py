"""Times."""

import time
from typing import TYPE_CHECKING

from ..utils.misc import AverageMeter
from .builder import HOOKS
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class IterTimerHook(Hook):
    """Measures `time` (a step, data included) and `data_time` (waiting for data), in seconds: means over the steps
    since the last log line."""

    priority = Priority.TIMER
    writes = 'time', 'data_time'

    def run_begin(self, trainer: 'Trainer') -> None:
        self.meters = [AverageMeter(name) for name in self.writes]

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        self.start = time.perf_counter()

    def train_iter_end(self, trainer: 'Trainer') -> None:
        for meter, value in zip(self.meters, (time.perf_counter() - self.start, trainer.data_time)):
            meter.update(value)
            if trainer.is_log_step:
                trainer.record[meter.name] = meter.avg
                meter.reset()
