"""Reads torch's .pth files with numpy only; torch need not be installed and nothing is executed."""

import io
import zipfile

import numpy as np

from .safe_arrays import DamagedError, RefusedError, UnsupportedError, make_array
from .safe_pickle import SafeUnpickler
from .safetensors_file import bfloat16_to_float32

# torch before 1.6: pickles one after the other, the first of them this number
LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_STORAGES = {'DoubleStorage': 'float64', 'FloatStorage': 'float32', 'HalfStorage': 'float16',
             'BFloat16Storage': 'bfloat16', 'LongStorage': 'int64', 'IntStorage': 'int32',
             'ShortStorage': 'int16', 'CharStorage': 'int8', 'ByteStorage': 'uint8', 'BoolStorage': 'bool'}
# An expanded tensor (stride 0) may be larger than its storage, but not without limit.
_MAX_EXPANDED = 1 << 24


class _Type:
    """The element type of a storage: what `torch.FloatStorage` stands for."""
    __slots__ = ('name',)

    def __init__(self, name):
        self.name = name

    @property
    def numpy(self):
        return np.dtype('uint16' if self.name == 'bfloat16' else self.name).newbyteorder('<')


class _Storage:
    """Raw elements; filled at once (zip format) or after the pickle (legacy format)."""
    __slots__ = ('type', 'numel', 'array')

    def __init__(self, type_, numel, array=None):
        self.type, self.numel, self.array = type_, numel, array

    def fill(self, raw):
        self.array = make_array((self.numel,), self.type.numpy, raw)


class _Tensor:
    """A view of a storage that is not there yet (legacy format)."""
    __slots__ = ('args',)

    def __init__(self, *args):
        self.args = args

    def real(self):
        return _strided(*self.args)


def _strided(storage, offset, size, stride):
    size, stride = tuple(size), tuple(stride)
    numbers = (offset,) + size + stride
    if len(size) != len(stride) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise DamagedError(f'a tensor of size {size} and stride {stride}')
    count, last = 1, offset
    for n, step in zip(size, stride):
        count *= n
        last += (n - 1) * step
    if count == 0:
        array = np.empty(size, storage.array.dtype)
    elif last >= storage.numel or count > max(storage.numel, _MAX_EXPANDED):
        raise DamagedError(f'a tensor of size {size} beyond the end of its data ({storage.numel} elements)')
    else:
        flat = storage.array[offset:]
        view = np.lib.stride_tricks.as_strided(flat, size, [s * flat.itemsize for s in stride])
        array = view if view.flags.c_contiguous else view.copy()
    return bfloat16_to_float32(array) if storage.type.name == 'bfloat16' else array


def _rebuild_tensor(storage, offset, size, stride, *_):
    if not isinstance(storage, _Storage):
        raise DamagedError('a tensor without data')
    if storage.array is None:
        return _Tensor(storage, offset, size, stride)
    return _strided(storage, offset, size, stride)


def _rebuild_parameter(data, *_):
    return data


def _allow_list():
    table = {('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
             ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
             ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
             ('torch', 'Size'): lambda items=(): tuple(items),
             ('torch', 'device'): lambda *names: ':'.join(str(n) for n in names)}
    for name in _STORAGES:
        table['torch', name] = lambda *_: None      # a storage class is named, never called
    return table


def _storage_type(reference):
    """_Type of a persistent id's class, which arrives as the allowed name `torch.<X>Storage`."""
    name = getattr(reference, 'name', '').rpartition('.')[2]
    if name not in _STORAGES:
        raise RefusedError(f'a torch storage of kind {name or reference!r}')
    return _Type(_STORAGES[name])


def _check_id(pid):
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
        raise RefusedError('a reference to something that is not a tensor')
    if not isinstance(pid[2], (str, int)):
        raise DamagedError('a tensor whose data has no name')
    if not isinstance(pid[4], int) or pid[4] < 0:
        raise DamagedError(f'a tensor with {pid[4]!r} elements')


def _archive_prefix(names):
    """The prefix of the archive ('archive/') when `names` are those of a torch file, else None."""
    for name in names:
        if name == 'data.pkl' or name.endswith('/data.pkl'):
            return name[:-len('data.pkl')]
    return None


def _read_entry(archive, name, size):
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise UnsupportedError('its entries are compressed, which torch does not do')
    if info.file_size > size:
        raise EOFError
    return archive.read(info)


def read_torch_zip(file, size):
    """The object in a file of torch >= 1.6 (a zip archive)."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise EOFError from None        # the list of a zip file's contents stands at its end
    prefix = _archive_prefix(archive.namelist())
    if prefix is None:
        raise UnsupportedError('it is a zip archive without torch tensors (a .npz file?)')
    if prefix + 'constants.pkl' in archive.namelist():
        raise UnsupportedError('it is a TorchScript program; save its state_dict() with torch.save')
    order = prefix + 'byteorder'
    if order in archive.namelist() and _read_entry(archive, order, size) != b'little':
        raise UnsupportedError('its numbers are big-endian')
    storages = {}

    def persistent(pid):
        _check_id(pid)
        key = str(pid[2])
        if key not in storages:
            storage = _Storage(_storage_type(pid[1]), pid[4])
            storage.fill(_read_entry(archive, f'{prefix}data/{key}', size))
            storages[key] = storage
        return storages[key]

    data = _read_entry(archive, prefix + 'data.pkl', size)
    return SafeUnpickler(io.BytesIO(data), len(data), _allow_list(), persistent).load()


def read_torch_legacy(file, size):
    """The object in a file of torch 0.1.10 to 1.5 (pickles, then raw storages)."""
    storages = {}

    def persistent(pid):
        _check_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise UnsupportedError('it has views of storages (a very old torch file); '
                                   'save it again with a newer torch')
        return storages.setdefault(str(pid[2]), _Storage(_storage_type(pid[1]), pid[4]))

    SafeUnpickler(file, size).load()                    # the magic number
    SafeUnpickler(file, size).load()                    # the protocol's version
    system = SafeUnpickler(file, size).load()
    if isinstance(system, dict) and system.get('little_endian') is False:
        raise UnsupportedError('its numbers are big-endian')
    reader = SafeUnpickler(file, size, _allow_list(), persistent)
    obj = reader.load()
    for key in SafeUnpickler(file, size).load():
        storage = storages[str(key)]
        numel = reader.number('<q')
        if numel != storage.numel:
            raise DamagedError(f'a storage with {numel} in place of {storage.numel} elements')
        storage.fill(reader.read(numel * storage.type.numpy.itemsize))
    return _resolve(obj, {})


def _resolve(obj, seen):
    """Put the real arrays in the places of the `_Tensor`s; shared containers are visited once."""
    if isinstance(obj, _Tensor):
        if id(obj) not in seen:
            seen[id(obj)] = obj.real()
        return seen[id(obj)]
    if not isinstance(obj, (dict, list, tuple)) or id(obj) in seen:
        return seen.get(id(obj), obj)
    seen[id(obj)] = obj
    if isinstance(obj, dict):
        for key, value in obj.items():
            obj[key] = _resolve(value, seen)
    elif isinstance(obj, list):
        obj[:] = [_resolve(value, seen) for value in obj]
    else:
        obj = seen[id(obj)] = tuple(_resolve(value, seen) for value in obj)
    return obj
