"""What the numbers of a file with more than 8 bits mean, and which bands are no colours.

Files of 8 bits (nearly all) say themselves what black and white are. Files of more bits do not: cameras store 12 bits
in 16, instruments store floats. There the range is a setting of the data set, `value_range`, the same for all files.
"""

import functools
import io
import re
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
from PIL import TiffImagePlugin

NARROW = 0.05               # an image that uses a smaller share of the range shows next to nothing
_TAIL = 0.001               # share of an image's values, at either end, that a measured range leaves out
_MEASURED = 2**18           # so many values of an image are sorted for that

# TIFF: colours of each photometric interpretation; the tags that are asked for
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}
_DEEP = (0, 1, 2)           # white is zero, black is zero, RGB
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = (
    256, 257, 258, 262, 274, 277, 284, 338, 339)
_NODATA = 42113             # GDAL's tag: the number that stands for "nothing was measured here"
_ALPHA = (1, 2)             # meanings of an extra sample; 0 is "unspecified"
_NUMBERS = {1: 'uint', 2: 'int', 3: 'float', 4: 'uint'}
_GREY = {*(f'uint{bits}' for bits in range(9, 17)), 'int8', 'int16', 'int32', 'uint32', 'float32', 'float64'}
_COLOURED = {'uint16', 'int16', 'float32', 'float64'}
KINDS = ('', *sorted(_GREY))        # of numbers that are read; '' is 8 bits
_PNM = re.compile(rb'P([2356])(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,5})\s')


class Unsuitable(ValueError):
    """Why a file is no image for training; the text follows the file's name."""


def words_of(kind: str) -> str:
    """'uint16' -> '16-bit whole numbers'."""
    name, bits = kind.rstrip('0123456789'), kind.lstrip('uintfloa')
    return f'{bits}-bit ' + {'uint': 'whole numbers', 'int': 'signed whole numbers', 'float': 'floats'}[name]


def natural_range(kind: str) -> Optional[tuple[int, int]]:
    """See Depth.natural."""
    bits = int(kind[4:]) if kind.startswith('uint') else 0
    return (0, 2**bits - 1) if 8 < bits <= 16 else None


class Depth(NamedTuple):
    """What a file of more than 8 bits holds.

    Attributes:
        kind: of its numbers: 'uint16', 'float32' ...
        channels: 1 or 3, without alpha. size: (height, width).
        turned: its orientation tag is set. nodata: the number that stands for no value, or None.
        white_is_low: small numbers are bright.
    """
    kind: str
    channels: int
    size: tuple[int, int]
    turned: bool = False
    nodata: Optional[float] = None
    white_is_low: bool = False

    @property
    def natural(self) -> Optional[tuple[int, int]]:
        """The range that the kind itself means, for all files of it; None: only the user knows."""
        return natural_range(self.kind)

    @property
    def words(self) -> str:
        return words_of(self.kind)


def _tiff_tags(data):
    """The tags of the first picture of a TIFF, or None if they cannot be read (Pillow says why)."""
    file = io.BytesIO(data)
    head = file.read(8)
    head += file.read(8) if head[2:4] in (b'+\0', b'\0+') else b''      # BigTIFF
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        return {tag: tags.get(tag) for tag in (_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR,
                                               _EXTRA, _FORMAT, _NODATA)}
    except Exception:       # damaged files raise almost anything
        return None


def _whole(value: Any, default: int) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int) else default


def _nodata(value):
    try:
        return float(str(value).strip('\0 '))
    except ValueError:
        return None


def _channels(tags):
    """How many bands of a TIFF are colours; Unsuitable if others than alpha stand beside them."""
    photometric, samples = _whole(tags[_PHOTOMETRIC], 1), _whole(tags[_SAMPLES], 1)
    colours = _COLOURS.get(photometric)
    if colours is None:
        raise Unsuitable(f'holds the raw data of a camera or another kind of TIFF (photometric {photometric}). Develop '
                         'it into an RGB or grey image.')
    more, meaning = samples - colours, _whole(tags[_EXTRA], 0)
    if more > 1 or (more == 1 and meaning not in _ALPHA):
        of = {1: 'one is grey', 3: 'three are colours', 4: 'four are inks'}[colours]
        raise Unsuitable(f'has {samples} bands, of which {of} by its header and the others are not said to be alpha. '
                         'Choose 1 or 3 of them and write these into a file of their own, such as: gdal_translate -b 1 '
                         '-b 2 -b 3 -colorinterp red,green,blue IN OUT.')
    return 3 if colours > 1 else 1


def _of_tiff(data):
    tags = _tiff_tags(data)
    if tags is None:
        return None
    channels, bits, form = _channels(tags), _whole(tags[_BITS], 1), _whole(tags[_FORMAT], 1)
    if bits <= 8 and form != 2:
        return None
    if channels == 3 and _whole(tags[_PLANAR], 1) == 2:         # OpenCV and Pillow read another picture
        raise Unsuitable(f'holds its {bits}-bit colours one plane after the other (planar). Write them pixel by pixel, '
                         'such as: gdal_translate -co INTERLEAVE=PIXEL IN OUT.')
    photometric, bands = _whole(tags[_PHOTOMETRIC], 1), _whole(tags[_SAMPLES], 1)
    if photometric not in _DEEP or bands not in ((1,) if channels == 1 else (3, 4)):
        raise Unsuitable(f'holds {bits} bits per value as a palette, inks, alpha or another kind than grey or RGB '
                         f'(photometric {photometric}, bands: {bands}). Write it as grey or RGB.')
    kind = f'{_NUMBERS.get(form, "complex")}{bits}'
    if kind not in (_GREY if channels == 1 else _COLOURED):
        raise Unsuitable(f'holds numbers of the kind {kind}, which is not read. Write it as 8 or 16 bits '
                         'or as 32-bit floats.')
    return Depth(kind, channels, (_whole(tags[_LENGTH], 0), _whole(tags[_WIDTH], 0)),
                 _whole(tags[_ORIENTATION], 1) != 1, _nodata(tags[_NODATA]), photometric == 0)


