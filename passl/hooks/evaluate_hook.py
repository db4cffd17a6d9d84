"""Evaluation during training."""

from typing import Optional, TYPE_CHECKING

from ..utils.config.kinds import Count, Flag, is_whole
from ..utils.errors import ConfigError, suggest
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class EvaluateHook(Hook):
    """Evaluates on `dataloader.val` every `interval` epochs and after the last one.

    Args:
        init_eval: also evaluate before the first step.
        eval_kargs: arguments for `Trainer.evaluate`, e.g. `{topk: [1, 5]}`.
        interval: in epochs; `--val-interval N` sets it.
    """

    priority = Priority.EVALUATE

    def __init__(self, init_eval: Flag = False, eval_kargs: Optional[dict] = None, interval: Count = 1,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.interval, self.init_eval = interval, init_eval
        self.eval_kargs = _checked(eval_kargs)

    def run_begin(self, trainer: 'Trainer') -> None:
        trainer.need_val_loader()
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


def _checked(eval_kargs):
    """A copy of `eval_kargs`; told now, not after the first epoch, what `Trainer.evaluate` would not take."""
    where = "'eval_kargs' of EvaluateHook"
    eval_kargs = dict(eval_kargs or {})
    for key in eval_kargs:
        if key != 'topk':
            raise ConfigError(f"{where} has the key '{key}'. {suggest(key, ['topk'])}")
    topk = eval_kargs.get('topk', [1])
    if not isinstance(topk, (list, tuple)) or not topk or any(not is_whole(k) or k < 1 for k in topk):
        raise ConfigError(f'topk in {where} is {topk!r}; it must be a list of whole numbers such as [1, 5].')
    return eval_kargs
