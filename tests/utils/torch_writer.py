"""Writes torch's two file formats byte by byte, for tests in an environment without torch."""

import struct
import zipfile

import numpy as np

from passl.utils.weights import torch_writer

MAGIC = 0x1950a86a20f9469cfc6c


class Tensor:
    """A view of a storage: `raw` holds the whole storage's bytes."""

    def __init__(self, dtype, raw, size, stride, offset=0, parameter=False, numel=None):
        self.dtype, self.raw, self.size, self.stride = dtype, raw, size, stride
        self.offset, self.parameter = offset, parameter
        width = 2 if dtype == 'bfloat16' else np.dtype(dtype).itemsize
        self.numel = len(raw) // width if numel is None else numel

    @classmethod
    def of(cls, array, **keywords):
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        stride = tuple(s // array.itemsize for s in array.strides)
        return cls(array.dtype.name, array.tobytes(), array.shape, stride, **keywords)


class Raw(bytes):
    """Pickle opcodes that go into the stream as they are."""


class Encoder(torch_writer.Encoder):
    """The package's, which also takes what only a test writes: views of storages, and raw opcodes."""

    def __init__(self, legacy=False):
        super().__init__()
        self.legacy = legacy

    def encode(self, obj):
        if isinstance(obj, Raw):
            return bytes(obj)
        if isinstance(obj, np.ndarray):
            obj = Tensor.of(obj)
        if not isinstance(obj, Tensor):
            return super().encode(obj)
        key = next((i for i, raw in enumerate(self.storages) if raw is obj.raw), len(self.storages))
        if key == len(self.storages):
            self.storages.append(obj.raw)
        tensor = self.tensor(obj.dtype, key, obj.numel, obj.size, obj.stride, obj.offset,
                             (None,) if self.legacy else ())
        if obj.parameter:
            tensor = b'ctorch._utils\n_rebuild_parameter\n(' + tensor + b'\x88ccollections\nOrderedDict\n)RtR'
        return tensor


def encode(obj):
    """Pickle opcodes (protocol 2) of `obj`, which holds no tensors."""
    return Encoder().encode(obj)


def write_zip(path, obj, prefix='archive', compression=zipfile.ZIP_STORED, byteorder=b'little', extra=()):
    """The format of torch >= 1.6."""
    encoder = Encoder()
    data = b'\x80\x02' + encoder.encode(obj) + b'.'
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr(f'{prefix}/data.pkl', data)
        archive.writestr(f'{prefix}/byteorder', byteorder)
        for i, raw in enumerate(encoder.storages):
            archive.writestr(f'{prefix}/data/{i}', raw)
        archive.writestr(f'{prefix}/version', '3\n')
        for name in extra:
            archive.writestr(f'{prefix}/{name}', b'')


def write_legacy(path, obj, little_endian=True, numel_change=0):
    """The format of torch 0.1.10 to 1.5."""
    encoder = Encoder(legacy=True)
    main, storages = encoder.encode(obj), encoder.storages
    plain = b'\x80\x02}(' + encode('little_endian') + encode(little_endian) + b'u.'
    with open(path, 'wb') as f:
        f.write(b'\x80\x02' + encode(MAGIC) + b'.' + b'\x80\x02' + encode(1001) + b'.' + plain)
        f.write(b'\x80\x02' + main + b'.')
        f.write(b'\x80\x02' + encode([str(i) for i in range(len(storages))]) + b'.')
        for raw, numel in zip(storages, numels(obj, storages)):
            f.write(struct.pack('<q', numel + numel_change) + raw)


def numels(obj, storages):
    """Element counts of the storages, in their order."""
    found = {}

    def visit(value):
        if isinstance(value, np.ndarray):
            raise TypeError('give Tensor objects to write_legacy, so that storages can be told apart')
        if isinstance(value, Tensor):
            found[id(value.raw)] = value.numel
        if isinstance(value, dict):
            value = list(value.values())
        for v in value if isinstance(value, (list, tuple)) else ():
            visit(v)
    visit(obj)
    return [found[id(raw)] for raw in storages]
