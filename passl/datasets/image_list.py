"""Images named by a text file."""

import os

import numpy as np

from ..utils.errors import DataError
from ..utils.logger import get_logger
from .builder import DATASETS
from .folder import _FileDataset, check_folder
from .path_list import PathList

_LOOKED_FOR = 1000      # so many files are looked for at start-up, evenly over the list


def read_list(path):
    """(names, labels or None) of a list file with lines `name` or `name label`.

    The label is a whole number from 0 on behind the last space or tab; names may hold spaces.
    Empty lines are skipped. Either all lines have a label or none.

    Raises:
        DataError: unreadable, empty, or lines with and without a label.
    """
    try:
        with open(path, encoding='utf-8-sig') as f:
            lines = [(n, line.strip()) for n, line in enumerate(f, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"list_file: '{path}' cannot be read: {e}") from None
    if not lines:
        raise DataError(f"list_file: '{path}' names no images. Expected lines: name, or name label.")
    names, labels = [], []
    for number, line in lines:
        parts = line.rsplit(None, 1)
        labelled = len(parts) == 2 and parts[1].isdigit()
        names.append(parts[0] if labelled else line)
        if labelled:
            labels.append(int(parts[1]))
        if labels and len(labels) != len(names):
            raise DataError(f"list_file: line {number} of '{path}' ({line!r}) differs from the lines before "
                            "it: "
                            'either every line ends in a label (a whole number) or none.')
    return names, labels or None


@DATASETS.register()
class ImageList(_FileDataset):
    """The images named in a text file, one per line: `name` or `name label`.

    Args:
        dataroot: folder that the names are relative to.
        list_file: the text file (UTF-8); relative names are looked up from the working
            folder, then from `dataroot`.
        return_label ... max_bad: see ImageDataset.

    Raises:
        DataError: no list, a line of another form, or more than `max_bad` of the files missing.
    """

    def __init__(self, dataroot, list_file, return_label=False, return_two_sample=False, transforms=None,
                 view_trans1=None, view_trans2=None, on_error='replace', max_bad=0.1):
        super().__init__(return_label, return_two_sample, transforms, view_trans1, view_trans2, on_error,
                         max_bad)
        root = check_folder(dataroot)
        list_file = os.path.expanduser(str(list_file))
        inside = os.path.join(root, list_file)
        if not os.path.isfile(list_file) and os.path.isfile(inside):
            list_file = inside
        names, labels = read_list(list_file)
        paths = [os.path.join(root, name) for name in names]
        self._check_files(paths, list_file)
        try:
            self.samples = PathList.of(paths, labels, os.path.join(root, ''))
        except ValueError as e:
            raise DataError(f"list_file: '{list_file}' names what cannot be a file here: {e}.") from None
        except OverflowError:
            raise DataError(f"list_file: '{list_file}' holds the label {max(labels)}; labels number the classes from "
                            '0 on.') from None
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
