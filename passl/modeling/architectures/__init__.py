"""Architectures: a backbone, a neck and a head put together to a training method."""

from .builder import MODELS, build_model
from .classification import Classification
from .densecl import DenseCL
from .moco import MoCo
from .simclr import SimCLR

__all__ = ['MODELS', 'build_model', 'Classification', 'DenseCL', 'MoCo', 'SimCLR']
