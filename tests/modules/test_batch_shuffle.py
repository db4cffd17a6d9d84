"""Shuffle and unshuffle over (simulated) processes; BN in splits."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules import batch_shuffle
from passl.modules.batch_shuffle import BatchShuffle, in_splits, shared_permutation


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
    shuffle = BatchShuffle(8, seed=1, step=2)
    mixed = shuffle.shuffle(paddle.to_tensor(x))
    np.testing.assert_array_equal(mixed.numpy(), x[shared_permutation(8, 1, 2)])
    assert not np.array_equal(mixed.numpy(), x)
    (flat, whole), (all_flat, all_whole) = shuffle.unshuffle([mixed[:, 0, 0, :], mixed])
    np.testing.assert_array_equal(whole.numpy(), x)
    np.testing.assert_array_equal(all_whole.numpy(), x)
    np.testing.assert_array_equal(flat.numpy(), x[:, 0, 0, :])
    np.testing.assert_array_equal(all_flat.numpy(), x[:, 0, 0, :])


class World:
    """Plays `size` processes one after the other; what they gather is what was told before."""

    def __init__(self, monkeypatch, size):
        self.size, self.rank, self.pieces = size, 0, None
        monkeypatch.setattr(batch_shuffle, 'dist', self)

    def world_size(self):
        return self.size

    def all_gather(self, x):
        return paddle.to_tensor(np.concatenate(self.pieces))

    def each(self, work):
        out = []
        for r in range(self.size):
            self.rank = lambda r=r: r
            out.append(work(r))
        return out


def test_two_processes_mix_and_get_their_own_back(monkeypatch):
    n, x = 4, random(8, 3)
    world = World(monkeypatch, 2)
    world.pieces = [x[:n], x[n:]]
    mixed = world.each(lambda r: BatchShuffle(n, 0, 7).shuffle(paddle.to_tensor(world.pieces[r])).numpy())
    order = shared_permutation(8, 0, 7)
    np.testing.assert_array_equal(np.concatenate(mixed), x[order])
    assert {i // n for i in order[:n]} == {0, 1}                     # samples of both are encoded by each
    world.pieces = [2 * m for m in mixed]                            # the "encoder"
    for r, (local, everything) in enumerate(world.each(
            lambda r: BatchShuffle(n, 0, 7).unshuffle([paddle.to_tensor(world.pieces[r])]))):
        np.testing.assert_array_equal(local[0].numpy(), 2 * x[r * n:(r + 1) * n])
        np.testing.assert_array_equal(everything[0].numpy(), 2 * x)


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
