"""Checks of transform arguments: each names the transform, the value and the rule."""

import cv2

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


def resize(img, size, interpolation='bilinear'):
    """`img` (HWC) resized to `size` = (height, width).

    'bilinear' shrinks by more than 1.5 with area averaging: sampling four neighbours would
    skip pixels there (aliasing), which the reference (Pillow's bilinear filter) does not do.
    """
    h, w = size
    if img.shape[:2] == (h, w):
        return img
    flag = INTERPOLATIONS[interpolation]
    if interpolation == 'bilinear' and img.shape[0] * img.shape[1] > 2.25 * h * w:
        flag = cv2.INTER_AREA
    return cv2.resize(img, (w, h), interpolation=flag)
