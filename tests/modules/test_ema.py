"""The moving average of weights, against numpy."""

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules import ema
from passl.modules.ema import WeightAverage, ema_update_, trainable_pairs
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


class Reference:
    """The average of every trained parameter in float64, kept beside the real one."""

    def __init__(self, q, k):
        self.q, self.k = q, k
        self.want = {n: p.numpy().astype('float64') for n, p in k.named_parameters()}

    def step(self, m):
        for name, p in self.q.named_parameters():
            if not p.stop_gradient:
                self.want[name] = m * self.want[name] + (1 - m) * p.astype('float32').numpy()

    def check(self):
        for name, now in values(self.k).items():
            np.testing.assert_allclose(now, self.want[name], rtol=1e-5, atol=1e-6, err_msg=name)


def train(q, optimizer, seed):
    loss = (q(paddle.to_tensor(np.random.RandomState(seed).randn(6, 4).astype('float32'))) ** 2).mean()
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()


@pytest.mark.parametrize('m', [0.0, 0.9, 0.999, 1.0])
def test_average_is_the_loop(m):
    q, k = pair()
    average, twin, before = WeightAverage(q, k), copy.deepcopy(k), values(k)
    for _ in range(3):
        average.update(m)
        ema_update_(trainable_pairs(q, twin), m)
        for p in q.parameters():
            p.set_value(p * 0.5)
    assert average._fused and not average._single
    for name, now in values(k).items():
        np.testing.assert_allclose(now, values(twin)[name], rtol=3e-7, atol=1e-8)
    if m == 0:
        np.testing.assert_array_equal(k[0].weight.numpy(), 2 * q[0].weight.numpy())
    if m == 1:
        for name, now in values(k).items():
            np.testing.assert_array_equal(now, before[name])


def test_average_takes_one_call(monkeypatch):
    q, k = pair()
    average, calls = WeightAverage(q, k), []
    average.update(0.9)
    for owner, name in [(paddle.Tensor, n) for n in ('scale_', 'add_', 'scale', '__mul__')] + [(ema, '_fused_update_')]:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _real=real, **kw: calls.append(1) or _real(*a, **kw))
    average.update(0.9)
    assert len(calls) == 1
    calls.clear()
    ema_update_(trainable_pairs(q, k), 0.9)
    assert len(calls) == 18


def test_a_diverged_weight_stays_where_it_is():
    """The scratch memory is shared: nan in one weight must not reach another, nor a later step."""
    q, k = pair()
    average, reference = WeightAverage(q, k), Reference(q, k)
    sound = q[0].weight.numpy()
    q[0].weight.set_value(np.full([4, 5], np.inf, 'float32'))
    average.update(0.5)
    reference.step(0.5)
    q[0].weight.set_value(sound)
    k[0].weight.set_value(sound)
    reference.want['0.weight'] = sound.astype('float64')
    average.update(0.5)
    reference.step(0.5)
    reference.check()


@pytest.mark.parametrize('name', ['Momentum', 'AdamW'])
def test_average_follows_an_optimizer(name):
    q, k = pair()
    optimizer = getattr(paddle.optimizer, name)(0.1, parameters=q.parameters())
    average, reference = WeightAverage(q, k), Reference(q, k)
    plain = copy.deepcopy(q)
    plain_optimizer = getattr(paddle.optimizer, name)(0.1, parameters=plain.parameters())
    for seed in range(4):
        average.update(0.8)
        reference.step(0.8)
        train(q, optimizer, seed)
        train(plain, plain_optimizer, seed)
    reference.check()
    for name, now in values(plain).items():
        np.testing.assert_array_equal(values(q)[name], now)


def test_parameters_stay_what_they_were():
    q, k = pair()
    before = [(id(p), p.name, list(p.shape), p.stop_gradient, p.numpy()) for net in (q, k) for p in net.parameters()]
    names = [list(net.state_dict()) for net in (q, k)]
    WeightAverage(q, k).update(1.0)
    after = [(id(p), p.name, list(p.shape), p.stop_gradient, p.numpy()) for net in (q, k) for p in net.parameters()]
    for one, two in zip(before, after):
        assert one[:4] == two[:4]
        np.testing.assert_array_equal(one[4], two[4])
    assert names == [list(net.state_dict()) for net in (q, k)]


