"""What is measured for one backbone: the single runs of every task, and the features that they share."""

import argparse
from collections import namedtuple
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from ...utils.errors import ConfigError
from . import classification, finetune, segmentation
from .features import Cache, extract
from .metrics import Outcomes
from .options import DENSE

if TYPE_CHECKING:
    from .clas_data import ClassificationSplit
    from .seg_data import SegmentationSplit
    from .sources import Source

DRAWS = 5       # of low-shot
# setting: percent of the labels, images per class, or None
Run = namedtuple('Run', 'task setting seed')
ONE_LABEL = ('linear', 'knn', 'finetune')


def runs_of(args: argparse.Namespace) -> list[Run]:
    """All Runs that the flags ask for, in the order of the table."""
    runs = []
    for task in args.tasks:
        settings: Sequence[Optional[float]] = [None]
        seeds: Sequence[int] = range(args.seeds)
        if task in DENSE:
            settings = sorted(args.labels_at)
        elif task == 'finetune':
            settings = sorted(args.finetune_at)
        elif task == 'lowshot':
            settings, seeds = classification.SHOTS, range(DRAWS)
        elif task in ('knn', 'svm'):
            seeds = [0]         # nothing in them is random
        runs += [Run(task, setting, seed) for setting in settings for seed in seeds]
    return runs


def check_labels(tasks: Iterable[str], split: 'ClassificationSplit') -> None:
    """Raises ConfigError for tasks that need one label per image, where there are several."""
    wrong = [t for t in tasks if t in ONE_LABEL]
    if split.labels is None and wrong:
        raise ConfigError(f"The tasks {', '.join(wrong)} need one label per image; this data has several. It suits svm "
                          'and lowshot.')


class Bench:
    """Runs the tasks on one backbone; features are computed when the first run needs them.

    Args:
        source: Source.
        args: flags, see options.
        whole, dense: (train, val) ClassificationSplits and SegmentationSplits, None where no task needs them.
        labels: function of a grid -> labels of the training masks on it.
        cache: features.Cache.

    Attributes:
        outcomes: of the last run that was measured: {figure: what became of every test image}.
    """

    # what no task needs is None: nothing asks for it
    whole: Sequence['ClassificationSplit']
    dense: Sequence['SegmentationSplit']
    labels: Callable[[tuple[int, ...]], np.ndarray]

    def __init__(self, source: 'Source', args: argparse.Namespace, whole: Optional[Sequence['ClassificationSplit']],
                 dense: Optional[Sequence['SegmentationSplit']],
                 labels: Optional[Callable[[tuple[int, ...]], np.ndarray]], cache: Cache) -> None:
        self.source, self.args, self.cache, self._net = source, args, cache, None
        given: Any = whole, dense, labels
        self.whole, self.dense, self.labels = given
        self._kept: dict[str, Any] = {}
        self.outcomes: Outcomes = {}

    def facts(self, run: Run) -> dict[str, Any]:
        """All that the figures of a run depend on, for its key."""
        a, (train, val) = self.args, self.dense if run.task in DENSE else self.whole
        facts = dict(run._asdict(), weights=self.source.digest, train=train.digest, val=val.digest, size=a.image_size)
        if run.task in DENSE:
            facts['stages'] = sorted(a.stages)
        if run.task == 'knn-seg':
            facts['patches'] = a.knn_patches
        if run.task == 'finetune':
            facts['steps'] = a.finetune_steps
        return facts

    def measure(self, run: Run) -> dict[str, float]:
        """{name: figure} of one run."""
        out: Outcomes = {}
        self.outcomes = out
        if run.task in DENSE:
            probe = {'linear-seg': segmentation.linear_segmentation, 'knn-seg': segmentation.knn_segmentation}[run.task]
            more = {'patches': self.args.knn_patches} if run.task == 'knn-seg' else {}
            (dense, val_dense), (maps, val_maps) = self.dense, self._maps()
            return probe(dense, self.labels(maps.grid), val_dense, maps, val_maps, run.setting, run.seed, outcomes=out,
                         **more)
        train, val = self.whole
        classes = len(train.classes)
        if run.task == 'finetune':
            return finetune.finetune(self.source, train, val, run.setting, run.seed, self.args.finetune_steps,
                                     outcomes=out)
        x, y = self._vectors('train'), self._vectors('val')
        if run.task == 'svm':
            return classification.linear_svm(x, train.truth, y, val.truth)
        if run.task == 'lowshot':
            return classification.low_shot(x, train.truth, y, val.truth, run.setting, run.seed)
        assert train.labels is not None and val.labels is not None          # see `check_labels`
        if run.task == 'knn':
            found = classification.knn(x, train.labels, y, val.labels, classes, outcomes=out)
            return {f'top1_k{k}': value for k, value in found.items()}
        views = [x, self._vectors('flipped')]
        return classification.linear(views, train.labels, y, val.labels, classes, run.seed, outcomes=out)

    def _features(self, split, load, stages, part, pool=False):
        key = f'{self.source.digest}-{split.digest}-{self.args.image_size}-{"".join(map(str, stages))}-{part}'
        self._net = self._net or self.source.build()
        return extract(self._net, load, len(split), stages, self.cache, key, f'{self.source.name}: {part}',
                       pool)

    def _maps(self):
        if 'maps' not in self._kept:
            train, val = self.dense
            self._kept['maps'] = [self._features(s, s.image, sorted(self.args.stages), part)
                                  for s, part in ((train, 'train-maps'), (val, 'val-maps'))]
        return self._kept['maps']

    def _vectors(self, part):
        """float32 [images, C]: averages of the last stage of 'train', 'val' or the mirrored training images."""
        if part not in self._kept:
            split = self.whole[part == 'val']
            load = split.flipped if part == 'flipped' else split.image
            self._kept[part] = self._features(split, load, [4], part, pool=True).cells(slice(None))[:, 0]
        return self._kept[part]
