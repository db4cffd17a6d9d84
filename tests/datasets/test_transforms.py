"""Transforms against NumPy, Pillow and closed forms."""

import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from passl.datasets.preprocess import TRANSFORMS, TwoView, build_transforms
from passl.datasets.preprocess import color
from passl.utils.errors import ConfigError


def T(name, **arguments):
    return TRANSFORMS.get(name)(**arguments)


@pytest.fixture
def photo():
    """Smooth colourful image with some grain, 60 x 80."""
    rng = np.random.RandomState(3)
    small = rng.randint(0, 256, (6, 8, 3)).astype(np.uint8)
    img = np.asarray(Image.fromarray(small).resize((80, 60), Image.BICUBIC)).astype(int)
    return np.clip(img + rng.randint(-12, 13, img.shape), 0, 255).astype(np.uint8)


def close(a, b, atol, share=1.0):
    """At least `share` of the values differ by no more than `atol`."""
    assert a.shape == b.shape and a.dtype == b.dtype
    return (np.abs(a.astype(int) - b.astype(int)) <= atol).mean() >= share


@pytest.mark.parametrize('factor', [0.0, 0.3, 1.0, 1.4])
@pytest.mark.parametrize('adjust, enhance', [(color.adjust_brightness, ImageEnhance.Brightness),
                                             (color.adjust_contrast, ImageEnhance.Contrast),
                                             (color.adjust_saturation, ImageEnhance.Color)])
def test_colour_changes_equal_pillow(photo, adjust, enhance, factor):
    expected = np.asarray(enhance(Image.fromarray(photo)).enhance(factor))
    assert close(adjust(photo, factor), expected, 2)


@pytest.mark.parametrize('shift', [-0.4, -0.1, 0.05, 0.25, 0.5])
def test_hue_equals_pillow(photo, shift):
    hsv = np.asarray(Image.fromarray(photo).convert('HSV')).copy()
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    expected = np.asarray(Image.fromarray(hsv, 'HSV').convert('RGB'))
    assert close(color.adjust_hue(photo, shift), expected, 6, 0.98)


def test_hue_of_pure_red_by_a_third_is_green():
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert (color.adjust_hue(red, 1 / 3).argmax(-1) == 1).all()
    grey = np.full((2, 2, 3), 90, np.uint8)
    assert (color.adjust_hue(grey, 0.3) == 90).all()


def test_colour_jitter_draws_the_documented_ranges():
    img = np.full((1, 1, 3), 100, np.uint8)
    jitter = T('ColorJitter', brightness=0.4)
    random.seed(0)
    values = np.array([jitter(img)[0, 0, 0] for _ in range(2000)])
    assert values.min() in (60, 61) and values.max() in (139, 140)
    assert abs(values.mean() - 100) < 2
    assert (T('ColorJitter', brightness=[0.5, 0.5])(img) == 50).all()
    assert (T('ColorJitter')(img) == img).all()


def test_colour_jitter_order_is_random():
    img = np.zeros((1, 2, 3), np.uint8)
    img[0, 1] = 200
    # brightness x2 then contrast x0 gives mean of (0, 255); contrast first gives 2 * mean of (0, 200)
    jitter = T('ColorJitter', brightness=[2, 2], contrast=[0, 0])
    random.seed(0)
    seen = [int(jitter(img)[0, 0, 0]) for _ in range(400)]
    assert set(seen) == {128, 200} and 150 < seen.count(200) < 250


@pytest.mark.parametrize('sigma', [0.5, 1.0, 2.0])
def test_blur_is_the_gaussian_of_that_sigma(sigma):
    img = np.zeros((31, 31, 3), np.uint8)
    img[15:, :] = 255
    x = np.arange(-30, 31)
    kernel = np.exp(-x ** 2 / (2 * sigma ** 2))
    kernel /= kernel.sum()
    step = np.convolve(np.where(np.arange(-30, 61) >= 15, 255.0, 0.0), kernel, 'same')[30:61]
    out = T('GaussianBlur', sigma=sigma)(img)
    assert np.abs(out[..., 0].astype(float) - step[:, None])[3:-3].max() <= 2.5
    pillow = np.asarray(Image.fromarray(img).filter(ImageFilter.GaussianBlur(sigma)))
    assert np.abs(out.astype(int) - pillow.astype(int)).max() <= 14        # Pillow approximates by boxes


