"""Warm-up of the dense loss."""

from typing import Optional, TYPE_CHECKING

from ..utils.config.kinds import Whole
from ..utils.errors import ConfigError
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class LossLambdaWarmupHook(Hook):
    """DenseCL: the dense loss has weight 0 for the first iterations, then the configured lambda.

    Helps where training is unstable at the start, because the correspondences are still random. The weight
    depends on the iteration alone, so a resumed run has the same.

    Args:
        start_iters: number of iterations with lambda = 0 (the authors advise 10000 when it is needed).
    """

    priority = Priority.MOMENTUM_UPDATE

    def __init__(self, start_iters: Whole, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.start_iters = start_iters

    def run_begin(self, trainer: 'Trainer') -> None:
        if not hasattr(trainer.model, 'loss_lambda'):
            raise ConfigError(f'LossLambdaWarmupHook needs model DenseCL; {type(trainer.model).__name__} has no '
                              'loss_lambda. Remove the hook.')
        self.configured = trainer.model.loss_lambda

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        trainer.model.loss_lambda = 0.0 if trainer.iteration < self.start_iters else self.configured

    def run_end(self, trainer: 'Trainer') -> None:
        trainer.model.loss_lambda = self.configured
