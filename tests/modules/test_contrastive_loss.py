"""InfoNCE, NT-Xent and the ranking accuracy against numpy loops and closed forms."""

import contextlib
import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl.modules import contrastive_loss
from passl.modules.contrastive_loss import blocks, info_nce, nt_xent, rank_among, ranking_accuracy


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


def oracle(query, key, queue, t):
    """(loss, gradient of the query, rank of the key) in float64, all rows at once."""
    pos, neg = (query * key).sum(1) / t, query @ queue / t
    logits = np.concatenate([pos[:, None], neg], axis=1)
    top = logits.max(1, keepdims=True)
    lse = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    p = np.exp(logits - lse[:, None])
    grad = ((p[:, :1] - 1) * key + p[:, 1:] @ queue.T) / t / len(query)
    return (lse - pos).mean(), grad, (neg >= pos[:, None]).sum(1)


def naive(query, key, queue, t):
    """The formulation with the matrix of logits: concat, cross-entropy, all by Paddle's own gradients."""
    q = tensor(query, grad=True)
    pos = (q * tensor(key)).sum(axis=1, keepdim=True)
    logits = paddle.concat([pos, paddle.matmul(q, tensor(queue))], axis=1) / t
    loss = F.cross_entropy(logits, paddle.zeros([len(query)], dtype='int64'))
    loss.backward()
    return float(loss), q.grad.numpy()


def run(query, key, queue, t, **kwargs):
    """(loss, gradient, rank) of `info_nce` on float32 copies."""
    q = tensor(query, grad=True)
    loss, rank = info_nce(q, tensor(key), tensor(queue), t, **kwargs)
    loss.backward()
    return float(loss), q.grad.numpy(), rank


def close(got, want, rel=1e-5):
    """Relative to the largest entry."""
    np.testing.assert_allclose(got, want, rtol=0, atol=rel * np.abs(want).max())


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 columns, so that a queue of some hundred is cut."""
    monkeypatch.setattr(contrastive_loss, 'CPU_BLOCK', 1)
    monkeypatch.setattr(contrastive_loss, 'GPU_BLOCK', 1)
    monkeypatch.setattr(contrastive_loss, '_NARROWEST', 64)


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The path of devices whose numbers must not be looked at: rows are always shifted by their maximum."""
    monkeypatch.setattr(contrastive_loss, '_UNSHIFTED_FROM', math.inf)


def as_features(rng, m, k, dim=16):
    """Unit (query, key, queue) in float32 values, the key near its query."""
    query, queue = unit(rng, m, dim), unit(rng, k, dim).T
    key = query + 0.5 * unit(rng, m, dim)
    key /= np.linalg.norm(key, axis=1, keepdims=True)
    return [x.astype('float32').astype('float64') for x in (query, key, queue)]


@pytest.mark.parametrize('m, k, temperature', [(1, 1, 1.0), (6, 9, 0.2), (5, 64, 0.07)])
def test_info_nce_loss_and_gradient(m, k, temperature):
    rng = np.random.RandomState(m)
    query, key, queue = as_features(rng, m, k, 8)
    loss, grad, rank = run(query, key, queue, temperature)
    want, want_grad = info_nce_loop(query, key, queue, temperature)
    assert loss == pytest.approx(want, rel=1e-5, abs=1e-7) and rank is None
    close(grad, want_grad)
    loss, _, rank = run(query, key, queue, temperature, with_rank=True)
    assert loss == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert rank.numpy().tolist() == oracle(query, key, queue, temperature)[2].tolist()


@pytest.mark.parametrize('path', ['unshifted', 'shifted'])
@pytest.mark.parametrize('m, k', [(1, 1), (3, 63), (7, 64), (2, 65), (5, 128), (33, 1000), (300, 200)])
def test_info_nce_over_block_boundaries(m, k, path, small_blocks, request):
    if path == 'shifted':
        request.getfixturevalue('as_on_gpu')
    query, key, queue = as_features(np.random.RandomState(k), m, k)
    loss, grad, rank = run(query, key, queue, 0.2, with_rank=True)
    want, want_grad, want_rank = oracle(query, key, queue, 0.2)
    assert loss == pytest.approx(want, rel=1e-5, abs=1e-7)
    close(grad, want_grad)
    assert rank.numpy().tolist() == want_rank.tolist()
    naive_loss, naive_grad = naive(query, key, queue, 0.2)
    assert loss == pytest.approx(naive_loss, rel=1e-5, abs=1e-6)
    close(grad, naive_grad)


