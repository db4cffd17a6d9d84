"""The solvers: gradients against differences, optimality of the SVM, recovery of planted answers."""

import numpy as np
import pytest

from passl.transfer.probes import softmax, svm


def test_gradient_against_differences():
    rng = np.random.RandomState(0)
    x, w, b = rng.randn(6, 4), rng.randn(4, 3), rng.randn(3)
    target, weight = rng.dirichlet(np.ones(3), 6), rng.rand(6)
    _, dw, db = softmax.gradient(x, target, weight, w, b)
    e = 1e-6
    for i, j in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[i, j] = e
        loss = [softmax.gradient(x, target, weight, w + s * step, b)[0] for s in (1, -1)]
        assert dw[i, j] == pytest.approx((loss[0] - loss[1]) / (2 * e), abs=1e-7)
    for j in range(3):
        step = e * (np.arange(3) == j)
        loss = [softmax.gradient(x, target, weight, w, b + s * step)[0] for s in (1, -1)]
        assert db[j] == pytest.approx((loss[0] - loss[1]) / (2 * e), abs=1e-7)


def test_loss_of_equal_scores_is_the_logarithm_of_the_classes():
    loss, _, _ = softmax.gradient(np.ones((4, 2)), np.eye(5)[[0, 1, 2, 3]], np.ones(4), np.zeros((2, 5)), np.zeros(5))
    assert loss == pytest.approx(np.log(5))


def test_samples_of_no_weight_change_nothing():
    rng = np.random.RandomState(1)
    x, target, w, b = rng.randn(5, 3), np.eye(2)[[0, 1, 0, 1, 0]], rng.randn(3, 2), np.zeros(2)
    some = softmax.gradient(x, target, np.array([1., 1, 1, 0, 0]), w, b)
    first = softmax.gradient(x[:3], target[:3], np.ones(3), w, b)
    for a, c in zip(some, first):
        np.testing.assert_allclose(a, c)


