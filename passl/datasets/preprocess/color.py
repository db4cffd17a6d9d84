"""Transforms that change pixel values: colour, greyscale, blur, solarisation."""

import math
import random

import cv2
import numpy as np

from ...utils.errors import ConfigError
from .builder import TRANSFORMS
from .checks import is_number, number_range, probability

_LEVELS = np.arange(256, dtype=np.float32)
_IDENTITY = np.eye(3)
_LUMINANCE = np.tile([0.299, 0.587, 0.114], (3, 1))     # ITU-R 601, as in Pillow


def _lookup(img, values):
    """Replace every level of `img` by `values[level]` (float, rounded and clipped)."""
    return cv2.LUT(img, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def adjust_brightness(img, factor):
    """img * factor."""
    return cv2.convertScaleAbs(img, None, factor, 0)


def adjust_contrast(img, factor):
    """Blend with the image's mean grey: factor 0 gives a grey image, 1 the original."""
    mean = cv2.mean(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(img, factor, img, 0, round(mean) * (1 - factor))


def adjust_saturation(img, factor):
    """Blend with the greyscale image: factor 0 gives greyscale, 1 the original."""
    # as one matrix of colours: no grey image in between
    return cv2.transform(img, factor * _IDENTITY + (1 - factor) * _LUMINANCE)


def adjust_hue(img, shift):
    """Turn the hue by `shift` of the full circle (-0.5 ... 0.5)."""
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    step = np.zeros(rows.shape[1], np.uint8)
    step[::3] = int(shift * 255) % 256
    rows += step                        # 256 hues: unsigned overflow is the wrap-around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _factor_range(key, value):
    """torchvision's rule: v -> [max(0, 1 - v), 1 + v]; a pair is taken as it is; 0 and None switch it off."""
    if value is None or (is_number(value) and value == 0):
        return None
    if is_number(value):
        if value < 0:
            raise ConfigError(f'ColorJitter: {key} must not be negative, got {value!r}.')
        return max(0.0, 1 - value), 1.0 + value
    return number_range('ColorJitter', key, value, low=0)


@TRANSFORMS.register()
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order.

    Args:
        brightness, contrast, saturation: v draws a factor from [max(0, 1 - v), 1 + v];
            [a, b] draws from there.
        hue: v in [0, 0.5] draws a shift from [-v, v] of the colour circle; [a, b] within [-0.5, 0.5].
    """

    moves_pixels = False

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0):
        ranges = [(adjust_brightness, _factor_range('brightness', brightness)),
                  (adjust_contrast, _factor_range('contrast', contrast)),
                  (adjust_saturation, _factor_range('saturation', saturation))]
        if hue is not None and not (is_number(hue) and hue == 0):
            pair = number_range('ColorJitter', 'hue', [-hue, hue] if is_number(hue) else hue)
            if pair[0] < -0.5 or pair[1] > 0.5:
                raise ConfigError('ColorJitter: hue must lie in [0, 0.5] (or a pair in [-0.5, 0.5]), not '
                                  f'{hue!r}.')
            ranges.append((adjust_hue, pair))
        self.steps = [(f, r) for f, r in ranges if r is not None]

    def __call__(self, img):
        for adjust, (low, high) in random.sample(self.steps, len(self.steps)):
            img = adjust(img, random.uniform(low, high))
        return img


@TRANSFORMS.register()
class RandomGrayscale:
    """Three equal channels of luminance with probability `p`."""

    moves_pixels = False

    def __init__(self, p=0.1):
        self.p = probability('RandomGrayscale', 'p', p)

    def __call__(self, img):
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

    def __init__(self, sigma=(0.1, 2.0), kernel_size=None):
        pair = [sigma, sigma] if is_number(sigma) else sigma
        self.sigma = number_range('GaussianBlur', 'sigma', pair, positive=True)
        if kernel_size is not None and (not isinstance(kernel_size,
                                                       int) or kernel_size < 1 or kernel_size % 2 == 0):
            raise ConfigError(f'GaussianBlur: kernel_size must be odd and positive, not {kernel_size!r}.')
        self.kernel_size = kernel_size

    def __call__(self, img):
        sigma = random.uniform(*self.sigma)
        k = self.kernel_size or int(2 * math.ceil(3 * sigma) + 1)
        return cv2.GaussianBlur(img, (k, k), sigma, borderType=cv2.BORDER_REFLECT_101)


@TRANSFORMS.register()
class Solarization:
    """Invert all levels from `threshold` on; always applied (wrap it in RandomApply)."""

    moves_pixels = False

    def __init__(self, threshold=128):
        if not is_number(threshold) or not 0 <= threshold <= 256:
            raise ConfigError(f'Solarization: threshold must be a number from 0 to 256, not {threshold!r}.')
        self.table = np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS)

    def __call__(self, img):
        return _lookup(img, self.table)
