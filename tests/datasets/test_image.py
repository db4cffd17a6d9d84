"""Reading: every kind of file becomes the same uint8 RGB; broken ones are named."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from passl.datasets import ImageReadError, read_image
from passl.datasets.image import decode_image
from passl.utils.errors import DataError


@pytest.fixture
def photo():
    """Smooth, so that JPEG changes little; the four corners differ."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 2], -1).astype(np.uint8)


def encode(img, fmt, **options):
    out = io.BytesIO()
    (img if isinstance(img, Image.Image) else Image.fromarray(img)).save(out, fmt, **options)
    return out.getvalue()


def assert_near(a, b, atol):
    assert a.dtype == np.uint8 and a.shape == b.shape
    assert np.abs(a.astype(int) - b.astype(int)).max() <= atol


@pytest.mark.parametrize('fmt', ['PNG', 'BMP', 'TIFF', 'PPM'])
def test_lossless_formats_are_exact(photo, fmt):
    assert_near(decode_image(encode(photo, fmt)), photo, 0)


def test_jpeg_and_webp_are_near(photo):
    assert_near(decode_image(encode(photo, 'JPEG', quality=98, subsampling=0)), photo, 6)
    assert_near(decode_image(encode(photo, 'WEBP', lossless=True)), photo, 0)
    assert_near(decode_image(encode(photo, 'JPEG', quality=98, subsampling=0, progressive=True)), photo, 6)


@pytest.mark.parametrize('fmt', ['PNG', 'JPEG'])
def test_greyscale_gets_three_equal_channels(photo, fmt):
    grey = photo[..., 0]
    assert_near(decode_image(encode(grey, fmt)), np.repeat(grey[..., None], 3, 2), 0 if fmt == 'PNG' else 3)


def test_alpha_is_dropped_not_composed(photo):
    rgba = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])
    assert_near(decode_image(encode(rgba, 'PNG')), photo, 0)
    assert_near(decode_image(encode(rgba, 'TIFF')), photo, 0)
    grey = Image.fromarray(photo).convert('LA')
    assert_near(decode_image(encode(grey, 'PNG'))[..., 0], np.asarray(grey)[..., 0], 0)


def test_palette_and_one_bit(photo):
    pal = Image.fromarray(photo).quantize(32)
    expected = np.asarray(pal.convert('RGB'))
    assert_near(decode_image(encode(pal, 'PNG')), expected, 0)
    assert_near(decode_image(encode(pal, 'GIF')), expected, 0)
    bit = Image.fromarray((photo[..., 0] > 100)).convert('1')
    assert_near(decode_image(encode(bit, 'PNG')), np.asarray(bit.convert('RGB')), 0)


def test_sixteen_bit_keeps_the_high_byte(photo):
    deep = photo[..., 0].astype(np.uint16) * 256 + 77
    for fmt in ('PNG', 'TIFF'):
        assert_near(decode_image(encode(Image.fromarray(deep), fmt))[..., 1], photo[..., 0], 1)


def test_float_tiff_needs_a_range(photo):
    data = encode(Image.fromarray((photo[..., 0] / 255).astype(np.float32)), 'TIFF')
    assert_near(decode_image(data, value_range=[0, 1])[..., 2], photo[..., 0], 0)
    with pytest.raises(ImageReadError, match=r"'x.tif' holds 32-bit floats.*Set value_range: \[low, high\] beside"):
        decode_image(data, 'x.tif')


def test_cmyk_jpeg_as_pillow_converts_it(photo):
    data = encode(Image.fromarray(photo).convert('CMYK'), 'JPEG', quality=98)
    assert_near(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')), 0)
    assert np.abs(decode_image(data).astype(int) - photo).mean() < 4


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(photo, fmt, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = dict(quality=98, subsampling=0) if fmt == 'JPEG' else {}
    upright = {1: photo, 2: photo[:, ::-1], 3: photo[::-1, ::-1], 4: photo[::-1], 5: photo.transpose(1, 0, 2),
               6: np.rot90(photo, -1), 7: photo[::-1, ::-1].transpose(1, 0, 2),
               8: np.rot90(photo)}[orientation]
    assert_near(decode_image(encode(photo, fmt, exif=exif, **options)), upright, 6 if fmt == 'JPEG' else 0)


def test_one_pixel():
    assert decode_image(encode(np.full((1, 1, 3), 9, np.uint8), 'PNG')).tolist() == [[[9, 9, 9]]]


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'TIFF', 'BMP', 'GIF', 'WEBP'])
@pytest.mark.parametrize('share', [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused(fmt, share):
    noise = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)
    data = encode(noise, fmt)
    with pytest.raises(ImageReadError, match='some.img'):
        decode_image(data[:int(len(data) * share)], 'some.img')


def test_truncated_jpeg_with_a_whole_thumbnail_is_refused(photo):
    thumb = encode(photo[:8, :8], 'JPEG')
    data = encode(np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8), 'JPEG')
    comment = b'\xff\xfe' + (len(thumb) + 2).to_bytes(2, 'big') + thumb
    assert decode_image(data[:2] + comment + data[2:]).shape == (50, 70, 3)
    with pytest.raises(ImageReadError):
        decode_image((data[:2] + comment + data[2:])[:-800])


def test_jpeg_with_bytes_behind_its_end_is_read(photo):
    data = encode(photo, 'JPEG', quality=98, subsampling=0)
    assert_near(decode_image(data + b'\0' * 500), photo, 6)
    assert_near(decode_image(data + b'tail \xff\xda tail'), photo, 6)


@pytest.mark.parametrize('data, match', [(b'', 'empty'), (b'not an image', 'no|not an image'),
                                         (b'\xff\xd8\xff', 'img'), (b'\x89PNG\r\n\x1a\n', 'img')])
def test_garbage_is_refused(data, match):
    with pytest.raises(ImageReadError, match=match):
        decode_image(data, 'x.img')
    assert issubclass(ImageReadError, DataError)


def test_names_with_any_characters(tmp_path, photo):
    folder = tmp_path / '图 片 é'
    folder.mkdir()
    path = folder / '猫 1.png'
    path.write_bytes(encode(photo, 'PNG'))
    assert_near(read_image(str(path)), photo, 0)
    with pytest.raises(ImageReadError, match='No such file'):
        read_image(str(folder / 'none.png'))
    with pytest.raises(ImageReadError, match='cannot be read'):
        read_image(str(folder))


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_unreadable_file(tmp_path, photo):
    path = tmp_path / 'a.png'
    path.write_bytes(encode(photo, 'PNG'))
    path.chmod(0)
    with pytest.raises(ImageReadError, match='Permission'):
        read_image(str(path))