def depth_of(data: bytes) -> Optional[Depth]:
    """What an image file holds if that is more than 8 bits per value; None for all others.

    Raises:
        Unsuitable: a TIFF with more bands than colours, or of numbers that are not read.
    """
    start = bytes(data[:4])
    if start[:3] == b'\xff\xd8\xff':
        return None
    if start == b'\x89PNG':
        if data[24:25] != b'\x10':
            return None
        size = int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
        return Depth('uint16', 1 if data[25:26] == b'\0' else 3, size, data.find(b'eXIf', 0, 65536) >= 0)
    if start in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return _of_tiff(data)
    if start[:2] == b'Pf':
        return Depth('float32', 1, (0, 0))
    pnm = _PNM.match(data[:1000])
    if pnm is None or int(pnm[4]) < 256:
        return None
    return Depth('uint16', 1 if pnm[1] in b'25' else 3, (int(pnm[3]), int(pnm[2])))


def _missing(values, depth):
    """Where nothing was measured: bool array, or None."""
    if depth.nodata is None:
        return None
    return np.isnan(values) if np.isnan(depth.nodata) else values == depth.nodata


@functools.lru_cache(4)
def _table(kind, low, high):
    return _scaled(np.arange(65536).astype(np.uint16).view(kind), low, high)


def _scaled(values, low, high):
    if values.dtype.kind == 'f':
        shades = np.rint((values - values.dtype.type(low)) * (255 / (high - low)))
    else:       # equal steps: 0 to 65535 gives the high byte, 0 to 4095 the upper 8 of 12 bits
        shades = np.floor((values.astype(np.float64) - low) * 256 / (high - low + 1))
    return np.clip(shades, 0, 255).astype(np.uint8)


def check_finite(values: np.ndarray, depth: Depth) -> None:
    """Raises Unsuitable if `values` holds nan or infinite numbers that the file does not declare as missing."""
    if values.dtype.kind != 'f':
        return
    odd, missing = ~np.isfinite(values), _missing(values, depth)
    number = int(np.count_nonzero(odd if missing is None else odd & ~missing))
    if number:
        raise Unsuitable(f'holds nan or infinite numbers in {number} of {values.size} values. Fill them, or remove the '
                         'file.')


def shade(values: np.ndarray, depth: Depth, value_range: Optional[Sequence[float]] = None) -> np.ndarray:
    """The file's own numbers [H, W] or [H, W, 3] as uint8: the range's ends are black and white, what lies outside it
    is cut off, missing values are black.

    Raises:
        Unsuitable: nan, or no range for a kind that means none itself.
    """
    check_finite(values, depth)
    chosen = depth.natural if value_range is None else value_range
    if chosen is None:
        raise Unsuitable(f'holds {depth.words}, and nothing says which of them are black and white. Set value_range: '
                         '[low, high] beside dataroot (`passl check-data FOLDER` measures it), in evaluate and embed '
                         'the flag --value-range LOW HIGH, or write the images as 8 or 16 bits.')
    low, high = chosen
    missing = _missing(values, depth)
    if missing is not None:
        values = np.where(missing, values.dtype.type(0), values)        # nan has no shade
    if values.dtype.kind in 'iu' and values.dtype.itemsize == 2:
        values = values.astype(values.dtype.newbyteorder('='))
        shades = _table(values.dtype.str, low, high)[values.view(np.uint16)]
    else:
        shades = _scaled(values, low, high)
    shades = 255 - shades if depth.white_is_low else shades
    if missing is not None:
        shades[missing] = 0
    return shades


def doubt_about(img: np.ndarray, depth: Depth,
                value_range: Optional[Sequence[float]]) -> Optional[tuple[str, str]]:
    """('unset' or 'narrow', text to follow the file's name) if `img`, its shades, may come from a wrong range."""
    used = (int(img.max()) - int(img.min())) / 255
    low, high = value_range or depth.natural or (0, 1)
    if used < NARROW:
        return 'narrow', (f'holds {depth.words} and uses {used:.1%} of the value_range [{low:g}, {high:g}]. `passl '
                          'check-data FOLDER` measures the range and names all such images.')
    if value_range is None:
        return 'unset', (f'holds {depth.words}. value_range is not set, so {low} to {high} become black to white in '
                         'all such files. Many cameras use a part of that: `passl check-data FOLDER` measures it.')
    return None


def measure(values: np.ndarray, depth: Depth) -> Optional[tuple[float, float, float, float]]:
    """(lowest, highest, lowest and highest without the outermost 0.1 % at either end) of an image; None if all its
    values are missing."""
    missing = _missing(values, depth)
    found = np.ravel(values) if missing is None else values[~missing]
    if not found.size:
        return None
    some = np.sort(found[::-(-found.size // _MEASURED)])
    cut = int(_TAIL * len(some))
    return float(found.min()), float(found.max()), float(some[cut]), float(some[-1 - cut])
