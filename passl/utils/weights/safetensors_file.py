"""The .safetensors format: 8 bytes header length, a JSON header, raw little-endian tensors. Numpy only."""

import json
import math
import struct
from typing import IO, Any

import numpy as np

from .safe_arrays import DamagedError, make_array

_DTYPES = {'BOOL': 'bool', 'U8': 'uint8', 'I8': 'int8', 'U16': 'uint16', 'I16': 'int16', 'U32': 'uint32',
           'I32': 'int32', 'U64': 'uint64', 'I64': 'int64', 'F16': 'float16', 'F32': 'float32',
           'F64': 'float64'}
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}
_MAX_HEADER = 100 * 1024 * 1024     # the limit of the format's own library


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """float32 array of a uint16 array that holds bfloat16 bit patterns (numpy has no such type)."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def read_header(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    """(header dict, position of the first tensor byte)."""
    if size < 8:
        raise EOFError
    length = struct.unpack('<Q', file.read(8))[0]
    if length > min(size - 8, _MAX_HEADER):
        raise EOFError
    header = json.loads(file.read(length).decode('utf-8'), object_pairs_hook=_no_twins)
    if not isinstance(header, dict):
        raise DamagedError('a header that is not a mapping')
    return header, 8 + length


def _no_twins(pairs):
    """dict of `pairs`; with two values of one name, readers would disagree on which counts."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise DamagedError('a name that appears twice in the header')
    return dict(pairs)


def _places(header, size):
    """(begin, end, name) of all tensors, sorted; none lies over another, so that no byte is read twice."""
    places = []
    for name, info in header.items():
        if name == '__metadata__':
            continue
        if not isinstance(info, dict) or not {'dtype', 'shape', 'data_offsets'} <= set(info):
            raise DamagedError(f'no description of {name[:100]!r}')
        offsets = info['data_offsets']
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets) \
                or not 0 <= offsets[0] <= offsets[1]:
            raise DamagedError(f'the place of {name[:100]!r} is no pair of rising numbers')
        if offsets[1] > size:
            raise EOFError
        places.append((*offsets, name))
    places.sort()
    for (_, end, name), (begin, _, other) in zip(places, places[1:]):
        if begin < end:
            raise DamagedError(f'{name[:100]!r} and {other[:100]!r} overlap')
    return places


def read_safetensors(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """{name: array} of an open file; bfloat16 becomes float32."""
    header, start = read_header(file, size)
    tensors = {}
    for begin, end, name in _places(header, size - start):
        kind = header[name]['dtype']
        if not isinstance(kind, str) or kind not in _DTYPES and kind != 'BF16':
            raise DamagedError(f'{name[:100]!r} has the type {str(kind)[:20]}, which is not supported')
        file.seek(start + begin)
        dtype = np.dtype('uint16' if kind == 'BF16' else _DTYPES[kind])
        array = make_array(header[name]['shape'], dtype.newbyteorder('<'), file.read(end - begin))
        tensors[name] = bfloat16_to_float32(array) if kind == 'BF16' else array
    return {name: tensors[name] for name in header if name in tensors}


def write_safetensors(file: IO[bytes], tensors: dict[str, np.ndarray], layout: str = 'paddle') -> None:
    """Write {name: array} to an open binary file, marked as tensors in the `layout` of 'paddle' or 'pt' (torch)."""
    header: dict[str, Any] = {'__metadata__': {'format': layout}}
    offset, arrays = 0, []
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype not in _NAMES:
            raise TypeError(f"'{name}': .safetensors cannot hold the type {array.dtype}.")
        nbytes = math.prod(array.shape) * array.itemsize
        header[name] = {'dtype': _NAMES[array.dtype], 'shape': list(array.shape),
                        'data_offsets': [offset, offset + nbytes]}
        offset += nbytes
        arrays.append(array)
    text = json.dumps(header).encode('utf-8')
    text += b' ' * (-len(text) % 8)     # tensors start at a multiple of 8
    file.write(struct.pack('<Q', len(text)) + text)
    for array in arrays:
        file.write(array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes())
