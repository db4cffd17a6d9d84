"""Checkpoint files: written whole or not at all, read without executing anything. Needs no Paddle."""

import errno
import hashlib
import json
import os
import pickle
import re
import stat
import struct
from collections import OrderedDict
from typing import IO, Any, Optional, Union

import numpy as np

from ..errors import CheckpointError
from ..files import whole_file
from .safe_arrays import DamagedError, RefusedError, UnsupportedError
from .safe_pickle import SafeUnpickler
from .safetensors_file import read_header, read_safetensors, write_safetensors
from .torch_reader import LEGACY_MAGIC, read_torch_legacy, read_torch_zip
from .torch_writer import write_torch


# A file of ours begins with a pickle's protocol byte and a word that is pushed and dropped: any pickle reader
# (paddle.load too) passes over it. It promises the SHA-256 of all before at the end, where such readers do not look.
# A second dropped text may follow: the note, JSON that can be read without the rest.
_SEALED = b'\x80\x04\x8c\x0cpassl-sha2560'
_SEAL_BYTES = 32
_LONGEST_NOTE = 65536

# names that the training gives its checkpoints
CHECKPOINT = re.compile(r'(epoch|iter)_(\d+)\.pdparams')


class _HashingWriter:
    """Passes bytes on to a file and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)


class _Pickler(pickle.Pickler):
    """Writes arrays by names that every numpy knows.

    numpy 2 would write `numpy._core...`, which numpy before 1.26 (as PaddleDetection pins it)
    cannot import; `numpy.ndarray(shape, dtype, bytes)` means the same everywhere.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype, obj.tobytes())
        if isinstance(obj, np.generic):
            return np.dtype(obj.dtype).type, (obj.item(),)
        return NotImplemented


def _check_plain(obj, where=''):
    """TypeError naming the place of anything that `load_file` would not read back."""
    if type(obj) in (dict, OrderedDict):
        for key, value in obj.items():
            if type(key) not in (str, int):
                raise TypeError(f"'{where}': the key {key!r} is neither a string nor an integer.")
            _check_plain(value, f'{where}.{key}' if where else str(key))
    elif type(obj) in (list, tuple):
        for i, value in enumerate(obj):
            _check_plain(value, f'{where}.{i}')
    elif isinstance(obj, (np.ndarray, np.generic)):
        if obj.dtype.kind not in ('biuf' if isinstance(obj, np.generic) else 'biufcSU'):
            raise TypeError(f"'{where}': a numpy value of type {obj.dtype} cannot be saved.")
    elif obj is not None and type(obj) not in (bool, int, float, str):
        raise TypeError(f"'{where}': a {type(obj).__name__} cannot be saved; "
                        'convert it to numpy or plain Python.')


