"""VisualDL scalars, and pictures of a run."""

import os
from typing import TYPE_CHECKING, Any, Optional

import cv2

from ..pictures.of_run import RunPictures
from ..utils.config.kinds import Count, Flag
from ..utils.distributed.dist import is_main
from ..utils.errors import PasslError
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

# of a run with no interval; shorter runs are trials, and get none. Pictures cost about as much as a step
PICTURES, SHORTEST, APART = 8, 50, 25
_LAST = 120.0                       # seconds that the end of a run waits for each picture
# what a machine may be short of; anything else is a mistake in the code, and shows
_FAILURES = (PasslError, OSError, MemoryError, RuntimeError)


@HOOKS.register()
class VisualHook(Hook):
    """Writes what LogHook logs as VisualDL scalars to `<run folder>/vdl`, words when they change as text, and draws
    what the network has learned. See both with `visualdl --logdir <run folder>/vdl`; the pictures are in
    `<run folder>/pictures`, too.

    Pictures are for methods without labels. The features of a few fixed images are computed between two steps by
    process 0, and another process draws; no random number and no weight of the training changes.

    Args:
        interval: epochs (with `by_epoch: false` iterations) from one picture to the next; null: 8 times in a run, at
            least 25 iterations apart, and in a run of less than 50 iterations never. One is drawn before the first
            step as well.
        by_epoch: unit of `interval`.
        pictures: false draws none.
    """

    priority = Priority.VISUAL
    reads = 'loss',
    writer: Any = None
    drawn: Optional[RunPictures] = None

    def __init__(self, interval: Optional[Count] = None, by_epoch: Flag = True, pictures: Flag = True,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.interval, self.by_epoch, self.pictures = interval, by_epoch, pictures
        self.said: dict[str, str] = {}          # the last word of each key

    def run_begin(self, trainer: 'Trainer') -> None:
        if not (is_main() and trainer.run_dir):
            return
        try:
            from visualdl import LogWriter
            self.writer = LogWriter(logdir=os.path.join(trainer.run_dir, 'vdl'))
        except Exception as e:      # an optional view of the log: its absence must not stop a run
            get_logger().warning('No VisualDL scalars: %s', e)
        self.every = self._every(trainer)
        if self.every and not trainer.model.supervised:
            self._try(self._begin, trainer)

    def _every(self, trainer):
        """Iterations from one picture to the next; None: there are none."""
        if not self.pictures or self.interval is None and trainer.max_iters < SHORTEST:
            return None
        if self.interval is None:
            return max(-(-trainer.max_iters // PICTURES), APART)
        return self.interval * (trainer.iters_per_epoch if self.by_epoch else 1)

    def _try(self, function, trainer):
        """No failure of a picture stops a run: the warning is told once, and then there are no more."""
        try:
            function(trainer)
        except _FAILURES as e:
            get_logger().warning('No more pictures of this run: %s', e)
            if self.drawn is not None:
                self.drawn.painter.close()
            self.drawn = None

    def _begin(self, trainer):
        self.drawn = RunPictures(trainer)
        get_logger().info('Pictures: %s, every %d iterations.', self.drawn.folder, self.every)
        if trainer.iteration == 0:
            self.drawn.take(trainer)

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if self.writer is not None and trainer.is_log_step:
            for key, value in trainer.record.items():
                if isinstance(value, str):
                    if key != 'mode' and self.said.get(key) != value:
                        self.said[key] = value
                        self.writer.add_text(tag=f'train/{key}', step=trainer.iteration, text_string=value)
                elif key != 'iteration':
                    self.writer.add_scalar(tag=f'train/{key}', step=trainer.iteration, value=float(value))
        if self.drawn is not None:
            if trainer.iteration % self.every == 0 or trainer.iteration == trainer.max_iters:
                self._try(self.drawn.take, trainer)
            self._show()

    def _show(self, limit=0.0):
        """Hand finished pictures to VisualDL."""
        for path in self.drawn.painter.finished(limit) if self.drawn else ():
            kind, _, number = os.path.splitext(os.path.basename(path))[0].partition('_')
            image = cv2.imread(path)
            if self.writer is not None and image is not None:
                self.writer.add_image(tag=f'pictures/{kind}', img=image[..., ::-1], step=int(number or 0))

    def val_end(self, trainer: 'Trainer') -> None:
        if self.writer is None:
            return
        for key, value in trainer.val_results.items():
            self.writer.add_scalar(tag=f'val/{key}', step=trainer.finished_epochs, value=float(value))

    def run_end(self, trainer: 'Trainer') -> None:
        self._show(_LAST)
        self._close()

    def run_abort(self, trainer: 'Trainer') -> None:
        self._close()

    def _close(self):
        if self.drawn is not None:
            self.drawn.painter.close()
            self.drawn = None
        if self.writer is not None:
            self.writer.close()
            self.writer = None
