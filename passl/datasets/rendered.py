"""The embedded data set as a data set of the registry."""

import mmap
from typing import Annotated, Any, Literal, Optional

import numpy as np

from ..utils.config.kinds import Count, Flag, whole_from
from ..utils.seed import derive_seed
from .base import ImageDataset
from .builder import DATASETS
from .scenes import CLASSES, render_scene

Side = Annotated[int, whole_from(16, 1024)]
SPLITS = ('train', 'val')
_CACHE_LIMIT = 2 ** 30          # bytes; larger sets are rendered anew each time


def split_seed(seed: int, split: str) -> int:
    """Train and val never share a scene."""
    return derive_seed(seed, SPLITS.index(split))


@DATASETS.register()
class Synthetic(ImageDataset):
    """`num_images` rendered scenes of 10 classes (see scenes.py); needs no files.

    A scene is rendered when it is first asked for and then kept in memory that all workers
    share, so an epoch renders each scene once at most over all workers.

    Args:
        split: 'train' or 'val'; they share no scene.
        num_images: default 2000 for train, 500 for val.
        size: side in pixels.
        seed: another seed gives another data set. Not the seed of the run.
        return_label ... view_trans2: see ImageDataset.
    """

    def __init__(self, split: Literal['train', 'val'] = 'train', num_images: Optional[Count] = None, size: Side = 64,
                 seed: int = 0, return_label: Flag = False, **views: Any) -> None:
        super().__init__(return_label, **views)
        num_images = (2000 if split == 'train' else 500) if num_images is None else num_images
        self.size = size
        self.seed = split_seed(seed, split)
        self.samples = range(num_images)
        self.classes = list(CLASSES)
        self._make_cache()
        self._filled()

    def _make_cache(self):
        n, item = len(self.samples), self.size * self.size * 3
        self._cache = None
        if n * (item + 1) <= _CACHE_LIMIT:
            memory = np.frombuffer(mmap.mmap(-1, n * (item + 1)), np.uint8)
            self._done = memory[:n]
            self._cache = memory[n:].reshape(n, self.size, self.size, 3)

    def load(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self.samples):
            raise IndexError(f'No scene {index} in a set of {len(self.samples)}.')
        if self._cache is None:
            return render_scene(index, self.size, self.seed)[0]
        if not self._done[index]:
            self._cache[index] = render_scene(index, self.size, self.seed)[0]
            self._done[index] = 1       # set last: another worker sees all of the image or renders it too
        return self._cache[index].copy()

    def image_key(self, index: int) -> str:
        """A scene depends on these numbers alone."""
        return f'{self.size} {self.seed} {index}'

    def label(self, index: int) -> int:
        return index % len(CLASSES)

    def mask(self, index: int) -> np.ndarray:
        """Pixel mask of an image: uint8 [size, size], class number + 1 on the object, else 0."""
        return render_scene(index, self.size, self.seed)[2]

    def __getstate__(self):
        state = super().__getstate__()
        state.pop('_done', None)
        state.pop('_cache')
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._make_cache()
