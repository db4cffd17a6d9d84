"""Heads: losses and the classifier."""

from ...utils.paddle_env import require_paddle

require_paddle()

from .builder import HEADS, build_head  # noqa: E402
from .clas_head import ClasHead  # noqa: E402
from .contrastive_head import ContrastiveHead, SimCLRContrastiveHead  # noqa: E402

__all__ = ['HEADS', 'build_head', 'ClasHead', 'ContrastiveHead', 'SimCLRContrastiveHead']
