"""What a detection training leaves in log.jsonl, and the stop when its loss is no number."""

import math
from typing import Any, Optional

from ppdet.engine.callbacks import Callback

from ...utils.distributed import dist
from ...utils.errors import PasslError
from ...utils.logger import JsonLines
from ..lost import lost


class Record(Callback):
    """Writes the losses of every `log_iter`-th iteration as JSON lines.

    Attributes:
        first, last: the losses written first and last, {'loss': ..., 'loss_rpn_cls': ..., ...}.
    """

    def __init__(self, trainer: Any, path: str) -> None:
        super().__init__(trainer)
        self.lines = JsonLines(path) if dist.is_main() else None
        self.iteration = 0
        self.first: Optional[dict[str, float]] = None
        self.last: Optional[dict[str, float]] = None

    def on_step_end(self, status: dict[str, Any]) -> None:
        lost.check()
        if status['mode'] != 'train' or self.lines is None:
            return
        self.iteration += 1
        if self.iteration > 1 and self.iteration % self.model.cfg.log_iter:
            return
        losses = {name: float(value) for name, value in status['training_staus'].get().items()}
        if not all(map(math.isfinite, losses.values())):
            raise PasslError(f'The loss is {losses} at iteration {self.iteration}: no weights were saved. Use a '
                             'smaller learning rate (-o LearningRate.base_lr=...) or a longer warm-up.')
        self.first, self.last = self.first or losses, losses
        self.lines.write({'mode': 'train', 'iteration': self.iteration, 'lr': status['learning_rate'], **losses})
