"""Which images a folder holds, and in which order."""

import os
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import numpy as np

from ..utils.errors import DataError
from .image import EXTENSIONS, shown
from .path_list import Names, PathList

# Windows, macOS, Synology and QNAP storage, NetApp, Unix, macOS servers; those that begin with a dot are hidden anyway
_SYSTEMS = frozenset({'$recycle.bin', 'system volume information', 'found.000', '__macosx', '@eadir', '#recycle',
                      '@recycle', '@recently-snapshot', '#snapshot', '~snapshot', 'lost+found', 'network trash folder',
                      'temporary items', '__pycache__'})


def is_image_name(name: str) -> bool:
    """By its ending; hidden files (`._photo.jpg` of other systems) are none."""
    return not name.startswith('.') and name.lower().endswith(EXTENSIONS)


def is_folder(entry: os.DirEntry) -> bool:
    """For an os.DirEntry; follows links, mostly without asking the file system again."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_system(name: str) -> bool:
    """By its name: a folder that a system makes for its own purposes, such as a bin."""
    return name.lower() in _SYSTEMS or name == 'RECYCLER'


def is_hidden(name: str) -> bool:
    """By its name: such files and folders are no part of a data set."""
    return name.startswith('.') or is_system(name)


def class_folders(root: str) -> tuple[list[str], int]:
    """(sorted names of the folders directly in `root`, number of images beside them)."""
    with os.scandir(root) as entries:
        folders = {e.name: is_folder(e) for e in entries if not is_hidden(e.name)}
    loose = sum(is_image_name(name) for name, folder in folders.items() if not folder)
    return sorted(name for name, folder in folders.items() if folder), loose


def scan(top: str, recursive: bool = True, left_out: Optional[Callable[[os.DirEntry, str], object]] = None,
         unlistable: Optional[Callable[[str, OSError], object]] = None) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder relative to `top`, sorted names of its images), folders in sorted order.

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
        folders, images, others = [], [], []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    folder = is_folder(entry)
                    if folder and not is_hidden(entry.name):
                        folders.append(entry.name)
                    elif not folder and is_image_name(entry.name):
                        images.append(entry.name)
                    elif left_out is not None:
                        others.append(entry)
        except OSError as e:
            if unlistable is not None:
                unlistable(here, e)
                continue
            raise DataError(f'{shown(e.filename or here)} cannot be listed: {e.strerror}. All images of a folder are '
                            'used or none: make it readable (chmod u+rx), move it elsewhere, or give it a name that '
                            'begins with a dot, which leaves it out.') from None
        if left_out is not None:
            for entry in sorted(others, key=lambda e: e.name):
                left_out(entry, here)
        yield inside, sorted(images)
        if recursive:
            waiting += [os.path.join(inside, f) for f in sorted(folders, reverse=True)]


def list_trees(tops: Sequence[str], recursive: bool = True, labelled: bool = False,
               **told: Optional[Callable]) -> tuple[PathList, np.ndarray]:
    """(PathList of the images below the folders `tops`, one after the other; number of images of each: int64).

    Args:
        tops: paths of folders.
        recursive: also look into sub-folders.
        labelled: the number of the top folder is the class of its images.
        told: `left_out` and `unlistable` of `scan`.

    Raises:
        DataError: see `scan`.
    """
    blocks, folders, counts, trees = [], [], [], []
    for tree, top in enumerate(tops):
        for inside, images in scan(top, recursive, **told):
            blocks.append(Names.of(images).block)
            folders.append(os.path.join(top, inside, ''))
            counts.append(len(images))
            trees.append(tree)
    tree_of, count_of = np.asarray(trees, np.int32), np.asarray(counts, np.int64)
    paths = PathList(Names(b''.join(blocks)), Names.of(folders), count_of,
                     np.repeat(tree_of, count_of) if labelled else None)
    return paths, np.bincount(tree_of, count_of, len(tops)).astype(np.int64)
