"""Optimizers and learning-rate schedules."""

from ..utils.paddle_env import require_paddle

require_paddle()

from .builder import LRSCHEDULERS, OPTIMIZERS, build_lr_scheduler, build_optimizer  # noqa: E402
from . import lr_scheduler, optimizer  # noqa: E402,F401

__all__ = ['OPTIMIZERS', 'LRSCHEDULERS', 'build_optimizer', 'build_lr_scheduler']
