"""Whether one backbone is better than another: paired over the test images and over the seeds. NumPy only.

A difference is measured on a sample of test images by probes of a sample of seeds. It would move with other images and
with other seeds; both count, as in readings of the same cases by several readers (Dorfman, Berbaum and Metz 1992).
"""

import math
from typing import NamedTuple

import numpy as np

from .metrics import t_quantile

LEVEL, POWER = 0.95, 0.80
WORTHWHILE = 1.0                # points; where a larger advantage is ruled out, weights do not help
_MOST_FREEDOM = 200             # t hardly changes above


class Comparison(NamedTuple):
    """All in points of the figure, which is in percent.

    Attributes:
        difference: of the figure; low, high: its interval.
        smallest: a true difference of this size is told in POWER of all such comparisons, a smaller one less often.
        seeds_matter: the seeds move the difference more than the test images do.
        images, seeds: how many.
    """
    difference: float
    low: float
    high: float
    smallest: float
    seeds_matter: bool
    images: int
    seeds: int

    @property
    def verdict(self) -> str:
        """'helps', 'worse', 'useless' (an advantage of WORTHWHILE points is ruled out) or 'open'."""
        if self.low > 0:
            return 'helps'
        if self.high < 0:
            return 'worse'
        return 'useless' if self.high < WORTHWHILE else 'open'


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """mIoU in percent, as `segmentation_figures` has it, of counts [..., 3, classes]; see `image_counts`."""
    hit, truth, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = truth + predicted - hit
    present = union > 0
    iou = np.where(present, hit / np.where(present, union, 1), 0)
    return 100 * iou.sum(-1) / np.maximum(present.sum(-1), 1)


def image_counts(matrix: np.ndarray) -> np.ndarray:
    """[3, classes] of an image's confusion matrix: pixels that are right, of the truth, and predicted."""
    return np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)])


def image_values(outcomes: np.ndarray) -> np.ndarray:
    """What every image adds to a figure: float64 [seeds, images] whose mean over the images is the figure, in percent.

    Of mIoU, which is no mean over images, these are the values of the jackknife: n * all - (n - 1) * all but this one.
    Their mean differs from the figure by its bias of the order 1 / n.

    Args:
        outcomes: [seeds, images] of right (1) and wrong (0), or counts [seeds, images, 3, classes].
    """
    if outcomes.ndim == 2:
        return 100.0 * outcomes
    total, n = outcomes.sum(1, dtype=np.int64, keepdims=True), outcomes.shape[1]
    return n * mean_iou(total) - (n - 1) * mean_iou(total - outcomes)


def compare(ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    """The difference ours - theirs of the outcomes of the same images and seeds.

    The variance of the mean has a part of the images, a part of the seeds and one of what the two do together, which
    the first holds too. The half width is the root of the sum of the squares of those of both parts, each with the t
    of its own number: the seeds are few.

    Args:
        ours, theirs: see `image_values`; of two images or more.
    """
    d = image_values(ours) - image_values(theirs)
    seeds, n = d.shape
    each, mean = d.mean(0), d.mean()
    if ours.ndim == 2:          # half a pair more of each kind (Agresti and Min 2005): no pair that differs is no proof
        of_images = (np.square(each).sum() + 100.0**2 - each.sum()**2 / (n + 2)) / (n + 2)**2
    else:
        of_images = each.var(ddof=1) / n
        mean = np.mean(mean_iou(ours.sum(1, dtype=np.int64)) - mean_iou(theirs.sum(1, dtype=np.int64)))
    of_seeds = 0.0
    if seeds > 1:
        rest = d - each - d.mean(1, keepdims=True) + d.mean()
        both = np.square(rest).sum() / ((seeds - 1) * (n - 1)) / (n * seeds)
        of_seeds = max(0.0, d.mean(1).var(ddof=1) / seeds - both)
    half, more = (math.sqrt(t_quantile(min(n - 1, _MOST_FREEDOM), level)**2 * of_images
                            + (t_quantile(seeds - 1, level)**2 * of_seeds if of_seeds else 0.0))
                  for level in (LEVEL, 2 * POWER - 1))      # on both sides; 1 - POWER is left on one
    return Comparison(float(mean), max(-100.0, float(mean - half)), min(100.0, float(mean + half)),     # of percents
                      min(100.0, half + more), bool(of_seeds > of_images), n, seeds)
