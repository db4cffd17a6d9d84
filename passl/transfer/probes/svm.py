"""Linear SVMs, one against the rest, by a Newton method for all classes at once. NumPy only."""

from typing import Optional

import numpy as np

from .metrics import mean_average_precision

COSTS = tuple(10.0 ** p for p in range(-3, 3))
POSITIVE_WEIGHT = 2.0       # of a positive image's loss, as in the usual VOC07 protocol
_ROUNDS, _CG_ROUNDS, _FOLDS = 60, 60, 3


def train_svm(x: np.ndarray, truth: np.ndarray, cost: float, start: Optional[np.ndarray] = None,
              tolerance: float = 1e-4) -> np.ndarray:
    """Minimise |w|^2 / 2 + cost * sum of weight * max(0, 1 - y (w x + b))^2 for every class.

    b is the weight of a constant feature 1 and is regularised too, as in liblinear. The problem is strictly convex,
    so that the result depends on the data alone.

    Args:
        x: [N, C].
        truth: [N, classes] of 1, 0 and -1 (left out for that class).
        start: [C + 1, classes] to start from.
        tolerance: stop when a gradient is so much smaller than at w = 0.

    Returns:
        W [C + 1, classes], float64; the last row is b.
    """
    x = with_constant(x)
    y = np.where(truth > 0, 1.0, -1.0)
    weight = 2 * cost * np.where(truth < 0, 0.0, np.where(truth > 0, POSITIVE_WEIGHT, 1.0))
    w = np.zeros((x.shape[1], truth.shape[1])) if start is None else start.copy()
    at_zero = np.linalg.norm(x.T @ (weight * y), axis=0)

    def value(w, slack):
        return 0.5 * np.square(w).sum(0) + 0.5 * (weight * np.square(slack)).sum(0)
    slack = np.maximum(0, 1 - y * (x @ w))
    for _ in range(_ROUNDS):
        g = w - x.T @ (weight * y * slack)
        open_ = np.linalg.norm(g, axis=0) > tolerance * at_zero
        if not open_.any():
            break
        curvature = weight * (slack > 0)
        step = _conjugate_gradient(lambda v: v + x.T @ (curvature * (x @ v)), -g) * open_
        before, slope, length = value(w, slack), (g * step).sum(0), np.ones(w.shape[1])
        for _ in range(30):             # halve until the value falls enough, class by class
            trial = w + length * step
            slack = np.maximum(0, 1 - y * (x @ trial))
            short = open_ & (value(trial, slack) > before + 1e-4 * length * slope + 1e-12 * np.abs(before))
            if not short.any():
                break
            length = np.where(short, length / 2, length)
        w = trial
    return w


def _conjugate_gradient(apply, b):
    """Solve apply(v) = b column by column, to a tenth of a percent at best."""
    v, r = np.zeros_like(b), b.copy()
    p, rr = r.copy(), np.square(b).sum(0)
    goal = 1e-6 * rr
    for _ in range(_CG_ROUNDS):
        running = rr > goal
        if not running.any():
            break
        ap = apply(p)
        alpha = np.where(running, rr / np.maximum((p * ap).sum(0), 1e-300), 0)
        v, r = v + alpha * p, r - alpha * ap
        new = np.square(r).sum(0)
        p = r + np.where(running, new / np.maximum(rr, 1e-300), 0) * p
        rr = new
    return v


def with_constant(x: np.ndarray) -> np.ndarray:
    """[x, 1] in float64."""
    return np.concatenate([np.asarray(x, np.float64), np.ones((len(x), 1))], axis=1)


def decide(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Scores [N, classes]."""
    return with_constant(x) @ w


def folds_of(truth: np.ndarray, folds: int, rng: np.random.RandomState) -> np.ndarray:
    """Fold number of every image; of each class as many in every fold as possible (by its first class)."""
    first = np.argmax(truth > 0, axis=1)
    fold, offset = np.empty(len(truth), int), 0
    for c in np.unique(first):
        members = rng.permutation(np.flatnonzero(first == c))
        fold[members] = (np.arange(len(members)) + offset) % folds
        offset += len(members)
    return fold


def choose_cost(x: np.ndarray, truth: np.ndarray) -> tuple[float, dict[float, float]]:
    """The one of COSTS with the best mAP in three-fold cross-validation on these (training) images; of equals the
    smaller one.

    Returns:
        (cost, {cost: mAP in percent})
    """
    fold = folds_of(truth, _FOLDS, np.random.RandomState(0))
    found: dict[float, list[float]] = {c: [] for c in COSTS}
    for k in range(_FOLDS):
        inside, w = fold != k, None
        if inside.all() or not inside.any():
            continue
        for c in COSTS:
            w = train_svm(x[inside], truth[inside], c, w)
            found[c].append(mean_average_precision(decide(w, x[~inside]), truth[~inside]))
    means = {c: float(np.nanmean(v)) if len(v) and not np.all(np.isnan(v)) else 0.0 for c, v in found.items()}
    return max(sorted(means), key=lambda c: round(means[c], 6)), means


def draw_low_shot(truth: np.ndarray, shots: int, rng: np.random.RandomState) -> np.ndarray:
    """Numbers of `shots` images of every class (all of a class that has fewer), without doubles, ascending."""
    chosen = set()
    for c in range(truth.shape[1]):
        chosen.update(rng.permutation(np.flatnonzero(truth[:, c] > 0))[:shots].tolist())
    return np.array(sorted(chosen))
