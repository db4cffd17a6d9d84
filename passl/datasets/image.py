"""Reading one image file of any usual kind as uint8 RGB."""

import contextlib
import functools
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from typing import Callable, Optional, Sequence, Union

import cv2
import numpy as np
from PIL import Image, ImageOps, features

from ..utils.errors import DataError
from .values import Depth, Unsuitable, depth_of, doubt_about, shade


def _has_avif():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # an older Pillow does not know the question
            return bool(features.check('avif'))
    except ValueError:
        return False


# of the formats below; AVIF needs a Pillow that was built with it
EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.jif', '.jfif', '.mpo', '.png', '.apng', '.bmp', '.dib', '.webp', '.tif',
              '.tiff', '.gif', '.ppm', '.pgm', '.pbm', '.pnm', '.pfm') + (('.avif',) if _has_avif() else ())

# Pillow's own limit: half a gigabyte of RGB. No photograph is larger; what claims to be would take a worker's memory.
MAX_PIXELS = 178956970
MAX_FILE_BYTES = 2**30      # more than MAX_PIXELS of uncompressed RGB

# What Pillow may take a file for, whatever its name says. Of its other readers one starts a program (EPS: Ghostscript).
_FORMATS = ('JPEG', 'MPO', 'PNG', 'BMP', 'DIB', 'WEBP', 'TIFF', 'GIF', 'PPM', 'AVIF')
_ORIENTATION = 0x112        # EXIF tag
_TILE_WIDTH, _TILE_LENGTH = 322, 323        # TIFF tags
_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)       # newer OpenCV decodes to RGB without a second pass
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class ImageReadError(DataError):
    """An image file is missing, empty, truncated, too large or no image."""


def shown(name: object) -> str:
    """`name` in quotes for a message: line ends, terminal escapes and bytes that are no UTF-8 are written as \\x...

    A file's name may hold anything; as it is it could forge a line of the log, or end the writing of one.
    """
    return "'" + ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(name)) + "'"


def _plain_jpeg(data):
    """(height, width) of a complete JPEG with 1 or 3 channels, which OpenCV reads right and fastest; else None.

    OpenCV fills up a truncated file with grey without a word, so the end marker is looked
    for. It cannot occur inside the pixel data (there FF is always followed by 00 or RSTn).
    """
    end = data.rfind(b'\xff\xd9')
    if end < 0 or data.find(b'\xff\xda', end) >= 0:         # none, or that of an embedded thumbnail
        return None
    pos = 2
    while pos + 9 < len(data) and data[pos] == 0xFF:
        marker = data[pos + 1]
        if marker == 0xFF:                                  # fill byte
            pos += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):      # start of frame
            return struct.unpack('>HH', data[pos + 5:pos + 9]) if data[pos + 9] in (1, 3) else None
        pos += 2 + struct.unpack('>H', data[pos + 2:pos + 4])[0]
    return None


def jpeg_size(data: bytes) -> Optional[tuple[int, int]]:
    """(height, width) in the header of a complete JPEG with 1 or 3 channels; None for anything else."""
    size = _plain_jpeg(data) if data[:3] == b'\xff\xd8\xff' else None
    return None if size is None or 0 in size else size


def is_turned(data: bytes) -> bool:
    """True if the EXIF tag of an image file says that its pixels are to be turned or mirrored."""
    if data.find(b'Exif\0\0', 0, 65536) < 0:
        return False
    try:
        with _open(data) as img:
            return img.getexif().get(_ORIENTATION, 1) != 1
    except Exception:
        return True                         # the full way says what is wrong


def _opencv_size(data):
    """(height, width) of what OpenCV reads right, None for anything else."""
    if data[:3] == b'\xff\xd8\xff':
        return _plain_jpeg(data)
    if data[:8] == b'\x89PNG\r\n\x1a\n' and data[12:16] == b'IHDR' and b'IEND' in data[-64:]:
        # EXIF in PNG is turned by some OpenCV versions only, animations are read by some
        if data.find(b'eXIf', 0, 65536) < 0 and data.find(b'acTL', 0, 65536) < 0:
            return struct.unpack('>II', data[16:24])[::-1]
    return None


def _check_pixels(height, width, limit, name):
    if height * width > limit:
        raise ImageReadError(f'{shown(name)} is too large: {width} x {height} pixels, more than max_pixels: {limit} '
                             'allows. Shrink or remove it, or raise max_pixels (a pixel takes 3 bytes and more).')


