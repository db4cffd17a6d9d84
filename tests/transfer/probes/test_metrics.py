"""Every figure against a loop, a closed form, or a number worked out by hand."""

import math

import numpy as np
import pytest

from passl.transfer.probes import metrics


def loop_confusion(truth, predicted, classes):
    out = np.zeros((classes, classes), int)
    for t, p in zip(np.ravel(truth), np.ravel(predicted)):
        if t != 255:
            out[t, p] += 1
    return out


def test_confusion_against_a_loop_with_ignored_pixels():
    rng = np.random.RandomState(0)
    truth = rng.randint(0, 5, (9, 7)).astype(np.uint8)
    truth[rng.rand(9, 7) < 0.3] = 255
    predicted = rng.randint(0, 5, (9, 7))
    got = metrics.confusion(truth, predicted, 5)
    np.testing.assert_array_equal(got, loop_confusion(truth, predicted, 5))
    assert got.sum() == (truth != 255).sum() < truth.size


def test_miou_by_hand_and_the_rule_for_absent_classes():
    # class 0: 3 right, 1 taken for 1; class 1: 2 right; class 2: neither there nor predicted
    matrix = [[3, 1, 0], [0, 2, 0], [0, 0, 0]]
    got = metrics.segmentation_figures(matrix)
    assert got['miou'] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert got['miou_all'] == pytest.approx(100 * (3 / 4 + 2 / 3) / 3)
    assert got['pixel_accuracy'] == pytest.approx(100 * 5 / 6)
    # predicted only: counts, with IoU 0
    matrix = [[3, 0, 1], [0, 2, 0], [0, 0, 0]]
    assert metrics.segmentation_figures(matrix)['miou'] == pytest.approx(100 * (3 / 4 + 1 + 0) / 3)


def test_miou_does_not_depend_on_the_order_of_classes():
    matrix = np.random.RandomState(1).randint(0, 9, (6, 6))
    order = np.random.RandomState(2).permutation(6)
    a, b = (metrics.segmentation_figures(m) for m in (matrix, matrix[order][:, order]))
    assert a == pytest.approx(b)


def test_no_counted_pixel_has_no_figure():
    assert math.isnan(metrics.segmentation_figures(metrics.confusion([255], [0], 3))['miou'])


def test_average_precision_by_hand():
    # + - + - : precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1
    scores, positive = [4, 3, 2, 1], [1, 0, 1, 0]
    # recall 0 .. 0.5 (six levels): 1; 0.6 .. 1 (five): 2/3
    assert metrics.average_precision(scores, positive) == pytest.approx((6 + 5 * 2 / 3) / 11)


def loop_11_points(scores, positive):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    points, hits = [], 0
    for n, i in enumerate(order, 1):
        hits += positive[i]
        points.append((10 * hits, hits / n))
    total = sum(positive)
    return np.mean([max((p for r, p in points if r >= level * total), default=0) for level in range(11)])


@pytest.mark.parametrize('n, positives', [(30, 10), (50, 7), (12, 1), (20, 20)])
def test_average_precision_against_loops(n, positives):
    rng = np.random.RandomState(n)
    scores, positive = rng.permutation(n).astype(float), rng.permutation([1] * positives + [0] * (n - positives))
    assert metrics.average_precision(scores, positive) == pytest.approx(loop_11_points(scores, positive))


def test_mean_average_precision_leaves_out_difficult_images_and_empty_classes():
    scores = np.array([[3., 1., 5.], [2., 2., 4.], [1., 3., 3.]])
    truth = np.array([[1, 0, 0], [-1, -1, 0], [0, 1, 0]])
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(100)
    truth[0, 0], truth[2, 0] = 0, 1             # now wrong: precision 1/2 at every recall
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(75)


# from printed tables, two-sided 95 %
@pytest.mark.parametrize('freedom, expected', [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216),
                                               (30, 2.04227), (120, 1.97993)])
def test_t_quantile(freedom, expected):
    assert metrics.t_quantile(freedom) == pytest.approx(expected, abs=2e-5)


def test_interval_by_hand():
    mean, half = metrics.summary([1, 2, 3])
    assert mean == 2 and half == pytest.approx(4.30265 * 1 / math.sqrt(3), abs=1e-4)
    assert metrics.summary([1, 2, 3], 'sd')[1] == pytest.approx(1)
    assert metrics.summary([1, 2, 3], 'none') == (2, None)
    assert metrics.summary([5]) == (5, None)


def test_interval_covers_the_mean_in_95_percent():
    rng = np.random.RandomState(0)
    held = [abs(mean - 1) < half for mean, half in (metrics.summary(rng.normal(1, 2, 3)) for _ in range(4000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)
