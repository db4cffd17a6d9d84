"""Architectures: a backbone, a neck and a head put together to a training method."""

from ...utils.paddle_env import require_paddle

require_paddle()

from .builder import MODELS, build_model  # noqa: E402
from .classification import Classification  # noqa: E402
from .densecl import DenseCL  # noqa: E402
from .moco import MoCo  # noqa: E402
from .simclr import SimCLR  # noqa: E402

__all__ = ['MODELS', 'build_model', 'Classification', 'DenseCL', 'MoCo', 'SimCLR']
