"""Superpixels of images, and what views show of them."""

import sys

import cv2
import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataloader, build_dataset, region_cache
from passl.datasets.regions import Regions, packed_map, regions_of_views, superpixels
from passl.datasets.shared_memory import batch_bytes
from passl.utils.errors import ConfigError

from .test_places import COLOURS, Files, coordinates, encoded, positions

CROP = {'name': 'RandomResizedCrop', 'size': 32, 'scale': [0.2, 1.0]}


def photo(height, width, seed=0):
    rng = np.random.RandomState(seed)
    return cv2.resize(rng.randint(0, 256, (5, 4, 3)).astype(np.uint8), (width, height))


def blocks(img, settings):
    """Stands for `superpixels`: 16 blocks of equal size, numbered row by row."""
    y, x = (np.arange(16 * 5) * 4 // (16 * 5) for _ in range(2))
    return (4 * y[:, None] + x).astype(np.uint8)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(region_cache, 'superpixels', blocks)


# ------------------------------------------------------------------------------------------------- of an image

@pytest.mark.parametrize('shape', [(128, 96), (300, 500), (40, 30)])
@pytest.mark.parametrize('segments', [16, 7])
def test_regions_are_numbered_without_gaps_and_connected(shape, segments):
    labels = superpixels(photo(*shape), Regions(segments=segments))
    scale = min(1, 128 / max(shape))
    assert labels.shape == tuple(round(side * scale) for side in shape) and labels.dtype == np.uint8
    count = labels.max() + 1
    assert 3 <= count <= segments and np.unique(labels).tolist() == list(range(count))
    for number in range(count):
        assert cv2.connectedComponents((labels == number).astype(np.uint8), connectivity=4)[0] == 2


def test_regions_follow_what_the_image_shows():
    img = np.zeros((100, 120, 3), np.uint8)
    img[:, 50:] = (200, 30, 30)
    img[40:, 50:] = (20, 200, 90)
    parts = np.zeros((100, 120), int)
    parts[:, 50:], parts[40:, 50:] = 1, 2
    labels = superpixels(img, Regions(sigma=0))
    for number in range(labels.max() + 1):
        assert np.bincount(parts[labels == number]).max() >= 0.97 * (labels == number).sum()


@pytest.mark.parametrize('shape', [(1, 1), (2, 3), (5, 5), (17, 1), (1, 4000), (3000, 2)])
@pytest.mark.parametrize('flat', [True, False])
def test_images_smaller_than_their_regions(shape, flat):
    """SLIC would give a 5 x 5 image 25 regions, one a pixel."""
    img = np.random.RandomState(0).randint(0, 256, shape + (3,)).astype(np.uint8) * (not flat)
    labels = superpixels(img, Regions())
    assert labels.max() < 16 and np.unique(labels).tolist() == list(range(labels.max() + 1))
    assert packed_map(labels).shape == (64, 32)


def test_a_map_is_kept_as_four_bits():
    labels = np.random.RandomState(0).randint(0, 16, (37, 90)).astype(np.uint8)
    packed = packed_map(labels)
    assert packed.shape == (64, 32) and packed.dtype == np.uint8
    for r, c in ((0, 0), (63, 63), (10, 21), (33, 40)):
        cell = packed[r, c // 2] >> 4 * (c % 2) & 15
        assert cell == labels[int((r + 0.5) / 64 * 37), int((c + 0.5) / 64 * 90)]


def test_what_a_view_shows_is_the_map_at_the_centres_of_its_parts():
    packed = packed_map(np.random.RandomState(0).randint(0, 16, (64, 64)).astype(np.uint8))
    cells = np.stack([packed & 15, packed >> 4], -1).reshape(64, 64)
    where = np.float32([[0, 0, 1, 1, 0, 0], [0.1, 0.3, 0.33, 0.7, 1, 0], [0.77, 0.05, 0.23, 0.11, 0, 1],
                        [0.4, 0.9, 0.6, 0.1, 1, 1]])
    shown = regions_of_views(packed, where)
    assert shown.dtype == np.uint8 and shown.shape == (4, 32, 32)
    for view, place in zip(shown, where.astype(float)):
        rows, columns = positions(place, (32, 32))
        for i in range(32):
            for j in range(32):
                assert view[i, j] == cells[int(rows[i] * 64), int(columns[j] * 64)]


# ------------------------------------------------------------------------------------------------- in samples

@pytest.mark.parametrize('kind, shape', [('.png', (70, 90)), ('.jpg', (601, 403))])
@pytest.mark.parametrize('needs', [('regions',), ('places', 'regions')])
def test_a_view_shows_the_regions_of_the_pixels_that_it_shows(tmp_path, known, kind, shape, needs):
    dataset = Files([encoded(coordinates(*shape), kind)], [CROP], return_label=True)
    dataset.carry(needs, tmp_path)
    compared = 0
    for seed in range(25):
        sample = dataset[SampleKey(0, seed)]
        views, label, shown = sample[:2], sample[2], sample[-1]
        assert len(sample) == 3 + len(needs) and label == 0
        assert shown.shape == (2, 32, 32) and shown.dtype == np.uint8
        if len(needs) == 2:
            assert sample[3].shape == (2, 6)
        for view, regions in zip(views, shown):
            y, x = (view[k] * 4 * 255 / 240 for k in (0, 1))         # in blocks
            sure = (np.abs(y - y.round()) > 0.06) & (np.abs(x - x.round()) > 0.06)
            sure[:2] = sure[-2:] = sure[:, :2] = sure[:, -2:] = False           # blurred before shrinking
            assert (regions == 4 * np.floor(y) + np.floor(x))[sure].all()
            compared += sure.sum()
    assert compared > 20 * 2 * 400


def test_views_and_random_numbers_are_the_same_with_and_without(tmp_path):
    files = [encoded(photo(300, 400, seed), '.jpg') for seed in range(2)]
    plain, carried = (Files(files, [CROP] + COLOURS) for _ in range(2))
    carried.carry(('places', 'regions'), tmp_path)
    for seed in range(10):
        a, b = plain[SampleKey(seed % 2, seed)], carried[SampleKey(seed % 2, seed)]
        assert len(a) == 2 and len(b) == 4
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize('transport, workers', [('float32', 0), ('uint8', 2)])
def test_they_travel_unchanged(tmp_path, transport, workers):
    node = {'name': 'Synthetic', 'num_images': 8, 'size': 32, 'return_label': True, 'return_two_sample': True,
            'transforms': [CROP, {'name': 'RandomHorizontalFlip'}, {'name': 'ToTensor'}],
            'regions': {'cache': str(tmp_path / 'kept')}}
    loader = build_dataloader({'loader': {'num_workers': workers, 'transport': transport}, 'dataset': node,
                               'sampler': {'batch_size': 4, 'shuffle': True}})
    before = batch_bytes(loader.dataset, loader.collate_fn, 4)
    untouched = build_dataset(node)
    for dataset in (untouched, loader.dataset):
        dataset.carry(('places', 'regions'))
    assert batch_bytes(loader.dataset, loader.collate_fn, 4) == before + 4 * 2 * (6 * 4 + 32 * 32)
    seen = 0
    for keys, batch in zip(loader.batch_sampler, loader):
        for got, field in zip(batch, zip(*(untouched[k] for k in keys))):
            assert got.numpy().dtype == field[0].dtype and np.array_equal(got.numpy(), np.stack(field))
        assert batch[4].numpy().dtype == np.uint8 and batch[4].shape == [4, 2, 32, 32] and batch[4].numpy().max() > 1
        seen += 1
    assert seen == 2
    assert len(list((tmp_path / 'kept').glob('*.bin'))) == 1           # one file for both


# ------------------------------------------------------------------------------------------------- settings

@pytest.mark.parametrize('settings, message', [
    ('yes', 'must be a mapping, not'), ({'segment': 3}, "Did you mean 'segments'"),
    ({'segments': 17}, 'whole number from 2 to 16, not 17'), ({'segments': True}, 'whole number from 2 to 16'),
    ({'compactness': 0}, 'a number above 0, not 0'), ({'sigma': -1}, 'a number of 0 or more, not -1'),
    ({'cache': 3}, 'must be text .*, not 3'), ({'cache': ''}, "must be text .*, not ''")])
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=r"^'dataloader.train.dataset.regions.*" + message):
        build_dataset({'name': 'Synthetic', 'num_images': 2, 'size': 16, 'regions': settings})


def test_settings_reach_slic(tmp_path):
    node = {'name': 'Synthetic', 'num_images': 2, 'size': 32}
    assert build_dataset(node).regions == Regions(16, 10.0, 1.0, None)
    dataset = build_dataset(dict(node, regions={'segments': 4, 'compactness': 3, 'sigma': None}))
    assert dataset.regions == Regions(4, 3, 1.0, None) and 'regions' not in node
    assert superpixels(photo(60, 60), dataset.regions).max() < 4


def test_without_scikit_image_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    dataset = Files([b''], [CROP])
    with pytest.raises(ConfigError, match=r"scikit-image.*pip install -e '\.\[regions\]'"):
        dataset.carry(('regions',), tmp_path)
    dataset.carry(('places',))
