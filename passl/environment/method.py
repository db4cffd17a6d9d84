"""The parts of the method, computed on this device and held against numpy.

Every check gives (state, words), see `passl.environment.words`.
"""

import numpy as np
import paddle
from paddle import nn

from ..modules import ema
from ..modules.contrastive_loss import info_nce, ranking_accuracy
from ..modules.feature_queue import FeatureQueue
from ..utils.numerics import as_array
from .arithmetic import deviation, judged, tf32
from .words import NO, OK

EMA, LOSS = 1e-6, (2e-5, 2e-3)          # deviations that are right; LOSS: in float32, with TF32


def momentum_update() -> tuple[str, str]:
    """The key encoder's k <- m k + (1 - m) q."""
    source, target = (nn.Sequential(nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.Flatten(), nn.Linear(8, 5))
                      for _ in range(2))
    pairs = ema.trainable_pairs(source, target)
    rng, m = np.random.RandomState(0), 0.99
    for pair in pairs:
        for p in pair:
            p.set_value(rng.randn(*p.shape).astype('float32'))
    wanted = [m * k.numpy().astype('float64') + (1 - m) * q.numpy() for q, k in pairs]
    average = ema.WeightAverage(source, target)
    average.update(m)
    worst = max(deviation(k.numpy(), want) for (_, k), want in zip(pairs, wanted))
    state, words = judged({'weights': worst}, {'weights': EMA}, 'the momentum update')
    slow = '' if average._fused else '; parameter by parameter, since the fused operator does not do it here (slower)'
    return state, words + slow


def queue(size: int = 65536, dim: int = 128, n: int = 48) -> tuple[str, str]:
    """Pushes over the end of the ring."""
    owner = nn.Layer()
    ring = FeatureQueue(owner, 'queue', dim, size)
    wanted, at = ring.tensor.numpy().copy(), size - n // 2
    paddle.assign(paddle.to_tensor([at], dtype='int64'), output=ring.pointer)
    rng = np.random.RandomState(0)
    for _ in range(2):
        keys = rng.randn(n, dim).astype('float32')
        wanted[:, (at + np.arange(n)) % size] = keys.T
        at = (at + n) % size
        ring.push(paddle.to_tensor(keys))
    got, pointer = ring.tensor.numpy(), int(ring.pointer[0])
    wrong = int((got != wanted).any(axis=0).sum())
    if wrong or pointer != at:
        return NO, (f'{wrong} of {size} keys are wrong after a push over the end, pointer {pointer} instead of {at}. '
                    'Trainings would contrast with wrong negatives here: report this block.')
    return OK, f'K = {size}: {2 * n} keys written over the end, all in their places'


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loss(rows: int = 96, dim: int = 128, negatives: int = 4096, temperature: float = 0.2) -> tuple[str, str]:
    """InfoNCE: value, gradient and ranks."""
    rng = np.random.RandomState(0)
    q = _unit(rng.randn(rows, dim))
    k, n = _unit(q + 0.1 * rng.randn(rows, dim)), _unit(rng.randn(negatives, dim)).T
    q, k, n = (a.astype('float32').astype('float64') for a in (q, k, n))
    pos, neg = (q * k).sum(1) / temperature, q @ n / temperature
    everything = np.concatenate([pos[:, None], neg], axis=1)
    top = everything.max(1, keepdims=True)
    total = np.exp(everything - top).sum(1)
    weights = np.exp(everything - top) / total[:, None]
    wanted = (np.log(total) + top[:, 0] - pos).mean()
    gradient = ((weights[:, :1] - 1) * k + weights[:, 1:] @ n.T) / (temperature * rows)
    tq, tk, tn = (paddle.to_tensor(a.astype('float32')) for a in (q, k, n))
    tq.stop_gradient = False
    got, rank = info_nce(tq, tk, tn, temperature, with_rank=True)
    got.backward()
    rough = 'matrix products' in tf32()
    near = (5e-3 if rough else 2e-5) / temperature          # so near to each other two logits may change places
    ranks = as_array(rank)
    above, below = ((neg > pos[:, None] + d).sum(1) for d in (near, -near))
    misplaced = int(((ranks < above) | (ranks > below)).sum())
    values = {'value': abs(float(got) - wanted) / wanted, 'gradient': deviation(as_array(tq.grad), gradient)}
    state, words = judged(values, dict.fromkeys(values, LOSS[rough]), 'the contrastive loss')
    if misplaced:
        return NO, f'{misplaced} of {rows} positives have a wrong rank here: acc1 and acc5 would be wrong. {words}'
    return state, f'{words}; ranks right'


def collapsed(vectors: int = 200, negatives: int = 64, dim: int = 128) -> tuple[str, str]:
    """A network that gives one vector for everything must score 0."""
    rng, hits = np.random.RandomState(0), 0
    for v in _unit(rng.randn(vectors, dim)).astype('float32'):
        key = paddle.to_tensor(v[None])
        _, rank = info_nce(key, key, paddle.to_tensor(np.repeat(v[:, None], negatives, axis=1)), 0.2, with_rank=True)
        assert rank is not None
        hits += float(ranking_accuracy(rank, negatives)[0]) > 0
    if hits:
        return NO, (f'acc1 is 100 where 0 is right for {hits} of {vectors} collapsed vectors'
                    + (': matrix products in TF32; set NVIDIA_TF32_OVERRIDE=0' if 'matrix products' in tf32() else '')
                    + '. Only the logged accuracies suffer; look at std as well.')
    return OK, f'acc1 is 0 for {vectors} of {vectors} vectors'
