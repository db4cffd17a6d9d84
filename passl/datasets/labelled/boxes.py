"""Boxes of objects: the check of each, and the data sets that have them."""

from typing import Any, Optional

import numpy as np

from ...utils.errors import ConfigError, DataError
from ...utils.logger import get_logger
from ..image import shown
from .base import LabelledImages

_SHOWN = 5


class Dropped:
    """Boxes that no training can use: with 'drop' they are left out and named in the log, with 'error' they end it.

    Attributes:
        entries: [(id, text)].
    """

    def __init__(self, policy: str) -> None:
        if policy not in ('drop', 'error'):
            raise ConfigError(f"bad_boxes must be 'drop' or 'error', not {policy!r}.")
        self.policy, self.entries = policy, []

    def check(self, box: tuple[float, float, float, float], size: Optional[tuple[int, int]], image_id: str,
              where: str) -> Optional[tuple[float, float, float, float]]:
        """`box` (x0, y0, x1, y1; pixels, ends exclusive) cut at the image's border, or None if it is left out.

        Args:
            size: (height, width), or None where it is not known.
            image_id, where: for messages.
        """
        x0, y0, x1, y1 = box
        if not (x1 > x0 and y1 > y0):
            return self._leave_out(image_id, f'{where} has no area: its size is {x1 - x0:g} x {y1 - y0:g} pixels')
        if size is not None:
            x0, x1, y0, y1 = max(x0, 0), min(x1, size[1]), max(y0, 0), min(y1, size[0])
            if not (x1 > x0 and y1 > y0):
                return self._leave_out(image_id, f'{where} lies outside the image of {size[1]} x {size[0]} pixels')
        return x0, y0, x1, y1

    def _leave_out(self, image_id, text):
        if self.policy == 'error':
            raise DataError(f"{text}. Mend the annotation, or leave such boxes out with bad_boxes='drop'.")
        self.entries.append((image_id, text))

    def tell(self, root: str) -> None:
        """One line of the log."""
        if self.entries:
            more = '; ...' if len(self.entries) > _SHOWN else ''
            get_logger().warning("%s: boxes left out (bad_boxes='drop'): %d. %s%s", shown(root), len(self.entries),
                                 '; '.join(text for _, text in self.entries[:_SHOWN]), more)


class Detection(LabelledImages):
    """Images with boxes.

    `dataset[i]` is (image uint8 [H, W, 3] RGB, target, id str). The target holds `boxes` float32 [n, 4] (x0, y0, x1,
    y1 in pixels, 0 is the left or upper edge of the first pixel, ends exclusive), `labels` int64 [n], `crowd` and
    `difficult` bool [n], and `masks` bool [n, H, W] if they are asked for.

    Attributes:
        sizes: int [images, 2], (height, width) as the annotations tell; 0 where they do not.
        dropped: [(id, text)] of boxes that were left out.
        num_objects: number of boxes in all images.
    """

    def __init__(self, root: str, split: str, exif: bool = True, masks: bool = False, bad_boxes: str = 'drop') -> None:
        super().__init__(root, split, exif)
        if not isinstance(masks, bool):
            raise ConfigError(f'masks must be true or false, not {masks!r}.')
        self.with_masks, self._dropped = masks, Dropped(bad_boxes)
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
        self._boxes = np.array(self._boxes, np.float32).reshape(-1, 4)
        self._labels = np.array(self._labels, np.int64)
        self._flags = np.array(self._flags, bool).reshape(-1, 2)
        self._starts = np.cumsum([0] + self._counts)
        self.sizes = np.array(self._sizes, np.int64).reshape(-1, 2)
        self.num_objects = len(self._labels)
        del self._counts, self._sizes
        self.dropped = self._dropped.entries
        self._dropped.tell(self.root)
        if not self.num_objects:
            raise DataError(f"No image of the split '{self.split}' of {shown(self.root)} has an object: nothing can be "
                            'learned or measured.')

    def target(self, index: int) -> dict[str, np.ndarray]:
        """The labels of an image, without its masks."""
        index = self._number(index)
        part = slice(self._starts[index], self._starts[index + 1])
        return {'boxes': self._boxes[part].copy(), 'labels': self._labels[part].copy(),
                'crowd': self._flags[part, 0].copy(), 'difficult': self._flags[part, 1].copy()}

    def load_masks(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        """bool [n, H, W] of the objects of an image of that (height, width)."""
        raise NotImplementedError

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
