"""Folders of images: one folder per class, or no classes at all."""

import os
from typing import Annotated, Any, Optional, Sequence, Union

from ..utils.config.kinds import Check, Flag
from ..utils.errors import ConfigError, DataError, suggest
from ..utils.logger import get_logger
from .base import ImageDataset
from .builder import DATASETS
from .contents import LeftOut
from .image import EXTENSIONS, read_file
from .listing import class_folders, list_trees
from .text import read_lines


def _is_path(value):
    return isinstance(value, (str, os.PathLike)) and bool(str(value))


Path = Annotated[Union[str, os.PathLike], Check('the name of a folder', _is_path)]
File = Annotated[Union[str, os.PathLike], Check('the name of a file', _is_path)]
PathOrPaths = Annotated[Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]], Check(
    'the name of a folder, or a list of them',
    lambda v: _is_path(v) or isinstance(v, (list, tuple)) and len(v) > 0 and all(_is_path(p) for p in v))]
NamesOrFile = Annotated[Union[str, os.PathLike, Sequence[str]], Check(
    'a list of names, or the name of a text file', lambda v: _is_path(v) or isinstance(v, (list, tuple)))]
_SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}


def check_folder(path: Union[str, os.PathLike], key: str = 'dataroot') -> str:
    """`path` as a string if it is a folder that can be listed; DataError otherwise."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ConfigError(f'{key} must be the name of a folder, not {path!r}.')
    path = os.path.expanduser(str(path))
    if not os.path.exists(path):
        parent = os.path.abspath(path)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        how = 'Set it in the config or with -o dataloader.train.dataset.dataroot=FOLDER.' if key == 'dataroot' else \
            'Give a folder that exists; nothing is downloaded.'
        raise DataError(f"{key}: no folder '{path}' (what exists is '{parent}'). {how}")
    if not os.path.isdir(path):
        raise DataError(f"{key}: '{path}' is a file, not a folder.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{key}: '{path}' may not be read by this user.")
    return path


def read_names(value: Union[str, os.PathLike, Sequence[str]], key: str) -> list[str]:
    """A list of names from a list, or from a text file with one name per line."""
    if isinstance(value, (list, tuple)):
        names = [str(v) for v in value]
    else:
        try:
            names = [line.split()[0] for _, line in read_lines(os.path.expanduser(str(value)))]
        except DataError as e:
            raise DataError(f'{key}: {e}') from None
    if not names or len(set(names)) != len(names):
        raise DataError(f'{key}: needs names that differ, got {len(names)} with {len(set(names))} different ones.')
    return names


class _FileDataset(ImageDataset):
    """`samples` holds paths, or (path, class number) pairs."""

    def read_bytes(self, index: int) -> tuple[bytes, str]:
        """(bytes of the file, its path) of image `index`. Raises ImageReadError."""
        entry = self.samples[index]
        path = entry if isinstance(entry, str) else entry[0]
        return read_file(path), path

    def label(self, index: int) -> int:
        return self.samples[index][1]

    def _found(self):
        words = self.left_out.words()
        return words and f' (left out: {words})'


@DATASETS.register()
class ImageFolder(_FileDataset):
    """`dataroot/<class>/**/image`: one folder per class, numbered in the order of their names.

    The order is that of `sorted` (as in PASSL and torchvision), so that a classifier's weights
    keep their meaning; the same folder names give the same numbers for train and val.

    Args:
        dataroot: folder of class folders.
        classes: use these class folders only, numbered in this order: a list, or a text file
            with one name per line. Default: all.
        return_label ... max_bad: see ImageDataset.

    Raises:
        DataError: no such folder, no class folders, or a class without images.
    """

    def __init__(self, dataroot: Path, return_label: Flag = True, *, classes: Optional[NamesOrFile] = None,
                 **views: Any) -> None:
        super().__init__(return_label, **views)
        root = check_folder(dataroot)
        folders, loose = class_folders(root)
        self._check_shape(root, folders, loose)
        if classes is not None:
            wanted = read_names(classes, 'classes')
            known = set(folders)            # names of folders: '../x' is none of them
            unknown = [c for c in wanted if c not in known]
            if unknown:
                raise DataError(f"'{root}' has no class folder '{unknown[0]}' ({len(unknown)} of {len(wanted)} "
                                f'classes are missing). {suggest(unknown[0], folders)}')
            folders = wanted
        if loose:
            get_logger().warning("%d images directly in '%s' belong to no class and are left out.", loose, root)
        self.dataroot = root
        self.classes = folders
        tops = [os.path.join(root, name) for name in folders]
        self.tops, self.left_out = [root], LeftOut()
        self.samples, counts = list_trees(tops, labelled=True, left_out=self.left_out.add)
        empty = [name for name, count in zip(folders, counts) if not count]
        if not self.samples:
            raise DataError(f"'{root}' has {len(folders)} folders ({', '.join(folders[:3])} ...) but no images in "
                            f'them{self._found()}. Known endings: {" ".join(EXTENSIONS)}.')
        if empty:
            get_logger().warning("%d class folders of '%s' hold no images: %s. They keep their numbers.",
                                 len(empty), root, ', '.join(empty[:5]))
        self._filled()

    def _check_shape(self, root, folders, loose):
        name = type(self).__name__
        if not folders and loose:
            raise DataError(f"'{root}' holds {loose} images but no class folders; for unlabelled images use "
                            f'name: UnlabelledFolder. {name} needs {root}/<class>/<image>.')
        if not folders:
            raise DataError(f"'{root}' is empty: {name} needs {root}/<class>/<image>.")
        if set(f.lower() for f in folders) <= _SPLITS:
            raise DataError(f"'{root}' holds the folders {', '.join(folders)}, which are no classes. "
                            f'Use one of them: dataroot: {os.path.join(root, folders[0])}.')


@DATASETS.register()
class UnlabelledFolder(_FileDataset):
    """All images below one or several folders, flat or nested, without labels.

    Args:
        dataroot: a folder, or a list of folders.
        recursive: also look into sub-folders.
        return_label: must be False.
        return_two_sample ... max_bad: see ImageDataset.

    Raises:
        DataError: a folder is missing or without images.
    """

    def __init__(self, dataroot: PathOrPaths, return_label: Flag = False, *, recursive: Flag = True,
                 **views: Any) -> None:
        super().__init__(return_label, **views)
        roots: Any = dataroot if isinstance(dataroot, (list, tuple)) else [dataroot]
        roots = [check_folder(root) for root in roots]
        self.tops, self.left_out = roots, LeftOut()
        self.samples, counts = list_trees(roots, recursive, left_out=self.left_out.add)
        for root, count in zip(roots, counts):
            if not count:
                more = '' if recursive else ' (its sub-folders are left out: recursive: False)'
                raise DataError(f"'{root}' holds no images{more}{self._found()}. Known endings: "
                                f"{' '.join(EXTENSIONS)}.")
        self.dataroot = dataroot
        self._filled()
