"""What is known of a recipe's run beforehand, compared with the run."""

from typing import TYPE_CHECKING, Annotated, Any, Optional, Sequence

from ..utils.config.kinds import Check, Count, Text, is_number, is_whole
from ..utils.distributed.dist import is_main
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


def _is_milestone(m):
    return isinstance(m, dict) and set(m) == {'iteration', 'key', 'between', 'means'} and is_whole(m['iteration']) and \
        isinstance(m['key'], str) and isinstance(m['between'], (list, tuple)) and len(m['between']) == 2 and \
        all(map(is_number, m['between'])) and m['between'][0] <= m['between'][1] and isinstance(m['means'], str)


Milestones = Annotated[Sequence[dict], Check(
    'a list of {iteration: N, key: loss, between: [low, high], means: text}',
    lambda v: isinstance(v, (list, tuple)) and all(map(_is_milestone, v)))]
Results = Annotated[Sequence[str], Check(
    'a list of texts', lambda v: isinstance(v, (list, tuple)) and all(isinstance(r, str) for r in v))]


@HOOKS.register()
class ExpectedHook(Hook):
    """Says whether the run is where the recipe's runs are known to be, at some iterations, and nothing else.

    The figures are data beside the configs (`configs/_base_/expected`), so that a log and a report can name them.

    Args:
        images_per_step: the figures hold for so many images of all processes; with others nothing is compared.
        milestones: what is logged under `key` at the first log step from `iteration` on must lie in `between`; `means`
            is added to the message.
        results: sentences on what the recipe reaches in the end, with sources.
        cost: what a run takes, with its source.
    """

    priority = Priority.COLLAPSE
    reads = 'loss',

    def __init__(self, images_per_step: Optional[Count] = None, milestones: Milestones = (), results: Results = (),
                 cost: Optional[Text] = None, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.images_per_step, self.milestones = images_per_step, milestones
        self.results, self.cost = results, cost
        self.open: list[dict[str, Any]] = []

    def run_begin(self, trainer: 'Trainer') -> None:
        self.open = [m for m in self.milestones if m['iteration'] > trainer.iteration]
        told = [f'{result}.' for result in self.results] + ([f'A run takes {self.cost}.'] if self.cost else [])
        if told and is_main():
            get_logger().info('Expected of this recipe: %s', ' '.join(told))
        if self.open and self.images_per_step not in (None, trainer.global_batch_size):
            get_logger().info('The figures expected of this recipe hold for %d images per step, not for %d: they are '
                              'not compared.', self.images_per_step, trainer.global_batch_size)
            self.open = []

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if not trainer.is_log_step:
            return
        due = [m for m in self.open if m['iteration'] <= trainer.iteration]
        self.open = [m for m in self.open if m not in due]
        for m in due if is_main() else ():
            value, (low, high) = trainer.record.get(m['key']), m['between']
            if not isinstance(value, (int, float)):
                continue
            what = f'iteration {trainer.iteration}: {m["key"]} {value:.3f}, expected {low:g} to {high:g}. {m["means"]}'
            if low <= value <= high:
                get_logger().info('On track at %s', what)
            else:
                get_logger().warning('Off track at %s docs/LOSS_CURVE.md names likely causes.', what)
