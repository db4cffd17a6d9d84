"""What a sample can hold beside its views and label: where the views lie, and which regions they show."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..utils.errors import ConfigError
from .preprocess.two_view import places
from .region_cache import RegionCache
from .regions import VIEW, Regions, packed_map, regions_of_views, superpixels

if TYPE_CHECKING:
    from .base import ImageDataset

NEEDS = ('places', 'regions')
FOLDER = os.path.join('output_dir', 'regions')


class Carries:
    """Part of ImageDataset: what `carry` was called for.

    Attributes:
        regions: Regions, the settings of the superpixels; `regions` in a config.
    """

    regions = Regions()
    _needs: tuple[str, ...] = ()
    _region_cache: Any = None
    recipe: Any             # of the ImageDataset that this is a part of, as what follows
    samples: Any
    load: Any
    read_bytes: Any
    _own_load: Any

    def carry(self, needs: Sequence[str], folder: str = FOLDER) -> None:
        """From now on samples hold what `needs` names, behind views and label, in this order.

        * 'places': float32 [views, 6], see `preprocess.two_view.places`.
        * 'regions': uint8 [views, 32, 32], the numbers 0 to 15 of the superpixels as each view shows them: the map of
          the whole image at the centres of 32 x 32 parts of the view. A number is the same region in all views.

        Views, labels and random numbers stay what they are. All processes call it, before there are worker processes.
        Regions that are not in their cache are computed here, by the first process of each machine on all its cores.

        Args:
            needs: tuple of these names; () ends it.
            folder: where the cache is, unless the setting `regions.cache` says so. Not beside the images: a run writes
                nothing into the users' folders that they did not ask for.

        Raises:
            ConfigError: a transform moves pixels in a way that is not known, there is no scikit-image, or the cache
                cannot be written.
            DataError: too many images are unreadable.
        """
        needs = tuple(needs)
        if needs not in ((), NEEDS[:1], NEEDS[1:], NEEDS):
            raise ConfigError(f'A sample can carry {NEEDS}, in this order, not {needs!r}.')
        if needs:
            self.recipe.check_places()
        self._region_cache = RegionCache(cast('ImageDataset', self), folder) if 'regions' in needs else None
        self._needs = needs

    def image_key(self, index: int) -> str:
        """Text that is another one when image `index` has changed: what is kept of an image is kept under it.

        Name, size and time where `samples` names files; else the bytes of the file or the pixels, for which the image
        is read at every start. A sub-class may know better. Raises ImageReadError.
        """
        entry = self.samples[index]
        name = entry[0] if isinstance(entry, tuple) else entry
        if isinstance(name, (str, os.PathLike)):
            with contextlib.suppress(OSError, ValueError):
                info = os.stat(name)
                if stat.S_ISREG(info.st_mode):
                    return f'{os.path.abspath(name)} {info.st_size} {info.st_mtime_ns}'
        data = self.load(index).tobytes() if self._own_load() else self.read_bytes(index)[0]
        return hashlib.sha256(data).hexdigest()

    def _carried_with(self, index, img, followed):
        """What a sample of image `index` holds behind the label; `followed`: the arguments of `places`."""
        if not self._needs:
            return ()
        where, more = places(*followed), []
        if 'places' in self._needs:
            more.append(where)
        if 'regions' in self._needs:
            packed = self._region_cache.packed(index)
            if packed is None:          # it could not be read when they were computed, and can be now
                packed = packed_map(superpixels(img, self.regions))
            more.append(regions_of_views(packed, where))
        return tuple(more)

    def _carried_example(self):
        views = len(self.recipe)
        shapes = {'places': ((views, 6), np.float32), 'regions': ((views, VIEW, VIEW), np.uint8)}
        return tuple(np.zeros(*shapes[need]) for need in self._needs)
