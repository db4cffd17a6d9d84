"""Necks: projections between backbone and loss."""

from .builder import NECKS, build_neck
from .densecl_neck import DenseCLNeck
from .mlp_neck import LinearNeck, NonLinearNeckV1, NonLinearNeckV2

__all__ = ['NECKS', 'build_neck', 'LinearNeck', 'NonLinearNeckV1', 'NonLinearNeckV2', 'DenseCLNeck']
