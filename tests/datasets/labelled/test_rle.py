"""Run lengths and polygons against slow readings of their definitions."""

import random
import time

import numpy as np
import pytest

from passl.datasets.labelled.rle import MAX_CROSSINGS, check_polygon, counts_of_text, polygon_mask, rle_mask
from passl.utils.errors import DataError
from tests.datasets.labelled.render import compressed, run_lengths

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

QUICK = settings(max_examples=80, derandomize=True, database=None, deadline=None)


def test_runs_go_down_the_columns():
    assert rle_mask([1, 2, 3], 2, 3).tolist() == [[False, True, False], [True, False, False]]
    assert rle_mask([0, 6], 2, 3).all() and not rle_mask([6], 2, 3).any()
    # worked by hand: 5 bits from '0' on, 32 = more, 16 = negative; from the fourth number on minus the last but one
    assert counts_of_text('').tolist() == [] and counts_of_text('0').tolist() == [0]
    assert counts_of_text('123').tolist() == [1, 2, 3]
    assert counts_of_text('1231').tolist() == [1, 2, 3, 3]              # 2 + 1
    assert counts_of_text('123O').tolist() == [1, 2, 3, 1]              # 'O' is 31: -1
    assert counts_of_text('P1').tolist() == [32] and counts_of_text('o00').tolist() == [15 + 16, 0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.02, 0.5, 0.98]))
@QUICK
def test_masks_come_back_from_both_forms(seed, height, width, share):
    mask = np.random.RandomState(seed).rand(height, width) < share
    counts = run_lengths(mask)
    np.testing.assert_array_equal(rle_mask(counts, height, width), mask)
    np.testing.assert_array_equal(rle_mask(compressed(counts), height, width), mask)
    assert counts_of_text(compressed(counts)).tolist() == counts


def test_long_runs_in_text():
    for counts in ([10**6, 3, 10**6, 0, 3, 178956], [0, 2**28, 1], [5, 16, 5, 17, 5, 15]):
        assert counts_of_text(compressed(counts)).tolist() == counts


@pytest.mark.parametrize('counts, said', [
    ([1, 2], 'add up to 3, not to 2 x 3 = 6'), ([7], 'negative or longer'), ([-1, 7], 'no whole numbers'),
    ([6.0], 'no whole'), ([True, 5], 'no whole'), (['6'], 'no whole'), ([10**30], 'no whole'), ('~', 'characters'),
    ('\x7f', 'characters'),
    ('é', 'characters'), ('P', 'cut off'), ('PPPPPPPPPPPP1', 'longer than any'), ('O7', 'negative or longer'),
    (compressed([2, 2]), 'add up to 4')])
def test_wrong_runs_are_refused(counts, said):
    with pytest.raises(DataError, match=said):
        rle_mask(counts, 2, 3)


def test_sizes_are_bounded():
    for size in ((0, 4), (4, -1), (True, 4), ('4', 4), (2.0, 2), (10**5, 10**5), (None, 3)):
        with pytest.raises(DataError):
            rle_mask([4], *size)
    began = time.process_time()
    with pytest.raises(DataError):              # sums that wrap around 64 bits
        rle_mask('oooo?' * 300000, 13000, 13000)
    assert time.process_time() - began < 5


def by_definition(points, height, width):
    """Even-odd rule for the centre of each pixel, one after the other."""
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y, inside = column + 0.5, row + 0.5, False
            for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0)):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                    inside = not inside
            mask[row, column] = inside
    return mask


@given(st.integers(0, 2**32 - 1), st.integers(3, 9))
@QUICK
def test_polygons_are_filled_as_defined(seed, corners):
    rng = np.random.RandomState(seed)
    points = rng.uniform(-8, 28, (corners, 2))
    np.testing.assert_array_equal(polygon_mask([points], 17, 20), by_definition(points, 17, 20))


def test_a_rectangle_has_its_pixels_and_polygons_unite():
    square = check_polygon([2, 1, 6, 1, 6, 4, 2, 4])
    mask = polygon_mask([square], 5, 8)
    assert mask.sum() == 12 and mask[1:4, 2:6].all()
    assert polygon_mask([square, square], 5, 8).sum() == 12             # not taken away again
    assert polygon_mask([square, square + 2], 9, 9).sum() == 12 + 12 - 2
    assert not polygon_mask([square + 100], 5, 8).any() and not polygon_mask([square - 100], 5, 8).any()
    assert polygon_mask([square * 1000 - [3000, 2000]], 5, 8).all() and not polygon_mask([], 5, 8).any()


@pytest.mark.parametrize('points', [[1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 'x'], [1, 2, 3, 4, 5, float('nan')],
                                    [1, 2, 3, 4, 5, 1e300], [True] * 6, 'abcdef', None, [[1, 2], [3, 4], [5, 6]] * 2])
def test_wrong_polygons_are_refused(points):
    with pytest.raises(DataError):
        check_polygon(points)


def test_a_zigzag_cannot_take_the_memory():
    tall = check_polygon([0, 0, 1, 10**6] * 300)
    with pytest.raises(DataError, match=f'more than {MAX_CROSSINGS}'):
        polygon_mask([tall], 10000, 10000)


@given(st.text(max_size=40) | st.lists(st.integers() | st.floats() | st.none(), max_size=20), st.integers(-2, 9),
       st.integers(0, 9))
@QUICK
def test_any_runs_give_a_mask_or_an_error_of_ours(counts, height, width):
    try:
        assert rle_mask(counts, height, width).shape == (height, width)
    except DataError:
        pass


def test_changed_texts_give_a_mask_or_an_error_of_ours():
    rng, fine = random.Random(0), 0
    text = compressed(run_lengths(np.random.RandomState(0).rand(30, 30) < 0.3))
    for _ in range(2000):
        k = rng.randrange(len(text))
        changed = text[:k] + rng.choice(['', chr(rng.randrange(32, 128)), text[k:k + 9]]) + text[k + rng.randrange(3):]
        try:
            fine += rle_mask(changed, 30, 30).shape == (30, 30)
        except DataError:
            pass
    assert 0 < fine < 1500
