"""Reading one image file of any usual kind as uint8 RGB."""

import io
import struct

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..utils.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm')


class ImageReadError(DataError):
    """An image file is missing, empty, truncated or no image."""


def _plain_jpeg(data):
    """True for a complete JPEG with 1 or 3 channels: OpenCV reads it right, and fastest.

    OpenCV fills up a truncated file with grey without a word, so the end marker is looked
    for. It cannot occur inside the pixel data (there FF is always followed by 00 or RSTn).
    """
    if data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda'):
        return False
    pos = 2
    while pos + 9 < len(data) and data[pos] == 0xFF:
        marker = data[pos + 1]
        if marker == 0xFF:                                  # fill byte
            pos += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):      # start of frame
            return data[pos + 9] in (1, 3)
        pos += 2 + struct.unpack('>H', data[pos + 2:pos + 4])[0]
    return False


def _opencv_can(data):
    if data[:3] == b'\xff\xd8\xff':
        return _plain_jpeg(data)
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


def decode_image(data, name='image'):
    """The bytes of an image file -> uint8 array [H, W, 3], RGB, turned upright by its EXIF tag.

    Greyscale, palette, CMYK and 16-bit images are converted; an alpha channel is dropped.

    Raises:
        ImageReadError: empty, truncated or no image.
    """
    if len(data) == 0:
        raise ImageReadError(f"'{name}' is empty (0 bytes).")
    img = None
    if _opencv_can(data):
        try:
            img = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            img = None                      # let Pillow say what is wrong
    if img is not None:
        return cv2.cvtColor(img, cv2.COLOR_BGR2RGB)
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


def read_image(path):
    """Read `path` as uint8 [H, W, 3] RGB; see `decode_image`.

    Raises:
        ImageReadError: missing, unreadable, empty, truncated or no image.
    """
    try:
        with open(path, 'rb') as f:         # cv2.imread cannot open every name on every system
            data = f.read()
    except OSError as e:
        raise ImageReadError(f"'{path}' cannot be read: {e.strerror or e}.") from None
    return decode_image(data, path)
