"""The dense probes: every step against loops and closed forms, and whole probes on planted features."""

import cv2
import numpy as np
import pytest

from passl.transfer.probes import seg_data
from passl.transfer.probes import segmentation as seg
from passl.transfer.probes.features import Features, upsampling
from passl.transfer.probes.softmax import log_softmax
from passl.utils.errors import DataError


class Planted:
    """A data set whose masks are blocks of 8 x 8 pixels; images are not looked at.

    Args:
        edges: ignore two pixels on each side of a block, where predictions change from one cell to the next.
    """

    ignore_index = 255

    def __init__(self, count, classes=4, grid=4, seed=0, shuffled=False, edges=True):
        self.edges, rng = edges, np.random.RandomState(seed)
        self.classes = [f'c{i}' for i in range(classes)]
        self.blocks = rng.randint(0, classes, (count, grid, grid))
        self.told = rng.permutation(self.blocks.ravel()).reshape(self.blocks.shape) if shuffled else self.blocks

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, i):
        mask = np.kron(self.told[i], np.ones((8, 8), int)).astype(np.uint8)
        if self.edges:
            edge = np.isin(np.arange(len(mask)) % 8, (0, 1, 6, 7))
            mask[edge], mask[:, edge] = 255, 255
        return self.load_image(i), mask, f'image{i}'

    def load_image(self, i):
        return np.full(8 * np.array(self.blocks.shape[1:] + (0,)) + [0, 0, 3], i, np.uint8)

    def features(self, noise=0.1, channels=(6, 10), seed=1):
        """Maps that encode the class: a code per class and stage, the second stage at half the resolution."""
        rng = np.random.RandomState(seed)
        fine, coarse = (np.random.RandomState(7 + k).randn(len(self.classes), c) for k, c in enumerate(channels))
        n, g = len(self), self.blocks.shape[1]
        a = fine[self.blocks].reshape(n, g * g, -1)
        b = coarse[self.blocks[:, ::2, ::2]].reshape(n, g * g // 4, -1)
        arrays = [(x + noise * rng.randn(*x.shape)).astype(np.float16) for x in (a, b)]
        return Features(arrays, [(g, g, channels[0]), (g // 2, g // 2, channels[1])])


def prepared(count, **options):
    data = Planted(count, **options)
    return seg_data.SegmentationSplit(data, 32), data.features()


def run(probe, train, val, percent=100, seed=0, **more):
    (split, maps), (val_split, val_maps) = train, val
    return probe(split, split.labels(maps.grid), val_split, maps, val_maps, percent, seed, **more)


SHORT = {seg.linear_segmentation: {'steps': 150, 'rate': 0.02}, seg.knn_segmentation: {'patches': 1000}}


@pytest.mark.parametrize('probe', SHORT)
def test_planted_features_are_solved_and_shuffled_labels_give_chance(probe):
    val = prepared(10, seed=5)
    solved = run(probe, prepared(40), val, **SHORT[probe])
    assert solved['pixel_accuracy'] > 99 and solved['miou'] > 98
    chance = run(probe, prepared(40, shuffled=True), val, **SHORT[probe])
    assert chance['pixel_accuracy'] < 45 and chance['miou'] < 30     # 4 classes: 25 % right, IoU 1 / 7


@pytest.mark.parametrize('probe', SHORT)
def test_the_same_seed_gives_the_same_figures_and_another_one_others(probe):
    train, val = prepared(20), prepared(6, seed=5)
    noisy = train[0], train[0].dataset.features(noise=2.0)
    a, b, c = (run(probe, noisy, val, 30, seed, **SHORT[probe]) for seed in (1, 1, 2))
    assert a == b and a != c and a['images'] == 6


@pytest.mark.parametrize('probe', SHORT)
def test_more_labels_are_no_worse(probe):
    data, val_data = Planted(60), Planted(30, seed=5)
    train = seg_data.SegmentationSplit(data, 32), data.features(noise=1.0)
    val = seg_data.SegmentationSplit(val_data, 32), val_data.features(noise=1.0, seed=2)
    mean = [np.mean([run(probe, train, val, p, s, **SHORT[probe])['miou'] for s in range(3)]) for p in (2, 20, 100)]
    assert mean[0] < mean[1] <= mean[2] + 1


def test_labelled_images_are_nested_and_counted():
    few, some, everything = (seg.labelled_images(200, p, 3) for p in (1, 10, 100))
    assert len(few) == 2 and len(some) == 20 and list(everything) == list(range(200))
    assert set(few) <= set(some)
    assert len(seg.labelled_images(10, 1, 0)) == 1
    assert list(seg.labelled_images(200, 10, 4)) != list(some)


def test_knn_vote_against_a_loop():
    rng = np.random.RandomState(0)
    bank, queries, shares = rng.randn(30, 5), rng.randn(7, 5), rng.dirichlet(np.ones(3), 30)
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    got = seg.knn_vote(bank, shares, queries, 4, 0.07)
    for q, row in zip(queries, got):
        near = sorted(range(30), key=lambda i: -(bank[i] @ q))[:4]
        weight = [np.exp(bank[i] @ q / 0.07) for i in near]
        np.testing.assert_allclose(row, sum(w * shares[i] for w, i in zip(weight, near)) / sum(weight), rtol=1e-5)


def test_knn_vote_in_closed_form():
    # two neighbours at cosine 1 and 0: weights 1 and exp(-1 / 0.5)
    got = seg.knn_vote(np.eye(2), np.eye(2), np.array([[1., 0]]), 9, 0.5)
    np.testing.assert_allclose(got, [[1 / (1 + np.exp(-2)), np.exp(-2) / (1 + np.exp(-2))]], rtol=1e-6)


def test_knn_patches_bound_the_bank(monkeypatch):
    seen = []
    vote = seg.knn_vote
    monkeypatch.setattr(seg, 'knn_vote', lambda bank, *rest: seen.append(len(bank)) or vote(bank, *rest))
    run(seg.knn_segmentation, prepared(20), prepared(3, seed=5), patches=50)
    assert set(seen) == {50}


def test_soft_labels_by_hand():
    labels = np.array([[0, 0, 2, 255], [255, 255, 255, 255], [1, 1, 1, 1]], np.uint8)
    shares, weight = seg_data.soft_labels(labels, 3)
    np.testing.assert_allclose(shares, [[2 / 3, 0, 1 / 3], [0, 0, 0], [0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(weight, [0.75, 0, 1])


def test_soft_labels_are_the_cross_entropy_of_all_their_pixels():
    rng = np.random.RandomState(0)
    labels = rng.choice([0, 1, 2, 255], (6, 16)).astype(np.uint8)
    log_p = log_softmax(rng.randn(6, 3))
    shares, weight = seg_data.soft_labels(labels, 3)
    ours = -(weight[:, None] * shares * log_p).sum() / weight.sum()
    pixels = [-log_p[i, c] for i in range(6) for c in labels[i] if c != 255]
    assert ours == pytest.approx(np.mean(pixels), rel=1e-5)


def test_labels_of_cells_are_those_of_their_pixels():
    split = seg_data.SegmentationSplit(Planted(3, edges=False), 32)
    labels = split.labels((4, 4)).reshape(3, 4, 4, 16)
    assert (labels == split.dataset.blocks[..., None]).all()
    # 8 pixels at 4 places: centres 1, 3, 5, 7; the outer two are on the ignored edges
    labels = seg_data.SegmentationSplit(Planted(3), 32).labels((4, 4))
    assert ((labels != 255).sum(-1) == 4).all()


def test_masks_are_sampled_at_the_centres():
    rows, columns = np.arange(9)[:, None], np.arange(6)[None]
    np.testing.assert_array_equal(seg_data.nearest(10 * rows + columns, (3, 2)), [[11, 14], [41, 44], [71, 74]])


def test_masks_come_back_as_they_were():
    data = Planted(2)
    split = seg_data.SegmentationSplit(data, 32)
    np.testing.assert_array_equal(split.mask(1), data[1][1])


def test_no_mask_is_decoded_twice_and_images_within_a_bound(masks, monkeypatch):
    """Whatever the number of backbones and tasks; images beyond the bound are decoded again, alone."""
    from passl.datasets.labelled import base, build_segmentation
    read, count = {'mask': base.read_mask, 'image': base.decode_image}, {'mask': 0, 'image': 0}

    def counted(kind):
        def call(*args, **kwargs):
            count[kind] += 1
            return read[kind](*args, **kwargs)
        return call
    monkeypatch.setattr(base, 'read_mask', counted('mask'))
    monkeypatch.setattr(base, 'decode_image', counted('image'))
    data = build_segmentation('folder', masks, 'train')
    monkeypatch.setattr(seg_data, 'KEPT_BYTES', 10 * 32 * 32 * 3)
    split = seg_data.SegmentationSplit(data, 32)
    assert len(split) == 12 and count == {'mask': 12, 'image': 12}
    for _ in range(3):                      # backbones
        squares = [split.image(i) for i in range(12)]
        [split.mask(i) for i in range(12)], split.labels((4, 4))
    assert count == {'mask': 12, 'image': 12 + 3 * 2}
    for i in (0, 9, 10, 11):
        image = cv2.resize(data.load_image(i), (32, 32), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(squares[i], image)


@pytest.mark.parametrize('small, large', [((2, 3), (4, 6)), ((1, 1), (3, 3)), ((3, 2), (7, 5))])
def test_upsampling_is_bilinear(small, large):
    x = np.random.RandomState(0).rand(*small).astype(np.float32)
    got = (upsampling(small, large) @ x.ravel()).reshape(large)
    np.testing.assert_allclose(got, cv2.resize(x, large[::-1], interpolation=cv2.INTER_LINEAR), atol=1e-5)


def test_cells_join_the_stages_on_the_finest_grid():
    maps = Planted(3).features()
    x = maps.cells([2, 0])
    assert x.shape == (2, 16, 16) and maps.channels == 16
    np.testing.assert_allclose(x[0, :, :6], maps._arrays[0][2], atol=1e-6)
    lengths = np.linalg.norm(maps.cells([1], unit=True).reshape(16, 16)[:, :6], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)


@pytest.mark.parametrize('grid, shape', [((4, 5), (33, 50)), ((1, 1), (7, 9)), ((2, 1), (8, 8))])
def test_predicted_mask_is_the_best_of_all_interpolated_scores(grid, shape):
    rng = np.random.RandomState(0)
    for scale in (1, 6):
        scores = (rng.rand(grid[0] * grid[1], 12) ** scale).astype(np.float32)
        planes = [cv2.resize(scores[:, c].reshape(grid).copy(), shape[::-1], interpolation=cv2.INTER_LINEAR)
                  for c in range(12)]
        np.testing.assert_array_equal(seg_data.predict_mask(scores, grid, shape), np.argmax(planes, axis=0))


def test_a_class_that_is_second_everywhere_may_win_between_cells():
    scores = np.array([[[10., 9, 0, 0], [0, 9, 10, 8]]], np.float32)
    assert list(seg_data.possible_winners(scores)) == [0, 1, 2]
    assert 1 in seg_data.predict_mask(scores.reshape(2, 4), (1, 2), (3, 9))


def test_ignored_pixels_do_not_count():
    split, maps = prepared(4)
    everything = seg.score(split, (4, 4), lambda i: np.eye(4)[split.dataset.blocks[i].reshape(len(i), -1)] * 9, '')
    ignored = Planted(4)
    ignored.told = np.where(np.arange(4)[:, None] < 2, 255, ignored.blocks)
    half = seg_data.SegmentationSplit(ignored, 32)
    wrong_above = np.where(np.arange(4)[:, None] < 2, 3 - ignored.blocks, ignored.blocks)
    got = seg.score(half, (4, 4), lambda i: np.eye(4)[wrong_above[i].reshape(len(i), -1)] * 9, '')
    assert everything['pixel_accuracy'] > 80 and got['pixel_accuracy'] > 75


def test_wrong_masks_are_named():
    data = Planted(2)
    data.told = data.blocks + 3
    with pytest.raises(DataError, match="image0.*label .*only 4 classes"):
        seg_data.SegmentationSplit(data, 32)
    data = Planted(2)
    data.classes = ['one']
    with pytest.raises(DataError, match='1 classes'):
        seg_data.SegmentationSplit(data, 32)
