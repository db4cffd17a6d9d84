"""Times."""

import time

from ..utils.misc import AverageMeter
from .builder import HOOKS
from .hook import Hook, Priority


@HOOKS.register()
class IterTimerHook(Hook):
    """Measures `trainer.timers['time']` (a step, data included) and `['data_time']` (waiting for data), in seconds.

    The averages are over the steps since the last log line.
    """

    priority = Priority.TIMER

    def run_begin(self, trainer):
        trainer.timers = {'time': AverageMeter(), 'data_time': AverageMeter()}

    def train_iter_begin(self, trainer):
        self.start = time.perf_counter()

    def train_iter_end(self, trainer):
        trainer.timers['time'].update(time.perf_counter() - self.start)
        trainer.timers['data_time'].update(trainer.data_time)
