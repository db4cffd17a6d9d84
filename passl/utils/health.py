"""Whether a contrastive training learns, judged by the figures of its log: a code, and the code in words.

Needs no Paddle: a hook asks while the run lasts, a report when it is over. The words stand in `health_words`.
"""

import collections
import math
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from .health_words import advice, sentence, told

__all__ = ['CODES', 'Judge', 'Run', 'verdict', 'sentence', 'advice', 'told']

# the gravest first: of several signs one is told, and a collapse explains the others
CODES = ('collapsing', 'guessing', 'shortcut', 'position', 'filling', 'healthy')

MIN_STD = 0.1           # of `std`: healthy runs rose to 0.7 and more, constant features have 0
MAX_ACC = 99.0          # percent of queries: K negatives of other images leave a few that look alike
EARLY_EPOCHS = 2        # in which nobody can have learned so much that MAX_ACC is honest
FLOOR = 1.1, 0.05       # a loss below 1.1 times the smallest possible + 0.05: all negatives are told apart
SLACK = 0.01            # of ln(K + 1): so near is 'chance'; random keys lie there or above
CLEAR = 0.03            # of ln(K + 1): so far below it is 'better than by guessing', whatever a few batches' noise
PATIENCE = 5            # log steps in a row: one batch's figures are noisy
CHANCE_PATIENCE = 20    # log steps whose mean loss is compared: a slow start can stay at chance for a while
NO_QUEUE_WAIT = 1000    # steps, or one epoch: a method without a queue is judged after these
POSITION_ACC = 80.0     # percent of `acc1_dense`: with regions, where content counts, 1000 steps reached 48
POSITION_PLACE = 0.5    # of `acc1_dense`: `acc1_place` asks less (64 keys, not K), so content gives at least as much
# the figures by which a reader can follow a verdict that is of no single loss
_SHOWN = {'healthy': ('loss', 'std', 'std_dense', 'rank', 'acc1', 'acc1_dense', 'match_true', 'match_chance'),
          'position': ('acc1_dense', 'acc1_place', 'match_true', 'match_chance')}


class Run(NamedTuple):
    """What the figures of a run's log steps have to be compared with.

    Attributes:
        judged_after: the step after which the queue holds real keys only (without one: see NO_QUEUE_WAIT).
        queue: whether there is a queue.
        negatives: {ending of the figures' names, '' or '_dense': how many negatives a positive has}.
        temperature: None if not known.
    """
    judged_after: int
    queue: bool
    negatives: Mapping[str, int]
    temperature: Optional[float] = None


