"""Reads torch's .pth files with numpy only; torch need not be installed and nothing is executed."""

import io
import zipfile
from typing import IO, Any, Optional

import numpy as np

from .safe_arrays import MAX_AXES, DamagedError, RefusedError, Room, UnsupportedError, check_result, make_array
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

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def numpy(self) -> np.dtype:
        return np.dtype('uint16' if self.name == 'bfloat16' else self.name).newbyteorder('<')


class _Storage:
    """Raw elements; filled at once (zip format) or after the pickle (legacy format)."""
    __slots__ = ('type', 'numel', 'array', 'room')

    def __init__(self, type_: _Type, numel: int, room: Room) -> None:
        self.type, self.numel, self.room = type_, numel, room
        self.array: Optional[np.ndarray] = None

    def fill(self, raw: bytes) -> None:
        self.array = make_array((self.numel,), self.type.numpy, raw)


class _Tensor:
    """A view of a storage that is not there yet (legacy format)."""
    __slots__ = ('args',)

    def __init__(self, *args: Any) -> None:
        self.args = args

    def real(self) -> np.ndarray:
        return _strided(*self.args)


def _strided(storage, offset, size, stride):
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= MAX_AXES:
        raise DamagedError('a tensor whose size and stride do not fit together')
    if any(not isinstance(n, int) or not 0 <= n <= 2**48 for n in (offset, *size, *stride)):
        raise DamagedError('a tensor whose size has no numbers, negative ones or huge ones')
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
        if not view.flags.c_contiguous:
            storage.room.take(count * flat.itemsize)
            view = view.copy()
        array = view
    if storage.type.name != 'bfloat16':
        return array
    storage.room.take(4 * count)
    return bfloat16_to_float32(array)


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
             ('torch', 'device'): _device}
    for name in _STORAGES:
        table['torch', name] = lambda *_: None      # a storage class is named, never called
    return table


def _device(*names):
    if len(names) > 2 or not all(isinstance(n, (str, int)) for n in names):
        raise DamagedError('a device without a name')
    return ':'.join(str(n) for n in names)


def _storage_type(reference):
    """_Type of a persistent id's class, which arrives as the allowed name `torch.<X>Storage`."""
    name = getattr(reference, 'name', '').rpartition('.')[2]
    if name not in _STORAGES:
        raise RefusedError(f"a torch storage of kind '{name or type(reference).__name__}'")
    return _Type(_STORAGES[name])


def _check_id(pid):
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
        raise RefusedError('a reference to something that is not a tensor')
    if not isinstance(pid[2], (str, int)) or len(str(pid[2])) > 100:
        raise DamagedError('a tensor whose data has no name')
    if not isinstance(pid[4], int) or not 0 <= pid[4] <= 2**48:
        raise DamagedError('a tensor with an impossible number of elements')


def _archive_prefix(names):
    """The prefix of the archive ('archive/') when `names` are those of a torch file, else None."""
    for name in names:
        if name == 'data.pkl' or name.endswith('/data.pkl'):
            return name[:-len('data.pkl')]
    return None


class _Archive:
    """The entries of a zip file, looked up by name and never written anywhere.

    Entries may lie over each other in a hostile file, so what is read in all may not exceed the file's size.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        try:
            self.zip, self.left = zipfile.ZipFile(file), size
        except zipfile.BadZipFile:
            raise EOFError from None    # the list of a zip file's contents stands at its end
        self.names = set(self.zip.namelist())
        if len(self.names) != len(self.zip.namelist()):
            raise DamagedError('two entries of the same name')

    def read(self, name: str) -> bytes:
        info = self.zip.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise UnsupportedError('its entries are compressed, which torch does not do')
        self.left -= info.file_size
        if self.left < 0 or info.file_size != info.compress_size:
            raise EOFError
        return self.zip.read(info)


def read_torch_zip(file: IO[bytes], size: int) -> Any:
    """The object in a file of torch >= 1.6 (a zip archive)."""
    archive, room = _Archive(file, size), Room(size)
    prefix = _archive_prefix(archive.zip.namelist())
    if prefix is None:
        raise UnsupportedError('it is a zip archive without torch tensors (a .npz file?)')
    if prefix + 'constants.pkl' in archive.names:
        raise UnsupportedError('it is a TorchScript program; save its state_dict() with torch.save')
    order = prefix + 'byteorder'
    if order in archive.names and archive.read(order) != b'little':
        raise UnsupportedError('its numbers are big-endian')
    storages = {}

    def persistent(pid):
        _check_id(pid)
        key = str(pid[2])
        if key not in storages:
            storage = _Storage(_storage_type(pid[1]), pid[4], room)
            storage.fill(archive.read(f'{prefix}data/{key}'))
            storages[key] = storage
        return storages[key]

    data = archive.read(prefix + 'data.pkl')
    return SafeUnpickler(io.BytesIO(data), len(data), _allow_list(), persistent, room).load()


def read_torch_legacy(file: IO[bytes], size: int) -> Any:
    """The object in a file of torch 0.1.10 to 1.5 (pickles, then raw storages)."""
    room = Room(size)
    storages: dict[str, _Storage] = {}

    def persistent(pid):
        _check_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise UnsupportedError('it has views of storages (a very old torch file); '
                                   'save it again with a newer torch')
        return storages.setdefault(str(pid[2]), _Storage(_storage_type(pid[1]), pid[4], room))

    SafeUnpickler(file, size).load()                    # the magic number
    SafeUnpickler(file, size).load()                    # the protocol's version
    system = SafeUnpickler(file, size).load()
    if isinstance(system, dict) and system.get('little_endian') is False:
        raise UnsupportedError('its numbers are big-endian')
    obj = SafeUnpickler(file, size, _allow_list(), persistent, room).load_raw()
    keys = SafeUnpickler(file, size).load()
    reader = SafeUnpickler(file, size)
    if not isinstance(keys, list):
        raise DamagedError('no list of what holds the tensors')
    for key in keys:
        storage = storages[str(key)]
        numel = reader.number('<q')
        if numel != storage.numel:
            raise DamagedError(f'a storage with {numel} in place of {storage.numel} elements')
        storage.fill(reader.read(numel * storage.type.numpy.itemsize))
    return check_result(_resolve(obj, {}))


def _resolve(obj, seen):
    """Put the real arrays in the places of the `_Tensor`s; shared containers are visited once."""
    if isinstance(obj, _Tensor):
        if id(obj) not in seen:
            if obj.args[0].array is None:
                raise DamagedError('a tensor whose data is not in the file')
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
