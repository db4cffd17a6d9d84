"""The classification tasks on one vector per image: k-NN, linear, SVM and low-shot."""

from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np

from ...utils.seed import derive_seed
from . import softmax, svm
from .features import unit_length
from .metrics import Outcomes, mean_average_precision, single_labels, top1
from .segmentation import knn_vote

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
NEIGHBOURS = (10, 20, 100, 200)
SHOTS = (1, 2, 4, 8, 16, 32)
_BATCH = 256
_QUERIES = 1024
_LOW_SHOT_COST = 1.0


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """int8 [N, classes]."""
    return (np.asarray(labels)[:, None] == np.arange(classes)).astype(np.int8)


def knn(train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, classes: int,
        ks: Sequence[int] = NEIGHBOURS, temperature: float = 0.07,
        outcomes: Optional[Outcomes] = None) -> dict[int, float]:
    """Top-1 accuracy in percent of the weighted vote of the k nearest training images.

    Args:
        train, val: vectors [N, C]; they are brought to length 1.
        ks: those above the number of training images are left out.
        outcomes: see `top1`; the figures are top1_k<k>.

    Returns:
        {k: percent}
    """
    bank, queries = unit_length(train), unit_length(val)
    shares = one_hot(train_labels, classes).astype(np.float32)
    out = {}
    for k in [k for k in ks if k <= len(bank)] or [len(bank)]:
        votes = [knn_vote(bank, shares, queries[i:i + _QUERIES], k, temperature)
                 for i in range(0, len(queries), _QUERIES)]
        out[k] = top1(np.concatenate(votes), val_labels, outcomes, f'top1_k{k}')
    return out


def held_out(labels: np.ndarray, seed: int, share: float = 0.2) -> np.ndarray:
    """True for a fifth of the images of every class (none of a class of one image)."""
    rng, out = np.random.RandomState(seed), np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        out[members[:int(len(members) * share)]] = True
    return out


def fit_views(views: Sequence[np.ndarray], labels: np.ndarray, classes: int, rate: float, epochs: int,
              seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Softmax regression on several views of every image.

    Args:
        views: list of [N, C]; each pass takes the next one for each image, beginning at random.

    Returns:
        function of vectors [M, C] -> scores [M, classes]
    """
    rng = np.random.RandomState(seed)
    target = one_hot(labels, classes).astype(np.float32)
    scale = softmax.Standardise.of(views)
    views = [scale(v) for v in views]
    order = softmax.Shuffled(np.arange(len(labels)), _BATCH, rng)
    shift = rng.randint(0, len(views), len(labels))
    stacked = np.stack(views)
    per_epoch = -(-len(labels) // _BATCH)

    def draw(step):
        numbers = order()
        x = stacked[(shift[numbers] + step // per_epoch) % len(views), numbers]
        return x, target[numbers], np.ones(len(numbers), np.float32)
    w, b = softmax.fit(draw, stacked.shape[2], classes, epochs * per_epoch, rate, 1e-2, rng)
    return lambda x: scale(x) @ w + b


def linear(views: Sequence[np.ndarray], labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, classes: int,
           seed: int, epochs: int = 40, rates: Sequence[float] = RATES,
           outcomes: Optional[Outcomes] = None) -> dict[str, float]:
    """Linear classification: the rate is chosen on a held-out fifth of the training images, then all are used.

    Args:
        outcomes: see `top1`.

    Returns:
        {'top1': percent, 'rate': the chosen one}
    """
    seed = derive_seed(seed, 21)
    out = held_out(labels, seed)
    rate = rates[len(rates) // 2]
    if out.any() and len(rates) > 1:
        inner = [v[~out] for v in views]
        right = [top1(fit_views(inner, labels[~out], classes, r, epochs, seed)(views[0][out]), labels[out])
                 for r in rates]
        rate = rates[int(np.argmax(right))]
    scores = fit_views(views, labels, classes, rate, epochs, seed)(val)
    return {'top1': top1(scores, val_labels, outcomes), 'rate': rate}


def linear_svm(train: np.ndarray, truth: np.ndarray, val: np.ndarray, val_truth: np.ndarray) -> dict[str, float]:
    """One-against-the-rest SVMs on vectors of length 1; the cost is chosen by three-fold cross-validation.

    Args:
        truth, val_truth: [N, classes] of 1, 0, -1 (left out).

    Returns:
        {'map': percent, 'cost'}; with one label per image also 'top1'.
    """
    train, val = unit_length(train), unit_length(val)
    cost, _ = svm.choose_cost(train, truth)
    scores = svm.decide(svm.train_svm(train, truth, cost), val)
    return dict(_svm_figures(scores, val_truth), cost=cost)


def low_shot(train: np.ndarray, truth: np.ndarray, val: np.ndarray, val_truth: np.ndarray, shots: int,
             seed: int) -> dict[str, float]:
    """The same with `shots` labelled images per class. The cost is fixed: so few images leave nothing to choose it on.

    Returns:
        {'map', and with one label per image 'top1'; 'images'}
    """
    chosen = svm.draw_low_shot(truth, shots, np.random.RandomState(derive_seed(seed, 31)))
    train, val = unit_length(train), unit_length(val)
    scores = svm.decide(svm.train_svm(train[chosen], truth[chosen], _LOW_SHOT_COST), val)
    return dict(_svm_figures(scores, val_truth), images=len(chosen))


def _svm_figures(scores, truth):
    figures = {'map': mean_average_precision(scores, truth)}
    labels = single_labels(truth)
    if labels is not None:
        figures['top1'] = top1(scores, labels)
    return figures
