"""Listing big folders, and an index of the names for the next start."""

import hashlib
import json
import math
import os
import re
import sys
import time
import zipfile

import numpy as np

from ..utils.errors import ConfigError, DataError
from ..utils.files import whole_file
from ..utils.logger import get_logger
from .image import EXTENSIONS, shown
from .path_list import Names, PathList

_VERSION = 1
_SLOW_SECONDS = 2.0             # 'auto': a faster scan leaves no index
_UNSETTLED_NS = 2 * 10**9       # a folder that changed so shortly before the scan may change again unnoticed
_ARRAYS = {'meta': np.uint8, 'names': np.uint8, 'folders': np.uint8, 'trees': np.int32, 'counts': np.int64,
           'stamps': np.int64}
_NPY = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '(?P<type>[|<>][a-z]\d)', 'fortran_order': False, "
                  rb"'shape': \((?P<shape>\d{1,15},(?: ?\d{1,15})?)\), \} *\n", re.DOTALL)


def is_image_name(name):
    """By its ending; hidden files (`._photo.jpg` of other systems) are none."""
    return not name.startswith('.') and name.lower().endswith(EXTENSIONS)


def is_folder(entry):
    """For an os.DirEntry; follows links, mostly without asking the file system again."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path):
    # ctime as well: archives and rsync set mtime back after they have added files
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_ctime_ns


def is_hidden(name):
    """By its name: such files and folders are no part of a data set."""
    return name.startswith('.') or name == '__MACOSX'


def scan(top, recursive=True, left_out=None, unlistable=None):
    """Yields (folder relative to `top`, sorted names of its images, its stamp), folders in sorted order.

    Links are followed, each real folder once. Broken links, pipes and other special files with the name of an image
    are listed: reading them tells what they are.

    Args:
        top: the folder.
        recursive: look into sub-folders.
        left_out: called with (os.DirEntry, folder) for what is no image and no folder to look into, by name.
        unlistable: called with (folder, OSError) for a folder that cannot be listed, which is then passed over.

    Raises:
        DataError: a folder cannot be listed, without `unlistable`: leaving it out would change the data without a word.
    """
    seen, waiting = set(), ['']
    while waiting:
        inside = waiting.pop()
        here = os.path.join(top, inside) if inside else top
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        folders, images = [], []
        try:
            stamp = _stamp(here)                # before the listing: what changes meanwhile must show
            with os.scandir(here) as entries:
                for entry in entries if left_out is None else sorted(entries, key=lambda e: e.name):
                    folder = is_folder(entry)
                    if folder and not is_hidden(entry.name):
                        folders.append(entry.name)
                    elif not folder and is_image_name(entry.name):
                        images.append(entry.name)
                    elif left_out is not None:
                        left_out(entry, here)
        except OSError as e:
            if unlistable is not None:
                unlistable(here, e)
                continue
            raise DataError(f'{shown(e.filename or here)} cannot be listed: {e.strerror}. All images of a folder are '
                            'used or none: make it readable (chmod u+rx), move it elsewhere, or give it a name that '
                            'begins with a dot, which leaves it out.') from None
        yield inside, sorted(images), stamp
        if recursive:
            waiting += [os.path.join(inside, f) for f in sorted(folders, reverse=True)]


def list_images(folder, recursive=True):
    """Sorted paths of all images below `folder`; links are followed, each real folder once."""
    return [os.path.join(folder, inside, name) for inside, names, _ in scan(folder, recursive) for name in names]


class Listing:
    """The images of some folder trees, as found by a scan or read from an index; holds _ARRAYS but `meta`."""

    def __init__(self, names, folders, trees, counts, stamps):
        self.names, self.folders, self.counts = names, folders, np.asarray(counts, np.int64)
        self.trees = np.asarray(trees, np.int32)
        self.stamps = np.asarray(stamps, np.int64).reshape(-1, 2)

    @classmethod
    def scanned(cls, tops, recursive):
        blocks, folders, trees, counts, stamps = [], [], [], [], []
        for tree, top in enumerate(tops):
            for inside, images, stamp in scan(top, recursive):
                blocks.append(Names.of(images).block)
                folders.append(inside)
                trees.append(tree)
                counts.append(len(images))
                stamps.append(stamp)
        return cls(Names(b''.join(blocks)), Names.of(folders), trees, counts, stamps)

    def per_tree(self, number):
        """Images of each of the `number` trees: int64 [number]."""
        return np.bincount(self.trees, self.counts, number).astype(np.int64)

    def paths(self, tops, labelled):
        """PathList below `tops`; `labelled`: the number of the tree is the class."""
        folders = [os.path.join(tops[t], self.folders[i], '') for i, t in enumerate(self.trees)]
        return PathList(self.names, Names.of(folders), self.counts,
                        np.repeat(self.trees, self.counts) if labelled else None)

    def unchanged(self, tops):
        """True if every folder is as it was."""
        try:
            return all(_stamp(os.path.join(tops[t], self.folders[i])) == tuple(stamp)
                       for i, (t, stamp) in enumerate(zip(self.trees, self.stamps.tolist())))
        except OSError:
            return False


def _settings(tops, recursive):
    return {'format': 'passl folder index', 'version': _VERSION, 'recursive': recursive, 'extensions': EXTENSIONS,
            'encoding': sys.getfilesystemencoding(), 'trees': [os.path.abspath(t) for t in tops]}


def _array(data, kind, axes):
    """The array in the bytes of a .npy file. Its header is compared, not evaluated as numpy does."""
    dtype = np.dtype(kind)
    match = _NPY.match(data)
    shape = [int(n) for n in match.group('shape').split(b',') if n.strip()] if match else []
    if len(shape) != axes or match.group('type').decode() != dtype.str or \
            math.prod(shape) * dtype.itemsize != len(data) - match.end():
        raise ValueError('an array of another form')
    return np.frombuffer(data, dtype, offset=match.end()).reshape(shape)


def _read(file, wanted, tops):
    """(Listing, time it was made) from `file`; ValueError, OSError ... if it is damaged or of other folders."""
    with zipfile.ZipFile(file) as z:        # stored, not deflated: no file grows on reading
        entries = z.infolist()
        if any(i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size for i in entries):
            raise ValueError('it is compressed')
        if len(entries) != len(_ARRAYS) or sum(i.file_size for i in entries) > os.path.getsize(file):
            raise ValueError('it holds more than an index')
        arrays = {key: _array(z.read(f'{key}.npy'), kind, 2 if key == 'stamps' else 1)
                  for key, kind in _ARRAYS.items()}
    meta = json.loads(arrays.pop('meta').tobytes())
    made = float(meta.pop('made'))
    if meta != json.loads(json.dumps(wanted)):
        raise ValueError('it is of other folders or settings')
    for key in ('names', 'folders'):
        if arrays[key].size and arrays[key][-1] != 0:
            raise ValueError(f'{key} has no end')
        arrays[key] = Names(arrays[key].tobytes())
    listing, folders = Listing(**arrays), arrays['folders']
    trees, counts, number = listing.trees, listing.counts, len(folders)
    if not (len(trees) == len(counts) == len(listing.stamps) == number and (counts >= 0).all() and (trees >= 0).all()
            and (counts <= len(listing.names)).all() and (trees < len(tops)).all()
            and counts.sum() == len(listing.names)):
        raise ValueError('its parts do not fit together')
    if b'/' in listing.names.block or any(os.path.isabs(f) or '..' in f.split(os.sep)
                                          for f in folders.part(0, number)):
        raise ValueError('it points outside the folder')
    return listing, made


def _write(file, listing, settings):
    """Store `listing`, complete or not at all. Raises OSError."""
    os.makedirs(os.path.dirname(file) or '.', exist_ok=True)
    meta = json.dumps(dict(settings, made=time.time())).encode()
    with whole_file(file) as f:
        np.savez(f, meta=np.frombuffer(meta, np.uint8), names=np.frombuffer(listing.names.block, np.uint8),
                 folders=np.frombuffer(listing.folders.block, np.uint8), trees=listing.trees,
                 counts=listing.counts, stamps=listing.stamps)


def _cache_file(identity):
    base = os.environ.get('XDG_CACHE_HOME', '')
    base = base if os.path.isabs(base) else os.path.join(os.path.expanduser('~'), '.cache')
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    return os.path.join(base, 'passl', f'folder-index-{name}.npz')


def _own_file(index):
    """The FILE of `index: FILE`, if it is none of the user's other files."""
    if not isinstance(index, (str, os.PathLike)) or not str(index).endswith('.npz'):
        raise ConfigError(f'index must be auto, false or the name of a file that ends in .npz, not {index!r}.')
    file = os.path.expanduser(str(index))
    if os.path.isfile(file) and zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as z:
                names = z.namelist()
        except Exception:               # a damaged archive raises almost anything
            names = ['damaged']
        if names and 'meta.npy' not in names:
            raise ConfigError(f"index: '{file}' exists and is no index of PASSL. Give another name.")
    return file