@pytest.mark.parametrize('length', [1e-3, 1, 7.5, 60, 1e4])
@pytest.mark.parametrize('temperature', [100, 0.2, 0.07, 0.01, 1e-4])
@pytest.mark.parametrize('path', ['cpu', 'gpu'])
def test_info_nce_of_any_length_and_temperature(length, temperature, path, small_blocks, request):
    """Rows of mixed lengths: some fit without a shift, some do not."""
    if path == 'gpu':
        request.getfixturevalue('as_on_gpu')
    query, key, queue = as_features(np.random.RandomState(1), 9, 300)
    query[::2] *= np.float32(length)
    query = query.astype('float32').astype('float64')
    # a logit in float32 is right to 1e-7 of its own size, and that is the relative error of exp(logit)
    inherent = 3e-7 * max(1, length) / temperature
    loss, grad, _ = run(query, key, queue, temperature)
    want, want_grad, _ = oracle(query, key, queue, temperature)
    assert loss == pytest.approx(want, rel=1e-5, abs=inherent)
    assert np.isfinite(grad).all()
    close(grad, want_grad, max(1e-5, inherent))


@pytest.mark.parametrize('sign', [1, -1])
def test_info_nce_finds_sums_that_do_not_fit_one_by_one(sign):
    """exp(+-90) is not a float32: the one row that has it must not spoil itself or the others."""
    query = np.array([[1.0, 0], [90, 0], [0.5, 0]])
    key, queue = np.array([[0.0, 1]] * 3), np.array([[sign, 0.999 * sign], [0, 0]])
    loss, grad, _ = run(query, key, queue, 1.0)
    want, want_grad, _ = oracle(query, key, queue, 1.0)
    assert loss == pytest.approx(want, rel=1e-5)
    close(grad, want_grad)


def test_maximum_that_grows_from_block_to_block_and_falls(small_blocks):
    query, key = np.ones((1, 1)), np.zeros((1, 1))
    for queue in (np.linspace(-80, 80, 400), np.linspace(80, -80, 400), np.linspace(200, 400, 400),
                  np.linspace(-400, -200, 400)):
        loss, grad, _ = run(query, key, queue[None], 1.0)
        want, want_grad, _ = oracle(query, key, queue[None], 1.0)
        assert loss == pytest.approx(want, rel=1e-5, abs=1e-30)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize('k', [1, 31, 4096])
def test_info_nce_of_equal_similarities_is_log_of_candidates(k):
    v = np.ones((3, 4)) / 2
    loss, _ = info_nce(tensor(v), tensor(v), tensor(np.ones((4, k)) / 2), 0.2)
    assert float(loss) == pytest.approx(math.log(k + 1), rel=1e-5)


@pytest.mark.parametrize('sign, want', [(1, 0.0), (-1, 2e4)])
def test_info_nce_with_large_logits(sign, want):
    q = tensor([[1.0, 0.0]], grad=True)
    loss, _ = info_nce(q, tensor([[sign, 0.0]]), tensor([[-sign], [0.0]]), 1e-4)
    loss.backward()
    assert float(loss) == pytest.approx(want, rel=1e-6)
    assert np.isfinite(q.grad.numpy()).all()


def test_info_nce_ignores_the_order_of_negatives():
    rng = np.random.RandomState(0)
    q, k, queue = unit(rng, 4, 8), unit(rng, 4, 8), unit(rng, 32, 8).T
    one = info_nce(tensor(q), tensor(k), tensor(queue), 0.2)[0]
    two = info_nce(tensor(q), tensor(k), tensor(queue[:, rng.permutation(32)]), 0.2)[0]
    assert float(one) == pytest.approx(float(two), rel=1e-6)


