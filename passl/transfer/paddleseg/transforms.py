"""The random crop of the paper's protocol for PaddleSeg."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...utils.errors import ConfigError
from ...utils.misc import IMAGENET_MEAN


class ClassBalancedCrop:
    """Random crop in which no class fills more than a share; smaller images are padded at the right and bottom.

    PaddleSeg 2.8.0 has the same with `RandomPaddingCrop(category_max_ratio=...)`, but that puts the labels in the
    place of the image when a crop is accepted. Here the padding is the mean colour, zero after Normalize, as in
    mmsegmentation.

    Args:
        crop_size: [width, height].
        max_ratio: largest share of the labelled pixels that one class may have.
        ignore_index: label of padding and of pixels that do not count.
        tries: crops that are drawn at most; the last one is taken in any case.

    `__call__(data)`: data['img'] [H, W, 3] float32 RGB in 0..255 and the label maps named by data['gt_fields'].
    """

    def __init__(self, crop_size: Sequence[int] = (512, 512), max_ratio: float = 0.75, ignore_index: int = 255,
                 tries: int = 10) -> None:
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ConfigError(f"'crop_size' is {crop_size!r}; it must be [width, height].")
        if not 0 < max_ratio <= 1 or tries < 1:
            raise ConfigError(f"'max_ratio' is {max_ratio!r}, 'tries' is {tries!r}; they must be in (0, 1] and >= 1.")
        self.width, self.height = crop_size
        self.max_ratio, self.ignore_index, self.tries = max_ratio, ignore_index, tries

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        names = data.get('gt_fields', [])
        height, width = data['img'].shape[:2]
        below, right = max(self.height - height, 0), max(self.width - width, 0)
        if below or right:
            data['img'] = _padded(data['img'], below, right, np.array(IMAGENET_MEAN, np.float32) * 255)
            for name in names:
                data[name] = _padded(data[name], below, right, self.ignore_index)
        for _ in range(self.tries):
            top = np.random.randint(0, data['img'].shape[0] - self.height + 1)
            left = np.random.randint(0, data['img'].shape[1] - self.width + 1)
            window = np.s_[top:top + self.height, left:left + self.width]
            if not names or self._balanced(data[names[0]][window]):
                break
        for name in ('img', *names):
            data[name] = data[name][window]
        return data

    def _balanced(self, labels):
        counts = np.bincount(labels[labels != self.ignore_index])
        # mmsegmentation asks for a second class too; without one the share is 1 anyway
        return self.max_ratio == 1 or (counts > 0).sum() > 1 and counts.max() < self.max_ratio * counts.sum()


def _padded(array, below, right, value):
    out = np.empty((array.shape[0] + below, array.shape[1] + right, *array.shape[2:]), array.dtype)
    out[...] = value
    out[:array.shape[0], :array.shape[1]] = array
    return out
