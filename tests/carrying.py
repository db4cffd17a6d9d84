"""A data set whose samples carry places and regions; in as many valid pairs for every image (see the numbers below)."""

import numpy as np

from passl.datasets.folder import UnlabelledFolder
from passl.datasets.builder import DATASETS

# top, left, height, width of two crops that overlap, flips left-right and top-bottom
PLACES = np.float32([[0.1, 0.2, 0.6, 0.5, 0, 0], [0.2, 0.3, 0.7, 0.6, 0, 0]])


def carried(name, index):
    """What sample `index` carries: places are flipped, regions are renumbered from image to image."""
    if name == 'places':
        places = PLACES.copy()
        places[:, 4:] = [index % 2, index // 2 % 2]
        return places
    views = [np.kron(layout, np.ones((32 // len(layout), 32 // len(layout)), int))
             for layout in (np.arange(16).reshape(4, 4), np.array([[0, 1], [4, 5]]))]
    return ((np.stack(views) + index) % 16).astype('uint8')


@DATASETS.register()
class CarryingFolder(UnlabelledFolder):
    """Images of a folder, with what the model asks for."""

    needs = ()

    def carry(self, needs, folder=None):
        self.needs = needs

    def __getitem__(self, key):
        index = key[0] if isinstance(key, tuple) else key
        return (*super().__getitem__(key), *(carried(name, int(index)) for name in self.needs))