def test_average_after_loading(tmp_path):
    q, k = pair()
    average, path = WeightAverage(q, k), str(tmp_path / 'weights.pdparams')
    average.update(0.5)
    paddle.save({'q': q.state_dict(), 'k': k.state_dict()}, path)
    assert (tmp_path / 'weights.pdparams').stat().st_size < 10000
    saved = values(q)
    for p in q.parameters():
        p.set_value(p * 3)
    loaded = paddle.load(path)
    for name, value in saved.items():
        np.testing.assert_array_equal(loaded['q'][name].numpy(), value)
    q.set_state_dict(loaded['q'])
    k.set_state_dict(loaded['k'])
    reference = Reference(q, k)
    average.update(0.5)
    reference.step(0.5)
    reference.check()
    for name, now in values(q).items():
        np.testing.assert_array_equal(now, saved[name])


def test_copies_do_not_share_memory():
    class Model(nn.Layer):
        def __init__(self):
            super().__init__()
            self.q, self.k = pair()
            self.average = WeightAverage(self.q, self.k)

    model = Model()
    model.average.update(0.5)
    twin = copy.deepcopy(model)
    assert twin.average.source is twin.q and twin.average.target is twin.k
    before = values(model.k)
    reference = Reference(twin.q, twin.k)
    for _ in range(2):
        twin.average.update(0.5)
        reference.step(0.5)
    reference.check()
    for name, now in values(model.k).items():
        np.testing.assert_array_equal(now, before[name])


def test_reading_a_weight_costs_its_own_size():
    """Not that of some larger buffer behind it, which Paddle would copy whole."""
    q, k = pair()
    WeightAverage(q, k).update(0.5)
    addresses = sorted((p.data_ptr(), 4 * int(p.size)) for net in (q, k) for p in net.parameters())
    assert all(start + size <= following for (start, size), (following, _) in zip(addresses, addresses[1:]))
    view = q[0].bias.detach().numpy()
    while view.base is not None and hasattr(view.base, 'nbytes'):
        view = view.base
    assert view.nbytes == 4 * 5


def test_average_of_half_precision_source():
    """As under AMP level O2: the query's weights are float16, the key's stay float32; batch norm is float32 in both."""
    q, k = pair()
    average, reference = WeightAverage(q, k), Reference(q, k)
    average.update(0.9)
    reference.step(0.9)
    q[0].to(dtype='float16')
    q[2].to(dtype='float16')
    assert q[0].weight.dtype == paddle.float16
    for _ in range(3):
        average.update(0.9)
        reference.step(0.9)
    reference.check()
    assert len(average._single) == 4 and len(average._fused[0]) == 2 and k[0].weight.dtype == paddle.float32
    q.to(dtype='float32')
    average.update(0.9)
    reference.step(0.9)
    reference.check()
    assert not average._single


def test_average_notices_what_is_frozen_and_released():
    q, k = pair()
    average, reference = WeightAverage(q, k), Reference(q, k)
    for change in (lambda: None, lambda: freeze_(q[0]), lambda: setattr(q[0].weight, 'stop_gradient', False)):
        change()
        q[0].weight.set_value(q[0].weight + 1)
        average.update(0.9)
        reference.step(0.9)
        reference.check()


def test_without_the_fused_call_it_goes_one_by_one(monkeypatch):
    ema._fused_works.cache_clear()
    monkeypatch.setattr(ema, '_fused_update_', lambda *a: 1 / 0)
    q, k = pair()
    average, reference = WeightAverage(q, k), Reference(q, k)
    for _ in range(2):
        average.update(0.9)
        reference.step(0.9)
    reference.check()
    assert len(average._single) == 6 and not average._fused
    ema._fused_works.cache_clear()


def test_freeze():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1D(2))
    assert not is_frozen(net)
    freeze_(net[0])
    assert is_frozen(net[0]) and not is_frozen(net)
    freeze_(net)
    assert is_frozen(net)
