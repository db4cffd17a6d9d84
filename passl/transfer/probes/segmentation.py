"""The dense probes: a linear classifier per cell, and k-NN between cells."""

import sys
from typing import Callable, Optional

import numpy as np
from tqdm import tqdm

from ...utils.errors import DataError
from ...utils.seed import derive_seed
from . import softmax
from .features import Features, unit_length
from .metrics import IGNORE, Outcomes, confusion, segmentation_figures
from .paired import image_counts
from .seg_data import SegmentationSplit, predict_mask, soft_labels

IMAGES_PER_STEP = 8
_QUERY_CELLS = 2048


def labelled_images(count: int, percent: float, seed: int) -> np.ndarray:
    """Numbers of the images whose labels may be used: `percent` of them, at least one.

    Of one seed, a smaller share is part of every larger one.
    """
    order = np.random.RandomState(derive_seed(seed, 11)).permutation(count)
    return np.sort(order[:max(1, int(round(count * percent / 100)))])


def _labelled(train, labels, percent, seed):
    """`labelled_images`, of which at least one must have a label."""
    chosen = labelled_images(len(train), percent, seed)
    if (labels[chosen] == IGNORE).all():
        raise DataError(f'The {len(chosen)} images with labels ({percent:g} %, seed {seed}) are ignored everywhere '
                        '(255): nothing can be learned from them. Use a larger share of the labels.')
    return chosen


def score(split: SegmentationSplit, grid: tuple[int, ...], predict: Callable[[np.ndarray], np.ndarray],
          title: str, outcomes: Optional[Outcomes] = None) -> dict[str, float]:
    """Figures of predictions at the full size of every mask.

    Args:
        predict: predict(image numbers) -> scores [images, cells, classes].
        outcomes: gets 'miou': int64 [images, 3, classes], see `paired.image_counts`.
    """
    classes = len(split.classes)
    total, counts = np.zeros((classes, classes), np.int64), []
    show = sys.stderr.isatty()
    with tqdm(total=len(split), desc=title, unit=' images', disable=not show, leave=False, dynamic_ncols=True) as bar:
        for first in range(0, len(split), IMAGES_PER_STEP):
            numbers = np.arange(first, min(len(split), first + IMAGES_PER_STEP))
            for i, scores in zip(numbers, predict(numbers)):
                truth = split.mask(int(i))
                matrix = confusion(truth, predict_mask(scores, grid, truth.shape), classes)
                total += matrix
                counts.append(image_counts(matrix))
            bar.update(len(numbers))
    if outcomes is not None:
        outcomes['miou'] = np.stack(counts)
    return segmentation_figures(total)


def linear_segmentation(train: SegmentationSplit, labels: np.ndarray, val: SegmentationSplit, features: Features,
                        val_features: Features, percent: float, seed: int, steps: int = 300, rate: float = 2e-2,
                        decay: float = 1e-2, outcomes: Optional[Outcomes] = None) -> dict[str, float]:
    """Train a 1x1 convolution on frozen maps and measure it.

    Loss: cross-entropy of every labelled place with its cell's prediction (`soft_labels`), 8 images a step, Adam.
    Prediction: scores interpolated to the mask's size.

    Args:
        train, val: SegmentationSplit; features, val_features: their Features.
        labels: `train.labels(features.grid)`.
        percent: share of the training images that is used; seed: of that choice, the start and the order.
        outcomes: see `score`.

    Returns:
        {'miou', 'miou_all', 'pixel_accuracy', 'images'}
    """
    classes, chosen = len(train.classes), _labelled(train, labels, percent, seed)
    rng = np.random.RandomState(derive_seed(seed, 12))
    draw_images = softmax.Shuffled(chosen, IMAGES_PER_STEP, rng)
    scale = softmax.Standardise.of(features.cells(chosen[i:i + 16]) for i in range(0, len(chosen), 16))

    def draw(step):
        images = np.sort(draw_images())
        x = scale(features.cells(images)).reshape(-1, features.channels)
        target, weight = soft_labels(labels[images], classes)
        return x, target.reshape(-1, classes), weight.ravel()
    w, b = softmax.fit(draw, features.channels, classes, steps, rate, decay, rng)
    figures = score(val, features.grid, lambda i: scale(val_features.cells(i)) @ w + b, f'linear-seg {percent:g} %',
                    outcomes)
    return dict(figures, images=len(chosen))


def knn_vote(bank: np.ndarray, shares: np.ndarray, queries: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Class scores of queries: the k most similar of the bank vote, weighted by exp(cosine / temperature).

    Args:
        bank: [M, C] and queries: [Q, C], of length 1; shares: [M, K] what each of the bank votes for.
        k: more than M counts as M.

    Returns:
        float32 [Q, K]; rows sum to 1 if those of `shares` do.
    """
    similarity = queries @ bank.T
    k = min(k, len(bank))
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    near = np.take_along_axis(similarity, nearest, axis=1)
    weight = np.exp((near - near.max(1, keepdims=True)) / temperature)
    weight /= weight.sum(1, keepdims=True)
    return (weight[:, None] @ shares[nearest])[:, 0].astype(np.float32)


def knn_segmentation(train: SegmentationSplit, labels: np.ndarray, val: SegmentationSplit, features: Features,
                     val_features: Features, percent: float, seed: int, k: int = 20, temperature: float = 0.07,
                     patches: int = 10000, outcomes: Optional[Outcomes] = None) -> dict[str, float]:
    """Label every cell of the validation images by the most similar cells of the labelled training images.

    Nothing is trained. Each stage has length 1 in every cell, then their concatenation.

    Args:
        patches: so many labelled cells are kept, drawn evenly from the labelled images; bounds memory and time.
        others as in `linear_segmentation`.
    """
    classes, chosen = len(train.classes), _labelled(train, labels, percent, seed)
    rng = np.random.RandomState(derive_seed(seed, 13))
    cells = features.grid[0] * features.grid[1]
    each = min(cells, -(-patches // len(chosen)))
    kept, voted = [], []
    for i in chosen:
        target, weight = soft_labels(labels[i], classes)
        usable = np.flatnonzero(weight > 0)
        taken = np.sort(rng.permutation(usable)[:each])
        kept.append(features.cells([i], unit=True)[0][taken])
        voted.append(target[taken])
    bank, shares = np.concatenate(kept), np.concatenate(voted)
    if len(bank) > patches:
        taken = np.sort(rng.permutation(len(bank))[:patches])
        bank, shares = bank[taken], shares[taken]
    bank = unit_length(bank)

    def predict(images):
        queries = unit_length(val_features.cells(images, unit=True)).reshape(-1, features.channels)
        votes = [knn_vote(bank, shares, queries[i:i + _QUERY_CELLS], k, temperature)
                 for i in range(0, len(queries), _QUERY_CELLS)]
        return np.concatenate(votes).reshape(len(images), cells, classes)
    return dict(score(val, features.grid, predict, f'knn-seg {percent:g} %', outcomes), images=len(chosen))
