"""Images named by a text file."""

import os
from typing import Any, Optional, Union
from collections.abc import Iterable, Sequence

from ..utils.config.kinds import Flag
from ..utils.errors import DataError
from ..utils.logger import get_logger
from ..utils.misc import evenly
from .builder import DATASETS
from .folder import File, Path, _FileDataset, check_folder
from .image import MAX_FILE_BYTES, shown
from .list_lines import FORM, guess_form
from .path_list import PathList
from .text import read_lines

_LOOKED_FOR = 1000      # so many files are looked for at start-up, evenly over the list
MAX_CLASSES = 10**6     # there is a name for each: a larger label in a hostile list would fill the memory


def read_list(path: Union[str, os.PathLike]) -> tuple[list[str], Optional[list[int]]]:
    """(names, labels or None) of a list file with lines `name` or `name label`.

    The label is a whole number from 0 on behind the last space or tab; names may hold spaces.
    Empty lines are skipped. Either all lines have a label or none.

    Raises:
        DataError: unreadable, empty, lines with and without a label, or one image with two labels.
    """
    if os.path.exists(path) and not os.path.isfile(path):       # a pipe would wait, a device may never end
        raise DataError(f"list_file: '{path}' is no file. Name a text file with one image per line.")
    try:
        lines = read_lines(path, MAX_FILE_BYTES)
    except DataError as e:
        raise DataError(f'list_file: {e}') from None
    if not lines:
        raise DataError(f"list_file: '{path}' names no images. Expected lines: name, or name label.")
    names, labels = [], []
    for number, line in lines:
        parts = line.rsplit(None, 1)
        labelled = len(parts) == 2 and parts[1].isascii() and parts[1].isdecimal()
        names.append(parts[0] if labelled else line)
        if labelled:
            if len(parts[1].lstrip('0')) > 9 or int(parts[1]) >= MAX_CLASSES:
                raise DataError(f"list_file: line {number} of '{path}' holds the label {parts[1][:20]}; labels number "
                                f'the classes from 0 on, up to {MAX_CLASSES - 1}.')
            labels.append(int(parts[1]))
        if labels and len(labels) != len(names):
            raise DataError(_differing(path, lines[0], (number, line)))
    _check_labels(path, names, labels)
    return names, labels or None


def _check_labels(path, names, labels):
    """DataError for an image with two labels; warnings on images that stand twice, and labels that begin with 1."""
    label_of = dict(zip(names, labels or names))
    if len(label_of) < len(names):
        two = next((n for n, label in zip(names, labels) if label_of[n] != label), None)
        if two is not None:
            raise DataError(f"list_file: '{path}' gives the image {shown(two)} two labels. An image has one here: "
                            'decide for one, or take a data set of the kind voc for several.')
        get_logger().warning("'%s' names %d images more than once; they count as often.", path,
                             len(names) - len(label_of))
    if labels and 0 not in labels:
        get_logger().warning("'%s' gives no image the label 0: if its labels begin with 1, subtract 1. As it is, a "
                             'class 0 without images is trained.', path)


def _differing(path, first, other):
    """The message about two (number, line) of which one ends in a label."""
    guesses = [(n, guess_form(line, first=n == first[0])) for n, line in (other, first)]
    number, guess = next((g for g in guesses if g[1]), (0, ''))
    return (f"list_file: lines {first[0]} ({first[1][:200]!r}) and {other[0]} ({other[1][:200]!r}) of '{path}' differ: "
            f'either every line ends in a label (a whole number) or none. '
            f"{f'Line {number}: {guess}. ' if guess else ''}{FORM}")


def missing_files(paths: Sequence[str], names: Sequence[str], labels: Optional[Sequence[int]],
                  list_file: Union[str, os.PathLike], root: str) -> tuple[float, str]:
    """(share of the files looked for, a thousand evenly over the list, that do not exist; what to say of them)."""
    chosen = evenly(len(paths), _LOOKED_FOR)
    missing = [i for i in chosen if not os.path.isfile(paths[i])]
    if not missing:
        return 0.0, ''
    line = names[missing[0]] + ('' if labels is None else f' {labels[missing[0]]}')
    guess = guess_form(line, root, not missing[0])
    text = f"'{list_file}': {len(missing)} of {len(chosen)} files looked for do not exist, first " \
           f"'{paths[missing[0]]}'. The names must be relative to '{root}'."
    return len(missing) / len(chosen), text + (f' The line {line[:200]!r}: {guess}. {FORM}' if guess else '')


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
        self._check_files(paths, names, labels, list_file, root)
        try:
            self.samples = PathList.of(paths, labels, os.path.join(root, ''))
        except ValueError as e:
            raise DataError(f"list_file: '{list_file}' names what cannot be a file here: {e}.") from None
        self.tops = [root]
        self.classes = [str(k) for k in range(max(labels) + 1)] if labels else []
        self._filled()

    def _check_files(self, paths, names, labels, list_file, root):
        share, text = missing_files(paths, names, labels, list_file, root)
        if share and (self.on_error == 'raise' or share > self.max_bad):
            raise DataError(text)
        if share:
            get_logger().warning('%s In training others take their place.', text)