def test_standardise():
    x = np.random.RandomState(2).randn(3, 50, 4).astype(np.float32) * [1, 5, .1, 0] + [0, 3, -2, 7]
    got = softmax.Standardise.of(x.astype(np.float32))(x.astype(np.float32)).reshape(-1, 4)
    np.testing.assert_allclose(got.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(got.std(0), [1, 1, 1, 0], atol=1e-5)


def test_fit_finds_the_shares_of_classes():
    # without features only b can learn: its softmax must become the mean of the targets
    target = np.array([[.7, .2, .1]], np.float32).repeat(8, 0)
    _, b = softmax.fit(lambda step: (np.zeros((8, 2), np.float32), target, np.ones(8, np.float32)), 2, 3, 400, 0.05, 0,
                       np.random.RandomState(0))
    np.testing.assert_allclose(np.exp(softmax.log_softmax(b)), [.7, .2, .1], atol=2e-3)


def test_shuffled_gives_every_number_once_per_round():
    draw = softmax.Shuffled(np.arange(10, 17), 3, np.random.RandomState(0))
    rounds = [[draw() for _ in range(3)] for _ in range(2)]
    assert [[len(b) for b in r] for r in rounds] == [[3, 3, 1]] * 2
    assert all(sorted(np.concatenate(r)) == list(range(10, 17)) for r in rounds)
    assert list(np.concatenate(rounds[0])) != list(np.concatenate(rounds[1]))


def objective(w, x, truth, cost):
    y, counted = np.where(truth > 0, 1, -1), truth >= 0
    slack = np.maximum(0, 1 - y * (svm.with_constant(x) @ w))
    weight = np.where(truth > 0, svm.POSITIVE_WEIGHT, 1) * counted
    return 0.5 * np.square(w).sum(0) + cost * (weight * slack ** 2).sum(0)


@pytest.mark.parametrize('n, channels', [(60, 5), (20, 50)])
@pytest.mark.parametrize('cost', [1e-3, 1.0, 100.0])
def test_svm_is_the_minimum(n, channels, cost):
    rng = np.random.RandomState(n)
    x, truth = rng.randn(n, channels), rng.randint(-1, 2, (n, 3))
    w = svm.train_svm(x, truth, cost)
    here = objective(w, x, truth, cost)
    # the problem is convex: no worse in any direction nearby means the minimum
    for _ in range(200):
        step = rng.randn(*w.shape)
        step *= 1e-3 * np.linalg.norm(w, axis=0) / np.linalg.norm(step, axis=0)
        assert (objective(w + step, x, truth, cost) > here - 1e-6 * here).all()
    np.testing.assert_allclose(svm.train_svm(x, truth, cost, start=rng.randn(*w.shape), tolerance=1e-6),
                               svm.train_svm(x, truth, cost, tolerance=1e-6), rtol=1e-3, atol=1e-3)


def test_svm_by_hand():
    # one positive at x = 1, one negative at -1, no bias by symmetry but for the weights 2 and 1:
    # gradient zero: w = 2C(2 s1 + s2), b = 2C(2 s1 - s2), s1 = 1 - w - b, s2 = 1 - w + b
    c = 0.25
    w, b = np.linalg.solve([[1 + 2 * c * 3, 2 * c], [2 * c, 1 + 2 * c * 3]], [2 * c * 3, 2 * c])
    got = svm.train_svm(np.array([[1.], [-1.]]), np.array([[1], [0]]), c, tolerance=1e-9)
    np.testing.assert_allclose(got[:, 0], [w, b], rtol=1e-6)


def test_left_out_images_do_not_count():
    rng = np.random.RandomState(3)
    x, truth = rng.randn(30, 4), rng.randint(0, 2, (30, 1))
    truth[20:] = -1
    some = svm.train_svm(x[:20], truth[:20], 1.0)
    np.testing.assert_allclose(svm.train_svm(x, truth, 1.0), some, rtol=1e-4, atol=1e-6)


def test_the_same_as_liblinear():
    sklearn = pytest.importorskip('sklearn.svm')
    rng = np.random.RandomState(4)
    x, truth = rng.randn(80, 10), rng.randint(0, 2, (80, 2))
    w = svm.train_svm(x, truth, 0.3, tolerance=1e-8)
    for c in range(2):
        theirs = sklearn.LinearSVC(C=0.3, class_weight={0: 1, 1: 2}, tol=1e-10, max_iter=100000, dual=True)
        theirs.fit(x, truth[:, c])
        np.testing.assert_allclose(w[:, c], np.append(theirs.coef_[0], theirs.intercept_), rtol=1e-4, atol=1e-5)


def test_folds_hold_every_class_evenly():
    truth = np.eye(3, dtype=int)[np.repeat([0, 1, 2], [9, 6, 3])]
    fold = svm.folds_of(truth, 3, np.random.RandomState(0))
    for k in range(3):
        np.testing.assert_array_equal(truth[fold == k].sum(0), [3, 2, 1])


def test_cost_is_the_best_of_cross_validation():
    rng = np.random.RandomState(5)
    truth = np.eye(2, dtype=int)[np.arange(60) % 2]
    x = truth @ np.array([[1., 0], [0, 1]]) + rng.randn(60, 2) * 0.8
    cost, means = svm.choose_cost(x, truth)
    assert means[cost] == max(means.values()) and set(means) == set(svm.COSTS)
    assert means[cost] > 60


def test_low_shot_draws_of_every_class():
    truth = np.eye(4, dtype=int)[np.repeat([0, 1, 2, 3], [10, 10, 10, 2])]
    chosen = svm.draw_low_shot(truth, 4, np.random.RandomState(0))
    np.testing.assert_array_equal(truth[chosen].sum(0), [4, 4, 4, 2])
    assert len(set(chosen)) == len(chosen) == 14
    other = svm.draw_low_shot(truth, 4, np.random.RandomState(1))
    assert list(chosen) != list(other)
