"""Where views lie: read off pictures whose pixels say where they are."""

import random

import cv2
import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataloader, build_dataset
from passl.datasets import base
from passl.datasets.base import ImageDataset
from passl.datasets.image import decode_image
from passl.datasets.preprocess import TRANSFORMS, TwoView, build_transforms
from passl.datasets.preprocess.geometric import RandomHorizontalFlip, RandomVerticalFlip
from passl.datasets.preprocess.two_view import places
from passl.datasets.shared_memory import batch_bytes
from passl.utils.errors import ConfigError

CROP = {'name': 'RandomResizedCrop', 'size': [32, 24], 'scale': [0.2, 1.0]}
FLIPS = [{'name': 'RandomHorizontalFlip'}, {'name': 'RandomVerticalFlip', 'p': 0.3}]
COLOURS = [{'name': 'RandomApply', 'transforms': [{'name': 'ColorJitter', 'brightness': 0.4}], 'p': 0.8},
           {'name': 'RandomGrayscale', 'p': 0.2}]
TENSOR = [{'name': 'ToTensor'}]


def coordinates(height, width):
    """Red grows from 0 to 240 down the image, green across it."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(y + 0.5) * 240 / height, (x + 0.5) * 240 / width, 0 * y], -1).round().astype(np.uint8)


def encoded(img, kind):
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if kind == '.jpg' else []
    return cv2.imencode(kind, img[..., ::-1], options)[1].tobytes()


class Files(ImageDataset):
    """Encoded images in memory."""

    def __init__(self, files, recipe, **more):
        super().__init__(return_two_sample=True, transforms=recipe, view_trans1=FLIPS + TENSOR,
                         view_trans2=FLIPS[:1] + TENSOR, **more)
        self.samples = files
        self.classes = ['only']
        self._filled()

    def read_bytes(self, index):
        return self.samples[index], f'{index}'

    def label(self, index):
        return 0


def positions(place, size):
    """Fractions (rows, columns) of the image at which the pixels of a view have their centres."""
    top, left, height, width, across, down = place
    rows = top + height * (np.arange(size[0]) + 0.5) / size[0]
    columns = left + width * (np.arange(size[1]) + 0.5) / size[1]
    return rows[::-1] if down else rows, columns[::-1] if across else columns


@pytest.mark.parametrize('kind, shape, reduced', [('.png', (60, 90), False), ('.jpg', (601, 403), True),
                                                  ('.jpg', (601, 403), False), ('.png', (400, 300), True)])
def test_places_are_where_the_pixels_come_from(monkeypatch, kind, shape, reduced):
    reductions = []

    def counted(data, name='image', reduction=1, **options):
        reductions.append(reduction)
        return decode_image(data, name, reduction, **options)
    monkeypatch.setattr(base, 'decode_image', counted)
    dataset = Files([encoded(coordinates(*shape), kind)], [CROP])
    dataset.reduced_decoding = reduced
    dataset.carry(('places',))
    flips = set()
    for seed in range(25):
        *views, where = dataset[SampleKey(0, seed)]
        assert where.dtype == np.float32 and where.shape == (2, 6)
        for view, place in zip(views, where):
            rows, columns = positions(place, (32, 24))
            red, green = view[0] * 255 / 240, view[1] * 255 / 240
            inner = slice(2, -2)            # the blur before shrinking mirrors the border
            # half a level of rounding, twice, and JPEG's; a flip that was missed is a third of the image or more
            assert np.abs(red.mean(1) - rows)[inner].max() < 0.008
            assert np.abs(green.mean(0) - columns)[inner].max() < 0.008
            flips.add(tuple(place[4:]))
    assert flips == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert (max(reductions) > 1) == (reduced and kind == '.jpg')


def test_places_in_numbers():
    where = places([(10, 20, 30, 40), (0, 0, 100, 200)], (100, 200), [[False, True], [True, False]])
    assert where.dtype == np.float32
    assert where.tolist() == np.float32([[0.1, 0.1, 0.3, 0.2, 1, 0], [0, 0, 1, 1, 0, 1]]).tolist()


@pytest.mark.parametrize('kind', ['.png', '.jpg'])
@pytest.mark.parametrize('reduced', [True, False])
@pytest.mark.parametrize('unfinished', [True, False])
def test_views_and_random_numbers_are_the_same_with_and_without(kind, reduced, unfinished):
    rng = np.random.RandomState(0)
    files = [encoded(cv2.resize(rng.randint(0, 256, (9, 9, 3)).astype(np.uint8), (300, 400)), kind) for _ in range(3)]
    samples = {}
    for needs in ((), ('places',)):
        dataset = Files(files, [CROP] + COLOURS, return_label=True)
        dataset.reduced_decoding = reduced
        dataset.carry(needs)
        if unfinished:
            dataset.leave_normalisation()
        samples[needs] = []
        for seed in range(12):
            with base.generators_kept():
                sample = dataset[SampleKey(seed % 3, seed)]
                samples[needs].append((*sample, random.random()))
    for plain, carried in zip(samples[()], samples[('places',)]):
        assert len(plain) == 4 and len(carried) == 5
        assert all(np.array_equal(a, b) for a, b in zip(plain[:3], carried[:3])) and plain[3] == carried[4]


def test_flips_draw_what_they_drew():
    img = coordinates(6, 8)
    for kind, mirrored in ((RandomHorizontalFlip, img[:, ::-1]), (RandomVerticalFlip, img[::-1])):
        random.seed(1)
        drawn = [random.random() < 0.4 for _ in range(20)]
        random.seed(1)
        flip = kind(0.4)
        assert [bool((flip(img) == mirrored).all()) for _ in range(20)] == drawn
    with pytest.raises(ConfigError, match="'transforms.0.p' must be a number from 0 to 1, not 2"):
        build_transforms([{'name': 'RandomVerticalFlip', 'p': 2}])
    assert RandomVerticalFlip(prob=0.25).p == 0.25


class Own:
    """A transform of a user."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __call__(self, img):
        return img