def test_grayscale_is_the_luminance(photo):
    grey = T('RandomGrayscale', p=1)(photo)
    expected = np.asarray(Image.fromarray(photo).convert('L'))
    assert all(close(grey[..., c].copy(), expected, 1) for c in range(3))
    assert (T('RandomGrayscale', p=0)(photo) == photo).all()


def test_solarization_inverts_from_the_threshold_on():
    img = np.array([0, 127, 128, 255], np.uint8).repeat(3).reshape(1, 4, 3)
    assert T('Solarization', threshold=128)(img)[0, :, 0].tolist() == [0, 127, 127, 0]


@pytest.mark.parametrize('name, p', [('RandomHorizontalFlip', 0.5), ('RandomHorizontalFlip', 0.2)])
def test_flip_mirrors_with_its_probability(photo, name, p):
    flip = T(name, p=p)
    random.seed(1)
    flipped = sum(np.array_equal(flip(photo), photo[:, ::-1]) for _ in range(1000))
    assert abs(flipped / 1000 - p) < 0.05
    assert T(name, prob=0.0).p == 0


def test_random_apply_is_all_or_nothing(photo):
    apply = T('RandomApply', p=0.8, transforms=[{'name': 'Solarization', 'threshold': 0},
                                                {'name': 'RandomGrayscale',
                                                                                             'p': 1.0}])
    random.seed(0)
    outs = [apply(photo) for _ in range(500)]
    same = sum(np.array_equal(o, photo) for o in outs)
    both = sum(close(o[..., 0].copy(), o[..., 1].copy(), 0) for o in outs)
    assert same + both == 500 and abs(same / 500 - 0.2) < 0.06


def test_random_resized_crop_box_statistics():
    crop = T('RandomResizedCrop', size=8, scale=[0.2, 1.0], ratio=[3 / 4, 4 / 3])
    random.seed(0)
    boxes = np.array([crop.draw(300, 400) for _ in range(4000)], float)
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 300).all() and (left + w <= 400).all()
    area, ratio = h * w / 120000, w / h
    assert area.min() > 0.19 and ratio.min() > 0.74 and ratio.max() < 1.345
    # oracle: area and log ratio uniform, given that the box fits
    a, r = np.meshgrid(np.linspace(0.2, 1, 1000), np.exp(np.linspace(np.log(3 / 4), np.log(4 / 3), 1000)))
    fits = (np.sqrt(a * 120000 * r) <= 400) & (np.sqrt(a * 120000 / r) <= 300)
    assert abs(area.mean() - a[fits].mean()) < 0.012
    assert abs(np.log(ratio).mean() - np.log(r[fits]).mean()) < 0.012


