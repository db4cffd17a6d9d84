"""The transforms against the formulas of the reference recipe: levels, and distributions of what is drawn."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from passl.datasets.preprocess import TRANSFORMS
from passl.datasets.preprocess import color
from passl.datasets.preprocess.checks import resize

WEIGHTS = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope='module')
def photo():
    """Edges, shading and grain, 250 x 330."""
    rng = np.random.RandomState(5)
    img = np.zeros((250, 330, 3))
    for cells, strength in ((4, 70), (16, 40), (60, 18), (200, 9)):
        noise = (rng.rand(cells * 3 // 4 + 1, cells, 3) * 255).astype(np.uint8)
        img += strength / 60 * (np.asarray(Image.fromarray(noise).resize((330, 250), Image.BICUBIC)) - 127.0)
    img[80:160, 100:220] += 90
    return np.clip(img + 120, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('factor', [0.0, 0.6, 0.93, 1.0, 1.4])
def test_colours_are_within_a_level_of_the_exact_formulas(photo, factor):
    """Pillow cuts fractions off, here they are rounded: half a level brighter on average."""
    x = photo.astype(float)
    grey = np.rint(x @ WEIGHTS)
    exact = {color.adjust_brightness: x * factor,
             color.adjust_contrast: x * factor + np.floor(grey.mean() + 0.5) * (1 - factor),
             color.adjust_saturation: x * factor + grey[..., None] * (1 - factor)}
    for adjust, values in exact.items():
        gap = adjust(photo, factor) - np.clip(values, 0, 255)
        assert np.abs(gap).max() <= 1.0 + 1e-6 and abs(gap.mean()) < 0.1, adjust.__name__


def test_brightness_is_exact_for_every_level():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for factor in np.linspace(0.6, 1.4, 17):
        assert np.abs(color.adjust_brightness(levels, factor) - np.clip(levels * factor, 0, 255)).max() <= 0.5001


@pytest.mark.parametrize('shift', [-0.1, -0.04, 0.07, 0.1])
def test_hue_within_the_steps_of_256_hues(photo, shift):
    """Both sides keep 8 bits for hue and saturation and round differently: 1.5 levels on average."""
    hsv = np.asarray(Image.fromarray(photo).convert('HSV')).copy()
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    gap = color.adjust_hue(photo, shift) - np.asarray(Image.fromarray(hsv, 'HSV').convert('RGB')).astype(int)
    assert np.abs(gap).mean() < 1.5 and np.percentile(np.abs(gap), 99) <= 10 and np.abs(gap.mean()) < 1


@pytest.mark.parametrize('sigma, mean, worst', [(0.5, 1.5, 12), (1.0, 1.0, 8), (1.5, 1.0, 6), (2.0, 1.0, 6)])
def test_blur_is_near_pillows(photo, sigma, mean, worst):
    """Pillow puts three boxes in the place of a Gaussian; of small sigma they are a little wider."""
    ours = TRANSFORMS.get('GaussianBlur')(sigma=sigma)(photo).astype(int)
    pillow = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    gap = np.abs(ours - pillow)[8:-8, 8:-8]         # Pillow repeats the border pixel, we mirror
    assert gap.mean() < mean and np.percentile(gap, 99.5) <= worst


@pytest.mark.parametrize('shrink', [0.7, 1.0, 1.2, 1.5, 1.93, 2.15, 3.0])
def test_resizing_is_pillows_bilinear(photo, shrink):
    size = round(250 / shrink), round(330 / shrink)
    gap = resize(photo, size) - np.asarray(Image.fromarray(photo).resize(size[::-1], Image.BILINEAR)).astype(int)
    assert np.abs(gap).mean() < (1.2 if shrink <= 2.2 else 2.0)
    assert abs(gap.mean()) < 0.2
    one_way = resize(photo, (size[0], 330)) - np.asarray(
        Image.fromarray(photo).resize((330, size[0]), Image.BILINEAR)).astype(int)
    assert np.abs(one_way).mean() < (1.2 if shrink <= 2.2 else 2.0)


def torchvision_box(rng, height, width, scale, ratio):
    """RandomResizedCrop.get_params, written out: (height, width, top, left)."""
    for _ in range(10):
        area, aspect = height * width * rng.uniform(*scale), math.exp(rng.uniform(math.log(ratio[0]),
                                                                                  math.log(ratio[1])))
        w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return h, w, rng.randint(0, height - h + 1), rng.randint(0, width - w + 1)
    if width / height < ratio[0]:
        w, h = width, int(round(width / ratio[0]))
    elif width / height > ratio[1]:
        w, h = int(round(height * ratio[1])), height
    else:
        w, h = width, height
    return h, w, (height - h) // 2, (width - w) // 2


def distance(a, b):
    """Kolmogorov-Smirnov: the largest difference of the two distribution functions."""
    grid = np.union1d(a, b)
    a, b = np.sort(a), np.sort(b)
    return np.abs(np.searchsorted(a, grid, 'right') / len(a) - np.searchsorted(b, grid, 'right') / len(b)).max()


@pytest.mark.parametrize('height, width', [(375, 500), (500, 375), (60, 640)])
def test_crop_boxes_are_distributed_as_torchvisions(height, width):
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 6000
    crop, rng = TRANSFORMS.get('RandomResizedCrop')(size=224, scale=scale, ratio=ratio), np.random.RandomState(0)
    random.seed(0)
    t, left, h, w = np.array([crop.draw(height, width) for _ in range(n)], float).T
    h2, w2, t2, l2 = np.array([torchvision_box(rng, height, width, scale, ratio) for _ in range(n)], float).T
    limit = 1.95 * math.sqrt(2 / n)         # exceeded by equal distributions once in a thousand times
    for ours, theirs in ((h * w, h2 * w2), (w / h, w2 / h2), (t, t2), (left, l2), (h, h2), (w, w2)):
        assert distance(ours, theirs) < limit


def test_jitter_takes_every_order_equally_often():
    jitter, seen = TRANSFORMS.get('ColorJitter')(0.4, 0.4, 0.4, 0.1), []
    names = [f.__name__ for f, _ in jitter.steps]
    assert sorted(names) == ['adjust_' + n for n in ('brightness', 'contrast', 'hue', 'saturation')]
    drawn = {name: [] for name in names}
    order = []

    def spy(name):
        def adjust(img, value):
            order.append(name)
            drawn[name].append(value)
            return img
        return adjust
    jitter.steps = [(spy(f.__name__), r) for f, r in jitter.steps]
    random.seed(0)
    for _ in range(4800):
        order.clear()
        jitter(None)
        seen.append(tuple(order))
    counts = Counter(seen)
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 49.7       # chi-squared, 23 degrees, 0.1 %
    for name, values in drawn.items():
        low, high = (-0.1, 0.1) if name == 'adjust_hue' else (0.6, 1.4)
        uniform = (np.sort(values) - low) / (high - low)
        assert np.abs(uniform - np.linspace(0, 1, len(uniform))).max() < 0.029


@pytest.mark.parametrize('name, p, options', [
    ('RandomApply', 0.8, {'transforms': [{'name': 'Solarization', 'threshold': 0}]}),
    ('RandomApply', 0.5, {'transforms': [{'name': 'Solarization', 'threshold': 0}]}), ('RandomGrayscale', 0.2, {})])
def test_probabilities(name, p, options):
    img = np.array([[[10, 90, 200]]], np.uint8)
    transform = TRANSFORMS.get(name)(p=p, **options)
    random.seed(0)
    share = np.mean([not np.array_equal(transform(img), img) for _ in range(6000)])
    assert abs(share - p) < 3.3 * math.sqrt(p * (1 - p) / 6000)


def test_blur_draws_sigma_uniformly(monkeypatch):
    sigmas, sizes = [], []

    def blur(img, size, sigma, borderType=None):
        sigmas.append(sigma)
        sizes.append(size)
        return img
    monkeypatch.setattr(color.cv2, 'GaussianBlur', blur)
    random.seed(0)
    transform = TRANSFORMS.get('GaussianBlur')(sigma=[0.1, 2.0])
    for _ in range(4000):
        transform(None)
    uniform = (np.sort(sigmas) - 0.1) / 1.9
    assert np.abs(uniform - np.linspace(0, 1, 4000)).max() < 0.031
    assert all(k == j == 2 * math.ceil(3 * s) + 1 for (k, j), s in zip(sizes, sigmas))
