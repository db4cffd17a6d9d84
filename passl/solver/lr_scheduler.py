"""Learning-rate schedules under PASSL's names. Lengths are in steps here; the builder converts epochs.

`last_epoch` (Paddle's word) counts steps of the schedule, 0 at the start.
"""

import math
import warnings
from typing import Annotated, Any, Optional, Union

from paddle.optimizer import lr

from ..utils.config.kinds import Check, NotNegative, Whole, is_number, is_whole
from ..utils.errors import ConfigError
from .builder import LRSCHEDULERS

Steps = Annotated[int, Check('at least one step long', lambda v: is_whole(v) and v >= 1)]
RateOrSchedule = Annotated[Union[float, lr.LRScheduler], Check(
    'a number of 0 or more, or a schedule', lambda v: isinstance(v, lr.LRScheduler) or is_number(v) and v >= 0)]

for _schedule in (lr.MultiStepDecay, lr.StepDecay, lr.PolynomialDecay, lr.ExponentialDecay):
    LRSCHEDULERS.register(_schedule)


def _known(length: Optional[int]) -> int:
    if length is None:
        raise ConfigError("'lr_scheduler': T_max is not set, and the length of the training, which it would follow, is "
                          'not known here. Set T_max.')
    return length


@LRSCHEDULERS.register()
class ConstantLR(lr.LRScheduler):
    """The same rate for ever.

    Args:
        learning_rate: the rate.
    """

    def __init__(self, learning_rate: NotNegative) -> None:
        super().__init__(learning_rate)

    def get_lr(self) -> float:
        return self.base_lr


@LRSCHEDULERS.register()
class CosineAnnealingDecay(lr.LRScheduler):
    """eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2; stays at eta_min after T_max.

    (Paddle's own class of this name climbs again after T_max.)

    Args:
        learning_rate: rate at t = 0.
        T_max: length; in a config null, or left out, is the length of the training.
        eta_min: rate at the end.
    """

    def __init__(self, learning_rate: NotNegative, T_max: Optional[Steps] = None,
                 eta_min: NotNegative = 0.0) -> None:
        self.T_max, self.eta_min = _known(T_max), float(eta_min)
        super().__init__(learning_rate)

    def get_lr(self) -> float:
        t = min(self.last_epoch, self.T_max)
        return self.eta_min + (self.base_lr - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class _Warmup(lr.LinearWarmup):
    def set_state_dict(self, state_dict: Any) -> None:
        """As Paddle's, which warns of the state of the schedule inside although it reads that itself."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'There are some unused values', UserWarning)
            super().set_state_dict(state_dict)


@LRSCHEDULERS.register()
class LinearWarmup(_Warmup):
    """From start_lr to end_lr in warmup_steps, then `learning_rate` (a rate or a nested schedule).

    Args:
        learning_rate: what follows; a nested schedule starts at its own t = 0 then.
        warmup_steps: length of the warm-up.
        start_lr: rate at t = 0.
        end_lr: rate at the end of the warm-up; None takes the rate that follows.
    """

    def __init__(self, learning_rate: RateOrSchedule, warmup_steps: Whole, start_lr: NotNegative = 0.0,
                 end_lr: Optional[NotNegative] = None) -> None:
        if end_lr is None:
            end_lr = learning_rate if isinstance(learning_rate, (int, float)) else learning_rate.base_lr
        super().__init__(learning_rate, warmup_steps, start_lr, end_lr)


@LRSCHEDULERS.register()
class CosineWarmup(_Warmup):
    """Linear warm-up, then a cosine to eta_min that ends at T_max (warm-up included).

    Args:
        learning_rate: peak rate.
        warmup_steps: length of the warm-up.
        T_max: whole length, warm-up included; in a config null, or left out, is the length of the training.
        start_lr: rate at t = 0.
        end_lr: rate at the end of the warm-up (default: learning_rate).
        eta_min: last rate.
    """

    def __init__(self, learning_rate: NotNegative, warmup_steps: Whole, T_max: Optional[Steps] = None,
                 start_lr: NotNegative = 0.0, end_lr: Optional[NotNegative] = None,
                 eta_min: NotNegative = 0.0) -> None:
        T_max = _known(T_max)
        if T_max <= warmup_steps:
            raise ConfigError(f"'lr_scheduler': T_max ({T_max} steps) must be longer than warmup_steps "
                              f'({warmup_steps}).')
        cosine = CosineAnnealingDecay(learning_rate, T_max - warmup_steps, eta_min)
        super().__init__(cosine, warmup_steps, start_lr, learning_rate if end_lr is None else end_lr)
