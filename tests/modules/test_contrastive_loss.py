"""InfoNCE, NT-Xent and the ranking accuracy against numpy loops and closed forms."""

import math

import numpy as np
import paddle
import pytest

from passl.modules.contrastive_loss import info_nce, nt_xent, ranking_accuracy


def unit(rng, rows, dim):
    x = rng.randn(rows, dim)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tensor(x, grad=False):
    return paddle.to_tensor(np.asarray(x, dtype='float32'), stop_gradient=not grad)


def info_nce_loop(query, key, queue, t):
    """(loss, gradient of the query), one query at a time, in float64."""
    loss, grad = 0.0, np.zeros_like(query)
    for i, (q, k) in enumerate(zip(query, key)):
        candidates = [k] + [queue[:, j] for j in range(queue.shape[1])]
        logits = np.array([q @ c / t for c in candidates])
        p = np.exp(logits - logits.max())
        p /= p.sum()
        loss -= math.log(p[0]) / len(query)
        grad[i] = (sum(w * c for w, c in zip(p, candidates)) - k) / t / len(query)
    return loss, grad


@pytest.mark.parametrize('m, k, temperature', [(1, 1, 1.0), (6, 9, 0.2), (5, 64, 0.07)])
def test_info_nce_loss_and_gradient(m, k, temperature):
    rng = np.random.RandomState(m)
    query, key, queue = unit(rng, m, 8), unit(rng, m, 8), unit(rng, k, 8).T
    q = tensor(query, grad=True)
    loss, pos, neg = info_nce(q, tensor(key), tensor(queue), temperature)
    loss.backward()
    want, grad = info_nce_loop(query, key, queue, temperature)
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(q.grad.numpy(), grad, atol=2e-6 / temperature)
    np.testing.assert_allclose(pos.numpy(), (query * key).sum(1) / temperature, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(neg.numpy(), query @ queue / temperature, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('k', [1, 31, 4096])
def test_info_nce_of_equal_similarities_is_log_of_candidates(k):
    v = np.ones((3, 4)) / 2
    loss, _, _ = info_nce(tensor(v), tensor(v), tensor(np.ones((4, k)) / 2), 0.2)
    assert float(loss) == pytest.approx(math.log(k + 1), rel=1e-5)


@pytest.mark.parametrize('sign, want', [(1, 0.0), (-1, 2e4)])
def test_info_nce_with_large_logits(sign, want):
    q = tensor([[1.0, 0.0]], grad=True)
    loss, _, _ = info_nce(q, tensor([[sign, 0.0]]), tensor([[-sign], [0.0]]), 1e-4)
    loss.backward()
    assert float(loss) == pytest.approx(want, rel=1e-6)
    assert np.isfinite(q.grad.numpy()).all()


def test_info_nce_ignores_the_order_of_negatives():
    rng = np.random.RandomState(0)
    q, k, queue = unit(rng, 4, 8), unit(rng, 4, 8), unit(rng, 32, 8).T
    one = info_nce(tensor(q), tensor(k), tensor(queue), 0.2)[0]
    two = info_nce(tensor(q), tensor(k), tensor(queue[:, rng.permutation(32)]), 0.2)[0]
    assert float(one) == pytest.approx(float(two), rel=1e-6)


@pytest.mark.parametrize('k', [1, 3, 5, 40])
def test_ranking_accuracy(k):
    rng = np.random.RandomState(k)
    pos, neg = rng.randn(50), rng.randn(50, k)
    order = np.argsort(-np.concatenate([pos[:, None], neg], axis=1), axis=1)
    want = [100 * np.mean([0 in row[:top] for row in order]) for top in (1, 5)]     # a slice is clamped
    got = ranking_accuracy(tensor(pos), tensor(neg))
    assert [float(a) for a in got] == pytest.approx(want)
    if k < 5:
        assert float(got[1]) == 100


def test_ranking_accuracy_of_a_collapsed_network_is_zero():
    got = ranking_accuracy(tensor(np.ones(4)), tensor(np.ones((4, 9))))
    assert [float(a) for a in got] == [0, 0]


def nt_xent_loop(z1, z2, t):
    """NT-Xent of 2M views in float64, SimCLR's equation 1 word by word."""
    z = np.concatenate([z1, z2])
    m = len(z1)
    total = 0.0
    for i in range(2 * m):
        positive = (i + m) % (2 * m)
        denominator = sum(math.exp(z[i] @ z[j] / t) for j in range(2 * m) if j != i)
        total -= math.log(math.exp(z[i] @ z[positive] / t) / denominator)
    return total / (2 * m)


def nt_xent_gradient(z1, z2, t, eps=1e-5):
    grads = []
    for z in (z1, z2):
        grad = np.zeros_like(z)
        for at in np.ndindex(*z.shape):
            kept = z[at]
            z[at] = kept + eps
            up = nt_xent_loop(z1, z2, t)
            z[at] = kept - eps
            grad[at] = (up - nt_xent_loop(z1, z2, t)) / (2 * eps)
            z[at] = kept
        grads.append(grad)
    return grads


@pytest.mark.parametrize('world', [1, 2])
def test_nt_xent_mean_over_ranks_is_the_global_loss(world):
    rng = np.random.RandomState(world)
    n, t = 3, 0.3
    z1, z2 = unit(rng, n * world, 4), unit(rng, n * world, 4)
    all1, all2 = tensor(z1, grad=True), tensor(z2, grad=True)
    losses = []
    for rank in range(world):
        own = slice(rank * n, (rank + 1) * n)
        loss, pos, neg = nt_xent(all1[own], all2[own], all1, all2, rank, t)
        assert pos.shape == [2 * n] and neg.shape == [2 * n, 2 * n * world]
        np.testing.assert_allclose(pos.numpy(), np.tile((z1[own] * z2[own]).sum(1) / t, 2), atol=1e-5)
        assert ((neg.numpy() > -1e8).sum(1) == 2 * n * world - 2).all()      # neither itself nor its positive
        losses.append(loss)
    mean = sum(losses) / world
    mean.backward()
    assert float(mean) == pytest.approx(nt_xent_loop(z1, z2, t), rel=1e-5)
    for got, want in zip((all1.grad, all2.grad), nt_xent_gradient(z1, z2, t)):
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def test_nt_xent_of_equal_vectors():
    v = np.ones((4, 4)) / 2
    loss, _, _ = nt_xent(*[tensor(v)] * 4, rank=0, temperature=0.1)
    assert float(loss) == pytest.approx(math.log(2 * 4 - 1), rel=1e-5)
