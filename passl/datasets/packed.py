"""All images of a data set in one LMDB file: for disks on which opening a file takes long.

The file holds the images' bytes as they are, their names, class numbers and class names, and a JSON
header. Nothing in it is ever executed or used as a path. `places` tells where in the file each image
lies, so that the reader can ask the system for all pages of an image before it looks them up. Wrong places
cost time, nothing else. Writing takes the package lmdb; reading does not (`lmdb_file`).
"""

import contextlib
import ctypes
import json
import os
import struct
import weakref

import numpy as np

from ..utils.errors import ConfigError, DataError
from ..utils.files import whole
from .base import ImageDataset
from .builder import DATASETS
from .image import ImageReadError
from .lmdb_file import FormatError, LmdbFile
from .path_list import Names, PathList

_FORMAT, _VERSION = 'passl packed images', 1
_LABELS, _NAMES, _HEADER, _PLACES = b'labels', b'names', b'passl', b'places'   # sorted, behind the images
_OTHERS = 4
_REQUEST = 2**17                # bytes; Linux may cut longer requests short
_FIRST_SIZE = 2**26             # bytes; the room doubles whenever it is used up
_PAGE = 4096                    # unit of `places`
_LONGEST = 2**26                # bytes asked for in advance
_READERS = weakref.WeakValueDictionary()


def _lmdb():
    try:
        import lmdb
    except ImportError:
        raise ConfigError("Packing images needs the package lmdb. Install it: pip install lmdb (or in the "
                          "clone: pip install -e '.[pack]').") from None
    return lmdb


def _key(index):
    return b'i' + struct.pack('>Q', index)


class _Reader:
    """An open file of packed images; data sets of one file share it: get it with `_reader`."""

    def __init__(self, file):
        self.file = file
        try:
            self.lmdb = LmdbFile(file)
        except (FormatError, OSError) as e:
            raise DataError(f"'{file}' is no file of packed images, or a damaged one ({e}). Make it with "
                            'tools/pack_dataset.py.') from None

    def get(self, key, start=0, length=0):
        """The bytes stored under `key`, or None; they are thought to be at `start` in the file."""
        try:
            if hasattr(os, 'posix_fadvise'):
                for part in range(start, start + length, _REQUEST):
                    os.posix_fadvise(self.lmdb.fileno(), part, min(_REQUEST, start + length - part),
                                     os.POSIX_FADV_WILLNEED)
            return self.lmdb.get(key)
        except (FormatError, OSError) as e:
            raise ImageReadError(f"'{self.file}' cannot be read: {e}") from None

    def check_size(self):
        """A copy that was cut off is told at the start."""
        needed = (self.lmdb.meta.last_page + 1) * self.lmdb.meta.page_size
        if self.lmdb.size < needed:
            raise DataError(f"'{self.file}' is truncated: {self.lmdb.size} of {needed} bytes. Copy or pack it again.")


def _reader(file):
    stat = os.stat(file)
    key = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns      # a file written anew is read anew
    reader = _READERS.get(key)
    if reader is None:
        reader = _READERS[key] = _Reader(file)
    return reader


