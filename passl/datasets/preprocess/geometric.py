"""Transforms that move pixels: crops, resizing, flips."""

import math
import random
from typing import Optional

import cv2
import numpy as np

from ...utils.config.kinds import Share
from .builder import TRANSFORMS
from .checks import Interpolation, PositiveRange, Side, height_width, resize, resize_part

Box = tuple[int, int, int, int]         # top, left, height, width; pixels


@TRANSFORMS.register()
class RandomResizedCrop:
    """Crop a random part of random area and aspect ratio, then resize it.

    Ten draws of area (uniform in `scale`, a share of the image) and aspect ratio (log-uniform
    in `ratio`); if none fits, the largest central crop with an allowed ratio is taken.

    Args:
        size: output side, or [height, width].
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        interpolation: nearest, bilinear, bicubic, area or lanczos.
    """

    def __init__(self, size: Side, scale: PositiveRange = (0.08, 1.0), ratio: PositiveRange = (3 / 4, 4 / 3),
                 interpolation: Interpolation = 'bilinear') -> None:
        self.size, self.scale, self.ratio, self.interpolation = height_width(size), scale, ratio, interpolation

    def draw(self, height: int, width: int) -> Box:
        """A random box (top, left, height, width) inside an image of that size."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(low, high))
            w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, height - h), random.randint(0, width - w), h, w
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w = max(1, min(width, int(round(height * aspect))))
        h = max(1, min(height, int(round(width / aspect))))
        return (height - h) // 2, (width - w) // 2, h, w

    def cut(self, img: np.ndarray, box: Box, reduction: int = 1) -> np.ndarray:
        """The part `box` of an image, resized; `img` is that image decoded at 1 / reduction."""
        if reduction > 1:
            return resize_part(img, [edge / reduction for edge in box], self.size)
        top, left, h, w = box
        return resize(img[top:top + h, left:left + w], self.size, self.interpolation)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return self.cut(img, self.draw(*img.shape[:2]))


class _RandomFlip:
    """`across`: left-right (1) or top-bottom (0).

    Args:
        p: probability.
        prob: Paddle's name for it.
    """

    across = 1

    def __init__(self, p: Share = 0.5, prob: Optional[Share] = None) -> None:
        self.p = p if prob is None else prob

    def draw(self) -> bool:
        """Whether to mirror this time."""
        return random.random() < self.p

    def mirror(self, img: np.ndarray) -> np.ndarray:
        """The mirrored image."""
        return cv2.flip(img, self.across)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return self.mirror(img) if self.draw() else img


@TRANSFORMS.register()
class RandomHorizontalFlip(_RandomFlip):
    """Mirror left-right."""


@TRANSFORMS.register()
class RandomVerticalFlip(_RandomFlip):
    """Mirror top-bottom."""

    across = 0


@TRANSFORMS.register()
class Resize:
    """Resize to a size, or so that the short side has it.

    Args:
        size: [height, width], or the short side.
        interpolation: nearest, bilinear, bicubic, area or lanczos.
    """

    def __init__(self, size: Side, interpolation: Interpolation = 'bilinear') -> None:
        self.short = size if isinstance(size, int) else None
        self.size, self.interpolation = height_width(size), interpolation

    def __call__(self, img: np.ndarray) -> np.ndarray:
        h, w = img.shape[:2]
        if self.short is None:
            return resize(img, self.size, self.interpolation)
        # the long side is cut off, not rounded, as torchvision does
        size = (self.short, int(self.short * w / h)) if h <= w else (int(self.short * h / w), self.short)
        return resize(img, size, self.interpolation)


@TRANSFORMS.register()
class CenterCrop:
    """The central part; smaller images get black borders.

    Args:
        size: its side, or [height, width].
    """

    def __init__(self, size: Side) -> None:
        self.size = height_width(size)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        th, tw = self.size
        h, w = img.shape[:2]
        if h < th or w < tw:
            pad_h, pad_w = max(0, th - h), max(0, tw - w)
            img = np.pad(img, ((pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2), (0, 0)))
            h, w = img.shape[:2]
        top, left = int(round((h - th) / 2)), int(round((w - tw) / 2))
        return img[top:top + th, left:left + tw]