class Judge:
    """Takes the records of log steps one after the other and says what they show.

    A sign counts once it was there for `patience` log steps in a row, until it was gone for as many.

    Args:
        min_std: `std` and `std_dense` below it are a collapse.
        max_acc: `acc1` and `acc1_dense` (percent) from it on are a shortcut, in the first `early_epochs` or with a loss
            that says that all negatives are told apart.
        patience: log steps.  chance_patience: log steps over which the mean loss is compared with ln(K + 1).
    """

    def __init__(self, min_std: float = MIN_STD, max_acc: float = MAX_ACC, patience: int = PATIENCE,
                 chance_patience: int = CHANCE_PATIENCE, early_epochs: int = EARLY_EPOCHS) -> None:
        self.min_std, self.max_acc, self.early_epochs = min_std, max_acc, early_epochs
        self.patience, self.chance_patience = patience, chance_patience
        self.bad: dict[Any, int] = {}
        self.good: dict[Any, int] = {}
        self.held: set[tuple[str, str]] = set()
        self.losses: dict[str, Any] = {}
        self.was_healthy = False

    def see(self, record: Mapping[str, Any], run: Run) -> tuple[Optional[str], dict[str, float]]:
        """(code, figures that speak for it) after this record; (None, {}): too early to say."""
        if record['iteration'] <= run.judged_after:
            return ('filling', {'until': run.judged_after, **_some(record, 'queue_fill', 'loss')}) if run.queue \
                else (None, {})
        above = [self._look(record, run, ending) for ending in run.negatives]
        for code in CODES:
            for ending in run.negatives:
                if (code, ending) in self.held:
                    self.was_healthy = False
                    return code, self._figures(code, record, run, ending)
        settled = all(len(last) >= self.patience for last in self.losses.values())
        # a sign that has yet to last takes nothing back
        self.was_healthy = self.was_healthy or settled and all(above) and not any(self.bad.values())
        return ('healthy', _some(record, *_SHOWN['healthy'])) if self.was_healthy else (None, {})

    def _look(self, record, run, ending):
        """Note the signs of one loss; whether its mean of late is clearly better than chance."""
        negatives, std, acc = run.negatives[ending], record.get('std' + ending), record.get('acc1' + ending)
        loss = _loss(record, ending)
        last = self.losses.setdefault(ending, collections.deque(maxlen=self.chance_patience))
        last.append(loss)
        mean, chance = sum(last) / len(last), math.log(negatives + 1)
        at_chance = mean >= (1 - SLACK) * chance
        collapsed = std is not None and std < self.min_std
        easy = not collapsed and acc is not None and acc >= self.max_acc and (
            record['epoch'] <= self.early_epochs or _at_floor(loss, negatives, run.temperature))
        by_place = not collapsed and bool(ending) and _by_place(record)
        self._note('collapsing', ending, collapsed, self.patience)
        self._note('position', ending, by_place, self.patience)
        self._note('shortcut', ending, easy and not by_place, self.patience)
        self._note('guessing', ending, at_chance and not collapsed and len(last) == self.chance_patience, 1)
        return mean <= (1 - CLEAR) * chance

    def _note(self, code, ending, present, patience):
        key = code, ending
        self.bad[key], self.good[key] = (self.bad.get(key, 0) + 1, 0) if present else (0, self.good.get(key, 0) + 1)
        if self.bad[key] >= patience:
            self.held.add(key)
        elif self.good[key] >= self.patience:
            self.held.discard(key)

    def _figures(self, code, record, run, ending):
        mean = sum(self.losses[ending]) / len(self.losses[ending])
        loss = {'loss' + ending: mean if code == 'guessing' else _loss(record, ending),
                'chance': math.log(run.negatives[ending] + 1)}
        if code == 'collapsing':
            return {**_some(record, 'std' + ending), 'limit': self.min_std, **loss}
        if code == 'shortcut':
            return {**_some(record, 'acc1' + ending), 'limit': self.max_acc, **loss}
        if code in _SHOWN:
            return _some(record, *_SHOWN[code])
        return {**loss, 'negatives': run.negatives[ending], 'steps': len(self.losses[ending])}


def verdict(records: Sequence[Mapping[str, Any]]) -> tuple[Optional[str], dict[str, float]]:
    """(code, figures) of a whole run from the records of its log.jsonl: the last judgement that was written.

    (None, {}) for a run without any: too short, of a method that is not judged, or of an older release.
    """
    judged = [r for r in records if r.get('mode') == 'train' and r.get('health') in CODES]
    if not judged:
        return None, {}
    last, code = judged[-1], judged[-1]['health']
    if code == 'filling':
        share = last.get('queue_fill')
        until = {'until': math.ceil(100 * last['iteration'] / share - 1e-6)} if share else {}
        return code, {**until, **_some(last, 'queue_fill', 'loss')}
    return code, _some(last, *_SHOWN[code]) if code in _SHOWN else _blamed(code, last)


def _blamed(code, record):
    """The figures of the loss that `code` was said of: the worse one."""
    worst = {'collapsing': ('std', min), 'shortcut': ('acc1', max), 'guessing': ('loss', max)}[code]
    names = [n for n in (worst[0], worst[0] + '_dense') if n in record]
    return _some(record, *([worst[1](names, key=record.__getitem__)] if names else []))


def _some(record, *names):
    return {n: record[n] for n in names if isinstance(record.get(n), (int, float))}


def _loss(record, ending):
    return record.get('loss_dense' if ending else 'loss_global', record['loss'])


def _at_floor(loss, negatives, temperature):
    """Whether queries equal their keys and are at right angles to all negatives; False if T is not known."""
    return temperature is not None and loss <= FLOOR[0] * math.log1p(negatives * math.exp(-1 / temperature)) + FLOOR[1]


def _by_place(record):
    acc, place = record.get('acc1_dense'), record.get('acc1_place')
    return acc is not None and place is not None and acc >= POSITION_ACC and place < POSITION_PLACE * acc
