"""Decoding at 1/2, 1/4, 1/8: same boxes, same random numbers, nearly the same views."""

import random

import cv2
import numpy as np
import pytest

from passl.datasets import ImageReadError, SampleKey, build_dataset
from passl.datasets import base
from passl.datasets.base import ImageDataset
from passl.datasets.image import decode_image, is_turned, jpeg_size
from passl.datasets.preprocess import TwoView
from passl.datasets.preprocess.checks import resize_part
from passl.utils.errors import ConfigError

RECIPE = [{'name': 'RandomResizedCrop', 'size': 32, 'scale': [0.2, 1.0]}, {'name': 'RandomHorizontalFlip'}]


def photo(height, width, seed=0):
    """Smooth shapes with some grain."""
    rng = np.random.RandomState(seed)
    img = cv2.resize(rng.randint(0, 256, (6, 8, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(img + rng.randn(height, width, 1) * 6, 0, 255).astype(np.uint8)


def jpeg(img, exif=None):
    data = cv2.imencode('.jpg', img[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    if exif is None:
        return data
    tag = b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0' + bytes([exif, 0, 0, 0]) + b'\0\0\0\0'
    return data[:2] + b'\xff\xe1' + (len(tag) + 2).to_bytes(2, 'big') + tag + data[2:]


class Files(ImageDataset):
    """Encoded images in memory."""

    def __init__(self, files, recipe=RECIPE, **more):
        super().__init__(return_two_sample=True, transforms=recipe, view_trans1=[{'name': 'ToTensor'}],
                         view_trans2=[{'name': 'RandomGrayscale', 'p': 0.5}, {'name': 'ToTensor'}], **more)
        self.samples = files
        self._filled()

    def read_bytes(self, index):
        return self.samples[index], f'{index}.jpg'


@pytest.fixture
def decoded(monkeypatch):
    """The reduction of every decode call."""
    calls = []

    def counted(data, name='image', reduction=1, **options):
        calls.append(reduction)
        return decode_image(data, name, reduction, **options)
    monkeypatch.setattr(base, 'decode_image', counted)
    return calls


def samples(dataset, reduced, index=0, seeds=range(20)):
    dataset.reduced_decoding = reduced
    out = []
    for seed in seeds:
        with base.seeded(seed):
            out.append((dataset[index], random.random()))
    return out


def test_views_are_nearly_those_of_the_whole_image(decoded):
    dataset = Files([jpeg(photo(301, 403))])
    full, reduced = samples(dataset, False), samples(dataset, True)
    assert decoded[:20] == [1] * 20 and set(decoded[20:]) <= {4, 8} and len(decoded) == 40      # once per sample
    for (a, after_a), (b, after_b) in zip(full, reduced):
        assert after_a == after_b                               # the same random numbers later on
        for x, y in zip(a, b):
            assert x.shape == y.shape == (3, 32, 32)
            assert 0 < np.abs(x - y).mean() * 255 < 3           # flips and greys are the same, too


@pytest.mark.parametrize('shape', [(63, 200), (200, 63), (40, 40)])
def test_small_images_are_decoded_in_full(decoded, shape):
    samples(Files([jpeg(photo(*shape))]), True)
    assert set(decoded) == {1}


def test_large_enough_by_itself_is_not_enough(decoded):
    """Boxes must be large enough, not the image: 80 pixels allow 1/2 for boxes from 64 on only."""
    dataset = Files([jpeg(photo(80, 80))], [dict(RECIPE[0], scale=[0.5, 1.0])])
    drawn = []
    draw = dataset.recipe.draw
    dataset.recipe.draw = lambda h, w: drawn.append(draw(h, w)) or drawn[-1]
    samples(dataset, True, seeds=range(60))
    for boxes, factor in zip(drawn, decoded):
        smallest = min(min(h, w) for _, _, h, w in boxes)
        assert factor == (2 if smallest >= 64 else 1) or (factor, smallest) == (2, 63)      # rounded edges
    assert {1, 2} == set(decoded)


def test_turned_images_and_other_formats_take_the_whole_way(decoded):
    img = photo(300, 400)
    png = cv2.imencode('.png', img)[1].tobytes()
    for k, data in enumerate([jpeg(img, exif=6), png]):
        dataset = Files([data])
        assert all(np.array_equal(x, y) for (a, _), (b, _) in zip(samples(dataset, False), samples(dataset, True))
                   for x, y in zip(a, b))
    assert set(decoded) == {1}
    assert is_turned(jpeg(img, exif=6)) and not is_turned(jpeg(img, exif=1)) and not is_turned(jpeg(img))
    samples(Files([jpeg(img, exif=1)]), True)
    assert max(decoded) > 1


@pytest.mark.parametrize('change', [{'interpolation': 'nearest'}, {'interpolation': 'bicubic'}, None])
def test_recipes_that_need_all_pixels(decoded, change):
    recipe = [dict(RECIPE[0], **change)] if change else [{'name': 'Resize', 'size': 40}] + RECIPE
    samples(Files([jpeg(photo(300, 400))], recipe), True)
    assert set(decoded) == {1}


def test_own_load_wins(decoded):
    class Own(Files):
        def load(self, index):
            return np.zeros((300, 400, 3), np.uint8)
    dataset = Own([jpeg(photo(300, 400))])
    assert not dataset[0][0].any() and not decoded
    dataset = Files([jpeg(photo(300, 400))])
    dataset.load = lambda index: np.zeros((300, 400, 3), np.uint8)
    assert not dataset[0][0].any() and not decoded
    assert np.array_equal(Files.load(dataset, 0), decode_image(dataset.samples[0]))


def test_a_broken_image_leaves_no_trace_in_the_random_numbers(monkeypatch):
    data = jpeg(photo(300, 400))
    dataset = Files([data, data, data, data])
    good = {i: samples(dataset, True, i)[0] for i in range(4)}

    def fails(first):
        calls = []

        def decode(data, name='image', reduction=1, **options):
            calls.append(name)
            if name == '0.jpg':
                raise ImageReadError('broken')
            return decode_image(data, name, reduction)
        return decode
    monkeypatch.setattr(base, 'decode_image', fails(0))
    views, after = samples(dataset, True)[0]
    assert after == good[1][1] and np.array_equal(views[0], good[1][0][0])      # all files are the same image
    assert dataset.num_bad == 1


@pytest.mark.parametrize('box, size, largest', [((10.25, 20.75, 40.5, 60.5), (32, 40), 0.03),
                                                ((10.25, 20.75, 60.5, 70.75), (32, 40), 0.03),
                                                ((0.4, 0.4, 90.3, 110.3), (30, 30), 0.25)])
def test_parts_stand_where_they_should(box, size, largest):
    """On a slope of 2 levels per pixel the value tells the position."""
    y, x = np.mgrid[0:100, 0:120]
    img = np.stack([y * 2, x * 2, y * 0], -1).astype(np.uint8)
    out = resize_part(img, box, size).astype(float)
    assert out.shape == size + (3,)
    for axis in (0, 1):
        start, step = box[axis], box[2 + axis] / size[axis]
        seen = out[..., axis].mean(1 - axis) / 2
        expected = start + (np.arange(size[axis]) + 0.5) * step - 0.5
        inner = slice(3, -3)
        assert np.abs((seen - expected)[inner]).max() <= largest * step + 0.26      # half a level is rounding
        assert abs((seen - expected)[inner].mean()) <= largest * step


@pytest.mark.parametrize('shape', [(64, 64), (97, 131)])
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_decoder_rounds_sizes_up(shape, factor):
    data = jpeg(photo(*shape))
    assert jpeg_size(data) == shape
    out = decode_image(data, reduction=factor)
    assert out.shape == (-(-shape[0] // factor), -(-shape[1] // factor), 3)
    whole = decode_image(data)
    small = cv2.resize(whole[:shape[0] // factor * factor, :shape[1] // factor * factor], None, fx=1 / factor,
                       fy=1 / factor, interpolation=cv2.INTER_AREA)
    gap = np.abs(out[:small.shape[0], :small.shape[1]].astype(int) - small).mean()
    assert gap < 3                              # also says that the channels are in the same order


def test_sizes_of_what_is_no_plain_jpeg():
    data = jpeg(photo(40, 50))
    assert jpeg_size(data[:-200]) is None and jpeg_size(b'') is None and jpeg_size(b'\xff\xd8\xff') is None
    assert jpeg_size(cv2.imencode('.png', photo(40, 50))[1].tobytes()) is None


def test_boxes_are_drawn_before_everything_else():
    views = TwoView(RECIPE)
    random.seed(7)
    boxes = views.draw(100, 120)
    later = random.random()
    random.seed(7)
    crop = views.crops[0]
    assert [crop.draw(100, 120), crop.draw(100, 120)] == boxes and random.random() == later


def test_the_switch_in_a_config(tmp_path, make_images):
    make_images(tmp_path, 2)
    cfg = {'name': 'UnlabelledFolder', 'dataroot': str(tmp_path)}
    assert build_dataset(cfg).reduced_decoding is True
    assert build_dataset({**cfg, 'reduced_decoding': False}).reduced_decoding is False
    with pytest.raises(ConfigError, match='reduced_decoding.*true or false'):
        build_dataset({**cfg, 'reduced_decoding': 2})


def test_samples_of_keys_depend_on_the_key_only():
    dataset = Files([jpeg(photo(300, 400, k)) for k in range(3)])
    first = dataset[SampleKey(1, 5)]
    dataset[SampleKey(0, 5)]
    assert all(np.array_equal(a, b) for a, b in zip(first, dataset[SampleKey(1, 5)]))
