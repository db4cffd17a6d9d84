"""Which files a folder or a list gives to training, and which it leaves out."""

import os
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np

from ...utils.errors import DataError
from ..contents import LeftOut
from ..folder import _SPLITS
from ..image_list import missing_files, read_list
from ..listing import class_folders, list_trees
from ..path_list import PathList


class Files:
    """The images of one PATH of the command.

    Attributes:
        name: as the user gave it. root: the folder that names in a written list are relative to.
        kind: 'classes' (as ImageFolder reads it), 'folder' (UnlabelledFolder) or 'list' (ImageList).
        paths: PathList without labels. labels: class numbers, int32, or None. classes: names of the classes.
        left_out: LeftOut. tops: the folders that were listed.
        unlistable: [(folder, reason)]. splits: it looks like train/, val/ ... of a data set.
    """

    def __init__(self, name: str, root: str, kind: str) -> None:
        self.name, self.root, self.kind = name, root, kind
        self.paths, self.left_out, self.splits = PathList.of([]), LeftOut(), False
        self.labels: Optional[np.ndarray] = None
        self.classes: list[str] = []
        self.unlistable: list[tuple[str, str]] = []

    def walk(self, tops: Sequence[str], recursive: bool = True) -> None:
        """Fill in the images below the folders `tops`, in the order in which training lists them."""
        def unlistable(here, error):
            self.unlistable.append((here, error.strerror or str(error)))
        self.paths, counts = list_trees(tops, recursive, left_out=self.left_out.add, unlistable=unlistable)
        if self.kind == 'classes':
            self.labels = np.repeat(np.arange(len(tops), dtype=np.int32), counts)


def _folder(path, key):
    """`path` if it is a folder that this user may list."""
    if not os.path.isdir(path):
        raise DataError(f"{key}: '{path}' is no folder{'' if os.path.exists(path) else ' and no file'}. "
                        'Give the folder of the images, or a text file that lists them.')
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{key}: '{path}' may not be read by this user.")
    return path


def _from_folder(path, labelled, recursive):
    root = _folder(path, 'PATH')
    try:
        classes, loose = class_folders(root)
    except OSError as e:
        raise DataError(f"'{root}' cannot be listed: {e.strerror}.") from None
    splits = bool(classes) and {c.lower() for c in classes} <= _SPLITS
    if labelled is None:
        labelled = recursive and len(classes) > 1 and not loose and not splits
    if labelled and not classes:
        raise DataError(f"'{root}' holds no class folders; --labelled needs {root}/<class>/<image>.")
    files = Files(path, root, 'classes' if labelled else 'folder')
    files.splits = splits
    if labelled:
        files.classes = classes
        known = set(classes)
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name not in known:
                    files.left_out.add(entry, root)
    files.walk([os.path.join(root, c) for c in classes] if labelled else [root], recursive)
    return files


def _from_list(path, root, labelled):
    root = _folder(os.path.expanduser(root or os.path.dirname(path) or '.'), '--root')
    names, labels = read_list(path)
    if labelled and labels is None:
        raise DataError(f"--labelled: the lines of '{path}' have no labels. Expected: name label.")
    files = Files(path, root, 'list')
    paths = [os.path.join(root, name) for name in names]
    share, text = missing_files(paths, names, labels, path, root)
    if share == 1:
        raise DataError(f'{text} --root FOLDER names another folder.')
    try:
        files.paths = PathList.of(paths, None, os.path.join(root, ''))
    except ValueError as e:
        raise DataError(f"'{path}' names what cannot be a file here: {e}.") from None
    if labels is not None and labelled is not False:
        if max(labels) >= 10 ** 7:
            raise DataError(f"'{path}' holds the label {max(labels)}; labels number the classes from 0 on.")
        files.labels, files.classes = np.array(labels, np.int32), [str(k) for k in range(max(labels) + 1)]
    return files


def find_files(path: Union[str, os.PathLike], root: Optional[str] = None, labelled: Optional[bool] = None,
               recursive: bool = True) -> Files:
    """Files of a folder or a list file.

    Args:
        path: folder, or text file with lines `name` or `name label`.
        root: folder that the names in a list are relative to; default: the list's own.
        labelled: True, False, or None: class folders are recognised.
        recursive: also look into sub-folders.

    Raises:
        DataError: no such folder or list, or one without a single image.
    """
    path = os.path.expanduser(str(path))
    files = _from_list(path, root, labelled) if os.path.isfile(path) else _from_folder(path, labelled, recursive)
    if not len(files.paths) and not files.unlistable:
        raise DataError(f"'{path}' holds no images (found: {files.left_out.words() or 'nothing'}). Give the folder of "
                        'the images, or a list file.')
    return files
