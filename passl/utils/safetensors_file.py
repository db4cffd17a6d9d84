"""The .safetensors format: 8 bytes header length, a JSON header, raw little-endian tensors. Numpy only."""

import json
import math
import struct

import numpy as np

from .safe_arrays import DamagedError, make_array

_DTYPES = {'BOOL': 'bool', 'U8': 'uint8', 'I8': 'int8', 'U16': 'uint16', 'I16': 'int16', 'U32': 'uint32',
           'I32': 'int32', 'U64': 'uint64', 'I64': 'int64', 'F16': 'float16', 'F32': 'float32',
           'F64': 'float64'}
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}
_MAX_HEADER = 100 * 1024 * 1024     # the limit of the format's own library


def bfloat16_to_float32(bits):
    """float32 array of a uint16 array that holds bfloat16 bit patterns (numpy has no such type)."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def read_header(file, size):
    """(header dict, position of the first tensor byte)."""
    if size < 8:
        raise EOFError
    length = struct.unpack('<Q', file.read(8))[0]
    if length > min(size - 8, _MAX_HEADER):
        raise EOFError
    header = json.loads(file.read(length).decode('utf-8'))
    if not isinstance(header, dict):
        raise DamagedError('a header that is not a mapping')
    return header, 8 + length


def read_safetensors(file, size):
    """{name: array} of an open file; bfloat16 becomes float32."""
    header, start = read_header(file, size)
    tensors = {}
    for name, info in header.items():
        if name == '__metadata__':
            continue
        begin, end = info['data_offsets']
        kind = info['dtype']
        if not 0 <= begin <= end:
            raise DamagedError(f"offsets {begin}..{end} of '{name}'")
        if start + end > size:
            raise EOFError
        if kind not in _DTYPES and kind != 'BF16':
            raise DamagedError(f"'{name}' has the type {kind}, which is not supported")
        file.seek(start + begin)
        dtype = np.dtype('uint16' if kind == 'BF16' else _DTYPES[kind])
        array = make_array(info['shape'], dtype.newbyteorder('<'), file.read(end - begin))
        tensors[name] = bfloat16_to_float32(array) if kind == 'BF16' else array
    return tensors


def write_safetensors(file, tensors):
    """Write {name: array} to an open binary file, marked as tensors in Paddle's layout."""
    header, offset, arrays = {'__metadata__': {'format': 'paddle'}}, 0, []
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
