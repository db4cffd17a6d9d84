"""All images of a data set in one file: for disks on which opening a file takes long.

    64 bytes     a mark, where the index lies, how long it is, its SHA-256
    images       their bytes as they are, one after the other
    index        a line of JSON (number of images, class names); where each image begins, and the last ends (uint64);
                 class numbers (int32), if there are; names, each ended by a zero byte

Nothing in the file is ever executed or used as a path, and no number of it is used before it was compared with the
file's size. A changed index is refused; a changed image is the decoder's to notice, as in a folder.
"""

import contextlib
import hashlib
import json
import os
import struct
from typing import Any, Optional, Union
from collections.abc import Iterable, Sequence

import numpy as np

from ..utils.config.kinds import Flag
from ..utils.errors import ConfigError, DataError
from ..utils.files import whole_file
from .base import ImageDataset
from .builder import DATASETS
from .folder import File
from .image import MAX_FILE_BYTES, ImageReadError, shown
from .path_list import Names, PathList

_HEAD = struct.Struct('<16sQQ32s')
_MARK = b'PASSL packed 2\n\0'               # 1 was LMDB
_LMDB = struct.pack('<I', 0xBEEFC0DE)       # at byte 16
_LARGEST_INDEX = 2**31                      # bytes: tens of millions of names


def _read(file, start, length):
    """Bytes of an open file; whoever inherits it by a fork may read too. Raises OSError."""
    parts = []
    while length > 0:                   # a call may return less
        part = os.pread(file.fileno(), length, start)
        if not part:
            raise OSError('it is shorter than it was')
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b''.join(parts)


def _read_head(file, name):
    """(the first bytes, where the index begins, its length, its SHA-256); DataError unless the file is whole."""
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, min(size, _HEAD.size))
    if head[16:20] == _LMDB:
        raise DataError(f"'{name}' was packed by an older version, as LMDB; pack the folder again: python "
                        'tools/pack_dataset.py FOLDER --unlabelled (or --labelled) --output NEW_FILE')
    if not head.startswith(_MARK[:13]) or len(head) < _HEAD.size:
        raise DataError(f"'{name}' is no file of packed images, or its packing was not completed. Make it with "
                        'tools/pack_dataset.py.')
    mark, start, length, digest = _HEAD.unpack(head)
    if mark != _MARK:
        raise DataError(f"'{name}' has another version of the format than this PASSL reads. Pack the folder again, or "
                        'use the PASSL that made it.')
    if size < start + length:
        raise DataError(f"'{name}' is truncated: {size} of {start + length} bytes. Copy or pack it again.")
    if size > start + length or start < _HEAD.size or length > _LARGEST_INDEX:
        raise DataError(f"'{name}' is damaged: its parts do not fit together. Copy or pack it again.")
    return head, start, length, digest


def _read_index(index, end):
    """(bounds of the images [n + 1], class numbers or None, Names, class names); ValueError ... if it is damaged.

    Args:
        index: its bytes. end: where the last image ends.
    """
    line = index.index(b'\n')
    header = json.loads(index[:line])
    count, classes, labelled = header['count'], header['classes'], header['labelled']
    if type(count) is not int or not 0 < count <= len(index) or type(labelled) is not bool or \
            not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise ValueError('another header')
    bounds = np.frombuffer(index, '<u8', count + 1, line + 1).copy()
    at, labels = line + 1 + bounds.nbytes, None
    if labelled:
        labels = np.frombuffer(index, '<i4', count, at).copy()
        at += labels.nbytes
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError('a class without a name')
    names = Names(index[at:])
    if len(names) != count or index[-1] != 0 or bounds[0] != _HEAD.size or bounds[-1] != end or \
            (bounds[1:] < bounds[:-1]).any():
        raise ValueError('its parts do not fit together')
    return bounds, labels, names, classes


