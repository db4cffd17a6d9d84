"""Run-length masks: decoded as written, and outlines that give the same pixels again."""

import numpy as np
import pytest

from passl.transfer.paddledet.masks import outlines
from tests.transfer.det.fixtures import run_length


def test_outline_of_a_rectangle_and_of_two_pixels_that_touch_at_a_corner():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (polygon,), filled = outlines(run_length(mask))
    assert sorted(zip(polygon[::2], polygon[1::2])) == [(2, 1), (2, 4), (7, 1), (7, 4)] and not filled
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = mask[2, 2] = True
    polygons, filled = outlines(run_length(mask))
    assert sorted(map(len, polygons)) == [8, 8] and not filled


def test_holes_are_reported_and_filled():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    polygons, filled = outlines(run_length(mask))
    assert filled and len(polygons) == 1 and outlines(run_length(~np.ones((5, 5), bool))) == ([], False)


def test_drawn_again_they_are_the_same_mask():
    draw = pytest.importorskip('pycocotools.mask')
    rng, kept = np.random.RandomState(0), 0
    for _ in range(60):
        mask = rng.rand(12, 15) < rng.uniform(0.1, 0.7)
        polygons, filled = outlines(run_length(mask))
        again = draw.decode(draw.merge(draw.frPyObjects(polygons, 12, 15))).astype(bool)
        assert (again | ~mask).all()
        if not filled:
            kept += 1
            assert np.array_equal(again, mask)
    assert kept > 10
