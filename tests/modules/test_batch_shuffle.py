"""Shuffle and unshuffle over (simulated) processes; BN in splits."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules import batch_shuffle
from passl.modules.batch_shuffle import BatchShuffle, in_splits, pack, shared_permutation
from passl.utils import dist


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype('float32')


def test_permutation_is_a_function_of_seed_and_step():
    drawn = {(seed, step): shared_permutation(64, seed, step) for seed in range(3) for step in range(5)}
    for p in drawn.values():
        assert sorted(p) == list(range(64))
    assert len({tuple(p) for p in drawn.values()}) == len(drawn)
    np.random.seed(5)
    paddle.seed(5)
    np.testing.assert_array_equal(shared_permutation(64, 1, 3), drawn[1, 3])


def test_unshuffle_takes_shuffle_back():
    x = random(8, 3, 2, 2)
    shuffle = BatchShuffle(8, seed=1, step=2, splits=2)
    mixed = shuffle.shuffle(paddle.to_tensor(x))
    np.testing.assert_array_equal(mixed.numpy(), x[shared_permutation(8, 1, 2)])
    assert not np.array_equal(mixed.numpy(), x)
    (flat, whole), (all_flat, none) = shuffle.unshuffle([mixed[:, 0, 0, :], mixed], [True, False])
    np.testing.assert_array_equal(whole.numpy(), x)
    np.testing.assert_array_equal(flat.numpy(), x[:, 0, 0, :])
    np.testing.assert_array_equal(all_flat.numpy(), x[:, 0, 0, :])
    assert none is None


def test_nothing_moves_in_one_group(monkeypatch):
    """One process, one BN group: no copy, no packing, no collective."""
    for name in ('Exchange', 'place', 'all_gather'):
        monkeypatch.setattr(dist, name, None)
    monkeypatch.setattr(batch_shuffle, 'pack', None)
    x, y = paddle.to_tensor(random(4, 2)), paddle.to_tensor(random(4, 3, 2))
    shuffle = BatchShuffle(4, seed=1, step=2)
    assert shuffle.shuffle(x) is x
    (a, b), (everybodys, none) = shuffle.unshuffle([x, y], [True, False])
    assert a is x and b is y and everybodys is x and none is None


class World:
    """Plays `size` processes one after the other, each twice: first to hear what it hands over, then to answer."""

    def __init__(self, monkeypatch, size):
        self.size, self.handed, self.calls = size, None, []
        for name in ('world_size', 'all_gather'):
            monkeypatch.setattr(batch_shuffle.dist, name, getattr(self, name))
        monkeypatch.setattr(batch_shuffle.dist, 'rank', lambda: self.me)
        monkeypatch.setattr(batch_shuffle.dist.Exchange, 'move', lambda plan, x: self.exchange(x, plan.asked_for))
        monkeypatch.setattr(batch_shuffle.dist.Exchange, '__init__', self.remember)
        monkeypatch.setattr(batch_shuffle.dist, 'place', lambda _, index: [paddle.to_tensor(index)])

    @staticmethod
    def remember(plan, index, n):
        plan.asked_for = index

    def world_size(self):
        return self.size

    def hand_over(self, name, x):
        self.calls.append(name)
        if self.listening:
            self.handed[self.me].append(x.numpy())
            return np.concatenate([x.numpy()] * self.size)
        turn = len(self.calls) - 1
        return np.concatenate([h[turn] for h in self.handed])

    def all_gather(self, x):
        return paddle.to_tensor(self.hand_over('all_gather', x))

    def exchange(self, x, index):
        n = x.shape[0]
        return paddle.to_tensor(self.hand_over('exchange', x)[index[self.me * n:(self.me + 1) * n]])

    def each(self, work):
        self.handed = [[] for _ in range(self.size)]
        for self.listening in (True, False):
            out = []
            for self.me in range(self.size):
                self.calls = []
                out.append(work(self.me))
        return out


@pytest.mark.parametrize('size', [2, 3, 4])
def test_processes_mix_and_get_their_own_back(monkeypatch, size):
    n = 4
    x = random(size * n, 3)
    world = World(monkeypatch, size)

    def parts(mixed):           # what an encoder could give: a map, a vector, something dense, another vector
        return [paddle.to_tensor(p) for p in (2 * mixed.reshape(n, 3, 1), 3 * mixed, 4 * mixed[:, :, None] + np.ones(
            (1, 1, 2), 'float32'), 5 * mixed)]

    mixed = world.each(lambda r: BatchShuffle(n, 0, 7).shuffle(paddle.to_tensor(x[r * n:(r + 1) * n])).numpy())
    order = shared_permutation(size * n, 0, 7)
    np.testing.assert_array_equal(np.concatenate(mixed), x[order])
    assert {i // n for i in order[:n]} != {0}                        # samples of others are encoded
    shared = [False, True, False, True]
    for r, (local, everything) in enumerate(world.each(
            lambda r: BatchShuffle(n, 0, 7).unshuffle(parts(mixed[r]), shared))):
        want = [p.numpy() for q in range(size) for p in parts(x[q * n:(q + 1) * n])]
        want = [np.concatenate(want[i::4]) for i in range(4)]
        assert world.calls == ['exchange', 'all_gather']
        for got, rows, w, everybodys in zip(local, everything, want, shared):
            np.testing.assert_array_equal(got.numpy(), w[r * n:(r + 1) * n])
            assert (rows is not None) == everybodys
            if everybodys:
                np.testing.assert_array_equal(rows.numpy(), w)


@pytest.mark.parametrize('types, want', [(('float32', 'float32'), 'float32'), (('bfloat16', 'bfloat16'), 'bfloat16'),
                                         (('bfloat16', 'float32'), 'float32')])
def test_packing_keeps_values_and_low_precision(types, want):
    a, b = (paddle.to_tensor(random(3, *shape)).astype(t) for shape, t in zip(((2, 5), (4,)), types))
    packed, unpack = pack([a, b])
    assert packed.shape == [3, 14] and want in str(packed.dtype).lower()
    for got, part in zip(unpack(packed), (a, b)):
        assert got.shape == part.shape
        np.testing.assert_array_equal(got.astype('float32').numpy(), part.astype('float32').numpy())
    packed, unpack = pack([a])
    assert unpack(packed)[0].shape == a.shape


def normalised(x, eps=1e-5):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps)


def test_in_splits_every_group_has_its_own_statistics():
    x = random(8, 5) * 3 + 1
    x[4:] += 10
    bn = nn.BatchNorm1D(5, momentum=0.9)
    halves = in_splits(bn, paddle.to_tensor(x), 2).numpy()
    np.testing.assert_allclose(halves, np.concatenate([normalised(x[:4]), normalised(x[4:])]), atol=1e-4)
    mean = 0.9 * (0.1 * x[:4].mean(0)) + 0.1 * x[4:].mean(0)             # running mean saw both, in order
    np.testing.assert_allclose(bn._mean.numpy(), mean, rtol=1e-4, atol=1e-5)
    whole = in_splits(nn.BatchNorm1D(5), paddle.to_tensor(x), 1).numpy()
    np.testing.assert_allclose(whole, normalised(x), atol=1e-4)
    assert np.abs(whole - halves).max() > 0.5


def test_in_splits_joins_several_outputs():
    x = random(6, 2)
    double, rows = in_splits(lambda part: (2 * part, part.sum(axis=1)), paddle.to_tensor(x), 3)
    np.testing.assert_allclose(double.numpy(), 2 * x)
    np.testing.assert_allclose(rows.numpy(), x.sum(1), rtol=1e-5)


@pytest.mark.parametrize('splits', [1, 2, 4])
def test_in_splits_changes_nothing_without_bn(splits):
    x, layer = paddle.to_tensor(random(8, 5)), nn.Linear(5, 3)
    np.testing.assert_allclose(in_splits(layer, x, splits).numpy(), layer(x).numpy(), atol=1e-6)
