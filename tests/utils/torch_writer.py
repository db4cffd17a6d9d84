"""Writes torch's two file formats byte by byte, for tests in an environment without torch."""

import struct
import zipfile

import numpy as np

STORAGES = {'float32': 'FloatStorage', 'float64': 'DoubleStorage', 'float16': 'HalfStorage',
            'int64': 'LongStorage', 'int32': 'IntStorage', 'int16': 'ShortStorage',
            'int8': 'CharStorage', 'uint8': 'ByteStorage',
            'bool': 'BoolStorage', 'bfloat16': 'BFloat16Storage'}
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


def encode(obj, storages):
    """Pickle opcodes (protocol 2) of `obj`; appends the storages' bytes to the list `storages`."""
    def sub(value):
        return encode(value, storages)

    if isinstance(obj, Raw):
        return bytes(obj)
    if isinstance(obj, np.ndarray):
        obj = Tensor.of(obj)
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
        return b'(' + b''.join(map(sub, obj)) + b't'
    if isinstance(obj, list):
        return b'](' + b''.join(map(sub, obj)) + b'e'
    if isinstance(obj, dict):
        items = b''.join(sub(k) + sub(v) for k, v in obj.items())
        # as torch writes a state_dict: an OrderedDict with an attribute
        return b'ccollections\nOrderedDict\n)R(' + items + b'u}' + sub('_metadata') + b'}sb'
    key = next((i for i, raw in enumerate(storages) if raw is obj.raw), len(storages))
    if key == len(storages):
        storages.append(obj.raw)
    pid = (b'(' + sub('storage') + f'ctorch\n{STORAGES[obj.dtype]}\n'.encode() + sub(str(key)) + sub('cpu')
           + sub(obj.numel) + (b'N' if getattr(storages, 'legacy', False) else b'') + b'tQ')
    tensor = (b'ctorch._utils\n_rebuild_tensor_v2\n(' + pid + sub(obj.offset) + sub(tuple(obj.size))
              + sub(tuple(obj.stride)) + b'\x89ccollections\nOrderedDict\n)RtR')
    if obj.parameter:
        tensor = b'ctorch._utils\n_rebuild_parameter\n(' + tensor + b'\x88ccollections\nOrderedDict\n)RtR'
    return tensor


class _Storages(list):
    legacy = False


def write_zip(path, obj, prefix='archive', compression=zipfile.ZIP_STORED, byteorder=b'little', extra=()):
    """The format of torch >= 1.6."""
    storages = _Storages()
    data = b'\x80\x02' + encode(obj, storages) + b'.'
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr(f'{prefix}/data.pkl', data)
        archive.writestr(f'{prefix}/byteorder', byteorder)
        for i, raw in enumerate(storages):
            archive.writestr(f'{prefix}/data/{i}', raw)
        archive.writestr(f'{prefix}/version', '3\n')
        for name in extra:
            archive.writestr(f'{prefix}/{name}', b'')


def write_legacy(path, obj, little_endian=True, numel_change=0):
    """The format of torch 0.1.10 to 1.5."""
    storages = _Storages()
    storages.legacy = True
    main = encode(obj, storages)
    plain = b'\x80\x02}(' + encode('little_endian', []) + encode(little_endian, []) + b'u.'
    with open(path, 'wb') as f:
        f.write(b'\x80\x02' + encode(MAGIC, []) + b'.' + b'\x80\x02' + encode(1001, []) + b'.' + plain)
        f.write(b'\x80\x02' + main + b'.')
        f.write(b'\x80\x02' + encode([str(i) for i in range(len(storages))], []) + b'.')
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