@pytest.mark.parametrize('steps, name', [
    ([{'name': 'Resize', 'size': 40}, CROP], 'Resize'), ([CROP, {'name': 'CenterCrop', 'size': 20}], 'CenterCrop'),
    ([CROP, CROP], 'RandomResizedCrop'), ([CROP, Own()], 'Own'), ([CROP, Own(moves_pixels=True)], 'Own'),
    ([CROP, {'name': 'RandomApply', 'transforms': FLIPS[:1]}], 'RandomApply'),
    ([CROP, {'name': 'Transpose', 'order': [1, 0, 2]}], 'Transpose'),
    ([CROP, type('MyFlip', (RandomHorizontalFlip,), {})()], 'MyFlip'), ([CROP, lambda img: img], '<lambda>')])
def test_what_moves_pixels_otherwise_is_refused_by_name(steps, name):
    dataset = Files([b''], steps)
    with pytest.raises(ConfigError, match=f"In view 1 '{name}' .*moves_pixels = False"):
        dataset.carry(('places',))
    dataset.carry(())                       # nothing is asked for


@pytest.mark.parametrize('more', [COLOURS, [Own(moves_pixels=False)], [{'name': 'Compose', 'transforms': COLOURS}],
                                  [{'name': 'GaussianBlur'}, {'name': 'Solarization'}, {'name': 'ToRGB'}]])
def test_what_leaves_pixels_in_place_is_taken(more):
    Files([b''], [CROP] + more).carry(('places',))


def test_every_transform_has_its_say():
    """A new one must say whether it moves pixels, or be known as one that does."""
    moving = {'RandomResizedCrop', 'Resize', 'CenterCrop', 'RandomHorizontalFlip', 'RandomVerticalFlip'}
    silent = {name for name in TRANSFORMS.names() if TRANSFORMS.get(name).__module__.startswith('passl.')
              and not hasattr(TRANSFORMS.get(name), 'moves_pixels')}
    assert silent == moving | {'Transpose'}         # it depends on the order


def test_a_recipe_without_a_crop_and_unknown_needs():
    dataset = Files([b''], [CROP])
    dataset.recipe = TwoView([], TENSOR, TENSOR)
    with pytest.raises(ConfigError, match="In view 1 'ToTensor'"):
        dataset.carry(('places',))
    for needs in (('regions', 'places'), ('labels',), ('places', 'places')):
        with pytest.raises(ConfigError, match='A sample can carry'):
            dataset.carry(needs)


def config(transport, workers, label):
    dataset = {'name': 'Synthetic', 'num_images': 12, 'size': 32, 'return_label': label, 'return_two_sample': True,
               'transforms': [CROP] + FLIPS + TENSOR}
    return {'loader': {'num_workers': workers, 'transport': transport}, 'dataset': dataset,
            'sampler': {'batch_size': 4, 'shuffle': True}}


@pytest.mark.parametrize('transport', ['float32', 'uint8'])
@pytest.mark.parametrize('workers, label', [(0, True), (2, False)])
def test_they_travel_behind_views_and_label(transport, workers, label):
    loader, untouched = build_dataloader(config(transport, workers, label)), build_dataset(
        config(transport, 0, label)['dataset'])
    before = batch_bytes(loader.dataset, loader.collate_fn, 4)
    for dataset in (loader.dataset, untouched):
        dataset.carry(('places',))
    assert batch_bytes(loader.dataset, loader.collate_fn, 4) == before + 4 * 2 * 6 * 4
    assert [np.shape(x) for x in loader.dataset.example()][2:] == [()] * label + [(2, 6)]
    count = 0
    for keys, batch in zip(loader.batch_sampler, loader):
        expected = [np.stack(field) for field in zip(*(untouched[k] for k in keys))]
        assert len(batch) == len(expected) == 3 + label
        for got, field in zip(batch, expected):
            assert got.numpy().dtype == field.dtype and np.array_equal(got.numpy(), field)
        count += 1
    assert count == 3


def test_one_view():
    dataset = build_dataset({'name': 'Synthetic', 'num_images': 2, 'size': 32, 'transforms': [CROP] + TENSOR})
    dataset.carry(('places',))
    assert [x.shape for x in dataset[0]] == [(3, 32, 24), (1, 6)]
