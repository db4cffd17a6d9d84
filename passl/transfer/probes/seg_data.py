"""Images and masks of a segmentation set, prepared once for all backbones."""

import hashlib
import zlib
from typing import TYPE_CHECKING, Union

import cv2
import numpy as np

from ...utils.errors import DataError
from .features import batches
from .metrics import IGNORE

if TYPE_CHECKING:
    from ...datasets.labelled import Joined, Segmentation

SUB = 4         # label samples per side of a cell
KEPT_BYTES = 2**28      # of resized images per split: some 5400 of 128 x 128; later ones are decoded for every backbone


class SegmentationSplit:
    """One split: resized images, masks in memory (compressed), and a hash of both. No mask is decoded twice.

    Args:
        dataset: `len(d)`, `d[i] -> (image uint8 [H, W, 3] RGB, mask uint8 [H, W] with 255 = ignore, id)`, `d.classes`,
            `d.load_image(i)` without the mask.
        size: side of the square that images are resized to. The figures are counted on the masks as they are.

    Attributes:
        classes: names.
        digest: hash of all images, masks and class names. pixels: int64 [256], of each class number and of 255.

    Raises:
        DataError: no image, or a label that is no class.
    """

    def __init__(self, dataset: Union['Segmentation', 'Joined'], size: int, title: str = 'read') -> None:
        self.dataset, self.size, self.classes = dataset, size, list(dataset.classes)
        if not len(dataset):
            raise DataError(f'The {title} split holds no image.')
        if not 2 <= len(self.classes) < IGNORE:
            raise DataError(f'The set has {len(self.classes)} classes; the probes take 2 to {IGNORE - 1}.')
        total = hashlib.sha256('\n'.join(self.classes).encode())
        self._masks, self.shapes, self._squares, self.pixels = [], [], [], np.zeros(256, np.int64)
        for _, items in batches(self._look, len(dataset), title=title):
            for digest, packed, shape, counts, name, small in items:
                self.pixels += counts
                worst = int(np.flatnonzero(counts[:IGNORE]).max(initial=0))
                if worst >= len(self.classes):
                    raise DataError(f"The mask of '{name}' holds the label {worst}, but there are only "
                                    f'{len(self.classes)} classes (0 to {len(self.classes) - 1}, {IGNORE} = ignore).')
                total.update(digest)
                self._masks.append(packed)
                self.shapes.append(shape)
                if small is not None:
                    self._squares.append(small)
        self.digest = total.hexdigest()[:16]

    def __len__(self):
        return len(self._masks)

    def _look(self, i):
        image, mask, name = self.dataset[i]
        mask = np.ascontiguousarray(mask, np.uint8)
        if image.shape[:2] != mask.shape:
            raise DataError(f"'{name}': the image is {image.shape[1]} x {image.shape[0]} and its mask "
                            f'{mask.shape[1]} x {mask.shape[0]} pixels.')
        data = mask.tobytes()
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes() + data).digest()
        small = square(image, self.size) if (i + 1) * 3 * self.size**2 <= KEPT_BYTES else None
        # masks are mostly flat: some fifty times smaller, and read back faster than from their files
        return digest, zlib.compress(data, 1), mask.shape, np.bincount(mask.ravel(), minlength=256), name, small

    def image(self, i: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return self._squares[i] if i < len(self._squares) else square(self.dataset.load_image(i), self.size)

    def mask(self, i: int) -> np.ndarray:
        """uint8 [H, W] at full size."""
        return np.frombuffer(zlib.decompress(self._masks[i]), np.uint8).reshape(self.shapes[i])

    def labels(self, grid: tuple[int, ...]) -> np.ndarray:
        """uint8 [images, cells, 16]: labels at 4 x 4 places of every cell of a grid = (rows, columns)."""
        out = np.empty((len(self), grid[0] * grid[1], SUB * SUB), np.uint8)
        for i in range(len(self)):
            fine = nearest(self.mask(i), (grid[0] * SUB, grid[1] * SUB))
            out[i] = fine.reshape(grid[0], SUB, grid[1], SUB).transpose(0, 2, 1, 3).reshape(-1, SUB * SUB)
        return out


def square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the whole image, without its aspect."""
    shrinks = image.shape[0] * image.shape[1] > size * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def nearest(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`mask` sampled at the centres of a grid of this shape."""
    rows = ((np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]).astype(int)
    return mask[rows[:, None], columns]


def soft_labels(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class shares of cells.

    Args:
        labels: uint8 [..., places], 255 = ignore.

    Returns:
        (shares float32 [..., classes] that sum to 1, or to 0 where all is ignored;
        weight float32 [...]: share of the places that are not ignored).

    The cross-entropy of a cell with these shares, times the weight, is the mean cross-entropy of its labelled places
    when all of them get the cell's prediction.
    """
    flat = labels.reshape(-1, labels.shape[-1])
    at = np.where(flat == IGNORE, classes, flat).astype(np.int64) + np.arange(len(flat))[:, None] * (classes + 1)
    counts = np.bincount(at.ravel(), minlength=len(flat) * (classes + 1)).reshape(len(flat), classes + 1)[:, :classes]
    known = counts.sum(1, keepdims=True)
    shares = (counts / np.maximum(known, 1)).astype(np.float32)
    weight = (known[:, 0] / labels.shape[-1]).astype(np.float32)
    return shares.reshape(labels.shape[:-1] + (classes,)), weight.reshape(labels.shape[:-1])


def predict_mask(scores: np.ndarray, grid: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Class of every pixel: scores [cells, classes] on a grid, bilinear at [H, W], the highest wins.

    Interpolated class by class with a running maximum: all scores of a large image at once would take gigabytes.
    """
    scores = np.asarray(scores, np.float32).reshape(grid[0], grid[1], -1)
    candidates = possible_winners(scores)
    best = np.full(shape, -np.inf, np.float32)
    winner = np.zeros(shape, np.uint8)
    for c in candidates:
        plane = cv2.resize(np.ascontiguousarray(scores[..., c]), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        better = plane > best
        np.copyto(best, plane, where=better)
        winner[better] = c
    return winner


def possible_winners(scores: np.ndarray) -> np.ndarray:
    """Classes that may win at some place between the cells of scores [rows, columns, classes].

    Inside the square between four cell centres a class cannot win if another one is at least as high in all four.
    """
    rows, columns, classes = scores.shape
    padded = np.pad(scores, ((0, rows == 1), (0, columns == 1), (0, 0)), 'edge')
    corners = np.stack([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]]).reshape(4, -1, classes)
    total = corners.sum(0)
    top = total.argmax(1)
    highest = np.take_along_axis(corners, top[None, :, None], axis=2)
    beaten = (corners <= highest).all(0) & (total < np.take_along_axis(total, top[:, None], axis=1))
    return np.flatnonzero(~beaten.all(0))