def save_file(obj: Any, path: Union[str, os.PathLike[str]], note: Optional[dict[str, Any]] = None,
              torch_layout: bool = False) -> None:
    """Save nested dicts, lists and tuples of numpy arrays, numbers, strings and None.

    The file appears under its name complete or not at all, also when the process is killed
    or the disk is full; a file that was there before stays until then. A checksum at the end lets
    `load_file` notice every changed byte. `paddle.load` and `pickle.load` read it too. A path ending in
    `.safetensors` takes a flat {name: array} and that format; `.pth` is written as `torch.save` does.

    Args:
        obj: what to save.
        path: the file.
        note: {name: plain value}, a few facts that `read_note` gets without reading the file.
        torch_layout: mark a `.safetensors` file as one with torch's names and layout.

    Raises:
        CheckpointError: the file cannot be written (no space, no permission, no folder).
        TypeError: `obj` holds something else.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    _check_plain(obj)
    try:
        os.makedirs(folder, exist_ok=True)
        with whole_file(path) as f:
            if path.endswith('.safetensors'):
                write_safetensors(f, obj, 'pt' if torch_layout else 'paddle')
            elif path.endswith('.pth'):
                write_torch(f, obj)
            else:
                writer = _HashingWriter(f)
                writer.write(_SEALED)
                if note is not None:
                    text = json.dumps(note).encode()
                    writer.write(b'X' + struct.pack('<I', len(text)) + text + b'0')
                _Pickler(writer, protocol=4).dump(obj)
                f.write(writer.hash.digest())
    except OSError as e:
        advice = {errno.ENOSPC: 'Free some space, or choose another output_dir.',
                  errno.EDQUOT: 'Your quota is used up: free some space, or choose another output_dir.',
                  errno.EACCES: 'Choose an output_dir that you may write to.',
                  errno.EROFS: 'Choose an output_dir that you may write to.'}
        raise CheckpointError(f"Cannot write '{path}': {e.strerror or e}. "
                              f"{advice.get(e.errno or 0, 'Choose another place.')} "
                              'An older file of this name is unchanged.') from e


def read_note(path: Union[str, os.PathLike[str]]) -> dict[str, Any]:
    """The `note` that `save_file` put into a file: {} if it has none or cannot be read.

    The checksum is not looked at: what matters must come from `load_file`.
    """
    try:
        with open(path, 'rb') as f:
            if f.read(len(_SEALED) + 1) != _SEALED + b'X':
                return {}
            length, = struct.unpack('<I', f.read(4))
            note = json.loads(f.read(length)) if length <= _LONGEST_NOTE else {}
    except (OSError, ValueError, struct.error, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def fingerprint(path: Union[str, os.PathLike[str]]) -> str:
    """The checksum that `save_file` put into a file, as text; '' for files without one."""
    try:
        with open(path, 'rb') as f:
            if f.read(len(_SEALED)) != _SEALED:
                return ''
            f.seek(-_SEAL_BYTES, os.SEEK_END)
            return f.read().hex()
    except OSError:
        return ''


def file_format(path: Union[str, os.PathLike[str]]) -> str:
    """'pickle', 'torch', 'torch-legacy' or 'safetensors', from the file's first bytes.

    Raises:
        CheckpointError: missing, unreadable, empty or none of these.
    """
    with _open(path) as f:
        return _sniff(f, path)


def load_file(path: Union[str, os.PathLike[str]]) -> Any:
    """Read a checkpoint as nested Python containers with numpy arrays. Nothing in it is executed.

    Formats: files of `save_file` and of `paddle.save`, PASSL `.pd` pickles, `.pth` of torch
    (torch need not be installed; bfloat16 becomes float32), `.safetensors`.

    Raises:
        CheckpointError: missing, truncated or damaged, of no known format, or naming a
            function or class that is not data.
    """
    path = os.fspath(path)
    with _open(path) as f:
        kind = _sniff(f, path)
        size = os.fstat(f.fileno()).st_size
        try:
            if kind == 'torch':
                return read_torch_zip(f, size)
            if kind == 'torch-legacy':
                return read_torch_legacy(f, size)
            if kind == 'safetensors':
                return read_safetensors(f, size)
            size = _check_seal(f, size)
            return SafeUnpickler(f, size).load()
        except RefusedError as e:
            raise CheckpointError(
                f"Refusing to read '{path}': it contains {e}, which is not weights. Reading such a file the "
                'usual way could run any program on this machine. Get the file from a source you trust, or '
                'save only tensors, numbers and strings.') from e
        except UnsupportedError as e:
            raise CheckpointError(f"Cannot read '{path}': {e}.") from e
        except OSError as e:
            raise CheckpointError(f"Cannot read '{path}': {e.strerror or e}.") from e
        except EOFError as e:
            raise CheckpointError(f"'{path}' ends too early (it has {size} bytes): an interrupted copy or "
                                  'download? Get it again, or use an older checkpoint.') from e
        except MemoryError as e:
            raise CheckpointError(f"'{path}' ({size} bytes) needs more memory than there is, or it is "
                                  'damaged.') from e
        except Exception as e:      # whatever damaged bytes lead to
            detail = str(e) if isinstance(e, DamagedError) else f'{type(e).__name__}: {e}'
            raise CheckpointError(f"'{path}' ({size} bytes) is damaged ({detail}). Get it again, or use an "
                                  'older checkpoint.') from e


def _check_seal(f, size):
    """Compare the checksum of a file of ours; the number of bytes before it (of others: all).

    Raises:
        DamagedError: the bytes are not those that were written.
    """
    sealed = f.read(len(_SEALED)) == _SEALED
    f.seek(0)
    if not sealed:
        return size
    left, digest = size - _SEAL_BYTES, hashlib.sha256()
    while left > 0:
        block = f.read(min(left, 2**20))
        digest.update(block)
        left -= len(block) or left
    if digest.digest() != f.read():
        raise DamagedError('its checksum is wrong: it was cut off, or bytes have changed since it was written')
    f.seek(0)
    return size - _SEAL_BYTES


def _open(path):
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"'{path}' is a folder. Name the checkpoint file in it.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):     # opening a pipe would wait for its writer
            raise CheckpointError(f"'{path}' is no file but a device or a pipe. Name a checkpoint file.")
        return open(path, 'rb')
    except FileNotFoundError:
        link = os.path.islink(path)
        raise CheckpointError(f"There is no file '{path}'" + (' (the link points nowhere).' if link else '.')
                              + ' Check the path.') from None
    except (OSError, ValueError) as e:      # ValueError: a name with a zero byte
        raise CheckpointError(f"Cannot read '{path}': {getattr(e, 'strerror', None) or e}.") from e


def _sniff(f, path):
    try:
        head = f.read(512)
        f.seek(0)
    except OSError as e:
        raise CheckpointError(f"Cannot read '{path}': {e.strerror or e}.") from e
    if not head:
        raise CheckpointError(f"'{path}' is empty (0 bytes): an interrupted copy or save? "
                              'Use another checkpoint.')
    if head.startswith(LEGACY_MAGIC):
        return 'torch-legacy'
    if head.startswith(b'PK'):
        return 'torch'
    if head[:1] == b'\x80' and head[1:2] in (b'\x02', b'\x03', b'\x04', b'\x05'):
        return 'pickle'
    if head[8:9] == b'{' or str(path).endswith('.safetensors'):
        return 'safetensors'
    what = 'not a checkpoint of a known format'
    if head[257:262] == b'ustar':
        what = 'a tar archive (a torch file older than version 0.1.10, or a packed folder; unpack it first)'
    elif head.startswith((b'version https://git-lfs', b'<')):
        what = 'text (a web page or a pointer) in place of the weights: the download went wrong'
    elif head.startswith(b'\0\0\0\0'):
        what = 'probably a static inference model (.pdiparams), which is not a checkpoint'
    raise CheckpointError(f"'{path}' is {what}. Known: .pdparams, .pdopt and .pd of Paddle and PASSL, "
                          '.pth of torch, .safetensors.')


def is_torch_file(path: Union[str, os.PathLike[str]]) -> bool:
    """Whether the tensors of `path` have torch's layout (a .pth, or a .safetensors marked by torch)."""
    kind = file_format(path)
    if kind != 'safetensors':
        return kind.startswith('torch')
    with _open(path) as f:
        try:
            header, _ = read_header(f, os.fstat(f.fileno()).st_size)
            return header.get('__metadata__', {}).get('format') == 'pt'
        except Exception:           # load_file says what is wrong with it
            return False
