"""Masks of instances as COCO stores them: run lengths, as numbers or as text, and polygons."""

from collections.abc import Iterable
from typing import Union

import numpy as np

from ...utils.errors import DataError
from ..image import MAX_PIXELS

MAX_CROSSINGS = 5 * 10**6       # of a polygon's edges with rows; real ones have some thousand
MAX_COORDINATE = 10**6
_MAX_CHARACTERS = 6             # of one number in the text form: 30 bits, more than MAX_PIXELS


def check_shape(height: int, width: int) -> None:
    """Raises DataError unless both are whole numbers from 1 on and the mask is not too large."""
    for value in (height, width):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f'the size {height!r} x {width!r} is no height and width')
    if height * width > MAX_PIXELS:
        raise DataError(f'{width} x {height} pixels are more than {MAX_PIXELS}')


def counts_of_text(text: str) -> np.ndarray:
    """Run lengths, int64, from COCO's compressed form.

    Every character holds 5 bits of a number, from the lowest, behind '0'; 32 says that more follow, 16 in the last one
    that it is negative. From the fourth number on the difference to the last but one is stored.

    Raises:
        DataError: other characters, a number that is cut off, or one that no mask can have.
    """
    try:
        codes = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise DataError('the run lengths hold characters that are no part of the text form') from None
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63:
        raise DataError('the run lengths hold characters that are no part of the text form')
    last = (codes & 32) == 0
    if not last[-1]:
        raise DataError('the run lengths are cut off')
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise DataError('a run length is longer than any mask')
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << place, starts)
    numbers -= ((codes[ends] & 16) != 0) * (np.int64(1) << 5 * lengths)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def counts_of_list(counts: list[int]) -> np.ndarray:
    """Run lengths, int64, from a list of whole numbers. Raises DataError."""
    # types by map: a loop in Python takes most of the time of reading a file; `bool` is another type than `int`
    if counts and not (set(map(type, counts)) == {int} and 0 <= min(counts) and max(counts) <= MAX_PIXELS):
        raise DataError('the run lengths are no whole numbers from 0 on')
    return np.array(counts, np.int64)


def rle_mask(counts: Union[str, list[int], np.ndarray], height: int, width: int) -> np.ndarray:
    """bool [height, width] of run lengths, which go down the columns and begin with those outside the object.

    Args:
        counts: list of whole numbers, array of them, or text.

    Raises:
        DataError: they do not add up to the size, or are none.
    """
    check_shape(height, width)
    if isinstance(counts, str):
        counts = counts_of_text(counts)
    elif not isinstance(counts, np.ndarray):
        counts = counts_of_list(counts)
    if len(counts) and not 0 <= counts.min() <= counts.max() <= height * width:
        raise DataError(f'a run length is negative or longer than {height} x {width}')
    if counts.sum() != height * width:
        raise DataError(f'the run lengths add up to {counts.sum()}, not to {height} x {width} = {height * width}')
    mask = np.zeros((height, width), bool)
    ends = np.cumsum(counts)
    inside = np.flatnonzero(counts[1::2]) * 2 + 1           # runs of the object
    if len(inside):                     # only its columns are written: most objects are small
        left, right = ends[inside[0] - 1] // height, -(-ends[inside[-1]] // height)
        runs = np.diff(np.clip(ends, left * height, right * height), prepend=left * height)
        values = np.arange(len(runs)) % 2 == 1
        mask[:, left:right] = np.repeat(values, runs)[:(right - left) * height].reshape(-1, height).T
    return mask


def check_polygon(points: list[float]) -> np.ndarray:
    """float64 [n, 2] from [x, y, x, y, ...]. Raises DataError unless it has three points of sensible numbers."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise DataError('a polygon is no list of three or more points: [x, y, x, y, x, y, ...]')
    if set(map(type, points)) <= {int, float}:
        try:
            corners = np.array(points, np.float64)
        except OverflowError:           # a whole number of hundreds of digits
            corners = np.full(1, np.inf)
        if np.abs(corners).max() <= MAX_COORDINATE:         # False for nan
            return corners.reshape(-1, 2)
    raise DataError(f'a polygon holds what is no number up to {MAX_COORDINATE}')


def polygon_mask(polygons: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """bool [height, width] of all pixels whose centre lies inside one of the polygons (even-odd rule).

    Args:
        polygons: list of float64 [n, 2], the corners (x, y) in pixels; a pixel's centre is at + 0.5.

    Raises:
        DataError: a polygon with more than MAX_CROSSINGS.
    """
    check_shape(height, width)
    mask = np.zeros((height, width), bool)
    for points in polygons:
        _fill(mask, points)
    return mask


def _fill(mask, points):
    """Set the inside of one polygon. Each row is passed at its centre; every edge that is crossed changes the side."""
    height, width = mask.shape
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, 0).T
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    end = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    rows_of = end - first
    total = int(rows_of.sum())
    if total > MAX_CROSSINGS:
        raise DataError(f'a polygon crosses the rows {total} times, more than {MAX_CROSSINGS}')
    if total == 0:
        return
    edge = np.repeat(np.arange(len(points)), rows_of)
    row = np.arange(total) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of) + first[edge]
    share = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    column = np.clip(np.ceil(x0[edge] + share * (x1 - x0)[edge] - 0.5), 0, width).astype(np.int64)
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max()
    if left == right:
        return
    size = (bottom - top, right - left + 1)
    sides = np.bincount((row - top) * size[1] + column - left, minlength=size[0] * size[1]).reshape(size)
    mask[top:bottom, left:right] |= (np.cumsum(sides, 1)[:, :-1] & 1).astype(bool)
