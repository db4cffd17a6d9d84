"""Every pair of a labelled set read before a training starts, remembered for the next one, and judged as a whole."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Optional, Union

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from ...utils.errors import DataError
from ...utils.files import whole_file
from ...utils.logger import get_logger
from ...utils.paddle_env import usable_cores
from ..image import shown
from .base import LabelledImages, Segmentation
from .joined import Joined
from .masks import IGNORE
from .statistics import detection_statistics, segmentation_statistics

FOLDER = '.passl_checked'       # beside the run folders
_FORMAT = 1                     # counts up when the reader takes or refuses other files than before
_NAMED = 3                      # so many faults are named


class Memory:
    """What was found in the images of a set, kept in a file; an entry belongs to files of one size, time and place.

    Args:
        folder: for the file; None: nothing is kept.
        dataset: the set. width: numbers that are kept of an image.
    """

    def __init__(self, folder: Optional[str], dataset: Union[LabelledImages, Joined], width: int) -> None:
        self._dataset, self._rows, self._path = dataset, {}, None
        self._reading = f'{_FORMAT} {cv2.__version__} {PIL.__version__} {dataset.reading()}'
        if folder is None:
            return
        name = hashlib.blake2b(f'{self._reading} {dataset.files(0)} {len(dataset)}'.encode('utf-8', 'replace'),
                               digest_size=8).hexdigest()
        self._path = os.path.join(folder, name + '.npz')
        with contextlib.suppress(Exception):            # missing or damaged: everything is looked at again
            with np.load(self._path, allow_pickle=False) as f:
                keys, rows = f['keys'], f['rows']
            if keys.shape == rows.shape[:1] and rows.shape[1:] == (width,) and rows.dtype == np.int64:
                self._rows = dict(zip(map(bytes, keys), rows))

    def key(self, index: int) -> Optional[bytes]:
        """16 bytes that change with the files of an image and with how they are read; None if one is not there."""
        key = hashlib.blake2b(self._reading.encode('utf-8', 'replace'), digest_size=16)
        try:
            for path in self._dataset.files(index):
                # the time of the last change (ctime) cannot be set back by a copy
                info, name = os.stat(path), os.fsencode(os.path.abspath(path))
                key.update(b'\0%b %d %d %d %d' % (name, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino))
        except OSError:
            return None
        return key.digest()

    def get(self, key: Optional[bytes]) -> Optional[np.ndarray]:
        return None if key is None else self._rows.get(key)

    def keep(self, keys: Sequence[Optional[bytes]], rows: np.ndarray) -> None:
        """Write the rows of the images that have a key; a place that cannot be written to keeps nothing."""
        if self._path is None:
            return
        good = [k for k, key in enumerate(keys) if key is not None]
        names = np.frombuffer(b''.join(key for key in keys if key is not None), 'V16')
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with whole_file(self._path) as f:
                np.savez_compressed(f, keys=names, rows=rows[good])


def check_pairs(dataset: Union[LabelledImages, Joined], what: str, folder: Optional[str] = None) -> dict[str, Any]:
    """Read every image of a set with its labels, in all cores, with a progress bar.

    Args:
        dataset: as `build_segmentation` or `build_detection` gives it.
        what: name of the part, for messages.
        folder: where it is remembered; what has not changed since is not read again.

    Returns:
        What `segmentation_statistics` or `detection_statistics` returns.

    Raises:
        DataError: images that cannot be used with their labels.
    """
    part = dataset.parts[0] if isinstance(dataset, Joined) else dataset
    masks, began = isinstance(part, Segmentation), time.monotonic()
    look: Any = segmentation_statistics if masks else detection_statistics
    memory = Memory(folder, dataset, (256 if masks else len(dataset.classes)) + 1)
    with tqdm(total=len(dataset), desc=f'check {what}', unit=' images', disable=not sys.stderr.isatty(),
              dynamic_ncols=True, leave=False) as bar:
        found = look(dataset, usable_cores(), bar.update, memory)
    bad = found['unusable']
    if bad:
        more = '; ...' if len(bad) > _NAMED else ''
        raise DataError(f"{what}: {len(bad)} of {len(dataset)} images cannot be used with their labels: "
                        f"{'; '.join(b['reason'].rstrip('.') for b in bad[:_NAMED])}{more or '.'}")
    turned = f"; {found['turned']} are turned by their EXIF tag" if found['turned'] else ''
    get_logger().info('%s: %d images checked in %.1f s, %d of them known from before%s.', what, len(dataset),
                      time.monotonic() - began, found['remembered'], turned)
    return found


def fault_of_masks(classes: Sequence[str], pixels: np.ndarray) -> str:
    """What is wrong with the masks of a part as a whole, with the way out; '' if at least two classes are shown.

    Args:
        classes: names.
        pixels: int [256], pixels of each class number, and of IGNORE.
    """
    there = [k for k in range(len(classes)) if pixels[k]]
    if len(there) > 1:
        return ''
    share = f'{100 * pixels[IGNORE] / max(1, pixels.sum()):.0f} % of their pixels are {IGNORE}, which is ignored'
    text = f'The masks show nothing but the class {shown(classes[there[0]])}; {share}.' if there else \
        f'The masks show no class at all; {share}.'
    return text + ' Nothing can be learned from them, or measured.' + about_255(classes, pixels)


def about_255(classes: Sequence[str], pixels: np.ndarray) -> str:
    """' Is 255 the class ...?' if that may be, else ''."""
    absent = [k for k in range(len(classes)) if not pixels[k]]
    if not pixels[IGNORE] or not 0 < len(absent) < len(classes):
        return ''
    k = absent[-1]
    return (f' Is {IGNORE} the class {shown(classes[k])}? Then give mapping=[[{IGNORE}, {k}]] '
            '(docs/LABELLED_DATA.md says where).')


def judge_masks(classes: Sequence[str], train: Optional[np.ndarray], val: Optional[np.ndarray]) -> None:
    """Compare what the masks of both parts show; see `fault_of_masks` for the arguments, None for a part not in use.

    Raises:
        DataError: nothing can be learned from the masks for training, or none of the others has a pixel to measure.
    """
    for what, pixels in (('training', train), ('evaluation', val)):
        fault = '' if pixels is None else fault_of_masks(classes, pixels)
        if pixels is not None and fault and (what == 'training' or not pixels[:len(classes)].any()):
            raise DataError(f'{what}: {fault}')
        if fault:
            get_logger().warning('%s: %s', what, fault)
    if train is None:
        return
    absent = [k for k in range(len(classes)) if not train[k]]
    if absent:
        measured = [classes[k] for k in absent if val is not None and val[k]]
        more = f" The evaluation shows {', '.join(map(shown, measured[:5]))}: not learned, their IoU is 0." \
            if measured else ''
        names = ', '.join(shown(classes[k]) for k in absent[:5]) + ', ...' * (len(absent) > 5)
        get_logger().warning('No mask for training shows %s (%d of %d classes).%s%s', names, len(absent), len(classes),
                             more, about_255(classes, train))
