"""The spread and the effective rank of features, against numpy."""

import numpy as np
import paddle
import pytest

from passl.modules.spread import effective_rank, spread
from tests.modeling.tiny import small, unit, views


def oracle(x):
    return x.astype('float64').std(axis=0).mean() * np.sqrt(x.shape[1])


def test_against_numpy():
    x = unit(np.random.RandomState(0).randn(7, 5) + 0.3, 1).astype('float32')
    tensor = paddle.to_tensor(x, stop_gradient=False)
    found = spread(tensor)
    assert float(found) == pytest.approx(oracle(x), rel=1e-6) and found.stop_gradient and found.ndim == 0


def test_its_two_ends():
    assert float(spread(paddle.ones([6, 4]) / 2)) == 0
    even = np.concatenate([np.eye(4), -np.eye(4)]).astype('float32')
    assert float(spread(paddle.to_tensor(even))) == pytest.approx(1, rel=1e-6)
    many = unit(np.random.RandomState(1).randn(4000, 64), 1).astype('float32')
    assert float(spread(paddle.to_tensor(many))) == pytest.approx(1, abs=0.01)
    few = np.eye(4, 8).astype('float32')
    assert float(spread(paddle.to_tensor(few))) == pytest.approx(4 / 8 * np.sqrt(3) / 4 * np.sqrt(8), rel=1e-6)
    assert float(spread(paddle.to_tensor(many).astype('float16'))) == pytest.approx(oracle(many), rel=1e-3)


def rank_of(x):
    values = np.linalg.svd(x.astype('float64'), compute_uv=False)
    p = values[values > 0] / values.sum()
    return np.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize('shape', [(7, 5), (5, 7), (300, 64)])
def test_the_rank_against_numpy(shape):
    x = unit(np.random.RandomState(0).randn(*shape) + 0.3, 1).astype('float32')
    found = effective_rank(paddle.to_tensor(x, stop_gradient=False))
    assert float(found) == pytest.approx(rank_of(x), rel=1e-5) and found.stop_gradient and found.ndim == 0
    assert found.dtype == paddle.float32


def test_the_ends_of_the_rank():
    assert float(effective_rank(paddle.ones([64, 8]))) == pytest.approx(1, abs=1e-5)
    assert float(effective_rank(paddle.eye(8))) == pytest.approx(8, rel=1e-5)
    assert float(effective_rank(paddle.zeros([4, 3]))) == 1.0
    planes = np.eye(8)[np.arange(40) % 3].astype('float32')
    assert float(effective_rank(paddle.to_tensor(planes))) == pytest.approx(3, rel=0.01)


def test_broken_features_end_no_step_here():
    """A decomposition of nan raises; that features broke is told in words by HealthHook."""
    for broken in (float('nan'), float('inf'), 1e200):
        x = paddle.ones([6, 4], 'float64')
        x[0, 0] = broken
        assert np.isfinite(float(effective_rank(x)))


def test_the_models_give_that_of_their_queries():
    model, (a, b) = small(), views()
    out = model(a, b)
    _, q, dense, _ = model.query(a)
    rows = unit(dense.numpy().transpose(0, 2, 1).reshape(-1, dense.shape[1]), 1)
    assert float(out['std']) == pytest.approx(oracle(unit(q.numpy(), 1)), rel=1e-4)
    assert float(out['rank']) == pytest.approx(rank_of(unit(q.numpy(), 1)), rel=1e-4)
    assert float(out['rank_dense']) == pytest.approx(rank_of(rows), rel=1e-4)
    assert float(out['std_dense']) == pytest.approx(oracle(rows), rel=1e-4) and model.cells == 4
    model.with_metrics = False
    assert not {'std', 'std_dense', 'rank', 'rank_dense'} & set(model(a, b))
    model.with_metrics = True
    assert 'std' not in model(a[:1], b[:1]) and 'std' in small('MoCo')(a, b)
