"""PaddleSeg's data set over the pairs that `data.read_part` found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Union

import numpy as np
from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose

from ...utils.errors import DataError
from ..lost import lost

if TYPE_CHECKING:
    from ...datasets.labelled import Joined, Segmentation

_STAND_IN = 512         # side of the picture that nothing is learned from


class Pairs(Dataset):
    """PaddleSeg's `Dataset` whose images and masks are decoded by the labelled set.

    A list of files would not do: PaddleSeg reads the values of a mask file as classes, and they are not in Cityscapes
    as downloaded, ADE20K, COCO and grey masks of 1 to 4 bits.

    Args:
        pairs: labelled set, see `build_segmentation`.
        mode: 'train' or 'val'.
        transforms: built ones.
        edge: add the edges of the classes, for losses that need them.
    """

    def __init__(self, pairs: Union['Segmentation', 'Joined'], mode: str, transforms: Sequence[Callable],
                 edge: bool = False) -> None:
        self.file_list, self.mode, self.edge = _Decoded(pairs), mode, edge
        self.transforms = Compose(transforms, to_rgb=False)
        self.num_classes, self.ignore_index, self.img_channels = pairs.num_classes, pairs.ignore_index, 3


class _Decoded:
    """In the place of PaddleSeg's list of [image, mask], which may be arrays as well as paths."""

    def __init__(self, pairs: Union['Segmentation', 'Joined']) -> None:
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        try:
            image, mask, _ = self.pairs[index]
        except DataError as e:
            lost.note(e)
            image, mask = np.zeros((_STAND_IN, _STAND_IN, 3)), np.full((_STAND_IN, _STAND_IN), 255, np.uint8)
        return image.astype('float32'), mask
