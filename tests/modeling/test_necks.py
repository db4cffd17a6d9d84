"""Projections: shapes, values against numpy, initial values."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling import build_neck
from passl.modeling.necks import densecl_neck, DenseCLNeck, LinearNeck, NonLinearNeckV1, NonLinearNeckV2
from passl.utils.errors import ConfigError


def weights(layer):
    return {n: p.numpy().astype('float64') for n, p in layer.named_parameters()}


def pool(x, rows, columns):
    """Adaptive average pooling of [N, C, H, W], by its definition."""
    h, w = x.shape[2:]
    out = np.zeros(x.shape[:2] + (rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * h // rows, -(-(i + 1) * h // rows)
            left, right = j * w // columns, -(-(j + 1) * w // columns)
            out[:, :, i, j] = x[:, :, top:bottom, left:right].mean((2, 3))
    return out


@pytest.mark.parametrize('num_grid, cells', [(None, (2, 3)), (1, (1, 1)), (2, (2, 2)), (7, (7, 7)), ([2, 3], (2, 3)),
                                             ([1, 4], (1, 4))])
def test_densecl_neck(num_grid, cells):
    paddle.seed(0)
    neck = DenseCLNeck(6, 5, 4, num_grid)
    x = np.random.RandomState(0).randn(2, 6, 2, 3).astype('float32')
    whole, dense, pooled = (t.numpy() for t in neck(paddle.to_tensor(x)))
    w = weights(neck)

    hidden = np.maximum(x.mean((2, 3)) @ w['mlp.0.weight'] + w['mlp.0.bias'], 0)
    np.testing.assert_allclose(whole, hidden @ w['mlp.2.weight'] + w['mlp.2.bias'], atol=1e-5)

    grid = pool(x, *cells).reshape(2, 6, -1)
    hidden = np.maximum(np.einsum('oc,ncl->nol', w['mlp2.0.weight'][:, :, 0, 0], grid) + w['mlp2.0.bias'][:, None], 0)
    want = np.einsum('oc,ncl->nol', w['mlp2.2.weight'][:, :, 0, 0], hidden) + w['mlp2.2.bias'][:, None]
    np.testing.assert_allclose(dense, want, atol=1e-5)
    np.testing.assert_allclose(pooled, want.mean(2), atol=1e-5)                 # after the projection
    np.testing.assert_allclose(neck.to_grid(paddle.to_tensor(x)).numpy().reshape(2, 6, -1), grid, atol=1e-5)


def test_densecl_neck_starts_as_the_authors():
    paddle.seed(0)
    neck = DenseCLNeck(256, 512, 64)
    assert set(neck.state_dict()) == {f'{m}.{i}.{s}' for m in ('mlp', 'mlp2') for i in (0, 2)
                                      for s in ('weight', 'bias')}
    for layer, fan_in in ((neck.mlp[0], 256), (neck.mlp[2], 512)):
        value = layer.weight.numpy()
        assert value.std() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
        assert np.abs(value).max() > 3 * math.sqrt(2 / fan_in)                  # normal, not uniform
        assert (layer.bias.numpy() == 0).all()
    for layer, fan_in in ((neck.mlp2[0], 256), (neck.mlp2[2], 512)):
        bound = 1 / math.sqrt(fan_in)
        for p in (layer.weight, layer.bias):
            assert 0.9 * bound < np.abs(p.numpy()).max() <= bound
        assert layer.weight.numpy().std() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize('num_grid', [0, -1, [2], [2, 3, 4], [2, 0], 'seven', 2.5, True])
def test_wrong_num_grid(num_grid):
    with pytest.raises(ConfigError, match="'model.neck.num_grid' must be a number of cells S of 1 or more, or .*, not"):
        build_neck(dict(name='DenseCLNeck', in_channels=4, hid_channels=4, out_channels=4, num_grid=num_grid))


X = np.random.RandomState(1).randn(4, 6, 2, 3).astype('float32')


def test_linear_neck():
    neck = LinearNeck(6, 3)
    w = weights(neck)
    assert set(w) == {'fc.weight', 'fc.bias'}
    np.testing.assert_allclose(neck(paddle.to_tensor(X)).numpy(), X.mean((2, 3)) @ w['fc.weight'], atol=1e-5)


def test_non_linear_neck_v1():
    neck = NonLinearNeckV1(6, 5, 3)
    w = weights(neck)
    assert set(w) == {'mlp.0.weight', 'mlp.0.bias', 'mlp.2.weight', 'mlp.2.bias'}
    want = np.maximum(X.mean((2, 3)) @ w['mlp.0.weight'], 0) @ w['mlp.2.weight']
    np.testing.assert_allclose(neck(paddle.to_tensor(X)).numpy(), want, atol=1e-5)


def test_non_linear_neck_v2():
    neck = NonLinearNeckV2(6, 5, 3)
    w = weights(neck)
    hidden = X.mean((2, 3)) @ w['mlp.0.weight']
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    np.testing.assert_allclose(neck(paddle.to_tensor(X)).numpy(), np.maximum(hidden, 0) @ w['mlp.3.weight'], atol=1e-4)


@pytest.mark.parametrize('kind, args', [(LinearNeck, (6, 3)), (NonLinearNeckV1, (6, 5, 3)),
                                        (NonLinearNeckV2, (6, 5, 3))])
def test_pooled_input_passes(kind, args):
    neck = kind(*args)
    neck.eval()
    flat = neck(paddle.to_tensor(X.mean((2, 3)))).numpy()
    np.testing.assert_allclose(flat, neck(paddle.to_tensor(X)).numpy(), atol=1e-5)
    bare = kind(*args, with_avg_pool=False)
    bare.set_state_dict(neck.state_dict())
    bare.eval()
    np.testing.assert_allclose(bare(paddle.to_tensor(X.mean((2, 3)))).numpy(), flat, atol=1e-6)


@pytest.mark.parametrize('kind', [NonLinearNeckV1, NonLinearNeckV2])
def test_linear_layers_start_kaiming_normal(kind):
    paddle.seed(0)
    mlp = kind(400, 300, 200).mlp
    for layer, fan_in in ((mlp[0], 400), (mlp[len(mlp) - 1], 300)):
        assert layer.weight.numpy().std() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
        assert (layer.bias.numpy() == 0).all()


def test_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="'model.neck.hid_channel'.*'hid_channels'"):
        build_neck({'name': 'DenseCLNeck', 'in_channels': 4, 'hid_channel': 4, 'out_channels': 4})


def test_what_a_narrow_product_gives_stays_narrow(monkeypatch):
    """As under mixed precision, whose products are in half precision and whose biases are not: what travels between
    processes would be twice as large. (float64 and float32 play the two: a CPU adds nothing in half precision.)"""
    conv, matmul = nn.Conv2D(3, 2, 1), paddle.matmul
    conv.to(dtype='float64')
    monkeypatch.setattr(paddle, 'matmul', lambda *a, **k: matmul(*a, **k).astype('float32'))
    assert densecl_neck._product(paddle.ones([4, 3], dtype='float64'), conv).dtype == paddle.float32