def _read_header(reader):
    """(header, labels or None, Names, places); DataError unless all of it fits together."""
    reader.check_size()
    try:
        header = json.loads(reader.get(_HEADER) or b'{}')
        if not isinstance(header, dict) or header.get('format') != _FORMAT:
            raise DataError(f"'{reader.file}' is an LMDB file, but none of tools/pack_dataset.py (or its packing was "
                            'not completed). Pack the folder with that tool.')
        if header.get('version') != _VERSION:
            raise DataError(f"'{reader.file}' has version {header.get('version')} of the format; this PASSL reads "
                            f'{_VERSION}. Pack the folder again, or use the PASSL that made it.')
        count, classes = int(header['count']), header['classes']
        if not all(isinstance(c, str) for c in classes):
            raise ValueError('class names that are no text')
        labels = np.frombuffer(reader.get(_LABELS), '<i4') if header['labelled'] else None
        names, places = Names(reader.get(_NAMES)), np.frombuffer(reader.get(_PLACES), '<u4').reshape(-1, 2)
        whole = len(places) == len(names) == count > 0 and isinstance(classes, list) and \
            reader.lmdb.meta.entries == count + _OTHERS
        if labels is not None:
            whole = whole and len(labels) == count and labels.min() >= 0 and labels.max() < len(classes)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, ImageReadError) as e:
        raise DataError(f"'{reader.file}' is damaged ({type(e).__name__}: {e}). Copy or pack it again.") from None
    if not whole:
        raise DataError(f"'{reader.file}' is damaged: its parts do not fit together. Copy or pack it again.")
    return header, labels, names, places


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

    def __init__(self, dataroot, return_label=False, return_two_sample=False, transforms=None, view_trans1=None,
                 view_trans2=None, on_error='replace', max_bad=0.1):
        super().__init__(return_label, return_two_sample, transforms, view_trans1, view_trans2, on_error, max_bad)
        if not isinstance(dataroot, (str, os.PathLike)) or not str(dataroot):
            raise ConfigError(f'dataroot must be the name of a packed file, not {dataroot!r}.')
        self.dataroot = os.path.expanduser(str(dataroot))
        if not os.path.isfile(self.dataroot):
            what = 'is a folder' if os.path.isdir(self.dataroot) else 'does not exist'
            raise DataError(f"dataroot: '{self.dataroot}' {what}; PackedImages reads one file, made by "
                            'tools/pack_dataset.py.')
        self._reader = _reader(self.dataroot)
        header, labels, names, self._places = _read_header(self._reader)
        if return_label and labels is None:
            raise ConfigError(f"'{self.dataroot}' was packed without labels: set return_label: False, or pack the "
                              'folder with --labelled.')
        self.samples = PathList(names, Names.of(['']), [len(names)], labels)
        self.classes = header['classes']
        self._filled()

    def read_bytes(self, index):
        """(bytes of the image file, a name for messages) of image `index`. Raises ImageReadError."""
        entry = self.samples[index]
        name = f'{self.dataroot}: {entry if isinstance(entry, str) else entry[0]}'
        index %= len(self)
        first, pages = self._places[index].tolist()
        data = self._reader.get(_key(index), first * _PAGE, min(pages * _PAGE, _LONGEST))
        if data is None:
            raise ImageReadError(f"'{name}' is missing in the file.")
        return data, name

    def label(self, index):
        return self.samples[index][1]

    def __getstate__(self):
        return dict(super().__getstate__(), _reader=None)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._reader = _reader(self.dataroot)


def check_output(output):
    """ConfigError or DataError unless `output` can become a packed file."""
    _lmdb()
    if os.path.lexists(output):
        raise DataError(f"'{output}' exists and is not overwritten. Give another name, or remove it.")
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise DataError(f"'{output}' cannot be written: there is no folder '{folder}'. Make it first.")


@contextlib.contextmanager
def _new_file(output):
    """An LMDB environment that gets the name `output` if the block ends well, and vanishes otherwise."""
    check_output(output)
    lmdb = _lmdb()
    try:
        with whole(output, replace=False) as place:
            env = lmdb.open(place, subdir=False, lock=False, sync=False, meminit=False, readahead=False,
                            map_size=_FIRST_SIZE)
            try:
                yield env
                env.sync(True)
            finally:
                env.close()
    except FileExistsError:
        check_output(output)
        raise
    except (lmdb.Error, OSError) as e:
        raise DataError(f"'{output}' cannot be written: {e}") from None


def _put(env, items):
    lmdb = _lmdb()
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in items:
                    transaction.put(key, value, append=True)
            return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()['map_size'] * 2)


def _places(env, keys):
    """uint32 [keys, 2]: first page and number of pages of the values of `keys`, in units of _PAGE bytes."""
    size = env.stat()['psize']
    found = []
    with env.begin(buffers=True) as transaction:
        for key in keys:
            view = transaction.get(key)
            if len(view) == 0:
                found.append((0, 0))
                continue
            address = np.frombuffer(view, np.uint8).ctypes.data
            page = ctypes.c_uint64.from_address(address - address % size).value     # every page begins with its number
            start, stop = page * size, page * size + address % size + len(view)
            found.append((start // _PAGE, -(-stop // _PAGE) - start // _PAGE))
    return np.array(found, '<u4').reshape(-1, 2)


def write_packed(output, batches, names, labels=None, classes=()):
    """Write a packed file: complete or, on any error, not at all.

    Args:
        output: the file, which must not exist.
        batches: iterable of lists of bytes: the image files, in the order of `names`.
        names: list of str, one per image; kept as labels for messages only.
        labels: class numbers, or None; classes: their names.

    Raises:
        DataError: the file exists or cannot be written. ConfigError: lmdb is not installed.
    """
    header = {'format': _FORMAT, 'version': _VERSION, 'count': len(names), 'labelled': labels is not None,
              'classes': list(classes)}
    with _new_file(output) as env:
        number, places = 0, []
        for batch in batches:
            keys = [_key(number + i) for i in range(len(batch))]
            _put(env, list(zip(keys, batch)))
            places.append(_places(env, keys).tobytes())
            number += len(batch)
        if number != len(names) or not names:
            raise DataError(f"'{output}': {number} images for {len(names)} names; nothing was written.")
        labels = np.asarray([] if labels is None else labels, '<i4')
        _put(env, [(_LABELS, labels.tobytes()), (_NAMES, Names.of(names).block),
                   (_HEADER, json.dumps(header).encode()), (_PLACES, b''.join(places))])
