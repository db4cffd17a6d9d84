"""Says in words whether a contrastive training learns, and warns when it does not."""

from typing import Annotated, Any, Literal, Optional, TYPE_CHECKING

from ..utils.config.kinds import Count, Share, Whole, number_from
from ..utils.distributed.dist import is_main
from ..utils.health import (CHANCE_PATIENCE, EARLY_EPOCHS, MAX_ACC, MIN_STD, NO_QUEUE_WAIT, PATIENCE, Judge, Run,
                            told)
from ..utils.language import language
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

_FINE = 'filling', 'healthy'
_LOOK = {'en': ' docs/LOSS_CURVE.md says what a healthy run looks like.',
         'zh': '健康的训练是什么样子，见 docs/LOSS_CURVE_ch.md。'}


@HOOKS.register()
class CollapseHook(Hook):
    """Judges the figures of every log step (`passl.utils.health`), before they are written.

    The code goes into `trainer.record['health']`; a line is logged when it changes, with likely causes where something
    is wrong. It reads nothing from the device and changes nothing. Counts are not kept over a resume. Methods without
    negatives (supervised ones) are not judged.

    Args:
        check: 'auto' or 'off'.
        min_std: `std` and `std_dense` below this are a collapse (1: spread evenly, 0: one vector for every image). A
            collapse explains the other figures, so it is told alone.
        max_acc: `acc1` and `acc1_dense` (percent) from this on are a shortcut, in the first epochs, or with a loss that
            says that all negatives are told apart.
        patience: log steps in a row before a verdict.
        chance_patience: log steps over which the mean loss is compared with ln(K + 1): a slow start can stay there for
            a while.
        early_epochs: so many epochs are 'the first'.
    """

    priority = Priority.COLLAPSE
    reads = 'loss',

    def __init__(self, check: Literal['auto', 'off', False] = 'auto', min_std: Share = MIN_STD,
                 max_acc: Annotated[float, number_from(0, 100)] = MAX_ACC, patience: Count = PATIENCE,
                 chance_patience: Count = CHANCE_PATIENCE, early_epochs: Whole = EARLY_EPOCHS,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.check = check or 'off'                         # YAML reads a bare off as false
        self.limits: dict[str, Any] = {'min_std': min_std, 'max_acc': max_acc, 'patience': patience,
                                       'chance_patience': chance_patience, 'early_epochs': early_epochs}

    def run_begin(self, trainer: 'Trainer') -> None:
        self.judge = Judge(**self.limits)
        self.told: Optional[str] = None

    def figures_read(self, trainer: 'Trainer') -> None:
        if self.check == 'off' or not is_main() or getattr(trainer.model, 'negatives', None) is None:
            return
        code, figures = self.judge.see(trainer.record, _run_of(trainer))
        if code is None:
            return
        trainer.record['health'] = code
        if code != self.told:
            self._tell(trainer, code, figures)
        self.told = code

    def _tell(self, trainer, code, figures):
        log, more = (get_logger().info, '') if code in _FINE else (get_logger().warning, _LOOK[language()])
        log('Iteration %d (epoch %d): %s%s', trainer.iteration, trainer.epoch, told(code, figures, language()), more)


def _run_of(trainer: 'Trainer') -> Run:
    """What the figures of this run have to be compared with; a loss without weight is not judged."""
    model: Any = trainer.model
    queue, part = hasattr(model, 'queues'), getattr(model, 'loss_lambda', 0)
    after = trainer.steps_to_fill if queue else min(trainer.iters_per_epoch, NO_QUEUE_WAIT)
    negatives = {'': model.negatives} if part < 1 else {}
    if part:
        negatives['_dense'] = getattr(model, 'dense_negatives', None) or model.negatives
    return Run(after, queue, negatives, getattr(getattr(model, 'head', None), 'temperature', None))
