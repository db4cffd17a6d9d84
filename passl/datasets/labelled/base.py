"""What all labelled data sets share: reading the image, and the check that image and labels belong together."""

import os
from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import numpy as np
from paddle.io import Dataset

from ...utils.errors import ConfigError, DataError
from ...utils.logger import get_logger
from ..image import MAX_PIXELS, ImageReadError, decode_image, is_turned, read_file, shown
from ..text import read_lines
from .layout import layout_error
from .masks import IGNORE, MAX_CLASSES, ClassMapping, ValueTable, read_mask

_SHOWN = 3              # so many files are named

ClassNames = Union[int, str, os.PathLike, Sequence[str]]         # how many, a file of them, or the names


def read_class_names(value: ClassNames, key: str = 'classes') -> list[str]:
    """Class names from a list, or from a text file with one name per line; of a number N `class 0` ... `class N-1`.

    The lines may be numbered (`0 background`), if all are, from 0 on and in order.

    Raises:
        ConfigError: no list of texts. DataError: no names, a name twice, or more than MAX_CLASSES.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_CLASSES:
        value = [f'class {k}' for k in range(value)]
    if not isinstance(value, (str, os.PathLike)):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v.strip() for v in value):
            raise ConfigError(f'{key} must be a list of names, their number (up to {MAX_CLASSES}) or a text file with '
                              f'one name per line, not {value!r}.')
        names, where = [v.strip() for v in value], key
    else:
        names = [line for _, line in read_lines(value)]
        numbered = [n.split(None, 1) for n in names]
        if names and all(len(p) == 2 and p[0] == str(k) for k, p in enumerate(numbered)):
            names = [p[1] for p in numbered]
        where = shown(value)
    if not names:
        raise DataError(f'{where} names no classes. Expected: one name per line; the first is that of the value 0.')
    if len(names) > MAX_CLASSES:
        raise DataError(f'{where} names {len(names)} classes; masks of 8 bits hold up to {MAX_CLASSES}.')
    twice = next((n for k, n in enumerate(names) if n in names[:k]), None)
    if twice is not None:
        raise DataError(f'{where} names the class {shown(twice)} twice. Give every class a name of its own.')
    return names


class LabelledImages(Dataset):
    """Base of the labelled data sets: `images` and `ids` stand, sub-classes say what the labels are.

    Attributes:
        root: the data set's folder. split: name of the part. kind: 'voc', 'coco', ...
        ids: a name for each image, different within the data set. images: their paths.
        classes: names of the classes in the order of their numbers.
        exif: True turns images upright by their EXIF tag before they are paired with their labels.
        max_pixels: larger images are refused.
        value_range, doubt: see `decode_image`.
    """

    kind = ''
    max_pixels = MAX_PIXELS
    value_range: Optional[Sequence[float]] = None
    doubt: Optional[Callable[[str, str], object]] = None

    def __init__(self, root: str, split: Optional[str], exif: bool = True) -> None:
        super().__init__()
        if not isinstance(exif, bool):
            raise ConfigError(f'exif must be true or false, not {exif!r}.')
        self.root, self.split, self.exif = root, split, exif
        self.ids: list[str] = []
        self.images: list[str] = []
        self.classes: list[str] = []

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self):
        return len(self.ids)

    def _number(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(f'No image {index} in a data set of {len(self)}.')
        return index % len(self)

    def load_image(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], RGB. Raises ImageReadError."""
        path = self.images[self._number(index)]
        return decode_image(read_file(path), path, max_pixels=self.max_pixels, upright=self.exif,
                            value_range=self.value_range, doubt=self.doubt)

    def read_in(self, value_range: Optional[Sequence[float]], doubt: Callable[[str, str], object]) -> None:
        """From now on images of more than 8 bits are read in this range; see `decode_image`."""
        self.value_range, self.doubt = value_range, doubt

    def files(self, index: int) -> list[str]:
        """The files that decide what `self[index]` is."""
        return [self.images[self._number(index)]]

    def reading(self) -> str:
        """How the files are read, as a text: the same for data sets that find the same in the same files."""
        shades = () if self.value_range is None else (tuple(self.value_range),)
        return repr((self.kind, self.exif, self.max_pixels, self.classes, *shades))

    def turned(self, index: int) -> bool:
        """Whether the EXIF tag of an image says that it is to be turned. Raises ImageReadError."""
        return is_turned(read_file(self.images[self._number(index)]))

    def check_size(self, index: int, image: np.ndarray, size: tuple[int, ...], what: str) -> None:
        """Raises ImageReadError unless `image` has the (height, width) `size` that its labels, named `what`, have."""
        if image.shape[:2] == tuple(size):
            return
        path = self.images[self._number(index)]
        height, width = image.shape[:2]
        text = f'{shown(path)} has {width} x {height} pixels, but {what} has {size[1]} x {size[0]}.'
        if (width, height) == tuple(size) and is_turned(read_file(path)):
            text += (' The EXIF tag of the image says that it is to be turned: ' + (
                'the labels were drawn on the pixels as they are stored. Use exif=False.' if self.exif else
                'the labels were drawn on the turned image. Use exif=True.'))
        else:
            text += ' Both must have the same size: mend or remove the pair.'
        raise ImageReadError(text)


