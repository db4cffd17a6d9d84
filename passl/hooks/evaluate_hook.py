"""Evaluation during training."""

from typing import Annotated, Optional, TYPE_CHECKING

from ..utils.config.kinds import Check, Count, Flag, is_whole
from ..utils.errors import ConfigError
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


def _is_topk(v):
    return isinstance(v, (list, tuple)) and bool(v) and all(is_whole(k) and k >= 1 for k in v)


Evaluation = Annotated[dict, Check(
    'a mapping {topk: a list of whole numbers such as [1, 5]}',
    lambda v: isinstance(v, dict) and set(v) <= {'topk'} and _is_topk(v.get('topk', [1])))]


@HOOKS.register()
class EvaluateHook(Hook):
    """Evaluates on `dataloader.val` every `interval` epochs and after the last one.

    Args:
        init_eval: also evaluate before the first step.
        eval_kargs: arguments for `Trainer.evaluate`, e.g. `{topk: [1, 5]}`.
        interval: in epochs; `--val-interval N` sets it.
    """

    priority = Priority.EVALUATE

    def __init__(self, init_eval: Flag = False, eval_kargs: Optional[Evaluation] = None, interval: Count = 1,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.interval, self.init_eval = interval, init_eval
        self.eval_kargs = eval_kargs or {}

    def run_begin(self, trainer: 'Trainer') -> None:
        if not trainer.model.supervised:
            name = type(trainer.model).__name__
            raise ConfigError(f'{name} is trained without labels: EvaluateHook (or --val-interval) has no accuracy to '
                              'measure. Remove it. Evaluate its backbone afterwards: extract the weights and train '
                              'a classifier with configs/moco/moco_clas_r50.yaml --pretrained FILE.')
        if self.init_eval and trainer.iteration == 0:
            trainer.evaluate(**self.eval_kargs)

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        if trainer.epoch % self.interval == 0 or trainer.iteration >= trainer.max_iters:
            trainer.evaluate(**self.eval_kargs)
