"""Warns in words when a contrastive training learns nothing: collapsed features, a shortcut, guesses."""

import collections
import math
from typing import Annotated, Literal, Optional, TYPE_CHECKING

from ..utils.distributed.dist import is_main
from ..utils.config.kinds import Count, Share, Whole, number_from
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

_SLACK = 0.01               # of ln(K + 1): so near is 'chance'
_NO_QUEUE_WAIT = 1000       # steps, or one epoch: a method without a queue is judged after these
_LOOK = 'docs/LOSS_CURVE.md says what a healthy run looks like.'


@HOOKS.register()
class CollapseHook(Hook):
    """Looks at the logged figures, once the queue holds real keys, and warns once per cause.

    It reads nothing from the device and changes nothing: the figures are those of the log line. A cause is told again
    only after it had been gone for `patience` log steps. Counts are not kept over a resume. Methods without negatives
    (supervised ones) are not judged.

    Args:
        check: 'auto' or 'off'.
        min_std: `std` and `std_dense` below this are a collapse (1: spread evenly, 0: one vector for every image). A
            collapse explains the other figures, so it is told alone.
        max_acc: `acc1` and `acc1_dense` (percent) from this on are a shortcut, in the first epochs, or with a loss that
            says that all negatives are told apart.
        patience: log steps in a row before a warning.
        chance_patience: log steps over which the mean loss is compared with ln(K + 1): a slow start can stay there for
            a while.
        early_epochs: so many epochs are 'the first'.
    """

    priority = Priority.COLLAPSE
    reads = 'loss',

    def __init__(self, check: Literal['auto', 'off', False] = 'auto', min_std: Share = 0.1,
                 max_acc: Annotated[float, number_from(0, 100)] = 99.0, patience: Count = 5,
                 chance_patience: Count = 20, early_epochs: Whole = 2, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.check = check or 'off'                         # YAML reads a bare off as false
        self.min_std, self.max_acc, self.early_epochs = min_std, max_acc, early_epochs
        self.patience, self.chance_patience = patience, chance_patience

    def run_begin(self, trainer: 'Trainer') -> None:
        self.bad, self.good, self.told = {}, {}, set()          # per cause: log steps in a row; what was told
        self.losses = {}

    def train_iter_end(self, trainer: 'Trainer') -> None:
        record, model = trainer.record, trainer.model
        if self.check == 'off' or not (trainer.is_log_step and is_main()) or \
                getattr(model, 'negatives', None) is None or trainer.iteration <= self._judged_after(trainer):
            return
        for suffix, weight in self._branches(model):
            if weight:
                self._judge(trainer, record, suffix)

    @staticmethod
    def _judged_after(trainer):
        """The step after which the queue holds real keys only."""
        if hasattr(trainer.model, 'queues'):
            return -(-trainer.model.negatives // trainer.global_batch_size)
        return min(trainer.iters_per_epoch, _NO_QUEUE_WAIT)

    @staticmethod
    def _branches(model):
        """(ending of the figures' names, weight in the loss) of each."""
        part = getattr(model, 'loss_lambda', None)
        return [('', 1)] if part is None else [('', 1 - part), ('_dense', part)]

    def _judge(self, trainer, record, suffix):
        model = trainer.model
        loss = record.get('loss_dense' if suffix else 'loss_global', record['loss'])
        std, acc = record.get('std' + suffix), record.get('acc1' + suffix)
        negatives = suffix and getattr(model, 'dense_negatives', None) or model.negatives
        chance = math.log(negatives + 1)
        collapsed = std is not None and std < self.min_std
        if self._is_due('std' + suffix, collapsed, self.patience):
            self._warn(trainer, _collapse_words(suffix, std, self.min_std, loss, chance))
        floor = _floor(model, negatives)
        shortcut = not collapsed and acc is not None and acc >= self.max_acc and (
            record['epoch'] <= self.early_epochs or floor is not None and loss <= 1.1 * floor + 0.05)
        if self._is_due('acc1' + suffix, shortcut, self.patience):
            self._warn(trainer, (_dense_words if suffix else _shortcut_words)(
                acc, self.max_acc, loss, getattr(model, 'cells', None)))
        # one batch's loss is noisy: the mean counts, and that of random keys is ln(K + 1) or more
        last = self.losses.setdefault(suffix, collections.deque(maxlen=self.chance_patience))
        last.append(loss)
        loss = sum(last) / len(last)
        guessing = len(last) == self.chance_patience and loss >= (1 - _SLACK) * chance and not collapsed
        if self._is_due('chance' + suffix, guessing, 1):
            self._warn(trainer, _chance_words(suffix, loss, chance, negatives, self.chance_patience))

    def _is_due(self, cause, present, patience):
        """Count `present`; True if the cause is to be told now."""
        self.bad[cause], self.good[cause] = (self.bad.get(cause, 0) + 1, 0) if present else \
            (0, self.good.get(cause, 0) + 1)
        if self.good[cause] >= self.patience:
            self.told.discard(cause)
        if self.bad[cause] < patience or cause in self.told:
            return False
        self.told.add(cause)
        return True

    def _warn(self, trainer, words):
        get_logger().warning('Iteration %d (epoch %d): %s', trainer.iteration, trainer.epoch, words)


def _floor(model, negatives):
    """The loss of queries that equal their keys and are at right angles to all negatives; None if T is not known."""
    temperature = getattr(getattr(model, 'head', None), 'temperature', None)
    return None if temperature is None else math.log1p(negatives * math.exp(-1 / temperature))


def _collapse_words(suffix, std, limit, loss, chance):
    return (f'the features collapse: std{suffix} is {std:.4f}, below {limit:g} (1: spread evenly, 0: the same vector '
            f"for every {'cell' if suffix else 'image'}). Loss {loss:.3f}; chance is {chance:.3f}. Likely causes: a "
            'learning rate that is far too high, a key encoder that follows too fast (model.m), images that all look '
            'alike or are blank (passl check-data), frozen or broken weights. Lower lr_scheduler.learning_rate first. '
            + _LOOK)


def _shortcut_words(acc, limit, loss, _):
    return (f'the task is too easy: acc1 is {acc:.2f} %, at or above {limit:g} %, with loss {loss:.3f}. Such a network '
            'has found a shortcut and learns little. Likely causes: both views are the same picture (is there a random '
            'crop in transforms?), batch statistics that tell which query belongs to which key (model.bn_splits with '
            'one card), few images that are known by heart, a queue that is too short (model.K), duplicates or images '
            f'that differ in trivial ways (passl check-data). {_LOOK}')


def _dense_words(acc, limit, loss, cells):
    grid = f' with {cells} cells' if cells else ''
    return (f'the dense task is too easy: acc1_dense is {acc:.2f} %, at or above {limit:g} %{grid}, with loss '
            f'{loss:.3f}. Two causes are known. Dense keys that were not put back in order after the shuffle, so that '
            'queries are compared with themselves or by place: look at your own changes of the model. Or the places '
            'of the cells, which zero padding tells, and by which pooled negatives are told apart, soonest at small '
            'crops: the loss then teaches little. Set model.correspondence: Regions with model.negatives: batch, or '
            f'lower model.loss_lambda. {_LOOK}')


def _chance_words(suffix, loss, chance, negatives, count):
    return (f"{'loss_dense' if suffix else 'the loss'} is {loss:.3f} in the mean of {count} log steps, at chance "
            f'(ln(K + 1) = {chance:.3f} for {negatives} negatives): queries find their keys no better than by '
            'guessing. Likely causes: views of different images are paired (own data set or changes of the model), '
            'keys in the wrong order, a learning rate that is far too low (a long warm-up?) or far too high, frozen '
            f'weights. Look at acc1, at the rate in the log line, and at a few pairs of views. {_LOOK}')
