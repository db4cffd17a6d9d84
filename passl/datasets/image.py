"""Reading one image file of any usual kind as uint8 RGB."""

import io
import struct

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..utils.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm')

_ORIENTATION = 0x112        # EXIF tag
_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)       # newer OpenCV decodes to RGB without a second pass
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class ImageReadError(DataError):
    """An image file is missing, empty, truncated or no image."""


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


def jpeg_size(data):
    """(height, width) in the header of a complete JPEG with 1 or 3 channels; None for anything else."""
    size = _plain_jpeg(data) if data[:3] == b'\xff\xd8\xff' else None
    return None if size is None or 0 in size else size


def is_turned(data):
    """True if the EXIF tag of an image file says that its pixels are to be turned or mirrored."""
    if data.find(b'Exif\0\0', 0, 65536) < 0:
        return False
    try:
        with Image.open(io.BytesIO(data)) as img:
            return img.getexif().get(_ORIENTATION, 1) != 1
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return True                         # the full way says what is wrong


def _opencv_can(data):
    if data[:3] == b'\xff\xd8\xff':
        return _plain_jpeg(data) is not None
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        # EXIF in PNG is turned by some OpenCV versions only
        return b'IEND' in data[-64:] and data.find(b'eXIf', 0, 65536) < 0
    return False


def _with_pillow(data):
    with Image.open(io.BytesIO(data)) as img:
        img.seek(0)                         # the first frame of an animation
        img = ImageOps.exif_transpose(img)
        if img.mode.startswith('I') or img.mode == 'F':      # Pillow would clip these at 255
            a = np.asarray(img, np.float64)
            if img.mode == 'F' and a.size and 0 <= a.min() and a.max() <= 1:
                a = a * 255
            elif img.mode.startswith('I;16') or (a.size and a.max() > 255):
                a = a // 256
            grey = np.clip(np.rint(a), 0, 255).astype(np.uint8)
            return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        if img.mode in ('RGBA', 'RGBX'):
            return np.ascontiguousarray(np.asarray(img)[..., :3])
        if img.mode == 'P' and 'transparency' in img.info:
            img = img.convert('RGBA')
            return np.ascontiguousarray(np.asarray(img)[..., :3])
        return np.array(img.convert('RGB'))


def _with_opencv(data, reduction):
    """RGB array, or None if OpenCV cannot."""
    bytes_ = np.frombuffer(data, np.uint8)
    try:
        if reduction == 1 and _RGB is not None:
            return cv2.imdecode(bytes_, _RGB)
        img = cv2.imdecode(bytes_, cv2.IMREAD_COLOR if reduction == 1 else _REDUCED[reduction])
    except cv2.error:
        return None
    return img if img is None else cv2.cvtColor(img, cv2.COLOR_BGR2RGB)


def decode_image(data, name='image', reduction=1):
    """The bytes of an image file -> uint8 array [H, W, 3], RGB, turned upright by its EXIF tag.

    Greyscale, palette, CMYK and 16-bit images are converted; an alpha channel is dropped.

    Args:
        data: bytes-like.
        name: for messages.
        reduction: 1, 2, 4 or 8. A file that has a `jpeg_size` is decoded to 1 / reduction of it
            (rounded up), which is faster; must be 1 for others.

    Raises:
        ImageReadError: empty, truncated or no image.
    """
    if len(data) == 0:
        raise ImageReadError(f"'{name}' is empty (0 bytes).")
    # what OpenCV cannot decode is left to Pillow, which says what is wrong
    img = _with_opencv(data, reduction) if _opencv_can(data) else None
    if img is not None:
        return img
    try:
        img = _with_pillow(data)
    except UnidentifiedImageError:
        raise ImageReadError(f"'{name}' is not an image of a known kind ({len(data)} bytes).") from None
    except Image.DecompressionBombError as e:
        raise ImageReadError(f"'{name}' is too large: {e}") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as e:
        raise ImageReadError(f"'{name}' cannot be decoded: {e}") from None
    if img.size == 0:
        raise ImageReadError(f"'{name}' has no pixels (shape {img.shape}).")
    return img


def read_file(path):
    """The bytes of a file.

    Raises:
        ImageReadError: missing or unreadable.
    """
    try:
        with open(path, 'rb') as f:         # cv2.imread cannot open every name on every system
            return f.read()
    except OSError as e:
        raise ImageReadError(f"'{path}' cannot be read: {e.strerror or e}.") from None


def read_image(path):
    """Read `path` as uint8 [H, W, 3] RGB; see `decode_image`.

    Raises:
        ImageReadError: missing, unreadable, empty, truncated or no image.
    """
    return decode_image(read_file(path), path)
