"""What the check learns from one file, by the code that training reads it with."""

import hashlib
import io
import os
import stat
import struct

import cv2
import numpy as np
from PIL import Image

from ..image import ImageReadError, decode_image, is_turned, jpeg_size, read_file

FORMATS = ('unknown', 'JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'other')
ENDINGS = {'JPEG': ('.jpg', '.jpeg', '.jfif'), 'PNG': ('.png',), 'GIF': ('.gif',), 'BMP': ('.bmp',),
           'WEBP': ('.webp',), 'TIFF': ('.tif', '.tiff'), 'PPM': ('.ppm', '.pgm')}
FLAGS = ('grey', 'cmyk', 'alpha', '16 bit', 'animated', 'turned', 'palette', 'wrong ending', 'blank')
OK, MISSING, SPECIAL, DENIED, EMPTY, NO_IMAGE, TOO_LARGE, DAMAGED, CRASH = range(9)
REASONS = ('ok', 'missing', 'not a regular file', 'cannot be opened', 'empty', 'not an image',
           'too many pixels or bytes', 'damaged', 'crashes the decoder')
LARGEST_FILE = 2 ** 30
_SHORT_SIDE = 128           # enough for the thumbnail; larger JPEGs are decoded at 1/2, 1/4 or 1/8, as training does
_THUMBNAIL = 32
_BLANK_RANGE = 8            # grey levels between the darkest and the brightest part of a blank image
# one image: 36 bytes
RECORD = np.dtype([('state', 'u1'), ('format', 'u1'), ('flags', '<u2'), ('width', '<u4'), ('height', '<u4'),
                   ('bytes', '<u8'), ('digest', 'V16')])


def flag(name: str) -> int:
    """The bit of one of FLAGS."""
    return 1 << FLAGS.index(name)


def _sixteen_bit(img, data):
    if img.format == 'PNG':
        return data[24:25] == b'\x10'
    if img.format == 'TIFF':
        bits = img.tag_v2.get(258, (8,))
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    return img.mode.startswith('I') or img.mode == 'F'


def _header(data, path):
    """(format, flags, width, height) by the file's header; ('unknown', 0, 0, 0) if Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(data)) as img:
            kind = img.format if img.format in FORMATS else 'JPEG' if img.format == 'MPO' else 'other'
            found = {'grey': img.mode in ('1', 'L', 'LA', 'F') or img.mode.startswith('I'),
                     'cmyk': img.mode == 'CMYK', 'palette': img.mode in ('P', 'PA'),
                     'alpha': img.mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa') or 'transparency' in img.info,
                     '16 bit': _sixteen_bit(img, data),
                     'animated': img.format != 'MPO' and getattr(img, 'n_frames', 1) > 1,
                     'turned': is_turned(data)}
            width, height = img.size
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, struct.error,
            Image.DecompressionBombError):
        return 'unknown', 0, 0, 0
    found['wrong ending'] = not path.lower().endswith(ENDINGS.get(kind, ()))
    return kind, sum(flag(name) for name, is_so in found.items() if is_so), width, height


def _state_of(error, size):
    text = str(error)
    if size == 0:
        return EMPTY
    if 'is too large' in text:
        return TOO_LARGE
    return NO_IMAGE if 'is not an image' in text else DAMAGED


def _reduction(data):
    """1, 2, 4 or 8: how much smaller `decode_image` may read the file."""
    size = jpeg_size(data)
    if size is None or is_turned(data):
        return 1
    return max((r for r in (1, 2, 4, 8) if min(size) // r >= _SHORT_SIDE), default=1)


def is_blank(image: np.ndarray) -> bool:
    """True if uint8 [H, W, 3] shows nothing, seen as a small grey picture."""
    small = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    grey = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(grey.max() - grey.min()) < _BLANK_RANGE


def look_at(path: str) -> tuple[tuple, str]:
    """(record of dtype RECORD as a tuple, reason or '') of the image file `path`.

    Only regular files are opened: a pipe would wait for ever and a device never end.
    """
    try:
        found = os.stat(path)
    except OSError as e:
        state = DENIED if isinstance(e, PermissionError) else MISSING
        return (state, 0, 0, 0, 0, 0, bytes(16)), e.strerror or str(e)
    if not stat.S_ISREG(found.st_mode):
        return (SPECIAL, 0, 0, 0, 0, 0, bytes(16)), 'a pipe, device, socket or folder'
    size = found.st_size
    if size > LARGEST_FILE:
        return (TOO_LARGE, 0, 0, 0, 0, size, bytes(16)), f'{size} bytes, more than {LARGEST_FILE}'
    try:
        data = read_file(path)
    except ImageReadError as e:
        return (DENIED, 0, 0, 0, 0, size, bytes(16)), _shortened(e, path)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    kind, flags, width, height = _header(data, path)
    try:
        image = decode_image(data, 'it', _reduction(data))
    except ImageReadError as e:
        return (_state_of(e, len(data)), FORMATS.index(kind), flags, width, height, size, digest), \
            _shortened(e, path)
    if is_blank(image):
        flags |= flag('blank')
    return (OK, FORMATS.index(kind), flags, width, height, size, digest), ''


def _shortened(error, path):
    """The message without the name in front."""
    text = str(error)
    return next((text[len(name) + 3:] for name in ('it', path) if text.startswith(f"'{name}' ")), text)
