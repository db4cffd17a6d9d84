"""VisualDL scalars."""

import os
from typing import Optional, TYPE_CHECKING

from ..utils.distributed.dist import is_main
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class VisualHook(Hook):
    """Writes what LogHook logs as VisualDL scalars to `<run folder>/vdl`, words when they change as text. See them with
    `visualdl --logdir <run folder>/vdl`."""

    priority = Priority.VISUAL
    reads = 'loss',
    writer = None

    def __init__(self, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.said: dict[str, str] = {}

    def run_begin(self, trainer: 'Trainer') -> None:
        if not (is_main() and trainer.run_dir):
            return
        try:
            from visualdl import LogWriter
        except Exception as e:      # an optional view of the log: its absence must not stop a run
            get_logger().warning('No VisualDL scalars: %s', e)
            return
        self.writer = LogWriter(logdir=os.path.join(trainer.run_dir, 'vdl'))

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if self.writer is None or not trainer.is_log_step:
            return
        for key, value in trainer.record.items():
            if isinstance(value, str):
                if key != 'mode' and self.said.get(key) != value:
                    self.said[key] = value
                    self.writer.add_text(tag=f'train/{key}', step=trainer.iteration, text_string=value)
            elif key != 'iteration':
                self.writer.add_scalar(tag=f'train/{key}', step=trainer.iteration, value=float(value))

    def val_end(self, trainer: 'Trainer') -> None:
        if self.writer is None:
            return
        for key, value in trainer.val_results.items():
            self.writer.add_scalar(tag=f'val/{key}', step=trainer.finished_epochs, value=float(value))

    def run_end(self, trainer: 'Trainer') -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    run_abort = run_end