def test_only_the_query_has_a_gradient_and_losses_add_up():
    """The head is called twice a step, on slices of one network's output; key and queue stay as they are."""
    query, key, queue = as_features(np.random.RandomState(3), 8, 50)
    base, k, n = tensor(query, grad=True), tensor(key, grad=True), tensor(queue, grad=True)
    before = n.numpy().copy()
    one, _ = info_nce(base[:3] * 2.0, k[:3], n, 0.2)
    two, _ = info_nce(base[2:], k[2:], n, 0.1, with_rank=True)
    (0.25 * one + 0.75 * two).backward()
    want = np.zeros_like(query)
    want[:3] += 0.25 * 2 * oracle(query[:3] * 2, key[:3], queue, 0.2)[1]
    want[2:] += 0.75 * oracle(query[2:], key[2:], queue, 0.1)[1]
    close(base.grad.numpy(), want)
    assert k.grad is None and n.grad is None
    np.testing.assert_array_equal(n.numpy(), before)


def count_products(monkeypatch, call):
    """(number of entries of each matrix product's output) while `call` runs."""
    sizes, real = [], paddle.matmul

    def counted(*args, **kwargs):
        out = real(*args, **kwargs)
        sizes.append(int(np.prod(out.shape)))
        return out

    monkeypatch.setattr(paddle, 'matmul', counted)
    call()
    monkeypatch.setattr(paddle, 'matmul', real)
    return sizes


def test_no_matrix_of_logits_is_made(monkeypatch, small_blocks):
    m, k, dim = 40, 640, 16
    query, key, queue = as_features(np.random.RandomState(4), m, k, dim)
    with_gradient = count_products(monkeypatch, lambda: run(query, key, queue, 0.2, with_rank=True))
    assert max(with_gradient) == m * 64 and with_gradient.count(m * 64) == k // 64
    assert with_gradient.count(m * dim) == k // 64
    for q, guard in ((tensor(query), contextlib.nullcontext()), (tensor(query, grad=True), paddle.no_grad())):
        with guard:
            without = count_products(monkeypatch, lambda: info_nce(q, tensor(key), tensor(queue), 0.2))
        assert without.count(m * 64) == k // 64 and without.count(m * dim) == 0     # no gradient wanted, none made


@pytest.mark.parametrize('m, k', [(1, 1), (1, 65536), (32, 65536), (1568, 65536), (1568, 65537), (12544, 65536),
                                  (7, 300), (10**7, 1000)])
@pytest.mark.parametrize('on_cpu', [True, False])
def test_blocks_cover_the_queue_and_are_bounded(m, k, on_cpu):
    cut = blocks(m, k, on_cpu)
    assert [at for pair in cut for at in pair] == [0] + [at for pair in cut[:-1] for at in (pair[1],) * 2] + [k]
    size = 2**21 if on_cpu else 2**23
    assert all(m * (end - start) <= max(size + 64 * m, 256 * m) for start, end in cut)
    if (m, k) == (1568, 65536):
        # the naive formulation holds three matrices of logits at once
        assert all(m * (end - start) <= 3 * m * (k + 1) / 16 / 2 for start, end in cut)
    if (m, k, on_cpu) == (32, 65536, True):
        assert cut == [(0, k)]                                              # the queue itself, not a copy


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_other_types_are_computed_in_float32(dtype, small_blocks):
    query, key, queue = (x.astype('float16').astype('float64') for x in as_features(np.random.RandomState(5), 6, 200))
    q = paddle.to_tensor(query.astype(dtype), stop_gradient=False)
    loss, _ = info_nce(q, paddle.to_tensor(key.astype(dtype)), paddle.to_tensor(queue.astype(dtype)), 0.2)
    loss.backward()
    want, want_grad, _ = oracle(query, key, queue, 0.2)
    assert loss.dtype == paddle.float32 and q.grad.dtype == q.dtype
    assert float(loss) == pytest.approx(want, rel=1e-5)
    close(q.grad.astype('float32').numpy(), want_grad, 1e-3 if dtype == 'float16' else 1e-5)


@pytest.mark.parametrize('k', [1, 3, 5, 40])
def test_ranking_accuracy(k):
    rng = np.random.RandomState(k)
    pos, neg = rng.randn(50), rng.randn(50, k)
    order = np.argsort(-np.concatenate([pos[:, None], neg], axis=1), axis=1)
    want = [100 * np.mean([0 in row[:top] for row in order]) for top in (1, 5)]     # a slice is clamped
    got = ranking_accuracy(rank_among(tensor(pos), tensor(neg)), k)
    assert [float(a) for a in got] == pytest.approx(want)
    if k < 5:
        assert float(got[1]) == 100


