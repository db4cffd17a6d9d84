"""The engine: builds the parts that a config names and runs the loop."""

from ..utils.paddle_env import require_paddle

require_paddle()

from ..modules import cpu  # noqa: E402
from .builder import build_trainer  # noqa: E402
from .trainer import Trainer  # noqa: E402

cpu.register()      # they take tensors of a CPU only

__all__ = ['build_trainer', 'Trainer']
