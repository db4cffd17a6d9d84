"""Evaluation during training."""

from ..utils.errors import ConfigError
from .builder import HOOKS
from .hook import Hook, Priority


@HOOKS.register()
class EvaluateHook(Hook):
    """Evaluates on `dataloader.val` every `interval` epochs and after the last one.

    Args:
        init_eval: also evaluate before the first step.
        eval_kargs: arguments for `Trainer.evaluate`, e.g. `{topk: [1, 5]}`.
        interval: in epochs; `--val-interval N` sets it.
    """

    priority = Priority.EVALUATE

    def __init__(self, init_eval=False, eval_kargs=None, interval=1, priority=None):
        super().__init__(priority)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ConfigError(f"'interval' of EvaluateHook is {interval!r}; it must be a whole number >= 1.")
        self.init_eval, self.eval_kargs, self.interval = init_eval, dict(eval_kargs or {}), interval

    def run_begin(self, trainer):
        trainer.need_val_loader()
        if self.init_eval and trainer.iteration == 0:
            trainer.evaluate(**self.eval_kargs)

    def train_epoch_end(self, trainer):
        if trainer.epoch % self.interval == 0 or trainer.iteration >= trainer.max_iters:
            trainer.evaluate(**self.eval_kargs)
