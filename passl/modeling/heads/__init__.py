"""Heads: losses and the classifier."""

from .builder import HEADS, build_head
from .clas_head import ClasHead
from .contrastive_head import ContrastiveHead, SimCLRContrastiveHead

__all__ = ['HEADS', 'build_head', 'ClasHead', 'ContrastiveHead', 'SimCLRContrastiveHead']
