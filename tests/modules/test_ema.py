"""The moving average of weights, against numpy."""

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules.ema import ema_update_, trainable_pairs
from passl.modules.freeze import freeze_, is_frozen


def pair():
    q = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1D(5), nn.Linear(5, 2))
    k = copy.deepcopy(q)
    freeze_(k)
    rng = np.random.RandomState(0)
    for net in (q, k):
        for p in net.parameters():
            p.set_value(rng.rand(*p.shape).astype('float32'))
    return q, k


def values(net):
    return {n: p.numpy().copy() for n, p in net.named_parameters()}


@pytest.mark.parametrize('m', [0.0, 0.9, 0.999, 1.0])
def test_update(m):
    q, k = pair()
    before, source = values(k), values(q)
    ema_update_(trainable_pairs(q, k), m)
    for name, now in values(k).items():
        if name.endswith(('_mean', '_variance')):
            np.testing.assert_array_equal(now, before[name])           # each network measures its own
        else:
            np.testing.assert_allclose(now, m * before[name] + (1 - m) * source[name], rtol=1e-6, atol=1e-7)
    for name, now in values(q).items():
        np.testing.assert_array_equal(now, source[name])


def test_equal_networks_stay_equal():
    q, _ = pair()
    k = copy.deepcopy(q)
    freeze_(k)
    for _ in range(20):
        ema_update_(trainable_pairs(q, k), 0.99)
    for (_, a), (_, b) in zip(q.named_parameters(), k.named_parameters()):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


def test_is_in_place():
    q, k = pair()
    tensors = dict(k.named_parameters())
    pairs = trainable_pairs(q, k)
    assert all(target is tensors[name] for (_, target), name in
               zip(pairs, [n for n, p in q.named_parameters() if not p.stop_gradient]))
    ema_update_(pairs, 0.5)
    assert all(p is tensors[n] and p.stop_gradient for n, p in k.named_parameters())


def test_pairs_are_what_trains_in_the_source():
    q, k = pair()
    assert len(trainable_pairs(q, k)) == 6                               # 2 x (weight, bias) and BN's weight, bias
    freeze_(q[0])
    assert len(trainable_pairs(q, k)) == 4


def test_half_precision_source_moves_a_float32_target():
    source, target = paddle.ones([3]).astype('float16'), paddle.zeros([3])
    for _ in range(3):
        ema_update_([(source, target)], 0.999)
    np.testing.assert_allclose(target.numpy(), 1 - 0.999**3, rtol=1e-4)


def test_freeze():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1D(2))
    assert not is_frozen(net)
    freeze_(net[0])
    assert is_frozen(net[0]) and not is_frozen(net)
    freeze_(net)
    assert is_frozen(net)
