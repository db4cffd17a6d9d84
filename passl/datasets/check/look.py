"""What the check learns from the files, by the code that training reads them with."""

import hashlib
import io
import os
import stat
import struct
from collections.abc import Sequence
from typing import Callable

import cv2
import numpy as np
from PIL import Image

from ..image import ImageReadError, decode_image, is_turned, jpeg_size, pillow_errors, read_file, read_values
from ..pool import run_all
from ..values import KINDS, NARROW, Unsuitable, check_finite, depth_of, measure

FORMATS = ('unknown', 'JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'other', 'AVIF')
ENDINGS = {'JPEG': ('.jpg', '.jpeg', '.jpe', '.jif', '.jfif', '.mpo'), 'PNG': ('.png', '.apng'), 'GIF': ('.gif',),
           'BMP': ('.bmp', '.dib'), 'WEBP': ('.webp',), 'TIFF': ('.tif', '.tiff'), 'AVIF': ('.avif',),
           'PPM': ('.ppm', '.pgm', '.pbm', '.pnm', '.pfm')}
_SAME = {'MPO': 'JPEG', 'DIB': 'BMP'}
FLAGS = ('grey', 'cmyk', 'alpha', '16 bit', 'animated', 'turned', 'palette', 'wrong ending', 'blank', 'narrow')
OK, MISSING, SPECIAL, DENIED, EMPTY, NO_IMAGE, TOO_LARGE, DAMAGED, CRASH, UNSUITABLE = range(10)
REASONS = ('ok', 'missing', 'not a regular file', 'cannot be opened', 'empty', 'not an image',
           'too many pixels or bytes', 'damaged', 'crashes the decoder', 'unsuitable bands or numbers')
LARGEST_FILE = 2 ** 30
_SHORT_SIDE = 128           # enough for the thumbnail; larger JPEGs are decoded at 1/2, 1/4 or 1/8, as training does
_THUMBNAIL = 32
_BLANK_RANGE = 8            # grey levels between the darkest and the brightest part of a blank image
# one image: 69 bytes. depth: number in KINDS, values: as `measure` gives them, of files with more than 8 bits
RECORD = np.dtype([('state', 'u1'), ('format', 'u1'), ('flags', '<u2'), ('width', '<u4'), ('height', '<u4'),
                   ('bytes', '<u8'), ('digest', 'V16'), ('depth', 'u1'), ('values', '<f8', 4)])
_NONE = (0, (np.nan,) * 4)


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
            kind = _SAME.get(img.format, img.format)
            kind = kind if kind in FORMATS else 'other'
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
    if isinstance(error.__context__, Unsuitable):
        return UNSUITABLE
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


def _is_narrow(image):
    return int(image.max()) - int(image.min()) < 255 * NARROW


def _look_deep(data, depth):
    """(flags, fields depth and values) of a file with more than 8 bits: the range is known when all are measured."""
    with pillow_errors('it', len(data)):
        values = read_values(data, depth, 'it')
        check_finite(values, depth)
        found = measure(values, depth)
    if found is None:
        return flag('blank'), (KINDS.index(depth.kind), _NONE[1])
    return flag('blank') * (found[0] == found[1]), (KINDS.index(depth.kind), found)


def _look_inside(data, path):
    """The state of the bytes of an image file and the rest of its record behind it, and the reason or ''."""
    size, digest = len(data), hashlib.blake2b(data, digest_size=16).digest()
    kind, flags, width, height, more = 'unknown', 0, 0, 0, _NONE
    try:
        with pillow_errors('it', size):
            depth = depth_of(data)
        kind, flags, width, height = _header(data, path)
        if depth is not None:
            found, more = _look_deep(data, depth)
            if kind == 'unknown':           # colours of many bits, which Pillow does not know
                kind, flags, (height, width) = 'TIFF', flag('16 bit'), depth.size
            flags |= found
        else:
            image = decode_image(data, 'it', _reduction(data))
            if is_blank(image):
                flags |= flag('blank')
            elif _is_narrow(image):
                flags |= flag('narrow')
        state, reason = OK, ''
    except ImageReadError as e:
        state, reason = _state_of(e, size), _shortened(e, path)
    return (state, FORMATS.index(kind), flags, width, height, size, digest, *more), reason


def look_at(path: str) -> tuple[tuple, str]:
    """(record of dtype RECORD as a tuple, reason or '') of the image file `path`.

    Only regular files are opened: a pipe would wait for ever and a device never end.
    """
    def without(state, size, reason):
        return (state, 0, 0, 0, 0, size, bytes(16), *_NONE), reason
    try:
        found = os.stat(path)
    except OSError as e:
        return without(DENIED if isinstance(e, PermissionError) else MISSING, 0, e.strerror or str(e))
    if not stat.S_ISREG(found.st_mode):
        return without(SPECIAL, 0, 'a pipe, device, socket or folder')
    size = found.st_size
    if size > LARGEST_FILE:
        return without(TOO_LARGE, size, f'{size} bytes, more than {LARGEST_FILE}')
    try:
        data = read_file(path)
    except ImageReadError as e:
        return without(DENIED, size, _shortened(e, path))
    return _look_inside(data, path)


def _shortened(error, path):
    """The message without the name in front."""
    text = str(error)
    return next((text[len(name) + 3:] for name in ('it', path) if text.startswith(f"'{name}' ")), text)


def look_at_all(paths: Sequence[str], workers: int, advance: Callable[[int], object],
                function: Callable[[str], tuple[tuple, str]] = look_at) -> tuple[np.ndarray, dict[int, str]]:
    """Look at every file in worker processes; one that kills its reader is found out.

    Args:
        paths: a sequence of names.
        workers: number of processes.
        advance: called with the number of files that have just been done.
        function: name -> (record, reason); for tests.

    Returns:
        (records [n] of dtype RECORD, {number: reason} of files with one), both independent of the number of workers.
    """
    records, reasons, crashed = run_all(function, paths, workers, advance, RECORD)
    records['state'][crashed] = CRASH
    return records, reasons
