"""Stage outputs of a frozen backbone, and the cache that keeps them: in half precision, on disk, with a bound."""

import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Callable, Optional, Union

import numpy as np
import paddle
from tqdm import tqdm

from ...utils.errors import DataError
from ...utils.files import remove_leftovers, whole
from ...utils.logger import get_logger
from ...utils.misc import IMAGENET_MEAN, IMAGENET_STD
from ...utils.paddle_env import usable_cores

_BATCH = 16
_AHEAD = 4              # batches that are loaded while one is computed
_FILES = re.compile(r'.*\.f16')
_LARGEST = 60000.0          # of half precision, with a margin


def to_tensor(images: Union[np.ndarray, Sequence[np.ndarray]]) -> paddle.Tensor:
    """uint8 images [N, H, W, 3] or a list of them -> normalised float32 Tensor [N, 3, H, W]."""
    x = (np.asarray(images, np.float32) / np.float32(255) - np.array(IMAGENET_MEAN, np.float32)) \
        / np.array(IMAGENET_STD, np.float32)
    return paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@paddle.no_grad()
def stage_maps(net: paddle.nn.Layer, images: Union[np.ndarray, Sequence[np.ndarray]],
               stages: Sequence[int]) -> list[np.ndarray]:
    """Outputs of stages of a ResNet in eval mode.

    Args:
        images: uint8 [N, H, W, 3], RGB.
        stages: of 1..4, ascending.

    Returns:
        list of float32 arrays [N, H', W', C], one per stage.
    """
    return [m.transpose([0, 2, 3, 1]).numpy() for m in net.stages(to_tensor(images), stages)]


def batches(load: Callable[[int], Any], count: int, size: int = _BATCH,
            title: str = 'features') -> Iterator[tuple[int, list]]:
    """Yield (first index, list of up to `size` results of load(i)), loaded ahead by threads, with a progress bar."""
    def part(start):
        return [load(i) for i in range(start, min(count, start + size))]
    starts = iter(range(0, count, size))
    with ThreadPoolExecutor(min(_AHEAD, usable_cores())) as pool, \
            tqdm(total=count, desc=title, unit=' images', disable=not sys.stderr.isatty(), leave=False,
                 dynamic_ncols=True) as bar:
        jobs = deque((start, pool.submit(part, start)) for start in islice(starts, _AHEAD))
        while jobs:
            first, job = jobs.popleft()
            done = job.result()
            jobs.extend((start, pool.submit(part, start)) for start in islice(starts, 1))
            yield first, done
            bar.update(len(done))


class Cache:
    """Feature arrays by key, each a file of raw float16 in a folder of its own.

    Args:
        folder: for the files, of a comparison's alone; they can be deleted at any time.
        limit_gb: of all files together. The least recently used of an earlier time give way.
    """

    def __init__(self, folder: str, limit_gb: float = 8.0) -> None:
        self.folder, self.limit = folder, limit_gb * 2**30
        remove_leftovers(folder, _FILES)

    def array(self, key: str, shape: Sequence[int], fill: Callable[[np.ndarray], object]) -> np.ndarray:
        """The read-only float16 array [shape] of `key`; `fill(array)` writes it if it is not there.

        Raises:
            DataError: it is larger than the limit or the disk.
        """
        path = os.path.join(self.folder, f'{key}.f16')
        size = 2 * int(np.prod(shape))
        if os.path.isfile(path) and os.path.getsize(path) == size:
            os.utime(path)
        else:
            self._make_room(size)
            with whole(path) as place:
                array = np.memmap(place, np.float16, 'w+', shape=tuple(shape))
                fill(array)
                array.flush()
                del array
        return np.memmap(path, np.float16, 'r', shape=tuple(shape))

    def _make_room(self, size):
        os.makedirs(self.folder, exist_ok=True)
        if size > self.limit:
            raise DataError(f'The features of one weight file take {size / 2**30:.1f} GiB, more than --cache-gb '
                            f'{self.limit / 2**30:g} allows. Raise it, or lower --image-size or --stages.')
        files = sorted((os.path.join(self.folder, n) for n in os.listdir(self.folder) if n.endswith('.f16')),
                       key=os.path.getmtime)
        total = sum(map(os.path.getsize, files))
        while files and total + size > self.limit:
            total -= os.path.getsize(files[0])
            get_logger().info("Cached features '%s' give way to new ones (--cache-gb).", os.path.basename(files[0]))
            os.unlink(files.pop(0))
        if shutil.disk_usage(self.folder).free < size + 2**28:
            raise DataError(f"The features take {size / 2**30:.2f} GiB and '{self.folder}' has not so much room. Free "
                            'some, choose another --output, or lower --image-size or --stages.')


