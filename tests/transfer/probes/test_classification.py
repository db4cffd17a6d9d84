"""The tasks on whole images: k-NN in closed form, linear and SVM on planted vectors, splits and draws."""

import numpy as np
import pytest

from passl.transfer.probes import classification as clas
from passl.transfer.probes.finetune import labelled_per_class

from .sets import write_classes


@pytest.fixture(scope='module')
def narrow_networks():
    """In the place of the folder's fixture: a narrow network learns too little in twelve steps."""


def clusters(count, classes=4, channels=8, noise=0.3, seed=0):
    """Vectors around one direction per class."""
    rng = np.random.RandomState(seed)
    labels = np.arange(count) % classes
    centres = np.random.RandomState(9).randn(classes, channels)
    return (centres[labels] + noise * rng.randn(count, channels)).astype(np.float32), labels


def test_knn_in_closed_form():
    # the nearest is of class 0 at cosine c; two of class 1 follow at cosine d: class 0 wins while
    # exp(c / T) > 2 exp(d / T), that is c - d > T ln 2
    def bank(c, d):
        return np.array([[np.cos(np.arccos(a)), np.sin(np.arccos(a))] for a in (c, d, d)], np.float32)
    query, labels = np.array([[1., 0]], np.float32), np.array([0, 1, 1])
    gap = 0.07 * np.log(2)
    for change, right in ((1.05, 100), (0.95, 0)):
        got = clas.knn(bank(0.9, 0.9 - change * gap), labels, query, [0], 2, ks=[3])
        assert got == {3: right}
    assert clas.knn(bank(0.9, 0.85), labels, query, [0], 2, ks=[1]) == {1: 100}


def test_knn_against_a_loop_and_large_k():
    x, labels = clusters(60, noise=2.0)
    y, wanted = clusters(20, noise=2.0, seed=1)
    got = clas.knn(x, labels, y, wanted, 4, ks=(5, 20, 200))
    assert set(got) == {5, 20}                              # 200 is more than there are
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    for k in (5, 20):
        right = 0
        for q, c in zip(unit[1], wanted):
            similarity = unit[0] @ q
            near = np.argsort(-similarity)[:k]
            right += np.argmax([np.exp(similarity[near][labels[near] == j] / 0.07).sum() for j in range(4)]) == c
        assert got[k] == pytest.approx(100 * right / 20)
    assert set(clas.knn(x[:6], labels[:6], y, wanted, 4)) == {6}


def test_linear_on_planted_and_on_shuffled_labels():
    x, labels = clusters(200)
    y, wanted = clusters(100, seed=1)
    got = clas.linear([x, x], labels, y, wanted, 4, seed=0)
    assert got['top1'] > 99 and got['rate'] in clas.RATES
    shuffled = np.random.RandomState(0).permutation(labels)
    assert clas.linear([x], shuffled, y, wanted, 4, seed=0)['top1'] < 60
    assert clas.linear([x, x], labels, y, wanted, 4, seed=0) == got


def test_the_test_images_do_not_choose_the_rate(monkeypatch):
    x, labels = clusters(60, noise=2.0)
    y, wanted = clusters(20, noise=2.0, seed=1)
    # whatever the labels of the test are, the rate is the same, and so are the scores
    a, b = (clas.linear([x], labels, y, w, 4, seed=0) for w in (wanted, 3 - wanted))
    assert a['rate'] == b['rate'] and a['top1'] != b['top1']


def test_views_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(clas.softmax, 'fit', lambda draw, *rest: seen.extend(draw(s)[0] for s in range(2)) or
                        (np.zeros((3, 2)), np.zeros(2)))
    monkeypatch.setattr(clas.softmax.Standardise, 'of', classmethod(lambda cls, parts: lambda x: x))
    ones = np.ones((10, 3), np.float32)
    clas.fit_views([ones, 2 * ones], np.arange(10) % 2, 2, 0.1, 2, 0)
    # of the second pass every image has the view that it had not in the first
    np.testing.assert_array_equal(sorted(seen[0][:, 0]), sorted(3 - seen[1][:, 0]))
    assert set(seen[0][:, 0]) == {1, 2}


def test_held_out_is_a_fifth_of_every_class():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    out = clas.held_out(labels, 0)
    assert [out[labels == c].sum() for c in range(3)] == [10, 2, 0]
    assert (clas.held_out(labels, 0) == out).all() and (clas.held_out(labels, 1) != out).any()


def test_svm_with_several_labels_and_difficult_images():
    rng = np.random.RandomState(0)
    truth = (rng.rand(120, 3) < 0.4).astype(np.int8)
    x = (truth @ np.eye(3, 6) + 0.15 * rng.randn(120, 6) + 0.3).astype(np.float32)
    truth[rng.rand(120, 3) < 0.1] = -1
    got = clas.linear_svm(x[:80], truth[:80], x[80:], truth[80:])
    assert got['map'] > 95 and 'top1' not in got
    one = np.eye(4, dtype=np.int8)[clusters(80)[1]]
    assert clas.linear_svm(clusters(80)[0], one, clusters(40, seed=1)[0], one[:40])['top1'] > 95


def test_low_shot_gets_better_with_more_images():
    x, labels = clusters(400, noise=1.5)
    y, wanted = clusters(200, noise=1.5, seed=1)
    truth, val = (np.eye(4, dtype=np.int8)[a] for a in (labels, wanted))
    mean = [np.mean([clas.low_shot(x, truth, y, val, k, s)['map'] for s in range(5)]) for k in (1, 8, 32)]
    assert mean[0] < mean[1] < mean[2]
    assert clas.low_shot(x, truth, y, val, 8, 0)['images'] == 32
    assert clas.low_shot(x, truth, y, val, 8, 0) == clas.low_shot(x, truth, y, val, 8, 0)


def test_shares_of_labels_hold_every_class():
    labels = np.repeat([0, 1, 2], [200, 40, 3])
    one, ten = labelled_per_class(labels, 1, 0), labelled_per_class(labels, 10, 0)
    assert [np.sum(labels[one] == c) for c in range(3)] == [2, 1, 1]
    assert [np.sum(labels[ten] == c) for c in range(3)] == [20, 4, 1]
    assert set(one) <= set(ten)


@pytest.mark.slow
def test_fine_tuning_learns_colours_from_few_labels(tmp_path):
    from passl.transfer.probes.clas_data import build_classification
    from passl.transfer.probes.finetune import finetune
    from passl.transfer.probes.sources import find_sources
    root = write_classes(tmp_path, train=20, val=6)
    train, val = (build_classification('folder', root, split, 32) for split in ('train', 'val'))
    source, = find_sources(['random'], depth=18)
    got = finetune(source, train, val, 20, seed=0, steps=12)
    assert got['images'] == 12 and got['top1'] > 80
    short = [finetune(source, train, val, 20, seed=s, steps=1)['top1'] for s in (0, 0)]
    assert short[0] == short[1]
