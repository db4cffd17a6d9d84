"""Transforms of one image (uint8 HWC RGB in, float32 CHW out) and the two-view recipe."""

from . import color, compose, geometric, tensor  # noqa: F401  registers the transforms
from .builder import TRANSFORMS, build_transform  # noqa: F401
from .compose import Compose, build_transforms  # noqa: F401
from .two_view import TwoView  # noqa: F401