def test_random_resized_crop_of_the_whole_image_is_the_image(photo):
    whole = T('RandomResizedCrop', size=[60, 80], scale=[1.0, 1.0], ratio=[80 / 60, 80 / 60])
    assert np.array_equal(whole(photo), photo)


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (300, 1), (2, 5)])
def test_extreme_shapes_pass_through_the_whole_recipe(shape):
    recipe = [{'name': 'RandomResizedCrop', 'size': 16},
              {'name': 'ColorJitter', 'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
              {'name': 'GaussianBlur', 'sigma': [0.1, 2.0]}, {'name': 'RandomHorizontalFlip'},
              {'name': 'Transpose'},
              {'name': 'NormalizeImage', 'scale': 1 / 255, 'mean': 0.5, 'std': 0.5}]
    img = np.full(shape + (3,), 255, np.uint8)
    out = build_transforms(recipe)(img)
    assert out.shape == (3, 16, 16) and out.dtype == np.float32 and np.abs(out).max() <= 1 + 1e-6
    blurred = T('GaussianBlur', sigma=2.0)(img)
    assert blurred.shape == img.shape and (blurred == 255).all()


def test_shrinking_does_not_alias():
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255                       # finer than the result can show: must become grey
    out = T('Resize', size=30)(stripes)
    assert 120 <= out.min() and out.max() <= 135


def test_resize_and_center_crop_sizes(photo):
    assert T('Resize', size=30)(photo).shape == (30, 40, 3)
    assert T('Resize', size=30)(photo.transpose(1, 0, 2)).shape == (40, 30, 3)
    assert T('Resize', size=[20, 50])(photo).shape == (20, 50, 3)
    assert np.array_equal(T('CenterCrop', size=[20, 40])(photo), photo[20:40, 20:60])
    padded = T('CenterCrop', size=100)(photo)
    assert padded.shape == (100, 100, 3)
    assert np.array_equal(padded[20:80, 10:90], photo) and not padded[:20].any()


def test_normalisation_values_in_both_layouts(photo):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = ((photo / 255.0 - mean) / std).astype(np.float32)
    norm = T('NormalizeImage', scale=1 / 255, mean=mean, std=std)
    np.testing.assert_allclose(norm(photo), expected, atol=2e-6)
    chw = norm(T('Transpose')(photo))
    np.testing.assert_allclose(chw, expected.transpose(2, 0, 1), atol=2e-6)
    assert chw.dtype == np.float32 and chw.flags.c_contiguous
    plain = T('Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    np.testing.assert_allclose(plain(T('Transpose')(photo)), expected.transpose(2, 0, 1), atol=2e-6)
    np.testing.assert_allclose(T('ToTensor')(photo), photo.transpose(2, 0, 1) / np.float32(255), atol=1e-7)
    assert T('ToTensor')(photo).flags.c_contiguous


def test_two_views_draw_shared_part_independently():
    views = TwoView([lambda x: x + random.random()], [lambda x: ('one', x)], [lambda x: ('two', x)])
    random.seed(5)
    a, b = random.random(), random.random()
    random.seed(5)
    assert views(0.0) == (('one', a), ('two', b))
    random.seed(5)
    assert TwoView([lambda x: x + random.random()])(0.0) == (a, b)
    with pytest.raises(ConfigError, match='both view_trans1 and view_trans2'):
        TwoView([], [lambda x: x])


@pytest.mark.parametrize('cfg, match', [
    ({'name': 'ColorJiter'}, "Did you mean 'ColorJitter'"),
    ({'name': 'ColorJitter', 'brigthness': 0.4}, "Did you mean 'brightness'"),
    ({'name': 'ColorJitter', 'hue': 0.6}, r"'dataset.transforms.1.hue' must be a number in \[0, 0.5\]"),
    ({'name': 'ColorJitter', 'contrast': -1}, 'must be a number of 0 or more, or'),
    ({'name': 'RandomGrayscale', 'p': 1.5}, "p' must be a number from 0 to 1, not 1.5"),
    ({'name': 'RandomResizedCrop', 'size': 0}, 'a whole number of 1 or more, or .*, not 0'),
    ({'name': 'RandomResizedCrop', 'size': 224, 'scale': [1.0, 0.2]}, 'smallest, largest'),
    ({'name': 'RandomResizedCrop', 'size': 8, 'interpolation': 'cubic'}, "one of nearest, .*, not 'cubic'"),
    ({'name': 'RandomResizedCrop'}, 'needs size'),
    ({'name': 'GaussianBlur', 'sigma': [0, 2]}, 'above 0'),
    ({'name': 'GaussianBlur', 'kernel_size': 4}, 'odd'),
    ({'name': 'NormalizeImage', 'scale': '1.0/255.0'}, "scale' must be a number .*, or null, not '1.0/255.0'"),
    ({'name': 'NormalizeImage', 'std': [1, 0, 1]}, "std' must be .* above 0, not"),
    ({'name': 'Normalize', 'mean': [1, 2]}, 'one per channel'),
    ({'name': 'Transpose', 'order': [0, 1]}, 'permutation'),
])
def test_wrong_settings_are_named(cfg, match):
    with pytest.raises(ConfigError, match=match):
        build_transforms([{'name': 'RandomHorizontalFlip'}, cfg], 'dataset.transforms')


def test_the_place_of_a_wrong_transform_is_named():
    with pytest.raises(ConfigError, match=r'dataset\.transforms\.1'):
        build_transforms([{'name': 'Transpose'}, {'name': 'Nope'}], 'dataset.transforms')
    with pytest.raises(ConfigError, match='must be a list of transforms'):
        build_transforms(3)
