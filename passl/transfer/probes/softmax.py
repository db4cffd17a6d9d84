"""Softmax regression on cached features: Adam, cosine schedule, no augmentation beyond what is cached. NumPy only."""

from collections.abc import Iterable
from typing import Any, Callable

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def gradient(x: np.ndarray, target: np.ndarray, weight: np.ndarray, w: np.ndarray,
             b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted mean cross-entropy and its gradients.

    Args:
        x: [N, C]; target: class shares [N, K]; weight: [N]; w: [C, K]; b: [K].

    Returns:
        (loss, dw, db)
    """
    log_p = log_softmax(x @ w + b)
    share = (weight / max(float(weight.sum()), 1e-12))[:, None].astype(x.dtype)
    loss = -float(np.sum(share * target * log_p))
    d = share * (np.exp(log_p) * target.sum(-1, keepdims=True) - target)
    return loss, x.T @ d, d.sum(0)


class Standardise:
    """Per-channel (x - mean) / deviation; constant channels become 0."""

    def __init__(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.mean = np.asarray(mean, np.float32)
        known = np.asarray(deviation) > 1e-6
        self.factor = np.where(known, 1 / np.where(known, deviation, 1), 0).astype(np.float32)

    @classmethod
    def of(cls, parts: Iterable[np.ndarray]) -> 'Standardise':
        """From an iterable of float32 arrays [..., C], in float64."""
        count = 0
        total: Any = 0.0            # arrays [C] from the first part on
        squares: Any = 0.0
        for part in parts:
            part = part.reshape(-1, part.shape[-1]).astype(np.float64)
            count, total, squares = count + len(part), total + part.sum(0), squares + np.square(part).sum(0)
        mean = total / count
        return cls(mean, np.sqrt(np.maximum(squares / count - mean * mean, 0)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) * self.factor


def fit(draw: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]], channels: int, classes: int, steps: int,
        rate: float, decay: float, rng: np.random.RandomState) -> list[np.ndarray]:
    """Train W [channels, classes] and b with Adam, decoupled weight decay and a cosine to 0.

    Args:
        draw: draw(step) -> (x, target, weight) of a batch, see `gradient`.
        rate: first learning rate; decay: of W, as a share of the current rate.
        rng: RandomState of the initial W, N(0, 0.01).

    Returns:
        (W, b), float32.
    """
    params = [(rng.randn(channels, classes) * 0.01).astype(np.float32), np.zeros(classes, np.float32)]
    first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
    for step in range(steps):
        _, *grads = gradient(*draw(step), *params)
        now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        params[0] *= np.float32(1 - now * decay)
        for p, g, m, v in zip(params, grads, first, second):
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            size = np.sqrt(v / (1 - BETA2 ** (step + 1))) + EPSILON
            p -= (now / (1 - BETA1 ** (step + 1)) * m / size).astype(np.float32)
    return params


class Shuffled:
    """Endless batches of numbers: permutation after permutation, each cut in parts of `size` (the rest too)."""

    def __init__(self, numbers: np.ndarray, size: int, rng: np.random.RandomState) -> None:
        self.numbers, self.size, self.rng = np.asarray(numbers), size, rng
        self._left: list[np.ndarray] = []

    def __call__(self) -> np.ndarray:
        if not self._left:
            order = self.numbers[self.rng.permutation(len(self.numbers))]
            self._left = [order[i:i + self.size] for i in range(0, len(order), self.size)][::-1]
        return self._left.pop()
