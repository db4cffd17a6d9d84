"""Backward and the optimizer step."""

from typing import Optional, TYPE_CHECKING

from ..utils.config.kinds import Count
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer


@HOOKS.register()
class OptimizerHook(Hook):
    """Scale the loss, backward, and after the last micro-batch clip and step.

    Clipping is the optimizer's own (`optimizer.grad_clip`) and sees the unscaled, accumulated gradient.

    Args:
        accumulate_steps: micro-batches per optimizer step. Their gradients are averaged, the key encoder is
            updated and the queues are written once per step, and an iteration is an optimizer step: schedule,
            log and checkpoints count as with a batch of that many times the size. (BN still sees micro-batches.)
    """

    priority = Priority.OPTIMIZER

    def __init__(self, accumulate_steps: Count = 1, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.accumulate_steps = accumulate_steps

    def train_forward_end(self, trainer: 'Trainer') -> None:
        loss = trainer.outputs['loss']
        if self.accumulate_steps > 1:
            loss = loss / float(self.accumulate_steps)
        trainer.scaler.scale(loss).backward()

    def train_iter_end(self, trainer: 'Trainer') -> None:
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
        trainer.optimizer.clear_grad(set_to_zero=False)     # zeros would be as many kernels, and all of the memory
