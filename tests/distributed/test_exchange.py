"""What `dist.exchange` sends, and where it puts what arrives: processes played one after the other, and real ones."""

import inspect
import json
import os

import numpy as np
import paddle
import paddle.distributed
import pytest

from passl.utils import dist

from .test_two_processes import HERE, launch


@pytest.mark.parametrize('size', [2, 4, 6, 8, 16])
def test_everybody_meets_everybody_once_and_nobody_waits(size):
    rounds = list(zip(*(dist.meeting_order(me, size) for me in range(size))))
    assert len(rounds) == size - 1
    for peers in rounds:
        assert all(peers[peer] == me != peer for me, peer in enumerate(peers))
    for me in range(size):
        assert sorted(r[me] for r in rounds) == [r for r in range(size) if r != me]


def play(monkeypatch, size, n, index, device='gpu:0'):
    """(results, traffic) per process, the transport being replaced by one that knows what everybody hands over."""
    handed, listening = {}, True

    def alltoall_single(in_tensor, out_tensor, in_split_sizes, out_split_sizes):
        handed[me] = np.split(in_tensor.numpy(), np.cumsum(in_split_sizes)[:-1])
        assert sum(in_split_sizes) == in_tensor.shape[0] and sum(out_split_sizes) == out_tensor.shape[0]
        if not listening:
            parts = [handed[r][me] for r in range(size)]
            assert [len(p) for p in parts] == out_split_sizes
            paddle.assign(paddle.to_tensor(np.concatenate(parts)), output=out_tensor)

    monkeypatch.setattr(paddle.distributed, 'alltoall_single', alltoall_single)
    monkeypatch.setattr(paddle, 'get_device', lambda: device)
    monkeypatch.setattr(dist, 'world_size', lambda: size)
    monkeypatch.setattr(dist, 'rank', lambda: me)
    for listening in (True, False):
        out = []
        for me in range(size):
            with dist.traffic() as counted:
                rows = dist.exchange(paddle.to_tensor(images(size, n)[me * n:(me + 1) * n]), index)
            out.append((rows.numpy(), counted))
    return out


def images(size, n):
    return np.random.RandomState(0).randint(0, 256, (size * n, 2, 3)).astype('uint8')


@pytest.mark.parametrize('size, n', [(2, 4), (3, 4), (5, 2), (8, 3), (4, 1)])
def test_rows_go_where_they_are_asked_for(monkeypatch, size, n):
    index = np.random.RandomState(size).permutation(size * n)
    for me, (rows, counted) in enumerate(play(monkeypatch, size, n, index)):
        mine = index[me * n:(me + 1) * n]
        np.testing.assert_array_equal(rows, images(size, n)[mine])
        crossing = int((mine // n != me).sum()) * 6             # of a permutation as many rows leave as come
        assert counted == {'exchange': {'calls': 1, 'sent': crossing, 'received': crossing}}


def test_rows_may_be_asked_for_twice_or_not_at_all(monkeypatch):
    index = np.array([3, 3, 0, 3])
    results = play(monkeypatch, 2, 2, index)
    for me, (rows, _) in enumerate(results):
        np.testing.assert_array_equal(rows, images(2, 2)[index[2 * me:2 * me + 2]])
    assert [(c['exchange']['sent'], c['exchange']['received']) for _, c in results] == [(6, 12), (12, 6)]


def test_names_of_the_arguments_of_paddles_all_to_all():
    """2.6 and 3 order them differently, so that they are given by name."""
    names = set(inspect.signature(paddle.distributed.alltoall_single).parameters)
    assert {'in_tensor', 'out_tensor', 'in_split_sizes', 'out_split_sizes'} <= names


def test_one_process_counts_nothing():
    x = paddle.to_tensor(images(1, 4))
    with dist.traffic() as counted:
        np.testing.assert_array_equal(dist.exchange(x, np.array([2, 0, 3, 1])).numpy(), x.numpy()[[2, 0, 3, 1]])
        assert dist.all_gather(x) is x
        dist.sum_over_processes([1.0])
    assert counted == {}
    assert dist.gradient_traffic(paddle.nn.Linear(2, 2)) == {'calls': 0, 'sent': 0, 'received': 0}


def test_counting_within_counting_and_after(monkeypatch):
    with dist.traffic() as outer:
        with dist.traffic() as inner:
            dist._count('x', 1, 2)
        dist._count('x', 3, 4)
        dist._count('x', 3, 4)
    assert inner == {'x': {'calls': 1, 'sent': 1, 'received': 2}}
    assert outer == {'x': {'calls': 2, 'sent': 6, 'received': 8}}
    assert dist._traffic is None


@pytest.mark.slow
@pytest.mark.parametrize('processes', [3, 4])
def test_real_processes(tmp_path, processes):
    """Over gloo: in pairs, or for an odd number by a gather; other collectives go on working between exchanges."""
    launch(tmp_path / 'log', os.path.join(HERE, 'exchange_checks.py'), tmp_path, processes=processes)
    for r in range(processes):
        with open(tmp_path / f'rank{r}.json') as f:
            assert json.load(f) == {'rank': r, 'wrong': [], 'sum': float(processes),
                                    'counted': ['exchange' if processes % 2 == 0 else 'all_gather']}