class Features:
    """Maps of one backbone for all images, each stage at its own resolution.

    Args:
        arrays: [images, cells, channels] per stage; grids: (height, width, channels) of each.

    Attributes:
        grid: (height, width) of the finest of them, on which `cells` gives all.
        channels: of all stages together.
    """

    def __init__(self, arrays: Sequence[np.ndarray], grids: Sequence[tuple[int, ...]]) -> None:
        self._arrays = arrays
        self.grid = grids[0][:2]
        self.channels = sum(g[2] for g in grids)
        self._up = [upsampling(g[:2], self.grid) for g in grids]

    def cells(self, indices: Union[slice, Sequence[int], np.ndarray], unit: bool = False) -> np.ndarray:
        """float32 [images, cells, channels] of some images: coarser stages bilinear on the finest's grid.

        Args:
            unit: give each stage length 1 in every cell, so that all count alike.
        """
        parts = []
        for array, up in zip(self._arrays, self._up):
            x = np.asarray(array[indices], np.float32)
            x = x if up is None else up @ x
            parts.append(unit_length(x) if unit else x)
        return np.concatenate(parts, axis=-1)


def unit_length(x: np.ndarray) -> np.ndarray:
    """x / its length along the last axis; zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))


def upsampling(small: tuple[int, ...], large: tuple[int, ...]) -> Optional[np.ndarray]:
    """Matrix [cells of large, cells of small] of bilinear interpolation between cell centres; None: the same grid."""
    if tuple(small) == tuple(large):
        return None

    def axis(n, m):
        at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        left = np.minimum(at.astype(int), max(0, n - 2))
        matrix = np.zeros((m, n), np.float32)
        matrix[np.arange(m), left] = 1 - (at - left)
        matrix[np.arange(m), np.minimum(left + 1, n - 1)] += at - left
        return matrix
    return np.kron(axis(small[0], large[0]), axis(small[1], large[1]))


def extract(net: paddle.nn.Layer, load: Callable[[int], np.ndarray], count: int, stages: Sequence[int], cache: Cache,
            key: str, title: str = 'features', pool: bool = False) -> Features:
    """Features of `count` images; `load(i)` gives uint8 [H, W, 3], all of one size.

    Args:
        pool: keep the average of each map only: grids of 1 x 1.
    """
    def maps_of(images):
        maps = stage_maps(net, np.stack(images), stages)
        return [m.mean((1, 2), keepdims=True) for m in maps] if pool else maps
    trial = maps_of([load(0)])
    grids = [t.shape[1:] for t in trial]
    # deep random nets grow beyond half precision: each stage is kept in units of its size on the first image
    units = [max(float(np.sqrt(np.mean(np.square(t)))), 1e-12) for t in trial]
    sizes = [int(np.prod(g)) for g in grids]
    ends = np.cumsum([0] + sizes)

    def fill(array):
        for first, images in batches(load, count, title=title):
            for m, unit, a, b in zip(maps_of(images), units, ends, ends[1:]):
                rows = np.clip(m.reshape(len(images), -1) / unit, -_LARGEST, _LARGEST)
                array[first:first + len(images), a:b] = rows
    whole = cache.array(key, (count, int(ends[-1])), fill)
    arrays = [whole[:, a:b].reshape(count, g[0] * g[1], g[2]) for a, b, g in zip(ends, ends[1:], grids)]
    return Features(arrays, grids)
