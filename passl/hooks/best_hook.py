"""Measures checkpoints and keeps the best one."""

import json
import math
import os
import shutil
import time
from typing import Literal, Optional, TYPE_CHECKING

from ..utils.config.kinds import Count
from ..utils.distributed.dist import is_main
from ..utils.errors import PasslError
from ..utils.files import replace_text, whole
from ..utils.logger import JsonLines, get_logger
from ..utils.weights.checkpoint import read_note
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

BEST, FACTS = 'best.pdparams', 'best.json'


@HOOKS.register()
class BestHook(Hook):
    """After a checkpoint of a contrastive training: how good are its dense features, told without labels?

    The figures of `Trainer.structure` are logged (`mode: quality` in log.jsonl). Of the second half of the run (before,
    noise counts as structure) the checkpoint with the highest `dse` so far is also called `best.pdparams` (a second
    name of the same file: it stays when retention removes the first); `best.json` says which one it is. Process 0
    does it, and the training is the same with and without. What goes wrong is a warning.

    Args:
        check: 'auto' or 'off'.
        images: how many images of the training set are looked at.
        side: of their central squares in pixels; null: that of the training's crops, but 112 at least.
    """

    priority = Priority.CHECKPOINT
    figure, counts_from = 'dse', 0.5         # the figure that decides; from this share of the run on
    times = 50                  # at most in a run: where a checkpoint follows every few steps, not all are measured

    def __init__(self, check: Literal['auto', 'off', False] = 'auto', images: Count = 64, side: Optional[Count] = None,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.check, self.images, self.side = check or 'off', images, side       # YAML reads a bare off as false
        self.failed = False
        self.measured_at: Optional[int] = None

    def checkpoint_saved(self, trainer: 'Trainer') -> None:
        wanted = self.check != 'off' and getattr(trainer.model, 'negatives', None) is not None
        if not (wanted and is_main() and not self.failed and trainer.run_dir) or self._too_soon(trainer):
            return
        self.measured_at = trainer.iteration
        try:
            start = time.perf_counter()
            figures = self.measure(trainer)
            self._keep(trainer, trainer.run_dir, {k: float(v) for k, v in figures.items()}, time.perf_counter() - start)
        except (PasslError, OSError) as e:
            self.failed = True          # it would fail again
            get_logger().warning('Checkpoints of this run are not measured, and there is no %s: %s', BEST, e)

    def _too_soon(self, trainer):
        return self.measured_at is not None and trainer.iteration < trainer.max_iters and \
            (trainer.iteration - self.measured_at) * self.times < trainer.max_iters

    def measure(self, trainer: 'Trainer') -> dict[str, float]:
        """Figures of the model as it is now, with one called `self.figure`: higher is better."""
        return trainer.structure(self.images, self.side)

    def _keep(self, trainer, folder, figures, seconds):
        value, before = figures[self.figure], self._best(trainer, folder)
        counts = trainer.iteration >= self.counts_from * trainer.max_iters
        best = counts and value > (-math.inf if before is None else before)
        if best:
            path = os.path.join(folder, BEST)
            with whole(path) as place:
                try:
                    os.link(trainer.last_checkpoint, place)
                except OSError:         # a disk without links, or another one (checkpoint.out_dir)
                    shutil.copyfile(trainer.last_checkpoint, place)
            replace_text(os.path.join(folder, FACTS), json.dumps(
                {'figure': self.figure, 'value': value, 'iteration': trainer.iteration,
                 'checkpoint': os.path.basename(trainer.last_checkpoint)}) + '\n')
        shown = ', '.join(f'{k} {v:.4g}' for k, v in figures.items())
        rank = f': the best so far, {BEST}' if best else f'; the best has {self.figure} {before:.4g}' \
            if before is not None else ''
        get_logger().info('Iteration %d: %s (%.1f s)%s', trainer.iteration, shown, seconds, rank,
                          extra={'short': f'checkpoint of step {trainer.iteration}: {self.figure} {value:.4g}{rank}'})
        with JsonLines(os.path.join(folder, 'log.jsonl')) as log:
            log.write({'mode': 'quality', 'iteration': trainer.iteration, 'epoch': trainer.epoch, **figures,
                       'time': seconds, 'best': best})

    def _best(self, trainer, folder):
        """The figure of best.pdparams; None if there is none of an earlier step of this run and by the same figure."""
        note = read_note(os.path.join(folder, BEST)) if os.path.isfile(os.path.join(folder, BEST)) else {}
        try:
            with open(os.path.join(folder, FACTS), encoding='utf-8') as f:
                facts = json.load(f)
            known = facts['figure'] == self.figure and note.get('run_id') == trainer.run_id and \
                note.get('iteration') == facts['iteration'] < trainer.iteration
            return float(facts['value']) if known else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
