"""What `dist.exchange` sends, and where it puts what arrives: processes played one after the other, and real ones."""

import inspect
import json
import os

import numpy as np
import paddle
import paddle.distributed
import pytest

from passl.utils.distributed import dist, exchange

from .test_two_processes import HERE, launch


@pytest.mark.parametrize('size', [2, 4, 6, 8, 16])
def test_everybody_meets_everybody_once_and_nobody_waits(size):
    rounds = list(zip(*(dist.meeting_order(me, size) for me in range(size))))
    assert len(rounds) == size - 1
    for peers in rounds:
        assert all(peers[peer] == me != peer for me, peer in enumerate(peers))
    for me in range(size):
        assert sorted(r[me] for r in rounds) == [r for r in range(size) if r != me]


def play(monkeypatch, size, n, index, device='gpu:0', version='3.3.1'):
    """(results, traffic) per process, the transport being replaced by one that knows what everybody hands over and, as
    that of Paddle 2.6, refuses empty pieces."""
    handed, listening = {}, True

    def alltoall_single(in_tensor, out_tensor, in_split_sizes, out_split_sizes):
        if version.startswith('2') and 0 in in_split_sizes + out_split_sizes:
            raise ValueError('(InvalidArgument) The start row index must be less than the end row index.')
        handed[me] = np.split(in_tensor.numpy(), np.cumsum(in_split_sizes)[:-1])
        assert sum(in_split_sizes) == in_tensor.shape[0] and sum(out_split_sizes) == out_tensor.shape[0]
        if not listening:
            parts = [handed[r][me] for r in range(size)]
            assert [len(p) for p in parts] == out_split_sizes
            paddle.assign(paddle.to_tensor(np.concatenate(parts)), output=out_tensor)

    monkeypatch.setattr(paddle.distributed, 'alltoall_single', alltoall_single)
    monkeypatch.setattr(paddle, 'get_device', lambda: device)
    monkeypatch.setattr(paddle, '__version__', version)
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', str(size))
    for listening in (True, False):
        out = []
        for me in range(size):
            monkeypatch.setenv('PADDLE_TRAINER_ID', str(me))
            with dist.traffic() as counted:
                rows = dist.Exchange(index, n).move(paddle.to_tensor(images(size, n)[me * n:(me + 1) * n]))
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


@pytest.mark.parametrize('version', ['2.6.2', '3.3.1'])
@pytest.mark.parametrize('size, n', [(2, 1), (2, 4), (3, 2), (5, 3), (8, 1), (8, 4)])
@pytest.mark.parametrize('order', ['random', 'own', 'next'])
def test_empty_pieces_are_no_trouble(monkeypatch, version, size, n, order):
    """At 8 x 32 some process asks another for nothing in nearly every second step; 2.6 gets a row that nobody uses."""
    index = {'random': np.random.RandomState(size).permutation(size * n), 'own': np.arange(size * n),
             'next': np.roll(np.arange(size * n), -n)}[order]
    for me, (rows, counted) in enumerate(play(monkeypatch, size, n, index, version=version)):
        mine = index[me * n:(me + 1) * n]
        np.testing.assert_array_equal(rows, images(size, n)[mine])
        owners, takers = mine // n, np.where(index // n == me)[0] // n
        sent, received = (int((who != me).sum()) + (version[0] == '2') * (size - 1 - len(set(who) - {me}))
                          for who in (takers, owners))
        assert counted == {'exchange': {'calls': 1, 'sent': 6 * sent, 'received': 6 * received}}


def test_what_several_exchanges_need_is_copied_at_once(monkeypatch):
    copies, to_tensor = [], paddle.to_tensor
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '4')
    monkeypatch.setenv('PADDLE_TRAINER_ID', '1')
    monkeypatch.setattr(paddle, 'to_tensor', lambda x, *a, **k: copies.append(x) or to_tensor(x, *a, **k))
    orders = [np.random.RandomState(i).permutation(12) for i in range(2)]
    plans = [dist.Exchange(order, 3) for order in orders]
    further, = dist.place(plans, orders[0])
    np.testing.assert_array_equal(further.numpy(), orders[0])
    for plan in plans:
        assert [p.tolist() for p in plan.placed] == [i.tolist() for i in plan.indices]
    assert len(copies) == 1


@pytest.mark.parametrize('environ, want', [
    ({'PADDLE_MASTER': '10.0.0.1:70'}, ('10.0.0.1', '70')),
    ({'PADDLE_TRAINER_ENDPOINTS': '10.0.0.2:80,10.0.0.3:80'}, ('10.0.0.2', '80')),
    ({'PADDLE_MASTER': '10.0.0.1:70', 'PADDLE_TRAINER_ENDPOINTS': '10.0.0.2:80'}, ('10.0.0.1', '70')),
    ({'MASTER_ADDR': '10.0.0.4', 'MASTER_PORT': '90', 'PADDLE_MASTER': '10.0.0.1:70'}, ('10.0.0.4', '90')),
    ({'MASTER_ADDR': '10.0.0.4', 'PADDLE_MASTER': '10.0.0.1:70'}, ('10.0.0.1', '70'))])
def test_the_store_is_found_as_paddle_finds_it(monkeypatch, environ, want):
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'PADDLE_MASTER', 'PADDLE_TRAINER_ENDPOINTS'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(paddle.base.core, 'TCPStore', lambda *a: asked.append(a[:2]))
    dist.second_store()
    assert asked == [(want[0], int(want[1]))]


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
        np.testing.assert_array_equal(dist.Exchange(np.array([2, 0, 3, 1]), 4).move(x).numpy(), x.numpy()[[2, 0, 3, 1]])
        assert dist.all_gather(x) is x
        dist.sum_over_processes([1.0])
    assert counted == {}
    assert dist.gradient_traffic(paddle.nn.Linear(2, 2)) == {'calls': 0, 'sent': 0, 'received': 0}


def test_counting_within_counting_and_after(monkeypatch):
    with dist.traffic() as outer:
        with dist.traffic() as inner:
            exchange._count('x', 1, 2)
        exchange._count('x', 3, 4)
        exchange._count('x', 3, 4)
    assert inner == {'x': {'calls': 1, 'sent': 1, 'received': 2}}
    assert outer == {'x': {'calls': 2, 'sent': 6, 'received': 8}}
    assert exchange._traffic is None


@pytest.mark.slow
@pytest.mark.parametrize('processes', [3, 4])
def test_real_processes(tmp_path, processes):
    """Over gloo: in pairs, or for an odd number by a gather; other collectives go on working between exchanges."""
    launch(tmp_path / 'log', os.path.join(HERE, 'exchange_checks.py'), tmp_path, processes=processes)
    for r in range(processes):
        with open(tmp_path / f'rank{r}.json') as f:
            assert json.load(f) == {'rank': r, 'wrong': [], 'sum': float(processes),
                                    'counted': ['exchange' if processes % 2 == 0 else 'all_gather']}
