"""Transforms that change pixel values: colour, greyscale, blur, solarisation."""

import math
import random
from typing import Annotated, Optional, Union

import cv2
import numpy as np

from ...utils.config.kinds import Check, Positive, Share, is_whole, number_from
from .builder import TRANSFORMS
from .checks import FactorRange, HueRange, PositiveRange

Odd = Annotated[int, Check('an odd whole number above 0', lambda v: is_whole(v) and v > 0 and v % 2 == 1)]
_LEVELS = np.arange(256, dtype=np.float32)
_IDENTITY = np.eye(3)
_LUMINANCE = np.tile([0.299, 0.587, 0.114], (3, 1))     # ITU-R 601, as in Pillow


def _lookup(img, values):
    """Replace every level of `img` by `values[level]` (float, rounded and clipped)."""
    return cv2.LUT(img, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """img * factor."""
    return cv2.convertScaleAbs(img, None, factor, 0)


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the image's mean grey: factor 0 gives a grey image, 1 the original."""
    mean = cv2.mean(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(img, factor, img, 0, round(mean) * (1 - factor))


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the greyscale image: factor 0 gives greyscale, 1 the original."""
    # as one matrix of colours: no grey image in between
    return cv2.transform(img, factor * _IDENTITY + (1 - factor) * _LUMINANCE)


def adjust_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the full circle (-0.5 ... 0.5)."""
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    step = np.zeros(rows.shape[1], np.uint8)
    step[::3] = int(shift * 255) % 256
    rows += step                        # 256 hues: unsigned overflow is the wrap-around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _factor_range(value):
    """torchvision's rule: v -> [max(0, 1 - v), 1 + v]; a pair is taken as it is; 0 and None switch it off."""
    if isinstance(value, (list, tuple)):
        return value
    return (max(0.0, 1 - value), 1.0 + value) if value else None


@TRANSFORMS.register()
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order.

    Args:
        brightness, contrast, saturation: v draws a factor from [max(0, 1 - v), 1 + v];
            [a, b] draws from there.
        hue: v in [0, 0.5] draws a shift from [-v, v] of the colour circle; [a, b] within [-0.5, 0.5].
    """

    moves_pixels = False

    def __init__(self, brightness: FactorRange = 0, contrast: FactorRange = 0, saturation: FactorRange = 0,
                 hue: HueRange = 0) -> None:
        if isinstance(hue, (int, float)):
            hue = (-hue, hue) if hue else None
        ranges = [(adjust_brightness, _factor_range(brightness)), (adjust_contrast, _factor_range(contrast)),
                  (adjust_saturation, _factor_range(saturation)), (adjust_hue, hue)]
        self.steps = [(f, r) for f, r in ranges if r is not None]

    def __call__(self, img: np.ndarray) -> np.ndarray:
        for adjust, (low, high) in random.sample(self.steps, len(self.steps)):
            img = adjust(img, random.uniform(low, high))
        return img


@TRANSFORMS.register()
class RandomGrayscale:
    """Three equal channels of luminance.

    Args:
        p: probability.
    """

    moves_pixels = False

    def __init__(self, p: Share = 0.1) -> None:
        self.p = p

    def __call__(self, img: np.ndarray) -> np.ndarray:
        if random.random() >= self.p:
            return img
        return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


@TRANSFORMS.register()
class GaussianBlur:
    """Gaussian blur with sigma drawn from a range (pixels); always applied (wrap it in RandomApply).

    SimCLR and MoCo v2 blur with `PIL.ImageFilter.GaussianBlur(radius=sigma)`; this is the
    same sigma with OpenCV, on a window of 2 ceil(3 sigma) + 1 pixels so that nothing is cut
    off, with mirrored borders.

    Args:
        sigma: [smallest, largest], or one number.
        kernel_size: fixed odd window instead of one from sigma.
    """

    moves_pixels = False

    def __init__(self, sigma: Union[Positive, PositiveRange] = (0.1, 2.0),
                 kernel_size: Optional[Odd] = None) -> None:
        self.sigma = sigma if isinstance(sigma, (list, tuple)) else (sigma, sigma)
        self.kernel_size = kernel_size

    def __call__(self, img: np.ndarray) -> np.ndarray:
        sigma = random.uniform(*self.sigma)
        k = self.kernel_size or int(2 * math.ceil(3 * sigma) + 1)
        return cv2.GaussianBlur(img, (k, k), sigma, borderType=cv2.BORDER_REFLECT_101)


@TRANSFORMS.register()
class Solarization:
    """Invert the bright levels; always applied (wrap it in RandomApply).

    Args:
        threshold: the levels from this one on.
    """

    moves_pixels = False

    def __init__(self, threshold: Annotated[float, number_from(0, 256)] = 128) -> None:
        self.table = np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return _lookup(img, self.table)
