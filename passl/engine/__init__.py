"""The engine: builds the parts that a config names and runs the loop."""

from ..utils.paddle_env import require_paddle

require_paddle()

from .builder import build_trainer  # noqa: E402
from .trainer import Trainer  # noqa: E402

__all__ = ['build_trainer', 'Trainer']
