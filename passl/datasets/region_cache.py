"""The regions of a data set's images: computed once, and again only for images that change.

They are in a RegionFile. A run that needs other ones makes a new file, with what it can use of the old one, and puts
it in its place; one that is stopped meanwhile leaves an unfinished file, with which the next one goes on.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Optional

import numpy as np
from tqdm import tqdm

from ..utils.distributed import dist
from ..utils.errors import ConfigError, DataError, PasslError
from ..utils.files import FileLock, LockedError, settle
from ..utils.logger import get_logger
from ..utils.paddle_env import usable_cores
from .image import ImageReadError, shown
from .pool import run_all
from .region_file import RegionFile, begin
from .regions import packed_map, require_slic, superpixels

if TYPE_CHECKING:
    from .base import ImageDataset

_TELL = 60.0                            # seconds between lines of the log where no bar is shown
_OK, _BAD, _ERROR = range(3)


class RegionCache:
    """The packed label maps of a data set's images; computes what is missing.

    Args:
        dataset: ImageDataset; `regions` are its settings.
        folder: for the file, unless `regions.cache` says where it is.

    Raises:
        ConfigError, DataError: see `Carries.carry`.
    """

    def __init__(self, dataset: 'ImageDataset', folder: str) -> None:
        require_slic()
        self.record = dataset.regions.record()
        if dataset.value_range is not None:         # other shades, other regions
            self.record['value_range'] = [float(v) for v in dataset.value_range]
        self.path = _path(dataset, self.record, folder)
        self.path = _first_of_each_machine(lambda: _complete(dataset, self.path, self.record), self.path)
        self._open(len(dataset))

    def _open(self, count):
        try:
            self._file = RegionFile(self.path, self.record)
        except (OSError, ValueError) as e:
            raise DataError(f'The regions in {shown(self.path)} cannot be read: {e}. Start again.') from None
        if len(self._file.keys) != count:
            raise DataError(f'The regions in {shown(self.path)} were replaced by those of other images. Start again.')

    def packed(self, index: int) -> Optional[np.ndarray]:
        """The label map of image `index` (see `packed_map`), None if the image could not be read."""
        return None if self._file.keys[index] & np.uint64(1) else self._file.maps[index]

    def __getstate__(self):
        return dict(self.__dict__, _file=len(self._file.keys))

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open(state['_file'])


def _path(dataset, record, folder):
    place = dataset.regions.cache
    if place is not None and str(place).endswith('.bin'):
        return os.path.abspath(os.path.expanduser(str(place)))
    root = getattr(dataset, 'dataroot', None) or dataset.image_name(0)
    roots = [os.path.abspath(str(r)) for r in (root if isinstance(root, (list, tuple)) else [root])]
    name = hashlib.sha256(json.dumps([type(dataset).__name__, roots, record]).encode()).hexdigest()[:16] + '.bin'
    return os.path.abspath(os.path.join(os.path.expanduser(str(folder if place is None else place)), name))


def _first_of_each_machine(complete, path):
    """Let the first process of each machine call `complete`; where the regions are on this one.

    An error of one is raised by all.
    """
    hosts = dist.gather_objects(platform.node())
    me, error = dist.rank(), None
    if hosts.index(hosts[me]) == me:
        try:
            complete()
        except PasslError as e:
            error = e
    dist.meet('waiting for the regions of the images')
    found = dist.gather_objects((path, error and (isinstance(error, ConfigError), str(error))))
    if error:
        raise error
    for _, failed in found:
        if failed:
            raise (ConfigError if failed[0] else DataError)(failed[1])
    return found[hosts.index(hosts[me])][0]


def _complete(dataset, path, record):
    """Bring the file `path` to hold the regions of all images."""
    keys, log = _keys(dataset), get_logger()
    done = RegionFile.usable(path, record, tell=False)
    if not done or not done.is_for(keys):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with _locked(path):
                done = RegionFile.usable(path, record)           # another run may have made it meanwhile
                if not done or not done.is_for(keys):
                    _make(dataset, path, record, keys, done)
        except OSError as e:
            raise ConfigError(f'The regions of the images cannot be kept in {shown(path)}: {e.strerror or e}. Choose '
                              'another file or folder with dataloader.train.dataset.regions.cache.') from None
        done = RegionFile(path, record)
    bad = int((done.keys & np.uint64(1)).sum())
    log.info('Regions of %d images: %s (%.1f MiB)%s', len(keys), shown(path), os.path.getsize(path) / 2**20,
             f'; {bad} could not be read' if bad else '')


@contextlib.contextmanager
def _locked(path):
    lock, told = FileLock(path + '.lock'), False
    while True:
        try:
            lock.acquire(patience=1.0)
            break
        except LockedError as e:
            if not told:
                get_logger().info('Regions are being computed by %s; this run waits for them.', e)
            told = True
            dist.progress('waiting for the regions that another run computes')
    try:
        yield
    finally:
        lock.release()


def _keys(dataset):
    """uint64 [n], even and not 0, of the images as they are now."""
    def key(index):
        try:
            text = dataset.image_key(int(index))
        except Exception as e:              # told when it is read for its regions
            text = f'{dataset.image_name(int(index))} {e}'
        digest = hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=8).digest()
        return int.from_bytes(digest, 'little') & ~1 or 2, ''
    return _at_work(key, range(len(dataset)), 'images', np.dtype('<u8'), task=256)[0]


def _at_work(function, items, title, dtype, **options):
    """`run_all` on all cores, with a bar, or lines in the log; the watch of the processes sees that it gets on."""
    show, told, done = sys.stderr.isatty(), time.monotonic(), 0
    with tqdm(total=len(items), desc=title, unit=' images', disable=not show, dynamic_ncols=True, leave=False) as bar:
        def advance(count):
            nonlocal told, done
            bar.update(count)
            done += count
            dist.progress('computing the regions of the images')
            if not show and time.monotonic() - told > _TELL:
                get_logger().info('%s: %d of %d images', title, done, len(items))
                told = time.monotonic()
        return run_all(function, items, usable_cores(), advance, dtype, **options)


def _make(dataset, path, record, keys, old):
    part = path + '.part'
    unfinished = RegionFile.usable(part, record, 'r+')
    if not unfinished or not unfinished.is_for(keys, True):
        begin(part, record, keys, [f for f in (old, unfinished) if f])
        unfinished = RegionFile(part, record, 'r+')
    missing = np.flatnonzero(unfinished.keys == 0)
    get_logger().info('Regions of %d of %d images are computed, on %d core(s); a run that is stopped goes on '
                      'there when it starts again.', len(missing), len(keys), usable_cores())
    start = time.monotonic()
    bad = _fill(dataset, unfinished, keys, missing)
    get_logger().info('Regions of %d images took %.1f s.', len(missing), time.monotonic() - start)
    settle(part, path)
    for index, reason in bad:
        dataset._note_bad(index, ImageReadError(reason))


def _fill(dataset, file, keys, missing):
    """Compute the maps of the images `missing`; [(index, reason)] of those that cannot be read."""
    def compute(index):
        index = int(index)
        try:
            file.maps[index] = packed_map(superpixels(dataset.load(index), dataset.regions))
            file.keys[index] = keys[index]          # last: what has a key has a map
            return _OK, ''
        except ImageReadError as e:
            file.keys[index] = keys[index] | np.uint64(1)
            return _BAD, str(e)
        except Exception as e:
            return _ERROR, f'{type(e).__name__}: {e}'
    if len(missing):
        superpixels(np.zeros((8, 8, 3), np.uint8), dataset.regions)       # imports once for all workers
    states, reasons, crashed = _at_work(compute, missing, 'regions', np.uint8, task=4)
    file.keys[missing[crashed]] = keys[missing[crashed]] | np.uint64(1)
    wrong = np.flatnonzero(states == _ERROR)
    if len(wrong):
        name = shown(dataset.image_name(int(missing[wrong[0]])))
        raise DataError(f'The regions of {name} cannot be computed: {reasons[wrong[0]]} ({len(wrong)} images in all).')
    return [(int(missing[n]), reason) for n, reason in reasons.items()]