def test_ranking_accuracy_of_a_collapsed_network_is_zero(small_blocks):
    rank = rank_among(tensor(np.ones(4)), tensor(np.ones((4, 9))))
    assert rank.numpy().tolist() == [9] * 4
    assert [float(a) for a in ranking_accuracy(rank, 9)] == [0, 0]
    for seed in range(5):                       # equal up to rounding: two ways to sum 128 products differ
        v = unit(np.random.RandomState(seed), 1, 128)
        _, rank = info_nce(*[tensor(np.repeat(v, 30, axis=0))] * 2, tensor(np.repeat(v, 200, axis=0).T), 0.07,
                           with_rank=True)
        assert rank.numpy().tolist() == [200] * 30


def test_ties_count_as_larger_and_smaller_ones_do_not(small_blocks):
    query, key = np.eye(4)[[0, 0, 1]], np.array([[0.6, 0.8, 0, 0], [0.5, 0, 0, 0], [0, 1, 0, 0]])
    queue = np.array([[0.6, 0.8, 0, 0]] * 70 + [[0.59999, 0, 0, 0]] + [[0.60001, 0, 0, 0]] * 2).T
    _, rank = info_nce(tensor(query), tensor(key), tensor(queue), 0.2, with_rank=True)
    assert rank.numpy().tolist() == [72, 73, 0]


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


def partly(rng, rows=12, columns=300, dim=7, kinds=3):
    """Queries, keys, queue, weights, and (row's, column's) ones of what is hidden."""
    q, k, n = unit(rng, rows, dim), unit(rng, rows, dim), unit(rng, columns, dim).T
    hide = np.eye(kinds)[rng.randint(kinds, size=rows)], (rng.rand(kinds, columns) < 0.4).astype(float)
    return q, k, n, (rng.rand(rows) < 0.6).astype(float), hide


def partly_by_hand(q, k, n, weight, hide, t):
    """(loss, gradient, rank), row by row over the columns that it sees."""
    loss, grad, rank = 0.0, np.zeros_like(q), []
    for i in range(len(q)):
        seen = n[:, hide[0][i] @ hide[1] == 0]
        rank.append(int((q[i] @ seen >= q[i] @ k[i]).sum()))
        if weight[i]:
            one = info_nce_loop(q[i:i + 1], k[i:i + 1], seen, t)
            loss += one[0] / weight.sum()
            grad[i] = one[1][0] / weight.sum()
    return loss, grad, rank


@pytest.mark.parametrize('t', [0.2, 0.01], ids=['unshifted', 'shifted'])
def test_rows_that_count_and_columns_that_are_hidden(t, small_blocks):
    q, k, n, weight, hide = partly(np.random.RandomState(0))
    want = partly_by_hand(q, k, n, weight, hide, t)
    loss, grad, rank = run(q, k, n, t, with_rank=True, weight=tensor(weight), hide=tuple(map(tensor, hide)))
    assert loss == pytest.approx(want[0], rel=1e-5)
    close(grad, want[1], 2e-5)
    assert rank.numpy().tolist() == want[2]
    assert 0 < weight.sum() < len(weight) and not grad[weight == 0].any()


@pytest.mark.parametrize('t', [0.2, 0.01])
def test_no_row_counts_and_no_column_is_seen(t):
    q, k, n, weight, hide = partly(np.random.RandomState(1))
    loss, grad, _ = run(q, k, n, t, weight=tensor(0 * weight))
    assert loss == 0 and not grad.any()
    hide_all = tensor(np.ones_like(hide[0])), tensor(np.ones_like(hide[1]))
    loss, grad, rank = run(q, k, n, t, with_rank=True, hide=hide_all)
    assert loss == 0 and not grad.any() and not rank.numpy().any()          # nothing to tell the keys from


def test_accuracy_of_the_rows_that_count():
    rank = paddle.to_tensor([0, 7, 3, 0, 9])
    acc1, acc5 = ranking_accuracy(rank, 20, weight=tensor([1, 1, 1, 0, 0]))
    assert float(acc1) == pytest.approx(100 / 3) and float(acc5) == pytest.approx(200 / 3)
    assert [float(a) for a in ranking_accuracy(rank, 20, weight=tensor([0] * 5))] == [0, 0]
