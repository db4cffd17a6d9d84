"""Backbones."""

from ...utils.paddle_env import require_paddle

require_paddle()

from .builder import BACKBONES, build_backbone  # noqa: E402
from .resnet import ResNet  # noqa: E402
from .resnet_vd import ResNet_vd  # noqa: E402

__all__ = ['BACKBONES', 'build_backbone', 'ResNet', 'ResNet_vd']
