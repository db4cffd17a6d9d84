"""Hooks: what happens around a training step."""

from ..utils.paddle_env import require_paddle

require_paddle()

from .bad_images_hook import BadImagesHook  # noqa: E402
from .best_hook import BestHook  # noqa: E402
from .builder import HOOKS, build_hook  # noqa: E402
from .checkpoint_hook import CheckpointHook  # noqa: E402
from .collapse_hook import CollapseHook  # noqa: E402
from .evaluate_hook import EvaluateHook  # noqa: E402
from .expected_hook import ExpectedHook  # noqa: E402
from .health_hook import HealthHook  # noqa: E402
from .hook import Hook, Priority  # noqa: E402
from .log_hook import LogHook  # noqa: E402
from .loss_lambda_hook import LossLambdaWarmupHook  # noqa: E402
from .lr_scheduler_hook import LRSchedulerHook  # noqa: E402
from .momentum_update_hook import MomentumUpdateHook  # noqa: E402
from .optimizer_hook import OptimizerHook  # noqa: E402
from .timer_hook import IterTimerHook  # noqa: E402
from .visual_hook import VisualHook  # noqa: E402

__all__ = ['HOOKS', 'build_hook', 'Hook', 'Priority', 'BadImagesHook', 'BestHook', 'CheckpointHook', 'CollapseHook',
           'EvaluateHook', 'ExpectedHook', 'HealthHook', 'LogHook', 'LossLambdaWarmupHook', 'LRSchedulerHook',
           'MomentumUpdateHook', 'OptimizerHook', 'IterTimerHook', 'VisualHook']
