"""Matches, components and neighbours against brute force and hand-made cases."""

import sys

import numpy as np
import pytest

from passl.pictures import numbers
from passl.utils.errors import ConfigError


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_matches_against_a_loop():
    rng = np.random.RandomState(0)
    a, b = rng.randn(12, 5), rng.randn(9, 5)
    index, similarity, mutual = numbers.mutual_matches(a, b)
    table = [[cosine(x, y) for y in b] for x in a]
    for i, row in enumerate(table):
        assert index[i] == max(range(9), key=lambda j: row[j])
        assert similarity[i] == pytest.approx(max(row), abs=1e-5)
        assert mutual[i] == (max(range(12), key=lambda k: table[k][index[i]]) == i)
    assert 0 < mutual.sum() < 12


def test_a_hit_is_at_most_a_cell_away_and_does_not_wrap_around():
    # a grid of 3 x 4; the true cell is 7, the last of the second row
    near = numbers.hits(np.arange(12), np.full(12, 7), columns=4)
    assert np.flatnonzero(near).tolist() == [2, 3, 6, 7, 10, 11]           # not 8, which follows it in the next row


def test_chance_by_hand():
    # 3 x 4 cells: a corner has 4 of 12 cells within one, the inner cell 5 has 9
    assert numbers.chance(np.array([0, 5]), 3, 4) == pytest.approx((4 / 12 + 9 / 12) / 2)
    assert np.isnan(numbers.chance(np.array([], int), 3, 4))


def test_chosen_cells_are_the_best_and_apart():
    score = np.arange(16.0)                         # 4 x 4, best is the last
    allowed = np.ones(16, bool)
    allowed[15] = False
    # 14 rules out its neighbours; then 12 in the same row, then from the rows above
    assert numbers.spread_out(score, allowed, 4, apart=2).tolist() == [14, 12, 7, 5]
    assert numbers.spread_out(score, allowed, 4, apart=2, most=2).tolist() == [14, 12]
    assert numbers.spread_out(score, np.zeros(16, bool), 4, apart=2).tolist() == []


def test_components_against_numpy_svd_in_float64():
    x = np.random.RandomState(1).randn(50, 7) @ np.diag([5, 4, 3, 1, 1, 0.5, 0.1]) + 3
    projected, components, share = numbers.principal(x, 3)
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    sign = np.sign(v[np.arange(3), np.abs(v[:3]).argmax(1)])
    np.testing.assert_allclose(components, v[:3] * sign[:, None], atol=1e-10)
    np.testing.assert_allclose(projected, u[:, :3] * s[:3] * sign, atol=1e-9)
    assert share == pytest.approx((s[:3] ** 2).sum() / (s ** 2).sum())
    flat, _, nothing = numbers.principal(np.ones((4, 2)), 3)
    assert nothing == 0 and not flat.any() and flat.shape == (4, 3)


def test_colours_are_the_components_of_unit_vectors():
    maps = np.random.RandomState(2).randn(2, 6, 5, 8).astype(np.float16)
    rgb, share = numbers.pca_rgb(maps)
    x = maps.reshape(-1, 8).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected, _, expected_share = numbers.principal(x, 3)
    low, high = np.percentile(expected, [1, 99], axis=0)
    np.testing.assert_allclose(rgb.reshape(-1, 3), np.clip((expected - low) / (high - low), 0, 1), atol=1e-4)
    assert share == pytest.approx(expected_share, abs=1e-4) and rgb.shape == (2, 6, 5, 3)
    scaled, _ = numbers.pca_rgb(maps * np.float16(2))           # lengths do not count
    np.testing.assert_allclose(scaled, rgb, atol=1e-4)


def test_neighbours_against_brute_force():
    maps = np.random.RandomState(3).randn(5, 6, 4)
    found = numbers.nearest_cells(maps, image=2, cell=3, count=3)
    best = sorted(((max(cosine(c, maps[2, 3]) for c in maps[i]), i) for i in range(5) if i != 2), reverse=True)[:3]
    assert [i for i, _, _ in found] == [i for _, i in best]
    for (i, cell, similarity), (value, _) in zip(found, best):
        assert similarity == pytest.approx(value, abs=1e-5) == cosine(maps[i, cell], maps[2, 3])
    pooled = maps.mean(1)
    every = sorted(((cosine(pooled[i], pooled[0]), i) for i in range(1, 5)), reverse=True)
    assert [i for i, _ in numbers.nearest_images(pooled, 0, 9)] == [i for _, i in every]


def test_the_plane_is_that_of_the_first_two_components(monkeypatch):
    pooled = np.random.RandomState(4).rand(9, 6)
    x = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(numbers.plane(pooled), numbers.principal(x, 2)[0], atol=1e-6)
    for method, package in (('tsne', 'sklearn'), ('umap', 'umap')):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=r"pip install -e '.\[embedding\]'"):
            numbers.plane(pooled, method)
