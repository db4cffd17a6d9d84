"""Checks of transform arguments: each names the transform, the value and the rule."""

import math

import cv2
import numpy as np

from ...utils.errors import ConfigError

INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC,
                  'area': cv2.INTER_AREA, 'lanczos': cv2.INTER_LANCZOS4}


def is_number(x):
    """True for int and float, not for bool."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def probability(owner, key, value):
    """`value` as a float in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ConfigError(f'{owner}: {key} must be a number from 0 to 1, not {value!r}.')
    return float(value)


def number_range(owner, key, value, low=None, positive=False):
    """`value` as (a, b) with a <= b and a >= low (a > 0 if `positive`)."""
    ok = isinstance(value, (list, tuple)) and len(value) == 2 and all(is_number(v) for v in value)
    if not ok or value[0] > value[1] or (low is not None and value[0] < low) or (positive and value[0] <= 0):
        rule = '' if not positive and low is None else (', above 0' if positive else f', not below {low}')
        raise ConfigError(f'{owner}: {key} must be [smallest, largest]{rule}, not {value!r}.')
    return float(value[0]), float(value[1])


def height_width(owner, key, value):
    """`value` (one int or [height, width]) as (height, width)."""
    pair = (value, value) if not isinstance(value, (list, tuple)) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in pair):
        raise ConfigError(f'{owner}: {key} must be a positive whole number or [height, width], not '
                          f'{value!r}.')
    return pair


def interpolation_name(owner, value):
    """`value` as one of the names in INTERPOLATIONS."""
    if value not in INTERPOLATIONS:
        raise ConfigError(f"{owner}: interpolation '{value}' is unknown. Use one of "
                          f'{", ".join(INTERPOLATIONS)}.')
    return value


_WIDEST = 2.2       # beyond this shrinking a blur of three pixels is too narrow


def _width(shrink):
    """sigma of the 3-pixel Gaussian that makes bilinear sampling of every `shrink`-th pixel as wide as a triangle
    of half-width `shrink`; 0 where the difference is below what 8 bits show.

    The triangle's variance is shrink^2 / 6 and that of bilinear sampling 1 / 6 on average, so the weights before
    it, [a, 1 - 2a, a] with variance 2a, need a = (shrink^2 - 1) / 12.
    """
    if shrink < 1.1:
        return 0.0
    a = (shrink * shrink - 1) / 12
    return math.sqrt(-0.5 / math.log(a / (1 - 2 * a)))


def _smooth(img, down, across):
    """`img` made ready for bilinear sampling of every `down`-th row and `across`-th column."""
    x, y = _width(across), _width(down)
    if not x and not y:
        return img
    return cv2.GaussianBlur(img, (3 if x else 1, 3 if y else 1), x or 1.0, sigmaY=y or 1.0,
                            borderType=cv2.BORDER_REFLECT_101)


def resize(img, size, interpolation='bilinear'):
    """`img` (HWC) resized to `size` = (height, width).

    'bilinear' is Pillow's: a triangle as wide as two pixels of the result, so that shrinking does not skip pixels
    (aliasing). Up to a factor of 2.2 a small blur before OpenCV's four-neighbour sampling makes it so, beyond that
    it is the mean over the area.
    """
    h, w = size
    if img.shape[:2] == (h, w):
        return img
    flag = INTERPOLATIONS[interpolation]
    if interpolation == 'bilinear':
        down, across = img.shape[0] / h, img.shape[1] / w
        if max(down, across) > _WIDEST:
            flag = cv2.INTER_AREA
        else:
            img = _smooth(img, down, across)
    return cv2.resize(img, (w, h), interpolation=flag)


def resize_part(img, box, size):
    """The part `box` = (top, left, height, width) of `img`, given in fractions of pixels, resized as by `resize`.

    The position is exact, but for shrinking by more than 2.2: then the edges are rounded, by half a pixel of `img`
    and less than a quarter of one of the result.
    """
    top, left, height, width = box
    down, across = height / size[0], width / size[1]
    if max(down, across) > _WIDEST:
        y0, x0, y1, x1 = (int(edge + 0.5) for edge in (top, left, top + height, left + width))
        return resize(img[y0:y1, x0:x1], size)
    y0, x0 = max(0, int(top) - 2), max(0, int(left) - 2)            # what the sampling may touch
    part = _smooth(img[y0:int(top + height) + 3, x0:int(left + width) + 3], down, across)
    place = np.array([[across, 0, left - x0 + across / 2 - 0.5], [0, down, top - y0 + down / 2 - 0.5]])
    return cv2.warpAffine(part, place, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)
