"""Counting the labels of a data set, and naming those that no training can use."""

import concurrent.futures
import multiprocessing
import sys
from typing import Any, Callable, Union

import numpy as np

from ...utils.errors import DataError
from ...utils.forking import forked, forking
from .base import Segmentation
from .boxes import Detection
from .joined import Joined
from .masks import IGNORE

_CHUNK = 16
_dataset = None             # of the worker processes, which are forked


def _look_at_mask(index):
    """(pixels of each value of a mask: int64 [256], None), or (None, why the pair cannot be used)."""
    try:
        _, mask, _ = _dataset[index]
    except DataError as e:
        return None, str(e)
    return np.bincount(mask.ravel(), minlength=256), None


def _look_at_boxes(index):
    """(objects of each class: int64 [classes], None), or (None, why the image cannot be used)."""
    try:
        _, target, _ = _dataset[index]
    except DataError as e:
        return None, str(e)
    return np.bincount(target['labels'], minlength=len(_dataset.classes)), None


def _records(dataset, function, workers, done):
    """What `function` gives for each image, in their order."""
    global _dataset
    _dataset = dataset
    try:
        if workers > 1 and sys.platform == 'linux':
            context = multiprocessing.get_context('fork')
            with concurrent.futures.ProcessPoolExecutor(workers, context, forked) as pool:
                with forking():
                    records = pool.map(function, range(len(dataset)), chunksize=_CHUNK)
                for record in records:
                    done(1)
                    yield record
        else:
            for index in range(len(dataset)):
                yield function(index)
                done(1)
    except concurrent.futures.process.BrokenProcessPool:
        raise DataError('A process that reads the images was killed (out of memory?). Use --workers 1.') from None
    finally:
        _dataset = None


def _collect(dataset, function, workers, done, length):
    counts, bad = np.zeros((len(dataset), length), np.int64), []
    for index, (row, reason) in enumerate(_records(dataset, function, workers, done)):
        if reason is None:
            counts[index] = row
        else:
            bad.append({'id': dataset.ids[index], 'reason': reason})
    return counts, bad


def segmentation_statistics(dataset: Union[Segmentation, Joined], workers: int = 1,
                            done: Callable[[int], object] = lambda n: None) -> dict[str, Any]:
    """What the masks of a data set hold; reads every image and mask.

    Args:
        dataset: as `build_segmentation` gives it.
        workers: processes.
        done: called with the number of images that were looked at since the last call.

    Returns:
        dict: `images`, `unusable` [{id, reason}], `classes` [{name, pixels, share, images}] (share of the pixels that
        are not ignored; number of images that show the class), `ignored` (share of all pixels), `absent` (names).
    """
    counts, bad = _collect(dataset, _look_at_mask, workers, done, 256)
    pixels, shown = counts.sum(0), (counts > 0).sum(0)
    total = int(pixels[:dataset.num_classes].sum())
    return {'images': len(dataset), 'unusable': bad, 'ignored': float(pixels[IGNORE] / max(1, counts.sum())),
            'classes': [{'name': name, 'pixels': int(pixels[k]), 'share': float(pixels[k] / max(1, total)),
                         'images': int(shown[k])} for k, name in enumerate(dataset.classes)],
            'absent': [name for k, name in enumerate(dataset.classes) if not pixels[k]]}


def detection_statistics(dataset: Detection, workers: int = 1,
                         done: Callable[[int], object] = lambda n: None) -> dict[str, Any]:
    """What the annotations of a data set hold; reads every image.

    Args: see `segmentation_statistics`; `dataset` as `build_detection` gives it.

    Returns:
        dict: `images`, `unusable` [{id, reason}], `bad_boxes` [{id, reason}] (left out by the data set), `classes`
        [{name, objects, images}], `empty` (images without objects), `absent` (names).
    """
    counts, bad = _collect(dataset, _look_at_boxes, workers, done, dataset.num_classes)
    objects, shown = counts.sum(0), (counts > 0).sum(0)
    empty = int((counts.sum(1) == 0).sum()) - len(bad)
    return {'images': len(dataset), 'unusable': bad, 'empty': empty,
            'bad_boxes': [{'id': i, 'reason': text} for i, text in dataset.dropped],
            'classes': [{'name': name, 'objects': int(objects[k]), 'images': int(shown[k])}
                        for k, name in enumerate(dataset.classes)],
            'absent': [name for k, name in enumerate(dataset.classes) if not objects[k]]}
