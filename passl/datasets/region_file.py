"""The file that keeps the regions of a data set's images.

    4096 bytes   a mark and a line of JSON: the settings of the superpixels, number of images; zeros
    keys         uint64 for each image: a hash of its `image_key` (even), or that + 1 if it could not be read; 0: not
                 computed yet, in an unfinished file
    maps         2048 bytes for each image, see `regions.packed_map`

An unfinished file has `.part` behind its name. A finished one is never changed: runs may be reading it.
"""

import json
import os
import shutil
from typing import Any, Optional, Sequence

import numpy as np

from ..utils.errors import ConfigError
from ..utils.files import whole
from ..utils.logger import get_logger
from .image import shown
from .regions import PACKED

_MARK = b'PASSL regions 1\n'
_HEAD = 4096
_EACH = 8 + PACKED[0] * PACKED[1]       # bytes
_BLOCK = 4096                           # maps copied at a time


class RegionFile:
    """`keys` [n] and `maps` [n, 64, 32] of a file, mapped to memory. OSError or ValueError if it is none for `record`.
    """

    def __init__(self, path: str, record: dict[str, Any], mode: Any = 'r') -> None:
        with open(path, 'rb') as f:
            head, size = f.read(_HEAD), os.fstat(f.fileno()).st_size
        if not head.startswith(_MARK):
            raise ValueError('it is no file of regions')
        found = json.loads(head[len(_MARK):].partition(b'\n')[0])
        count = found.pop('count', None) if isinstance(found, dict) else None
        if type(count) is not int or size != _HEAD + count * _EACH or count < 1:
            raise ValueError('it is damaged')
        if found != record:
            raise ValueError('it was computed with other settings')
        self.keys = np.asarray(np.memmap(path, '<u8', mode, _HEAD, (count,)))
        self.maps = np.asarray(np.memmap(path, np.uint8, mode, _HEAD + 8 * count, (count, *PACKED)))

    @classmethod
    def usable(cls, path: str, record: dict[str, Any], mode: str = 'r', tell: bool = True) -> 'Optional[RegionFile]':
        """The file, or None; why is logged unless there is none."""
        try:
            return cls(path, record, mode)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as e:
            if tell:
                get_logger().warning('Regions are computed anew, %s cannot be used: %s.', shown(path),
                                     getattr(e, 'strerror', None) or e)
            return None

    def is_for(self, keys: np.ndarray, unfinished: bool = False) -> bool:
        """Whether it holds the images of these keys in this order, some perhaps not yet."""
        if len(keys) != len(self.keys):
            return False
        same = (self.keys & ~np.uint64(1)) == keys
        return bool((same | (self.keys == 0)).all() if unfinished else same.all())

    def copy_to(self, other: 'RegionFile', keys: np.ndarray) -> None:
        """What it has of the images of `keys`, to their places in `other`."""
        mine = self.keys & ~np.uint64(1)
        order = np.argsort(mine, kind='stable')
        at = np.minimum(np.searchsorted(mine, keys, sorter=order), len(mine) - 1)
        source = order[at]
        wanted = np.flatnonzero((mine[source] == keys) & (other.keys == 0))
        for start in range(0, len(wanted), _BLOCK):
            block = wanted[start:start + _BLOCK]
            other.maps[block] = self.maps[source[block]]
            other.keys[block] = self.keys[source[block]]


def begin(part: str, record: dict[str, Any], keys: np.ndarray, sources: Sequence[RegionFile]) -> None:
    """A new unfinished file, with what `sources` have."""
    size, folder = _HEAD + len(keys) * _EACH, os.path.dirname(part)
    free = shutil.disk_usage(folder).free
    get_logger().info('Regions are kept in %s: %d bytes for each of %d images, %.1f MiB in all; %.1f GiB are free.',
                      shown(part[:-len('.part')]), _EACH, len(keys), size / 2**20, free / 2**30)
    if size > free:
        raise ConfigError(f'The regions of the images take {size / 2**20:.1f} MiB, and {shown(folder)} has '
                          f'{free / 2**20:.1f} MiB left. Free some, or choose another place with '
                          'dataloader.train.dataset.regions.cache.')
    with whole(part) as place:
        with open(place, 'xb') as f:
            f.write((_MARK + json.dumps({'count': len(keys), **record}).encode() + b'\n').ljust(_HEAD, b'\0'))
            f.flush()
            if hasattr(os, 'posix_fallocate'):      # a disk that fills up behind a mapped file ends the process
                os.posix_fallocate(f.fileno(), 0, size)
            f.truncate(size)
        new = RegionFile(place, record, 'r+')
        for source in sources:
            source.copy_to(new, keys)
