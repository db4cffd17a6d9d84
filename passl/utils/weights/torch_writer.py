"""Writes torch's .pth files with numpy only; torch need not be installed. The counterpart of `torch_reader`."""

import struct
import zipfile
from typing import IO, Any, Iterable

import numpy as np

STORAGES = {'float32': 'FloatStorage', 'float64': 'DoubleStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage',
            'int32': 'IntStorage', 'int16': 'ShortStorage', 'int8': 'CharStorage', 'uint8': 'ByteStorage',
            'bool': 'BoolStorage', 'bfloat16': 'BFloat16Storage'}
# torch lays the data of tensors at multiples of this, so that the file can be mapped into memory
_ALIGNMENT = 64
_EMPTY_ORDERED_DICT = b'ccollections\nOrderedDict\n)R'


class Encoder:
    """Pickle opcodes (protocol 2) of plain data, as torch.save writes it: tensors refer to storages beside it.

    Attributes:
        storages: the bytes of the storages that `encode` has met, in order; their numbers are their names.
    """

    def __init__(self) -> None:
        self.storages: list[bytes] = []

    def encode(self, obj: Any) -> bytes:
        """Opcodes that leave `obj` on the stack: None, bool, int, float, str, tuple, list, dict or array.

        Raises:
            TypeError: it is something else, or an array of a type that torch has not.
        """
        if obj is None:
            return b'N'
        if isinstance(obj, bool):
            return b'\x88' if obj else b'\x89'
        if isinstance(obj, int):
            data = obj.to_bytes(obj.bit_length() // 8 + 1, 'little', signed=True)
            return b'\x8a' + bytes([len(data)]) + data
        if isinstance(obj, float):
            return b'G' + struct.pack('>d', obj)
        if isinstance(obj, str):
            data = obj.encode()
            return b'X' + struct.pack('<I', len(data)) + data
        if isinstance(obj, tuple):
            return b'(' + b''.join(map(self.encode, obj)) + b't'
        if isinstance(obj, list):
            return b'](' + b''.join(map(self.encode, obj)) + b'e'
        if isinstance(obj, dict):
            items = b''.join(self.encode(k) + self.encode(v) for k, v in obj.items())
            # as torch writes a state_dict: an OrderedDict with an attribute
            return _EMPTY_ORDERED_DICT + b'(' + items + b'u}' + self.encode('_metadata') + b'}sb'
        if isinstance(obj, (np.ndarray, np.generic)):
            return self._array(np.asarray(obj))
        raise TypeError(f'A {type(obj).__name__} cannot be written to a .pth file.')

    def _array(self, array):
        if array.dtype.name not in STORAGES:
            raise TypeError(f'torch has no tensors of the type {array.dtype}.')
        array = np.ascontiguousarray(array) if array.ndim else array
        self.storages.append(array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes())
        stride = tuple(s // array.itemsize for s in array.strides)
        return self.tensor(array.dtype.name, len(self.storages) - 1, array.size, array.shape, stride)

    def tensor(self, dtype: str, key: int, numel: int, size: Iterable[int], stride: Iterable[int], offset: int = 0,
               extra: tuple[Any, ...] = ()) -> bytes:
        """Opcodes of a view of the storage number `key`; `extra`: further parts of its reference."""
        kind = f'ctorch\n{STORAGES[dtype]}\n'.encode()
        reference = b'(' + self.encode('storage') + kind + b''.join(
            map(self.encode, (str(key), 'cpu', numel, *extra))) + b'tQ'
        return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + reference + self.encode(offset) + self.encode(tuple(size))
                + self.encode(tuple(stride)) + b'\x89' + _EMPTY_ORDERED_DICT + b'tR')


def write_torch(file: IO[bytes], obj: Any) -> None:
    """Write `obj` to an open binary file in the format of torch >= 1.6 (a zip archive without compression).

    Args:
        file: binary, seekable.
        obj: nested dicts, lists and tuples of arrays, numbers, strings and None; a dict becomes an OrderedDict.

    Raises:
        TypeError: `obj` holds something else.
    """
    encoder = Encoder()
    data = b'\x80\x02' + encoder.encode(obj) + b'.'
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        _entry(archive, 'archive/data.pkl', data)
        _entry(archive, 'archive/byteorder', b'little')
        for key, raw in enumerate(encoder.storages):
            _entry(archive, f'archive/data/{key}', raw)
        _entry(archive, 'archive/version', b'3\n')


def _entry(archive, name, data):
    """Add an entry whose data begin at a multiple of `_ALIGNMENT`; its date is fixed: equal weights, equal file."""
    info = zipfile.ZipInfo(name)
    begin = archive.fp.tell() + 30 + len(name) + 4          # local header, name, header of the padding
    padding = -begin % _ALIGNMENT
    info.extra = b'FB' + struct.pack('<H', padding) + b'Z' * padding
    archive.writestr(info, data)
