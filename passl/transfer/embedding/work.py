"""Features of many images: read once, computed in batches, written as they come."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import cv2
import numpy as np

from ... import __version__
from ...datasets.image import ImageReadError, shown
from ...datasets.listing import list_trees
from ...datasets.text import read_lines
from ...engine.device import select_device
from ...utils.errors import ConfigError, DataError
from ...utils.files import whole_file
from ...utils.logger import get_logger
from ..probes.clas_data import central_square
from ..probes.features import batches, stage_maps
from ..probes.seg_data import square
from ..probes.sources import find_sources
from ..reading import Reader, check_range, leave_out
from .neighbours import draw_neighbours

_SPARE = 2**28          # bytes of a disk that are left free
Paths = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]]


def find_images(places: Paths) -> tuple[list[str], list[str]]:
    """(paths, names) of the images of folders, lists (.txt) and image files; names are paths below a single folder.

    Raises:
        DataError: no such place, or no image.
    """
    tops = [os.fspath(p) for p in ([places] if isinstance(places, (str, os.PathLike)) else places)]
    paths: list[str] = []
    for top in tops:
        if os.path.isdir(top):
            paths += list(list_trees([top])[0])
        elif not os.path.exists(top):
            raise DataError(f'No folder, list or image {shown(top)}. Give a folder of images, image files, or a text '
                            'file with the path of an image in each line.')
        elif top.lower().endswith('.txt'):
            paths += [os.path.join(os.path.dirname(top), line) for _, line in read_lines(top)]
        else:
            paths.append(top)
    if not paths:
        raise DataError(f'There are no images in {shown(tops[0]) if tops else "an empty list"}.')
    one = len(tops) == 1 and (os.path.isdir(tops[0]) or tops[0].lower().endswith('.txt'))
    root = tops[0] if os.path.isdir(tops[0]) else os.path.dirname(tops[0])
    return paths, [os.path.relpath(p, root or '.') if one else p for p in paths]


def _check(output, neighbours, overwrite):
    for flag, path, ending in (('--output', output, '.npz'), ('--neighbours', neighbours, '.png')):
        if path is None:
            continue
        if not path.endswith(ending):
            raise ConfigError(f"{flag} '{path}' must end in {ending}.")
        if os.path.isdir(path) or os.path.exists(path) and not overwrite:
            raise ConfigError(f"'{path}' exists already. Choose another name, or add --overwrite.")


@contextlib.contextmanager
def _space(shape, kind, output) -> Iterator[np.ndarray]:
    """An empty array: in memory, or in a file beside `output`, where it may be larger than the memory."""
    if output is None:
        yield np.empty(shape, kind)
        return
    folder = os.path.dirname(os.path.abspath(output))
    try:
        os.makedirs(folder, exist_ok=True)
        need = 2 * int(np.prod(shape)) * np.dtype(kind).itemsize
        if shutil.disk_usage(folder).free < need + _SPARE:
            raise DataError(f"The features need {need / 2**30:.1f} GiB in '{folder}' while they are written, which has "
                            'not so much room. Take --float16, a smaller --image-size, or another place.')
        with tempfile.TemporaryFile(dir=folder) as file:
            yield np.memmap(file, kind, 'w+', shape=shape)
    except OSError as e:
        raise DataError(f"'{output}' cannot be written: {e.strerror or e}.") from None


def _fill(rows, sizes, net, load, names, stage, dense):
    """Features of all images that can be read, to the front of `rows`; (their numbers, why the others cannot be)."""
    good, bad = [], {}

    def looked(i):
        try:
            return load(i)
        except ImageReadError as e:
            return str(e)
    for first, results in batches(looked, len(names)):
        bad.update({first + k: r for k, r in enumerate(results) if isinstance(r, str)})
        fine = [(first + k, r) for k, r in enumerate(results) if not isinstance(r, str)]
        if fine:
            maps, = stage_maps(net, np.stack([image for _, (image, _) in fine]), [stage])
            end = len(good) + len(fine)
            values = maps if dense else maps.mean((1, 2))
            if rows.dtype == np.float16:        # takes larger numbers as its largest
                values = np.clip(values, -np.finfo(np.float16).max, np.finfo(np.float16).max)
            rows[len(good):end] = values
            sizes[len(good):end] = [size for _, (_, size) in fine]
            good += [i for i, _ in fine]
    return good, bad


def embed(weights: str, images: Paths, output: Optional[str] = None, dense: bool = False, stage: int = 4,
          image_size: int = 224, float16: bool = False, value_range: Optional[Sequence[float]] = None,
          depth: Optional[int] = None, neighbours: Optional[str] = None, overwrite: bool = False,
          no_cuda: bool = False) -> Optional[dict[str, np.ndarray]]:
    """Features of images by a frozen backbone; as `passl embed`.

    Of a whole image the short side is resized and the centre cut out, as for `linear` and `knn` of `passl evaluate`;
    for `dense` all of it is resized to a square. Images that cannot be read are named in the log and left out.

    Args:
        weights: any weight file that `--pretrained` takes, or 'random' (He's initialisation, seed 0).
        images: folder, text file with a path per line, image file, or a list of such.
        output: .npz to write; then memory does not grow with the number of images. None: the arrays are returned.
        dense: the map instead of its mean.  stage: 1 to 4.  image_size: multiple of 32.
        float16: store half precision; what lies beyond its range becomes its largest number.
        value_range: black and white in files of more than 8 bits.  depth: of 'random'.
        neighbours: .png to draw, a sheet of nearest neighbours.

    Returns:
        None with `output`, else what the file would hold: `names` str [n], `features` [n, C] or [n, rows, columns, C],
        `sizes` int32 [n, 2] (height, width of the images as stored), `about` (JSON: weights, stage, ...).

    Raises:
        PasslError: weights, images or files that cannot be used, or exist already.
    """
    _check(output, neighbours, overwrite)
    check_range(value_range)
    if stage not in (1, 2, 3, 4) or image_size < 32 or image_size % 32:
        raise ConfigError(f'stage must be 1 to 4 and image_size a multiple of 32, not {stage} and {image_size}.')
    cv2.setNumThreads(0)        # images are read by threads of our own
    source, = find_sources([weights], depth=depth)
    paths, names = find_images(images)
    select_device(no_cuda=no_cuda)
    net, read, whole = source.build(), Reader(value_range), central_square(image_size)

    def load(i):
        image = read(paths[i])
        return np.ascontiguousarray(square(image, image_size) if dense else whole(image)), image.shape[:2]
    grid = stage_maps(net, np.zeros((1, image_size, image_size, 3), np.uint8), [stage])[0].shape[1:]
    shape, kind = (len(paths), *(grid if dense else grid[-1:])), np.float16 if float16 else np.float32
    with _space(shape, kind, output) as rows:
        sizes = np.empty((len(paths), 2), np.int32)
        good, bad = _fill(rows, sizes, net, load, names, stage, dense)
        leave_out(bad.values(), len(paths))
        about = {'weights': weights, 'network': source.kind, 'depth': source.depth, 'backbone': source.digest,
                 'stage': stage, 'dense': dense, 'image_size': image_size, 'passl': __version__,
                 'value_range': value_range and list(value_range)}
        found: dict[str, Any] = {'names': np.array([names[i] for i in good]), 'features': rows[:len(good)],
                                 'sizes': sizes[:len(good)], 'about': np.array(json.dumps(about))}
        if output is not None:
            with whole_file(output) as f:
                np.savez(f, **found)
            get_logger().info("Wrote %d images, features %s, to '%s'.", len(good), list(rows[:len(good)].shape), output)
        if neighbours is not None:
            vectors = found['features'].reshape(len(good), -1, grid[-1]).mean(1) if dense else found['features']
            draw_neighbours(neighbours, vectors, found['names'].tolist(), lambda i: read(paths[good[i]]))
            get_logger().info("Drew '%s'.", neighbours)
        return found if output is None else None
