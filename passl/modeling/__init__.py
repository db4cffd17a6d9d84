"""Backbones, necks, heads and the architectures made of them."""

from ..utils.paddle_env import require_paddle

require_paddle()

from .architectures import MODELS, build_model  # noqa: E402
from .backbones import BACKBONES, build_backbone  # noqa: E402
from .heads import HEADS, build_head  # noqa: E402
from .necks import NECKS, build_neck  # noqa: E402

__all__ = ['BACKBONES', 'NECKS', 'HEADS', 'MODELS', 'build_backbone', 'build_neck', 'build_head', 'build_model']
