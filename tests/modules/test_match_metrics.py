"""Figures of correspondences, against loops over cells."""

import numpy as np
import paddle
import pytest

from passl.modules.match_metrics import chance_of, match_metrics

ROWS, COLUMNS = 3, 4
RNG = np.random.RandomState(0)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loops(map_q, map_k, dense_q, dense_k, places):
    """The same figures, one cell at a time."""
    n, _, cells = map_q.shape
    q, k = unit(map_q), unit(map_k)

    def nearest(a, b):
        return np.array([[max(range(cells), key=lambda j: a[i, :, c] @ b[i, :, j]) for c in range(cells)]
                         for i in range(n)])
    index, back = nearest(q, k), nearest(k, q)
    place, true, chance, counted = [], [], [], 0
    for i in range(n):
        for c in range(cells):
            own = dense_q[i, :, c] @ dense_k[i, :, index[i, c]]
            place.append(all(own > dense_q[i, :, c] @ dense_k[m, :, index[i, c]] for m in range(n) if m != i))
            (top, left, h, w, fx, fy), (tk, lk, hk, wk, fxk, fyk) = places[i]
            y, x = (c // COLUMNS + 0.5) / ROWS, (c % COLUMNS + 0.5) / COLUMNS
            y, x = top + h * (1 - y if fy else y), left + w * (1 - x if fx else x)
            y, x = (y - tk) / hk, (x - lk) / wk
            y, x = (1 - y if fyk else y), (1 - x if fxk else x)
            if not (0 <= y <= 1 and 0 <= x <= 1):
                continue
            row, column = min(int(y * ROWS), ROWS - 1), min(int(x * COLUMNS), COLUMNS - 1)
            near = [abs(j // COLUMNS - row) <= 1 and abs(j % COLUMNS - column) <= 1 for j in range(cells)]
            counted += 1
            true.append(near[index[i, c]])
            chance.append(np.mean(near))
    return {'match_mutual': 100 * np.mean(np.take_along_axis(back, index, 1) == np.arange(cells)),
            'match_keys': 100 * np.mean([len(set(row)) / cells for row in index]),
            'acc1_place': 100 * np.mean(place), 'match_true': 100 * np.sum(true) / max(counted, 1),
            'match_chance': 100 * np.sum(chance) / max(counted, 1)}


def given(n=5, channels=6, dim=4):
    maps = [RNG.randn(n, channels, ROWS * COLUMNS).astype('float32') for _ in range(2)]
    dense = [unit(RNG.randn(n, dim, ROWS * COLUMNS)).astype('float32') for _ in range(2)]
    boxes = np.concatenate([RNG.uniform(0, 0.4, (n, 2, 2)), RNG.uniform(0.4, 0.6, (n, 2, 2)),
                            RNG.randint(0, 2, (n, 2, 2))], axis=2).astype('float32')
    return (*maps, *dense, boxes)


def figures(map_q, map_k, dense_q, dense_k, places):
    x = [paddle.to_tensor(a) for a in (map_q, map_k, dense_q, dense_k)]
    out = match_metrics(*x, (ROWS, COLUMNS), None if places is None else paddle.to_tensor(places))
    return {name: float(value) for name, value in out.items()}


@pytest.mark.parametrize('n', [2, 5])
def test_equal_to_loops(n):
    arguments = given(n)
    assert figures(*arguments) == pytest.approx(loops(*arguments), abs=1e-4)


def test_views_that_are_one_and_the_same():
    map_q, _, dense_q, _, places = given()
    places[:, 1] = places[:, 0]
    found = figures(map_q, map_q, dense_q, dense_q, places)
    assert found.pop('match_chance') == pytest.approx(100 * np.mean(        # of a 3 x 4 grid: corners, edges, middle
        [4, 6, 6, 4, 6, 9, 9, 6, 4, 6, 6, 4]) / 12, abs=1e-3)
    assert found == pytest.approx(dict.fromkeys(found, 100.0))
    places[:, 1, 4] = 1 - places[:, 0, 4]           # a mirrored key whose features are not: the middle columns touch
    assert figures(map_q, map_q, dense_q, dense_q, places)['match_true'] == pytest.approx(50.0)


def test_features_that_know_the_place_alone():
    """The same map for all images: matches are right, and no key differs from that of another image."""
    one = RNG.randn(1, 6, ROWS * COLUMNS).astype('float32').repeat(4, axis=0)
    dense = unit(one)
    found = figures(one, one, dense, dense, None)
    assert found == pytest.approx({'match_mutual': 100, 'match_keys': 100, 'acc1_place': 0})


def test_constant_features_choose_one_key():
    flat = np.ones((3, 6, ROWS * COLUMNS), 'float32')
    assert figures(flat, flat, unit(flat), unit(flat), None)['match_keys'] == pytest.approx(100 / 12)


def test_no_overlap():
    arguments = given(2)
    arguments[4][:, 0, :4], arguments[4][:, 1, :4] = [0, 0, 0.3, 0.3], [0.6, 0.6, 0.3, 0.3]
    found = figures(*arguments)
    assert found['match_true'] == found['match_chance'] == 0


def test_where_any_match_would_be_true_the_pair_is_left_out():
    maps, dense = [RNG.randn(3, 5, 4).astype('float32') for _ in range(2)], unit(RNG.randn(3, 4, 4)).astype('float32')
    x = [paddle.to_tensor(a) for a in (*maps, dense, dense)]
    places = paddle.to_tensor(given(3)[4])
    assert set(match_metrics(*x, (2, 2), places)) == {'match_mutual', 'match_keys', 'acc1_place'}
    assert {'match_true', 'match_chance'} < set(match_metrics(*x, (1, 4), places))


@pytest.mark.parametrize('rows, columns', [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4), (7, 5)])
def test_chance_of_a_grid(rows, columns):
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    near = [abs(a[0] - b[0]) <= 1 and abs(a[1] - b[1]) <= 1 for a in cells for b in cells]
    assert chance_of(rows, columns) == pytest.approx(np.mean(near))