@functools.lru_cache(None)
def _formats():
    Image.init()
    return tuple(f for f in _FORMATS if f in Image.OPEN)


def _open(data):
    """The image of Pillow: its header is read, its pixels are not."""
    return Image.open(io.BytesIO(data), formats=_formats())


@contextlib.contextmanager
def _first_frame(data, name, max_pixels):
    if max_pixels > 2 * (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels         # the user wants more than Pillow allows (twice this number)
    with _open(data) as img:
        img.seek(0)                         # the first frame of an animation
        _check_pixels(*img.size[::-1], max_pixels, name)
        tags = getattr(img, 'tag_v2', {})   # a tile takes its whole size, however small the image is
        _check_pixels(tags.get(_TILE_LENGTH, 0), tags.get(_TILE_WIDTH, 0), max_pixels, name)
        yield img


def _with_pillow(data, name, max_pixels, upright=True):
    with _first_frame(data, name, max_pixels) as img:
        img = ImageOps.exif_transpose(img) if upright else img
        if img.mode in ('RGBA', 'RGBX'):
            return np.ascontiguousarray(np.asarray(img)[..., :3])
        if img.mode == 'P' and 'transparency' in img.info:
            img = img.convert('RGBA')
            return np.ascontiguousarray(np.asarray(img)[..., :3])
        return np.array(img.convert('RGB'))


def read_values(data: bytes, depth: Depth, name: object = 'image', max_pixels: int = MAX_PIXELS,
                upright: bool = True) -> np.ndarray:
    """The numbers of a file with more than 8 bits, as they are: [H, W], or [H, W, 3] in the order RGB without alpha.

    Args:
        data, name, max_pixels, upright: as for `decode_image`. depth: of the file.

    Raises:
        ImageReadError: damaged, too large, or colours that are to be turned.
    """
    _check_pixels(*depth.size, max_pixels, name)
    with pillow_errors(name, len(data)):
        if depth.channels == 1 and depth.kind != 'float64':
            with _first_frame(data, name, max_pixels) as img:
                values = np.asarray(ImageOps.exif_transpose(img) if upright else img)
            # Pillow knows neither bytes with a sign nor 32 bits without one
            return values.view(depth.kind) if depth.kind in ('int8', 'uint32') else values
        if depth.turned and upright:        # OpenCV's versions differ in what they turn
            raise Unsuitable(f'holds {depth.words} and is to be turned, which is not done for such files. Save it '
                             'upright.')
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[:2] != depth.size:
            raise ValueError('OpenCV cannot read it')
        return pixels if depth.channels == 1 else pixels[..., 2::-1]


def _with_opencv(data, reduction, upright=True):
    """RGB array, or None if OpenCV cannot."""
    bytes_ = np.frombuffer(data, np.uint8)
    flags = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if reduction == 1 and _RGB is not None:
            return cv2.imdecode(bytes_, _RGB | flags)
        img = cv2.imdecode(bytes_, (cv2.IMREAD_COLOR if reduction == 1 else _REDUCED[reduction]) | flags)
    except cv2.error:
        return None
    return img if img is None else cv2.cvtColor(img, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def pillow_errors(name: object, size: int, too_large: str = '') -> Iterator[None]:
    """What Pillow raises about a file of `size` bytes, as an ImageReadError; `too_large`: what can be done then."""
    try:
        yield
    except ImageReadError:
        raise
    except Unsuitable as e:
        raise ImageReadError(f'{shown(name)} {e}') from None
    except Image.UnidentifiedImageError:
        raise ImageReadError(f'{shown(name)} is not an image of a known kind ({size} bytes).') from None
    except Image.DecompressionBombError as e:
        raise ImageReadError(f'{shown(name)} is too large: {e}{too_large}') from None
    except Exception as e:              # damaged files raise almost anything
        raise ImageReadError(f'{shown(name)} cannot be decoded: {shown(str(e) or type(e).__name__)[1:-1]}') from None


def _decode_8_bits(data, name, reduction, max_pixels, upright):
    size = _opencv_size(data)
    if size is not None:
        _check_pixels(size[0], size[1], max_pixels, name)
        # what OpenCV cannot decode is left to Pillow, which says what is wrong
        img = _with_opencv(data, reduction, upright)
        if img is not None:
            return img
    with pillow_errors(name, len(data), ' Shrink or remove it, or raise max_pixels.'):
        return _with_pillow(data, name, max_pixels, upright)


def _decode_deep(data, depth, name, max_pixels, upright, value_range):
    """As `decode_image`, of a file with more than 8 bits per value."""
    if value_range is None and depth.channels == 3 and depth.natural:
        return _decode_8_bits(data, name, 1, max_pixels, upright)       # OpenCV and Pillow give the high byte
    values = read_values(data, depth, name, max_pixels, upright)
    with pillow_errors(name, len(data)):
        img = shade(values, depth, value_range)
    return np.ascontiguousarray(img) if img.ndim == 3 else cv2.cvtColor(img, cv2.COLOR_GRAY2RGB)


def decode_image(data: bytes, name: object = 'image', reduction: int = 1, max_pixels: int = MAX_PIXELS,
                 upright: bool = True, value_range: Optional[Sequence[float]] = None,
                 doubt: Optional[Callable[[str, str], object]] = None) -> np.ndarray:
    """The bytes of an image file -> uint8 array [H, W, 3], RGB, turned upright by its EXIF tag.

    Greyscale, palette and CMYK images are converted; an alpha channel is dropped. Of an animation the first frame is
    taken. Numbers of more than 8 bits become shades as `passl.datasets.values` says.

    Args:
        data: bytes-like.
        name: for messages.
        reduction: 1, 2, 4 or 8. A file that has a `jpeg_size` is decoded to 1 / reduction of it
            (rounded up), which is faster; must be 1 for others.
        max_pixels: an image whose header announces more is refused before anything is decoded.
        upright: False leaves the pixels as they are stored, whatever the EXIF tag says.
        value_range: (low, high): numbers that are black and white in files of more than 8 bits per value. None: 0 and
            the largest of unsigned numbers of up to 16 bits; others are refused. Files of 8 bits are not concerned.
        doubt: called with ('unset' or 'narrow', sentence) where a file may have been read in the wrong range.

    Raises:
        ImageReadError: empty, truncated, too large or no image; more bands than colours; nan; no range.
    """
    if len(data) == 0:
        raise ImageReadError(f'{shown(name)} is empty (0 bytes).')
    with pillow_errors(name, len(data)):
        depth = depth_of(data)
    if depth is None:
        img = _decode_8_bits(data, name, reduction, max_pixels, upright)
    else:
        img = _decode_deep(data, depth, name, max_pixels, upright, value_range)
    if img.size == 0:
        raise ImageReadError(f'{shown(name)} has no pixels (shape {img.shape}).')
    if depth is not None and doubt is not None:
        found = doubt_about(img, depth, value_range)
        if found:
            doubt(found[0], f'{shown(name)} {found[1]}')
    return img


def _without_waiting(path, flags):
    # opening a FIFO would wait for its writer, for ever
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOCTTY', 0))


def _read_all(f, expected):
    """All bytes of a raw file, or a little more than MAX_FILE_BYTES of them."""
    parts, total = [], 0
    while total <= MAX_FILE_BYTES:
        part = f.read(max(expected - total, 65536))
        if not part:
            break
        parts.append(part)
        total += len(part)
    return parts[0] if len(parts) == 1 else b''.join(parts)


def read_file(path: Union[str, os.PathLike]) -> bytes:
    """The bytes of a file of at most MAX_FILE_BYTES.

    Raises:
        ImageReadError: missing, unreadable, too large, or a folder, FIFO, socket or device.
    """
    try:
        # cv2.imread cannot open every name on every system
        with open(path, 'rb', buffering=0, opener=_without_waiting) as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ImageReadError(f'{shown(path)} cannot be read: it is no regular file.')
            data = b'' if info.st_size > MAX_FILE_BYTES else _read_all(f, info.st_size + 1)
    except (OSError, ValueError) as e:
        raise ImageReadError(f"{shown(path)} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
    if info.st_size > MAX_FILE_BYTES or len(data) > MAX_FILE_BYTES:
        raise ImageReadError(f'{shown(path)} has more than {MAX_FILE_BYTES >> 20} MiB, which is no image for training. '
                             'Remove it.')
    return data


def read_image(path: Union[str, os.PathLike], value_range: Optional[Sequence[float]] = None,
               doubt: Optional[Callable[[str, str], object]] = None) -> np.ndarray:
    """Read `path` as uint8 [H, W, 3] RGB; see `decode_image`.

    Raises:
        ImageReadError: missing, unreadable, empty, truncated, too large or no image.
    """
    return decode_image(read_file(path), path, value_range=value_range, doubt=doubt)