class Segmentation(LabelledImages):
    """Images with masks of class numbers.

    `dataset[i]` is (image uint8 [H, W, 3] RGB, mask uint8 [H, W] with 255 = ignore, id str).

    Attributes:
        masks: paths of the mask files, for data sets that have them.
        ignore_index: 255.
        table: ValueTable that turns the values of the files into class numbers.
    """

    ignore_index = IGNORE

    def __init__(self, root: str, split: Optional[str], exif: bool = True,
                 mapping: Optional[ClassMapping] = None) -> None:
        super().__init__(root, split, exif)
        self.masks: list[str] = []
        self.table: Any = None          # a ValueTable once the classes are known
        self._own_mapping = mapping

    def _pair(self, images, masks, tree, unpaired, wanted=None):
        """Set `ids`, `images` and `masks` from {id: path} of both, which were found in folders.

        Args:
            tree: lines of the layout, for the message.
            unpaired: 'error' or 'drop' of images without a mask. Masks without an image are a warning.
            wanted: ids of a list: only these, in this order.

        Raises:
            DataError: images without a mask, unless they are left out.
        """
        if unpaired not in ('error', 'drop'):
            raise ConfigError(f"unpaired must be 'error' or 'drop', not {unpaired!r}.")
        ids = list(images) if wanted is None else wanted
        bare, log = [images[i] for i in ids if i not in masks], get_logger()
        if bare:
            more = ', ...' if len(bare) > _SHOWN else ''
            text = f"{len(bare)} of {len(ids)} images have no mask: {', '.join(map(shown, bare[:_SHOWN]))}{more}."
            if unpaired == 'error':
                raise layout_error(self.root, text, tree, "Add the masks, or leave these images out with the option "
                                   "unpaired: 'drop' (docs/LABELLED_DATA.md says where it is given).")
            log.warning("%s They are left out (unpaired: 'drop').", text)
        alone = [masks[i] for i in masks if i not in images] if wanted is None else []
        if alone:
            log.warning('%d masks in %s have no image and are not used, first %s.', len(alone), shown(self.root),
                        shown(alone[0]))
        self.ids = [i for i in ids if i in masks]
        self.images, self.masks = [images[i] for i in self.ids], [masks[i] for i in self.ids]

    def _filled(self, classes, mapping=None):
        """Sub-classes call this once `ids`, `images` and `masks` stand."""
        if not self.ids:
            raise DataError(f"'{self.root}' holds no labelled images for the split '{self.split}'.")
        self.classes = list(classes)
        self.table = ValueTable(self.classes, mapping, self._own_mapping)
        get_logger().debug('%s %s: %d images, %d classes', self.kind, self.split, len(self), len(self.classes))

    def load_mask(self, index: int) -> np.ndarray:
        """uint8 [H, W]: class numbers and 255. Raises ImageReadError."""
        path = self.masks[self._number(index)]
        return self.table(read_mask(path, self.max_pixels), path)

    def files(self, index: int) -> list[str]:
        return super().files(index) + ([self.masks[self._number(index)]] if self.masks else [])

    def reading(self) -> str:
        return f'{super().reading()} {self.table}'

    def mask_name(self, index: int) -> str:
        """What the labels of an image are called in messages."""
        return f'its mask {shown(self.masks[self._number(index)])}'

    def __getitem__(self, index):
        image, mask = self.load_image(index), self.load_mask(index)
        self.check_size(index, image, mask.shape, self.mask_name(index))
        return image, mask, self.ids[self._number(index)]
