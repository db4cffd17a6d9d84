"""Transforms that move pixels: crops, resizing, flips."""

import math
import random

import cv2
import numpy as np

from .builder import TRANSFORMS
from .checks import height_width, interpolation_name, number_range, probability, resize, resize_part


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

    def __init__(self, size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation='bilinear'):
        self.size = height_width('RandomResizedCrop', 'size', size)
        self.scale = number_range('RandomResizedCrop', 'scale', scale, positive=True)
        self.ratio = number_range('RandomResizedCrop', 'ratio', ratio, positive=True)
        self.interpolation = interpolation_name('RandomResizedCrop', interpolation)

    def draw(self, height, width):
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

    def cut(self, img, box, reduction=1):
        """The part `box` of an image, resized; `img` is that image decoded at 1 / reduction."""
        if reduction > 1:
            return resize_part(img, [edge / reduction for edge in box], self.size)
        top, left, h, w = box
        return resize(img[top:top + h, left:left + w], self.size, self.interpolation)

    def __call__(self, img):
        return self.cut(img, self.draw(*img.shape[:2]))


class _RandomFlip:
    """`across`: left-right (1) or top-bottom (0)."""

    def __init__(self, p=0.5, prob=None):
        self.p = probability(type(self).__name__, 'p', p if prob is None else prob)

    def draw(self):
        """Whether to mirror this time."""
        return random.random() < self.p

    def mirror(self, img):
        """The mirrored image."""
        return cv2.flip(img, self.across)

    def __call__(self, img):
        return self.mirror(img) if self.draw() else img


@TRANSFORMS.register()
class RandomHorizontalFlip(_RandomFlip):
    """Mirror left-right with probability `p` (`prob` is Paddle's name for it)."""

    across = 1


@TRANSFORMS.register()
class RandomVerticalFlip(_RandomFlip):
    """Mirror top-bottom with probability `p` (`prob` is Paddle's name for it)."""

    across = 0


@TRANSFORMS.register()
class Resize:
    """Resize to [height, width], or so that the short side becomes `size` (one number)."""

    def __init__(self, size, interpolation='bilinear'):
        self.short = None if isinstance(size, (list, tuple)) else height_width('Resize', 'size', size)[0]
        self.size = height_width('Resize', 'size', size)
        self.interpolation = interpolation_name('Resize', interpolation)

    def __call__(self, img):
        h, w = img.shape[:2]
        if self.short is None:
            return resize(img, self.size, self.interpolation)
        # the long side is cut off, not rounded, as torchvision does
        size = (self.short, int(self.short * w / h)) if h <= w else (int(self.short * h / w), self.short)
        return resize(img, size, self.interpolation)


@TRANSFORMS.register()
class CenterCrop:
    """The central `size` (one number or [height, width]); smaller images get black borders."""

    def __init__(self, size):
        self.size = height_width('CenterCrop', 'size', size)

    def __call__(self, img):
        th, tw = self.size
        h, w = img.shape[:2]
        if h < th or w < tw:
            pad_h, pad_w = max(0, th - h), max(0, tw - w)
            img = np.pad(img, ((pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2), (0, 0)))
            h, w = img.shape[:2]
        top, left = int(round((h - th) / 2)), int(round((w - tw) / 2))
        return img[top:top + th, left:left + tw]
