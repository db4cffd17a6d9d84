"""Labelled images for the classification tasks: class folders, and VOC's lists of several labels per image."""

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable, Optional, Union

import numpy as np

from ...datasets.builder import build_dataset
from ...datasets.folder import ImageFolder, check_folder
from ...datasets.image import shown
from ...datasets.labelled import VocMultilabel, build_multilabel
from ...datasets.preprocess.compose import build_transforms
from ...utils.errors import DataError
from ..reading import Reader
from .metrics import single_labels

if TYPE_CHECKING:
    from .seg_data import SegmentationSplit

KINDS = ('folder', 'voc')


class ClassificationSplit:
    """Paths and labels of one split.

    Args:
        paths: image files; truth: int8 [N, classes] of 1, 0, -1 (difficult: left out for that class).
        size: the short side is brought to size * 8 / 7, then the central square of side `size` is taken.
        reader: reads the files.

    Attributes:
        labels: class numbers [N], None with several labels per image.
        digest: hash of names, sizes and times of the files and of the labels.
    """

    def __init__(self, paths: Iterable[str], truth: np.ndarray, classes: Iterable[str], size: int,
                 reader: Optional[Reader] = None) -> None:
        self.paths, self.truth, self.classes, self.size = list(paths), truth, list(classes), size
        self.labels = single_labels(truth)
        self.read = reader or Reader()
        self._recipe = central_square(size)
        total = hashlib.sha256(repr(self.classes).encode() + np.ascontiguousarray(truth).tobytes())
        for path in self.paths:
            info = os.stat(path)
            total.update(f'{os.path.abspath(path)} {info.st_size} {info.st_mtime_ns}\n'.encode('utf-8', 'replace'))
        if self.read.value_range is not None:
            total.update(repr([float(v) for v in self.read.value_range]).encode())
        self.digest = total.hexdigest()[:16]

    def __len__(self):
        return len(self.paths)

    def image(self, i: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return np.ascontiguousarray(self._recipe(self.read(self.paths[i])))

    def flipped(self, i: int) -> np.ndarray:
        """`image(i)` mirrored."""
        return np.ascontiguousarray(self.image(i)[:, ::-1])


def central_square(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The recipe that takes whole images to [size, size, 3]: the short side to size * 8 / 7, then the centre."""
    return build_transforms([{'name': 'Resize', 'size': round(size * 8 / 7)}, {'name': 'CenterCrop', 'size': size}])


def build_classification(kind: str, root: str, split: str, size: int,
                         reader: Optional[Reader] = None) -> ClassificationSplit:
    """A ClassificationSplit.

    Args:
        kind: 'folder': root/<split>/<class>/<image>; 'voc': see VocMultilabel, several labels per image.
        reader: reads the files.

    Raises:
        DataError: files are missing or damaged.
    """
    root = check_folder(root, '--data')
    if kind == 'voc':
        found = build_multilabel('voc', root, split)
        assert isinstance(found, VocMultilabel)         # of one root
        return ClassificationSplit(found.images, np.asarray(found.labels), found.classes, size, reader)
    if not os.path.isdir(os.path.join(root, split)):
        there = sorted(n for n in os.listdir(root) if os.path.isdir(os.path.join(root, n)))
        raise DataError(f"'{root}' has no folder '{split}' (it has: {', '.join(there[:8]) or 'none'}). The tasks on "
                        f'whole images need {root}/{split}/<class>/<image>; other names: --train-split, --val-split.')
    dataset = build_dataset({'name': 'ImageFolder', 'dataroot': os.path.join(root, split)}, '--data')
    assert isinstance(dataset, ImageFolder)
    entries = [dataset.samples[i] for i in range(len(dataset))]
    labels = np.array([label for _, label in entries])
    truth = (labels[:, None] == np.arange(len(dataset.classes))).astype(np.int8)
    return ClassificationSplit([path for path, _ in entries], truth, dataset.classes, size, reader)


def check_pair(train: Union[ClassificationSplit, 'SegmentationSplit'],
               val: Union[ClassificationSplit, 'SegmentationSplit']) -> None:
    """Both splits must have the same classes and at least two of them."""
    if train.classes != val.classes:
        alone = [', '.join(shown(c) for c in one.classes if c not in other.classes) or '-'
                 for one, other in ((train, val), (val, train))]
        raise DataError(f'The training split has {len(train.classes)} classes and the other {len(val.classes)}: the '
                        f'labels would not mean the same. Only in training: {alone[0][:200]}; only in the other: '
                        f'{alone[1][:200]}. Both need the same names in the same order: rename or remove folders '
                        '(classes without images on one side, too), or mend the lists of classes.')
    if len(train.classes) < 2:
        raise DataError('The data has one class only; nothing can be told apart.')
