"""What the settings of transforms may be, and the resizing that they share."""

import math
from typing import Annotated, Literal, Sequence, Union

import cv2
import numpy as np

from ...utils.config.kinds import Check, is_number, is_whole

INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC,
                  'area': cv2.INTER_AREA, 'lanczos': cv2.INTER_LANCZOS4}


_LISTS = (list, tuple)


def _pair(value, low=-math.inf, above=-math.inf):
    return isinstance(value, _LISTS) and len(value) == 2 and all(is_number(v) for v in value) and \
        value[0] <= value[1] and value[0] >= low and value[0] > above


Side = Annotated[Union[int, Sequence[int]], Check('a whole number of 1 or more, or [height, width]', lambda v: all(
    is_whole(n) and n > 0 for n in (v if isinstance(v, _LISTS) and len(v) == 2 else [v])))]
PositiveRange = Annotated[Sequence[float], Check('[smallest, largest], above 0', lambda v: _pair(v, above=0))]
Interpolation = Literal['nearest', 'bilinear', 'bicubic', 'area', 'lanczos']
Axes = Literal['CHW', 'HWC']
PerChannel = Annotated[Union[float, Sequence[float]], Check(
    'one number or one per channel (3)',
    lambda v: all(is_number(n) for n in (v if isinstance(v, _LISTS) and len(v) == 3 else [v])))]
PositivePerChannel = Annotated[Union[float, Sequence[float]], Check(
    'one number or one per channel (3), above 0',
    lambda v: all(is_number(n) and n > 0 for n in (v if isinstance(v, _LISTS) and len(v) == 3 else [v])))]
# torchvision's rule: v draws from [max(0, 1 - v), 1 + v], a pair is taken as it is, 0 and null switch it off
FactorRange = Annotated[Union[float, Sequence[float], None], Check(
    'a number of 0 or more, or [smallest, largest], not below 0',
    lambda v: v is None or is_number(v) and v >= 0 or _pair(v, low=0))]
HueRange = Annotated[Union[float, Sequence[float], None], Check(
    'a number in [0, 0.5], or [smallest, largest] in [-0.5, 0.5]',
    lambda v: v is None or is_number(v) and 0 <= v <= 0.5 or _pair(v, low=-0.5) and v[1] <= 0.5)]


def height_width(size: Union[int, Sequence[int]]) -> tuple[int, int]:
    """`size`, one number or [height, width], as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


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


def resize(img: np.ndarray, size: Sequence[int], interpolation: str = 'bilinear') -> np.ndarray:
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


def resize_part(img: np.ndarray, box: Sequence[float], size: Sequence[int]) -> np.ndarray:
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