def list_trees(tops, recursive, index, identity):
    """Listing of the images below the folders `tops`, from an index where there is a fresh one.

    Args:
        tops: paths of folders, listed one after the other.
        recursive: also look into sub-folders.
        index: 'auto' (kept in the user's cache folder when the scan takes long), False, or a file.
        identity: JSON-able; what the name of the file in the cache folder is made of.

    Raises:
        ConfigError: another value of `index`. DataError: a folder cannot be listed.
    """
    if index is False:
        return Listing.scanned(tops, recursive)
    settings = _settings(tops, recursive)
    automatic = index == 'auto'
    file = _cache_file([_VERSION, recursive, EXTENSIONS, settings['encoding'], identity]) if automatic \
        else _own_file(index)
    log = get_logger()
    try:
        listing, made = _read(file, settings, tops)
        if listing.unchanged(tops):
            log.info('%d images listed from the index %s (made %s; the folders have not changed). To scan again, '
                     'remove that file or set index: false.', len(listing.names), file,
                     time.strftime('%Y-%m-%d %H:%M', time.localtime(made)))
            return listing
    except Exception as e:              # damaged archives raise almost anything; the folders are scanned instead
        log.debug('The index %s is not used: %s', file, e)
    start, began = time.time_ns(), time.monotonic()
    listing = Listing.scanned(tops, recursive)
    seconds = time.monotonic() - began
    if automatic and seconds < _SLOW_SECONDS:
        return listing
    if (listing.stamps > start - _UNSETTLED_NS).any():
        log.info('%d images listed in %.1f s; no index is kept, since a folder has changed just now.',
                 len(listing.names), seconds)
        return listing
    try:
        _write(file, listing, settings)
        log.info('%d images listed in %.1f s; the index %s is kept for the next start.', len(listing.names), seconds,
                 file)
    except OSError as e:
        log.log(10 if automatic else 30, 'The index %s cannot be written: %s', file, e)
    return listing
