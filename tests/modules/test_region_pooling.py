"""Shares of regions and their mean vectors, against numpy loops."""

import numpy as np
import paddle
import pytest

from passl.modules.region_pooling import pool_regions, region_shares

RNG = np.random.RandomState(0)


def shares_by_hand(regions, most, rows, columns):
    """Cell (i, j) is the mean over the places of an adaptive pooling."""
    n, h, w = regions.shape
    out = np.zeros((n, most, rows, columns))
    for i in range(rows):
        for j in range(columns):
            seen = regions[:, i * h // rows:-(-(i + 1) * h // rows), j * w // columns:-(-(j + 1) * w // columns)]
            for r in range(most):
                out[:, r, i, j] = (seen == r).mean(axis=(1, 2))
    return out.reshape(n, most, -1), np.stack([(regions == r).mean(axis=(1, 2)) for r in range(most)], axis=1)


@pytest.mark.parametrize('grid', [(4, 4), (7, 7), (3, 5), (1, 1), (32, 32)])
def test_shares(grid):
    regions = RNG.randint(0, 18, (2, 32, 32)).astype('uint8')               # 16 and 17: of no region
    cells, view = region_shares(paddle.to_tensor(regions), 16, grid)
    want = shares_by_hand(regions, 16, *grid)
    np.testing.assert_allclose(cells.numpy(), want[0], atol=1e-6)
    np.testing.assert_allclose(view.numpy(), want[1], atol=1e-6)
    assert cells.stop_gradient and cells.numpy().sum(1).min() < 1           # those of no region are missing


def test_vectors_are_unit_means_weighted_by_share():
    shares, dense = RNG.rand(2, 3, 5), RNG.randn(2, 4, 5)
    want = np.einsum('nrl,ndl->nrd', shares, dense) / shares.sum(2)[:, :, None]
    got = pool_regions(paddle.to_tensor(shares, 'float32'), paddle.to_tensor(dense, 'float32'))
    np.testing.assert_allclose(got.numpy(), want / np.linalg.norm(want, axis=2, keepdims=True), atol=1e-6)


def test_a_region_without_a_cell_is_zero_and_its_gradient_finite():
    shares = np.zeros((1, 2, 3), 'float32')
    shares[0, 0, 1] = 1
    dense = paddle.to_tensor(RNG.randn(1, 4, 3), 'float32', stop_gradient=False)
    out = pool_regions(paddle.to_tensor(shares), dense)
    out.sum().backward()
    np.testing.assert_array_equal(out.numpy()[0, 1], 0)
    assert np.isfinite(dense.grad.numpy()).all() and not dense.grad.numpy()[:, :, [0, 2]].any()
    assert np.abs(dense.grad.numpy()[:, :, 1]).max() > 0.01
