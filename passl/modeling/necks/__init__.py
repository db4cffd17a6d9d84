"""Necks: projections between backbone and loss."""

from ...utils.paddle_env import require_paddle

require_paddle()

from .builder import NECKS, build_neck  # noqa: E402
from .densecl_neck import DenseCLNeck  # noqa: E402
from .mlp_neck import LinearNeck, NonLinearNeckV1, NonLinearNeckV2  # noqa: E402

__all__ = ['NECKS', 'build_neck', 'LinearNeck', 'NonLinearNeckV1', 'NonLinearNeckV2', 'DenseCLNeck']
