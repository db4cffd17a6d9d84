"""Reading label masks: PNG files whose values, or whose palette's indices, are class numbers."""

import os
from collections.abc import Mapping, Sequence
from typing import Optional, Union

import cv2
import numpy as np

from ...utils.errors import ConfigError
from ..image import MAX_PIXELS, ImageReadError, _check_pixels, _open, pillow_errors, read_file, shown

IGNORE = 255
MAX_CLASSES = 254               # 255 is ignored, 254 marks values without a class
_ILLEGAL = 254
# pairs (value in the file, class number or IGNORE), as a dict or, in YAML, as a list
ClassMapping = Union[Mapping[int, int], Sequence[Sequence[int]]]
_HOW = ('Save it as a grey or palette PNG of 8 bits whose values are class numbers; docs/LABELLED_DATA.md has the '
        'lines that turn colours into numbers.')


def _grey_depth(data):
    """Bits per pixel of a grey PNG with 1, 2 or 4; else 8."""
    return data[24] if data[:8] == b'\x89PNG\r\n\x1a\n' and len(data) > 25 and data[25] == 0 else 8


def decode_mask(data: bytes, name: object = 'mask', max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The bytes of a mask file -> uint8 array [H, W] of the values in it.

    A palette image gives its indices, not its colours. Grey images of 1, 2 and 4 bits give the stored numbers (Pillow
    stretches them to 0 - 255).

    Raises:
        ImageReadError: empty, damaged or too large; no PNG (JPEG changes the values of pixels); a picture in
            colours; 16-bit values above 255.
    """
    if len(data) == 0:
        raise ImageReadError(f'{shown(name)} is empty (0 bytes).')
    with pillow_errors(name, len(data)), _open(data) as img:
        if img.format != 'PNG':
            raise ImageReadError(f'{shown(name)} is a {img.format} file, no PNG. {_HOW}')
        _check_pixels(img.height, img.width, max_pixels, name)
        if img.mode not in ('1', 'L', 'P') and not img.mode.startswith('I'):
            raise ImageReadError(f"{shown(name)} is a picture in colours (mode {img.mode}), no label mask: colours are "
                                 f'no class numbers. {_HOW}')
        mask = np.array(img)
    if mask.ndim != 2 or mask.size == 0:
        raise ImageReadError(f'{shown(name)} has the shape {mask.shape}, not [height, width].')
    if mask.dtype.itemsize > 1 and mask.max() > 255:
        raise ImageReadError(f'{shown(name)} holds the value {mask.max()}; class numbers go up to 255. Is it a mask of '
                             'instances? Give the mask of the classes.')
    depth = _grey_depth(data)
    mask = mask.astype(np.uint8, copy=False)
    return mask // (255 // (2**depth - 1)) if depth in (2, 4) else mask


class ValueTable:
    """Values in mask files -> class numbers.

    Args:
        classes: names; number k is `classes[k]`.
        mapping: {value in the file: class number or IGNORE} of other values than the class numbers themselves;
            None: value k is class k. 255 is ignored unless it is mapped.
        more: the same as the user gives it: before `mapping`, and only for the values that it names.

    Raises:
        ConfigError: `more` is no such mapping.
    """

    def __init__(self, classes: Sequence[str], mapping: Optional[Mapping[int, int]] = None,
                 more: Optional[ClassMapping] = None) -> None:
        self.classes = classes
        self._table = np.full(256, _ILLEGAL, np.uint8)
        if mapping is None:
            mapping = {k: k for k in range(len(classes))}
        for value, number in {IGNORE: IGNORE, **mapping, **self._checked(more or {})}.items():
            self._table[value] = number

    def _checked(self, more):
        pairs = more.items() if isinstance(more, dict) else more
        numbers = (*range(len(self.classes)), IGNORE)
        if not isinstance(more, (dict, list, tuple)) or not all(
                isinstance(p, (list, tuple)) and len(p) == 2 and type(p[0]) is type(p[1]) is int and 0 <= p[0] < 256
                and p[1] in numbers for p in pairs):
            raise ConfigError('mapping must be pairs of a value of the masks (0 to 255) and its class (0 to '
                              f'{len(self.classes) - 1}, or {IGNORE} to ignore it), such as [[{IGNORE}, 1]], not '
                              f'{more!r}.')
        return dict(pairs)

    def __repr__(self):
        return self._table.tobytes().hex()

    def __call__(self, mask: np.ndarray, name: object) -> np.ndarray:
        """uint8 [H, W] of class numbers and IGNORE. Raises ImageReadError that names a value without a class."""
        numbers = cv2.LUT(mask, self._table)
        if (numbers == _ILLEGAL).any():
            wrong = np.unique(mask[numbers == _ILLEGAL])
            known = [v for v, number in enumerate(self._table.tolist()) if number not in (_ILLEGAL, IGNORE)]
            left_out = [str(v) for v, number in enumerate(self._table.tolist()) if number == IGNORE]
            span = f'{known[0]} - {known[-1]}' if known == list(range(known[0], known[-1] + 1)) else \
                ', '.join(map(str, known))
            values = ', '.join(map(str, wrong[:5])) + (' ...' if len(wrong) > 5 else '')
            raise ImageReadError(f'{shown(name)} holds the value {values}, which stands for no class: the '
                                 f'{len(self.classes)} classes have the values {span}; '
                                 f"{', '.join(left_out) or 'nothing'} is ignored. Mend the mask or the list of "
                                 f'classes, or say what it means with mapping=[[{wrong[0]}, CLASS]].')
        return numbers


def read_mask(path: Union[str, os.PathLike], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`decode_mask` of a file. Raises ImageReadError."""
    return decode_mask(read_file(path), path, max_pixels)