@DATASETS.register()
class PackedImages(ImageDataset):
    """The images of a file that tools/pack_dataset.py made: the same samples as those of the folder.

    `samples` holds the names that the files had, relative to the folder, or (name, class number) pairs.

    Args:
        dataroot: the file.
        return_label ... max_bad: see ImageDataset.

    Raises:
        DataError: no such file, another kind of file, or a damaged one.
    """

    def __init__(self, dataroot: File, return_label: Flag = False, **views: Any) -> None:
        super().__init__(return_label, **views)
        self.dataroot = os.path.expanduser(str(dataroot))
        if not os.path.isfile(self.dataroot):
            what = 'is a folder' if os.path.isdir(self.dataroot) else 'does not exist'
            raise DataError(f"dataroot: '{self.dataroot}' {what}; PackedImages reads one file, made by "
                            'tools/pack_dataset.py.')
        self._open()
        try:
            index = _read(self._file, *self._place)
            if hashlib.sha256(index).digest() != self._digest:
                raise ValueError('its index has another checksum')
            self._bounds, labels, names, self.classes = _read_index(index, self._place[0])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as e:
            raise DataError(f"'{self.dataroot}' is damaged ({type(e).__name__}: {e}). Copy or pack it again.") from None
        if return_label and labels is None:
            raise ConfigError(f"'{self.dataroot}' was packed without labels: set return_label: False, or pack the "
                              'folder with --labelled.')
        self.samples = PathList(names, Names.of(['']), [len(names)], labels)
        self._filled()

    def _open(self):
        try:
            self._file = open(self.dataroot, 'rb', buffering=0)
            self._head, *self._place, self._digest = _read_head(self._file, self.dataroot)
            self._time = os.fstat(self._file.fileno()).st_mtime_ns
        except OSError as e:
            raise DataError(f"'{self.dataroot}' cannot be read: {e}") from None

    def read_bytes(self, index: int) -> tuple[bytes, str]:
        """(bytes of the image file, a name for messages) of image `index`. Raises ImageReadError."""
        entry = self.samples[index]
        name = f'{self.dataroot}: {entry if isinstance(entry, str) else entry[0]}'
        index %= len(self)
        start, stop = self._bounds[index:index + 2].tolist()
        if stop - start > MAX_FILE_BYTES:
            raise ImageReadError(f'{shown(name)} has more than {MAX_FILE_BYTES >> 20} MiB, which is no image for '
                                 'training.')
        try:
            return _read(self._file, start, stop - start), name
        except OSError as e:
            raise ImageReadError(f'{shown(name)} cannot be read: {e}') from None

    def label(self, index: int) -> int:
        return self.samples[index][1]

    def image_key(self, index: int) -> str:
        """The name in the packed file, the number of bytes there, and the packed file's time."""
        start, stop = self._bounds[index:index + 2].tolist()
        entry = self.samples[index]
        return f'{entry if isinstance(entry, str) else entry[0]} {stop - start} {self._time}'

    def __getstate__(self):
        return dict(super().__getstate__(), _file=None)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._open()
        if self._head != state['_head']:
            raise DataError(f"'{self.dataroot}' was packed anew during the run. Start again.")


def check_output(output: Union[str, os.PathLike]) -> None:
    """DataError unless `output` can become a packed file."""
    if os.path.lexists(output):
        raise DataError(f"'{output}' exists and is not overwritten. Give another name, or remove it.")
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise DataError(f"'{output}' cannot be written: there is no folder '{folder}'. Make it first.")


@contextlib.contextmanager
def _new_file(output):
    """An open file that gets the name `output` if the block ends well, and vanishes otherwise."""
    check_output(output)
    try:
        with whole_file(output, replace=False) as f:
            yield f
    except FileExistsError:
        check_output(output)
        raise
    except OSError as e:
        raise DataError(f"'{output}' cannot be written: {e}") from None


def write_packed(output: Union[str, os.PathLike], batches: Iterable[Sequence[bytes]], names: Sequence[str],
                 labels: Optional[Sequence[int]] = None, classes: Sequence[str] = ()) -> None:
    """Write a packed file: complete or, on any error, not at all.

    Args:
        output: the file, which must not exist.
        batches: iterable of lists of bytes: the image files, in the order of `names`.
        names: list of str, one per image; kept as labels for messages only.
        labels: class numbers, or None; classes: their names.

    Raises:
        DataError: the file exists or cannot be written.
    """
    with _new_file(output) as f:
        f.write(bytes(_HEAD.size))          # without its mark until all else stands
        sizes: list[int] = []
        for batch in batches:
            f.writelines(batch)
            sizes += map(len, batch)
        if len(sizes) != len(names) or not names:
            raise DataError(f"'{output}': {len(sizes)} images for {len(names)} names; nothing was written.")
        bounds = np.cumsum([_HEAD.size, *sizes]).astype('<u8')
        header = {'count': len(names), 'labelled': labels is not None, 'classes': list(classes)}
        index = b''.join([json.dumps(header).encode(), b'\n', bounds.tobytes(),
                          np.asarray([] if labels is None else labels, '<i4').tobytes(), Names.of(names).block])
        f.write(index)
        f.seek(0)
        f.write(_HEAD.pack(_MARK, int(bounds[-1]), len(index), hashlib.sha256(index).digest()))
