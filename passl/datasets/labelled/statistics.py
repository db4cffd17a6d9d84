"""Counting the labels of a data set, and naming those that no training can use."""

import functools
import operator
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import numpy as np

from ...utils.errors import DataError
from ..image import shown
from ..pool import run_all
from .base import Segmentation
from .boxes import Detection
from .joined import Joined
from .masks import IGNORE

if TYPE_CHECKING:
    from .checked import Memory

_TASK = 16                  # images that a process gets at a time


def _look(dataset, values, length, index):
    """((int64 [length + 1]: how often the labels hold each value, and whether the image is turned,), what is wrong)."""
    try:
        _, labels, _ = dataset[index]
        return (np.append(np.bincount(values(labels), minlength=length), dataset.turned(index)),), ''
    except DataError as e:
        return (np.zeros(length + 1, np.int64),), str(e)


def _collect(dataset, values, length, workers, done, memory):
    """(rows of `_look`: int64 [images, length + 1], faults [{id, reason}], number of rows that were remembered)."""
    rows = np.zeros((len(dataset), length + 1), np.int64)
    keys = [memory and memory.key(index) for index in range(len(dataset))]
    known = {index: memory.get(key) for index, key in enumerate(keys)} if memory else {}
    known = {index: row for index, row in known.items() if row is not None}
    for index, row in known.items():
        rows[index] = row
    todo = [index for index in range(len(dataset)) if index not in known]
    done(len(known))
    found, reasons, killed = run_all(functools.partial(_look, dataset, values, length), todo, workers, done,
                                     [('row', np.int64, (length + 1,))], _TASK)
    rows[todo] = found['row']
    for k in killed:
        reasons[k] = f'{shown(dataset.files(todo[k])[0])}: {reasons[k]}'
    bad = [{'id': dataset.ids[todo[k]], 'reason': reason} for k, reason in reasons.items()]
    for k in reasons:
        keys[todo[k]] = None
    if memory and todo:
        memory.keep(keys, rows)
    return rows, bad, len(known)


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
    counts, bad, remembered = _collect(dataset, np.ravel, 256, workers, done, memory)
    turned, counts = int(counts[:, -1].sum()), counts[:, :-1]
    pixels, showing = counts.sum(0), (counts > 0).sum(0)
    total = int(pixels[:dataset.num_classes].sum())
    return {'images': len(dataset), 'unusable': bad, 'turned': turned, 'remembered': remembered, 'pixels': pixels,
            'ignored': float(pixels[IGNORE] / max(1, counts.sum())),
            'classes': [{'name': name, 'pixels': int(pixels[k]), 'share': float(pixels[k] / max(1, total)),
                         'images': int(showing[k])} for k, name in enumerate(dataset.classes)],
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
    counts, bad, remembered = _collect(dataset, operator.itemgetter('labels'), dataset.num_classes, workers, done,
                                       memory)
    turned, counts = int(counts[:, -1].sum()), counts[:, :-1]
    objects, showing = counts.sum(0), (counts > 0).sum(0)
    empty = int((counts.sum(1) == 0).sum()) - len(bad)
    return {'images': len(dataset), 'unusable': bad, 'empty': empty, 'turned': turned, 'remembered': remembered,
            'cut': dataset.cut, 'tiny': dataset.tiny,
            'bad_boxes': [{'id': i, 'reason': text} for i, text in dataset.dropped],
            'classes': [{'name': name, 'objects': int(objects[k]), 'images': int(showing[k])}
                        for k, name in enumerate(dataset.classes)],
            'absent': [name for k, name in enumerate(dataset.classes) if not objects[k]]}
