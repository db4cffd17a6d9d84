"""Images named by a text file."""

import os
from typing import Any, Optional, Union
from collections.abc import Iterable

import numpy as np

from ..utils.config.kinds import Flag
from ..utils.errors import DataError
from ..utils.logger import get_logger
from .builder import DATASETS
from .folder import File, Path, _FileDataset, check_folder
from .path_list import PathList

_LOOKED_FOR = 1000      # so many files are looked for at start-up, evenly over the list
MAX_CLASSES = 10**6     # there is a name for each: a larger label in a hostile list would fill the memory


def read_list(path: Union[str, os.PathLike]) -> tuple[list[str], Optional[list[int]]]:
    """(names, labels or None) of a list file with lines `name` or `name label`.

    The label is a whole number from 0 on behind the last space or tab; names may hold spaces.
    Empty lines are skipped. Either all lines have a label or none.

    Raises:
        DataError: unreadable, empty, or lines with and without a label.
    """
    if os.path.exists(path) and not os.path.isfile(path):       # a pipe would wait, a device may never end
        raise DataError(f"list_file: '{path}' is no file. Name a text file with one image per line.")
    try:
        with open(path, encoding='utf-8-sig') as f:
            lines = [(n, line.strip()) for n, line in enumerate(f, 1) if line.strip()]
    except (OSError, ValueError) as e:
        raise DataError(f"list_file: '{path}' cannot be read: {e}") from None
    if not lines:
        raise DataError(f"list_file: '{path}' names no images. Expected lines: name, or name label.")
    names, labels = [], []
    for number, line in lines:
        parts = line.rsplit(None, 1)
        labelled = len(parts) == 2 and parts[1].isascii() and parts[1].isdecimal()
        names.append(parts[0] if labelled else line)
        if '\0' in line:
            raise DataError(f"list_file: line {number} of '{path}' names what cannot be a file here: it holds a zero "
                            'byte.')
        if labelled:
            if len(parts[1].lstrip('0')) > 9 or int(parts[1]) >= MAX_CLASSES:
                raise DataError(f"list_file: line {number} of '{path}' holds the label {parts[1][:20]}; labels number "
                                f'the classes from 0 on, up to {MAX_CLASSES - 1}.')
            labels.append(int(parts[1]))
        if labels and len(labels) != len(names):
            raise DataError(f"list_file: line {number} of '{path}' ({line!r}) differs from the lines before "
                            "it: "
                            'either every line ends in a label (a whole number) or none.')
    return names, labels or None


def paths_in(root: str, names: Iterable[str], list_file: Union[str, os.PathLike],
             allow_outside: bool = False) -> list[str]:
    """Paths of the files `names` below the folder `root`.

    The names are taken as text: `a/../b` is `b`, and a link that lies inside `root` is followed wherever it leads,
    since the folder's owner put it there.

    Raises:
        DataError: a name leads out of `root` (`../x`, or an absolute name elsewhere) and `allow_outside` is false.
    """
    absolute, paths = os.path.abspath(root), []
    for number, name in enumerate(names, 1):
        if (name[0] == os.sep or '..' in name) and not allow_outside:
            inner = os.path.relpath(name, absolute) if os.path.isabs(name) else os.path.normpath(name)
            if inner.split(os.sep)[0] == '..':
                raise DataError(f"list_file: name {number} of '{list_file}', {name[:200]!r}, lies outside dataroot "
                                f"'{root}'. Mend the list, or allow such names with allow_outside: true.")
            name = inner
        paths.append(os.path.join(root, name))
    return paths


@DATASETS.register()
class ImageList(_FileDataset):
    """The images named in a text file, one per line: `name` or `name label`.

    Args:
        dataroot: folder that the names are relative to.
        list_file: the text file (UTF-8); relative names are looked up from the working
            folder, then from `dataroot`.
        allow_outside: the list may name files outside `dataroot` (`../x`, absolute names). A list from elsewhere
            could otherwise make the run read any file.
        return_label ... max_bad: see ImageDataset.

    Raises:
        DataError: no list, a line of another form, a name outside `dataroot`, or more than `max_bad` of the files
            missing.
    """

    def __init__(self, dataroot: Path, list_file: File, return_label: Flag = False, *, allow_outside: Flag = False,
                 **views: Any) -> None:
        super().__init__(return_label, **views)
        root = check_folder(dataroot)
        list_file = os.path.expanduser(str(list_file))
        inside = os.path.join(root, list_file)
        if not os.path.isfile(list_file) and os.path.isfile(inside):
            list_file = inside
        names, labels = read_list(list_file)
        paths = paths_in(root, names, list_file, allow_outside)
        self._check_files(paths, list_file)
        try:
            self.samples = PathList.of(paths, labels, os.path.join(root, ''))
        except ValueError as e:
            raise DataError(f"list_file: '{list_file}' names what cannot be a file here: {e}.") from None
        self.classes = [str(k) for k in range(max(labels) + 1)] if labels else []
        self._filled()

    def _check_files(self, paths, list_file):
        chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_FOR)).astype(int))
        missing = [paths[i] for i in chosen if not os.path.isfile(paths[i])]
        if not missing:
            return
        text = (f"'{list_file}': {len(missing)} of {len(chosen)} files looked for do not exist, "
                f"first '{missing[0]}'.")
        if self.on_error == 'raise' or len(missing) > self.max_bad * len(chosen):
            raise DataError(f'{text} The names must be relative to dataroot.')
        get_logger().warning('%s They will be replaced by other images.', text)
