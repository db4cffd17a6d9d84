"""Counting the labels of a data set, and naming those that no training can use."""

import concurrent.futures
import multiprocessing
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import numpy as np

from ...utils.errors import DataError
from ...utils.forking import forked, forking
from .base import Segmentation
from .boxes import Detection
from .joined import Joined
from .masks import IGNORE

if TYPE_CHECKING:
    from .checked import Memory

_CHUNK = 16
_dataset = None             # of the worker processes, which are forked


def _look_at_mask(index):
    """(pixels of each value of a mask, whether the image is turned: int64 [257], None), or (None, what is wrong)."""
    try:
        _, mask, _ = _dataset[index]
        return np.append(np.bincount(mask.ravel(), minlength=256), _dataset.turned(index)), None
    except DataError as e:
        return None, str(e)


def _look_at_boxes(index):
    """(objects of each class, and whether the image is turned: int64 [classes + 1], None), or (None, what is wrong)."""
    try:
        _, target, _ = _dataset[index]
        return np.append(np.bincount(target['labels'], minlength=len(_dataset.classes)), _dataset.turned(index)), None
    except DataError as e:
        return None, str(e)


def _records(dataset, function, indices, workers, done):
    """What `function` gives for each of the images, in their order."""
    global _dataset
    _dataset = dataset
    try:
        if workers > 1 and len(indices) > _CHUNK and sys.platform == 'linux':
            context = multiprocessing.get_context('fork')
            with concurrent.futures.ProcessPoolExecutor(workers, context, forked) as pool:
                with forking():
                    records = pool.map(function, indices, chunksize=_CHUNK)
                for record in records:
                    done(1)
                    yield record
        else:
            for index in indices:
                yield function(index)
                done(1)
    except BrokenProcessPool:
        raise DataError('A process that reads the images was killed (out of memory?). Use check-data with --workers 1 '
                        'to find the image.') from None
    finally:
        _dataset = None


def _collect(dataset, function, workers, done, length, memory):
    """(rows int64 [images, length], faults [{id, reason}], number of rows that were remembered)."""
    rows, bad = np.zeros((len(dataset), length), np.int64), []
    keys = [memory and memory.key(index) for index in range(len(dataset))]
    for index, key in enumerate(keys):
        found = memory and memory.get(key)
        if found is not None:
            rows[index] = found
    todo = [i for i, key in enumerate(keys) if not memory or memory.get(key) is None]
    done(len(dataset) - len(todo))
    for (row, reason), index in zip(_records(dataset, function, todo, workers, done), todo):
        if reason is None:
            rows[index] = row
        else:
            keys[index] = None
            bad.append({'id': dataset.ids[index], 'reason': reason})
    if memory and todo:
        memory.keep(keys, rows)
    return rows, bad, len(dataset) - len(todo)


def segmentation_statistics(dataset: Union[Segmentation, Joined], workers: int = 1,
                            done: Callable[[int], object] = lambda n: None,
                            memory: Optional['Memory'] = None) -> dict[str, Any]:
    """What the masks of a data set hold; reads every image and mask.

    Args:
        dataset: as `build_segmentation` gives it.
        workers: processes.
        done: called with the number of images that were looked at since the last call.
        memory: images that it knows are not read again; without one all are read.

    Returns:
        dict: `images`, `unusable` [{id, reason}], `classes` [{name, pixels, share, images}] (share of the pixels that
        are not ignored; number of images that show the class), `ignored` (share of all pixels), `absent` (names),
        `pixels` (int64 [256], of each class number and of IGNORE), `turned` and `remembered` (numbers of images).
    """
    counts, bad, remembered = _collect(dataset, _look_at_mask, workers, done, 257, memory)
    turned, counts = int(counts[:, -1].sum()), counts[:, :-1]
    pixels, shown = counts.sum(0), (counts > 0).sum(0)
    total = int(pixels[:dataset.num_classes].sum())
    return {'images': len(dataset), 'unusable': bad, 'turned': turned, 'remembered': remembered, 'pixels': pixels,
            'ignored': float(pixels[IGNORE] / max(1, counts.sum())),
            'classes': [{'name': name, 'pixels': int(pixels[k]), 'share': float(pixels[k] / max(1, total)),
                         'images': int(shown[k])} for k, name in enumerate(dataset.classes)],
            'absent': [name for k, name in enumerate(dataset.classes) if not pixels[k]]}


def detection_statistics(dataset: Detection, workers: int = 1,
                         done: Callable[[int], object] = lambda n: None,
                         memory: Optional['Memory'] = None) -> dict[str, Any]:
    """What the annotations of a data set hold; reads every image.

    Args: see `segmentation_statistics`; `dataset` as `build_detection` gives it.

    Returns:
        dict: `images`, `unusable` [{id, reason}], `bad_boxes` [{id, reason}] (left out by the data set), `classes`
        [{name, objects, images}], `empty` (images without objects), `absent` (names), `cut` and `tiny` (numbers of
        boxes), `turned` and `remembered` (numbers of images).
    """
    counts, bad, remembered = _collect(dataset, _look_at_boxes, workers, done, dataset.num_classes + 1, memory)
    turned, counts = int(counts[:, -1].sum()), counts[:, :-1]
    objects, shown = counts.sum(0), (counts > 0).sum(0)
    empty = int((counts.sum(1) == 0).sum()) - len(bad)
    return {'images': len(dataset), 'unusable': bad, 'empty': empty, 'turned': turned, 'remembered': remembered,
            'cut': dataset.cut, 'tiny': dataset.tiny,
            'bad_boxes': [{'id': i, 'reason': text} for i, text in dataset.dropped],
            'classes': [{'name': name, 'objects': int(objects[k]), 'images': int(shown[k])}
                        for k, name in enumerate(dataset.classes)],
            'absent': [name for k, name in enumerate(dataset.classes) if not objects[k]]}
