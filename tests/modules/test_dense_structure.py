"""The label-free estimate of dense features, against the formula of arXiv 2510.17299 written with loops."""

import numpy as np
import pytest

from passl.modules.dense_structure import _labels, dense_structure


def blobs(images=16, cells=12, dim=32, groups=5, width=0.05, seed=0):
    """Cells around `groups` directions; which image has which is random."""
    rng = np.random.RandomState(seed)
    centres = np.linalg.qr(rng.randn(dim, dim))[0][:groups]
    labels = rng.randint(0, groups, (images, cells))
    return (centres[labels] + width * rng.randn(images, cells, dim)).astype('float32'), labels


def radius(rows):
    rows = rows - rows.mean(0)
    return np.linalg.svd(rows, compute_uv=False).sum() / np.sqrt(max(len(rows) - 1, rows.shape[1]))


def by_loops(cells, seed):
    """The three parts, one distance and one matrix at a time; k-means and the mixing alone are the module's."""
    x = np.stack([[c / np.linalg.norm(c) for c in image] for image in cells.astype('float64')])
    rng = np.random.RandomState(seed)
    mean = x.reshape(-1, x.shape[2]).mean(0)
    unit = np.mean([np.linalg.norm(c - mean) for image in x for c in image])
    of_images = []
    for image in x:
        labels, _ = _labels(image, 3, rng)
        found = [radius(image[labels == g]) for g in range(3) if (labels == g).sum() > 1]
        of_images.append(np.mean(found) if found else 1.0)
    of_groups, apart = [], []
    for first in range(0, len(x), 8):
        rows = np.concatenate(x[first:first + 8])
        labels, centres = _labels(rows, 24, rng)
        of_groups += [radius(rows[labels == g]) for g in range(24) if (labels == g).sum() > 1]
        apart.append(np.mean([min(np.linalg.norm(r - c) for g, c in enumerate(centres) if g != own)
                              for r, own in zip(rows, labels)]))
    order = np.argsort(rng.rand(*x.shape[:2]), axis=1)
    ranks = []
    for c in range(x.shape[1]):
        values = np.linalg.svd(np.stack([image[o[c]] for image, o in zip(x, order)]), compute_uv=False)
        p = values / values.sum() + 1e-12
        ranks.append(np.exp(-(p * np.log(p)).sum()) / min(len(x), x.shape[2]))
    inter, intra = np.mean(apart) / unit, (np.mean(of_groups) + np.mean(of_images)) / 2 / unit
    return {'dse': inter - intra + np.mean(ranks), 'dse_inter': inter, 'dse_intra': intra, 'dse_dim': np.mean(ranks)}


@pytest.mark.parametrize('images, dim, seed', [(16, 32, 0), (11, 4, 3)])
def test_equal_to_loops(images, dim, seed):
    cells, _ = blobs(images, dim=dim, groups=min(5, dim))
    assert dense_structure(cells, seed) == pytest.approx(by_loops(cells, seed), rel=1e-5)


def test_k_means_finds_groups_that_are_apart():
    cells, truth = blobs(1, 60, groups=3, width=0.01)
    labels, centres = _labels(cells[0].astype('float64'), 3, np.random.RandomState(0))
    assert len({(a, b) for a, b in zip(labels, truth[0])}) == 3 == len(centres)
    assert _labels(np.ones((2, 4)), 3, np.random.RandomState(0))[1].shape == (2, 4)       # fewer rows than groups


def test_what_each_part_sees_and_the_length_of_cells_does_not_count():
    """Noise makes groups wide, and counts as directions that are used: docs/LOSS_CURVE.md says so."""
    narrow, wide = (dense_structure(blobs(width=w)[0]) for w in (0.02, 0.2))
    assert narrow['dse_intra'] < wide['dse_intra'] and narrow['dse_dim'] < wide['dse_dim']
    cells, _ = blobs()
    assert dense_structure(7 * cells) == pytest.approx(dense_structure(cells), rel=1e-5)


def test_one_direction_and_many():
    line = np.ones((12, 6, 1)) * np.eye(8)[0]
    assert dense_structure(line) == {'dse': 0.0, 'dse_inter': 0.0, 'dse_intra': 0.0, 'dse_dim': 0.0}
    even = np.eye(8)[np.arange(8)][:, None].repeat(6, axis=1)        # each image a direction of its own
    assert dense_structure(even)['dse_dim'] == pytest.approx(1.0)


def test_the_same_at_every_call_and_no_generator_is_touched():
    cells, _ = blobs()
    np.random.seed(5)
    before, first = np.random.get_state()[1].copy(), dense_structure(cells)
    assert dense_structure(cells) == first and (np.random.get_state()[1] == before).all()


def test_cells_that_are_no_numbers_have_no_figure():
    cells = np.random.RandomState(0).randn(8, 4, 6)
    cells[3, 2, 1] = np.nan
    assert all(np.isnan(v) for v in dense_structure(cells).values())
