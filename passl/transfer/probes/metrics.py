"""The figures: mIoU of a confusion matrix, average precision, accuracy, and the interval of a mean. NumPy only."""

import functools
import math
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np

IGNORE = 255


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts [classes, classes]; row = truth, column = prediction.

    Args:
        truth: integers of any shape; 255 is left out.
        predicted: integers of the same shape in 0..classes - 1.
    """
    truth, predicted = np.asarray(truth).ravel(), np.asarray(predicted).ravel()
    counted = truth != IGNORE
    cells = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def segmentation_figures(matrix: np.ndarray) -> dict[str, float]:
    """Figures in percent of a confusion matrix.

    `miou` is the mean over the classes that are in the ground truth or predicted anywhere (union > 0), as mmseg and
    torchmetrics have it; a class in neither has no IoU. `miou_all` is the mean over all classes with 0 for those, as
    PaddleSeg 2.8 has it. `pixel_accuracy`: share of the pixels.

    Returns:
        {'miou', 'miou_all', 'pixel_accuracy'}; nan without a single counted pixel.
    """
    matrix = np.asarray(matrix, np.float64)
    hit, total = np.diag(matrix), matrix.sum()
    union = matrix.sum(0) + matrix.sum(1) - hit
    present = union > 0
    if not total:
        return {'miou': math.nan, 'miou_all': math.nan, 'pixel_accuracy': math.nan}
    iou = hit[present] / union[present]
    return {'miou': 100 * float(iou.mean()), 'miou_all': 100 * float(iou.sum() / len(matrix)),
            'pixel_accuracy': 100 * float(hit.sum() / total)}


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of one class, 0..1, as VOC had it up to 2009; nan without a positive image.

    The mean over recall 0, 0.1 .. 1 of the best precision at that recall or more. Equal scores keep the order of the
    data.

    Args:
        scores: [N] higher is more certain; positive: [N] truth.
    """
    positive = np.asarray(positive, bool)
    if not positive.any():
        return math.nan
    hits = np.cumsum(positive[np.argsort(-np.asarray(scores, np.float64), kind='stable')])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    best = np.maximum.accumulate(precision[::-1])[::-1]         # at this recall or more
    # a tenth that is a whole number of hits must count as reached in spite of rounding
    return float(np.mean([best[np.searchsorted(recall, level - 1e-9)] for level in np.arange(11) / 10]))


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """mAP in percent over the classes that have a positive image.

    Args:
        scores: [N, classes]; truth: [N, classes] of 1 (there), 0 (not there) and -1 (left out for that class).
    """
    each = []
    for c in range(scores.shape[1]):
        counted = truth[:, c] >= 0
        each.append(average_precision(scores[counted, c], truth[counted, c] > 0))
    each = [ap for ap in each if not math.isnan(ap)]
    return 100 * float(np.mean(each)) if each else math.nan


def single_labels(truth: np.ndarray) -> Optional[np.ndarray]:
    """Class numbers [N] of [N, classes] of 1, 0, -1; None unless every image has exactly one class."""
    return truth.argmax(1) if (truth >= 0).all() and (truth.sum(1) == 1).all() else None


Outcomes = dict[str, np.ndarray]        # {figure: what became of every test image}, see `paired`


def top1(scores: np.ndarray, labels: np.ndarray, outcomes: Optional[Outcomes] = None, figure: str = 'top1') -> float:
    """Share of the images, in percent, whose class has the highest score (the first of equal ones).

    Args:
        outcomes: gets uint8 [images], 1 where it is right, under the name `figure`.
    """
    right = np.argmax(scores, axis=1) == np.asarray(labels)
    if outcomes is not None:
        outcomes[figure] = right.astype(np.uint8)
    return 100 * float(np.mean(right))


def t_probability(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = (cos if odd else 1.0), 0.0
    for k in range(freedom // 2):
        total += term
        # odd: cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...
        term *= cos * cos * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (theta + sin * total) if odd else sin * total


@functools.lru_cache(None)
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level, by bisection; 12.706 for 1, 4.303 for 2, 1.96 for many degrees of freedom."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def summary(values: Union[np.ndarray, Sequence[float]], kind: str = 't95') -> tuple[float, Optional[float]]:
    """(mean, half width) of some runs.

    Args:
        kind: 't95': half width of the 95 % t interval of the mean; 'sd': sample standard deviation; 'none'.

    Returns:
        The half width is None for one value and for 'none'.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if kind == 'none' or len(values) < 2:
        return mean, None
    deviation = float(values.std(ddof=1))
    return mean, deviation if kind == 'sd' else t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
