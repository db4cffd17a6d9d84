"""Boxes of objects: the check of each, and the data sets that have them."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from ...utils.errors import ConfigError, DataError
from ...utils.logger import get_logger
from ..image import shown
from .base import LabelledImages

_SHOWN = 5
_MANY = 10              # boxes from which on it is no accident that all would be right in another format
SHARES, CORNERS, COCO_BOX, CENTRE = FORMATS = (
    'shares of the width and height of the image, from 0 to 1, as YOLO has them', '[x1, y1, x2, y2] in pixels',
    '[x, y, width, height] in pixels', '[centre x, centre y, width, height] in pixels')


def _fits(form, numbers, size):
    """Whether four numbers are a box inside the image of (height, width) `size`, read in another format."""
    a, b, c, d = numbers
    if form == SHARES:
        return 0 <= min(numbers) and max(numbers) <= 1
    if form == CENTRE:
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if form == COCO_BOX:
        c, d = a + c, b + d
    return a >= -1 and b >= -1 and c > a and d > b and (size is None or c <= size[1] + 1 and d <= size[0] + 1)


class Dropped:
    """Boxes that no training can use: with 'drop' they are left out and named in the log, with 'error' they end it.

    Boxes that are cut at the border or smaller than a pixel are kept and counted. Where most boxes are odd in one of
    these ways, or all would be right in another format, the set is refused.

    Args:
        policy: 'drop' or 'error'.
        form: one of FORMATS, what the four numbers of the files are.

    Attributes:
        entries: [(id, text)] of those that are left out. cut, tiny: numbers of boxes.
    """

    def __init__(self, policy: str, form: str) -> None:
        if policy not in ('drop', 'error'):
            raise ConfigError(f"bad_boxes must be 'drop' or 'error', not {policy!r}.")
        self.policy, self.form = policy, form
        self.entries: list[tuple[str, str]] = []
        self.cut, self.tiny, self._total, self._first = 0, 0, 0, ''
        self._fits = {name: 0 for name in FORMATS if name != form}

    def check(self, box: tuple[float, float, float, float], size: Optional[tuple[int, int]], image_id: str, where: str,
              said: Optional[Sequence[float]] = None) -> Optional[tuple[float, float, float, float]]:
        """`box` (x0, y0, x1, y1; pixels, ends exclusive) cut at the image's border, or None if it is left out.

        Args:
            size: (height, width), or None where it is not known.
            image_id, where: for messages.
            said: the four numbers of the file, if they are others.
        """
        x0, y0, x1, y1 = box
        self._total += 1
        for name in self._fits:
            self._fits[name] += _fits(name, box if said is None else said, size)
        if not (x1 > x0 and y1 > y0):
            return self._leave_out(image_id, f'{where} has no area: its size is {x1 - x0:g} x {y1 - y0:g} pixels')
        if size is not None:
            x0, x1, y0, y1 = max(x0, 0), min(x1, size[1]), max(y0, 0), min(y1, size[0])
            if not (x1 > x0 and y1 > y0):
                return self._leave_out(image_id, f'{where} lies outside the image of {size[1]} x {size[0]} pixels')
        over = max(abs(a - b) for a, b in zip(box, (x0, y0, x1, y1))) > 1          # less is rounding
        self.cut += over
        self.tiny += min(x1 - x0, y1 - y0) < 1
        if not self._first and (over or min(x1 - x0, y1 - y0) < 1):
            self._first = where
        return x0, y0, x1, y1

    def judge(self) -> None:
        """Once all boxes were checked. Raises DataError for boxes of another format."""
        odd = self.cut + self.tiny + len(self.entries)
        other = next((name for name, n in self._fits.items() if n == self._total), None)
        if 2 * odd > self._total or other and self._total >= _MANY and 10 * odd > self._total:
            guess = f"All of them would be right as {other}: is that what they are? Convert them." if other else \
                'Are they in another format, or of images of another size? Mend them.'
            first = self.entries[0][1] if self.entries else self._first
            raise DataError(f'Of {self._total} boxes {self.cut} reach beyond their image, {self.tiny} are smaller than '
                            f'a pixel and {len(self.entries)} have no area or lie outside, first: {first}. Expected: '
                            f'{self.form}. {guess}')

    def _leave_out(self, image_id, text):
        if self.policy == 'error':
            raise DataError(f"{text}. Mend the annotation, or leave such boxes out with bad_boxes='drop'.")
        self.entries.append((image_id, text))

    def tell(self) -> None:
        """Lines of the log."""
        if self.cut or self.tiny:
            get_logger().warning('Of %d boxes %d reach beyond their image and were cut, %d are smaller than a pixel, '
                                 'first: %s', self._total, self.cut, self.tiny, self._first)
        if self.entries:
            more = '; ...' if len(self.entries) > _SHOWN else ''
            get_logger().warning("Boxes left out (bad_boxes='drop'): %d. %s%s", len(self.entries),
                                 '; '.join(text for _, text in self.entries[:_SHOWN]), more)


class Detection(LabelledImages):
    """Images with boxes.

    `dataset[i]` is (image uint8 [H, W, 3] RGB, target, id str). The target holds `boxes` float32 [n, 4] (x0, y0, x1,
    y1 in pixels, 0 is the left or upper edge of the first pixel, ends exclusive), `labels` int64 [n], `crowd` and
    `difficult` bool [n], and `masks` bool [n, H, W] if they are asked for.

    Attributes:
        sizes: int [images, 2], (height, width) as the annotations tell; 0 where they do not.
        dropped: [(id, text)] of boxes that were left out.
        num_objects: number of boxes in all images. cut, tiny: of those that were cut, or are smaller than a pixel.
        form: what the four numbers of a box are in the files, one of FORMATS.
    """

    form = CORNERS

    def __init__(self, root: str, split: str, exif: bool = True, masks: bool = False, bad_boxes: str = 'drop') -> None:
        super().__init__(root, split, exif)
        if not isinstance(masks, bool):
            raise ConfigError(f'masks must be true or false, not {masks!r}.')
        self.with_masks, self._dropped = masks, Dropped(bad_boxes, self.form)
        self._boxes: Any = []               # these three grow as lists and become arrays
        self._labels: Any = []
        self._flags: Any = []
        self._counts: list[int] = []
        self._sizes: list[tuple[int, int]] = []

    def _add_image(self, size, objects):
        """Sub-classes call this for every image: `objects` is [(box, label, crowd, difficult)]."""
        self._sizes.append(size or (0, 0))
        self._counts.append(len(objects))
        for box, label, crowd, difficult in objects:
            self._boxes.append(box)
            self._labels.append(label)
            self._flags.append((crowd, difficult))

    def _filled(self):
        """Sub-classes call this once everything stands: lists become arrays, which forked workers share."""
        if not self.ids:
            raise DataError(f"'{self.root}' holds no images for the split '{self.split}'.")
        self._boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        self._labels = np.array(self._labels, np.int64)
        self._flags = np.array(self._flags, bool).reshape(-1, 2)
        self._starts = np.cumsum([0] + self._counts)
        self.sizes = np.array(self._sizes, np.int64).reshape(-1, 2)
        self.num_objects = len(self._labels)
        del self._counts, self._sizes
        self.dropped = self._dropped.entries
        self.cut, self.tiny = self._dropped.cut, self._dropped.tiny
        self._dropped.judge()
        self._dropped.tell()
        if self._flags[:, 0].all():             # nor are crowds learned
            raise DataError(f"No image of the split '{self.split}' of {shown(self.root)} has an object: nothing can be "
                            'learned or measured.')

    def target(self, index: int) -> dict[str, np.ndarray]:
        """The labels of an image, without its masks."""
        index = self._number(index)
        part = slice(self._starts[index], self._starts[index + 1])
        return {'boxes': self._boxes[part].astype(np.float32), 'labels': self._labels[part].copy(),
                'crowd': self._flags[part, 0].copy(), 'difficult': self._flags[part, 1].copy()}

    def exact_boxes(self, index: int) -> np.ndarray:
        """The boxes of `target(index)` in float64, as the files have them."""
        index = self._number(index)
        return self._boxes[self._starts[index]:self._starts[index + 1]]

    def load_masks(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        """bool [n, H, W] of the objects of an image of that (height, width)."""
        raise NotImplementedError

    def reading(self) -> str:
        return f'{super().reading()} {self.with_masks}'

    def annotation_name(self, index: int) -> str:
        """What the labels of an image are called in messages."""
        raise NotImplementedError

    def __getitem__(self, index):
        index = self._number(index)
        image, target = self.load_image(index), self.target(index)
        if self.sizes[index].all():
            self.check_size(index, image, tuple(int(s) for s in self.sizes[index]), self.annotation_name(index))
        if self.with_masks:
            target['masks'] = self.load_masks(index, image.shape[:2])
        return image, target, self.ids[index]
