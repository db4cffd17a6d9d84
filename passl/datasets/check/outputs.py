"""The files that the check writes: only where asked, never over an existing one unless asked, whole or not at all."""

import json
import os
from collections.abc import Iterable
from typing import Any, Optional

import numpy as np

from ...utils.errors import ConfigError, DataError
from ...utils.files import whole_file
from .findings import Images, Part


def check_output(file: Optional[str], overwrite: bool, flag: str) -> None:
    """Raise ConfigError if `file` may not be written."""
    if file is None:
        return
    if os.path.isdir(file):
        raise ConfigError(f"{flag}: '{file}' is a folder. Give the name of a file.")
    if os.path.lexists(file) and not overwrite:
        raise ConfigError(f"{flag}: '{file}' exists. Give another name, or add --overwrite.")
    folder = os.path.dirname(file) or '.'
    if not os.path.isdir(folder):
        raise ConfigError(f"{flag}: there is no folder '{folder}'.")


def write_text(file: str, lines: Iterable[str], overwrite: bool) -> None:
    """Write texts to `file`, complete or not at all; one that has appeared meanwhile stays. Raises DataError."""
    try:
        with whole_file(file, 'w', replace=overwrite, encoding='utf-8', newline='\n') as f:
            f.writelines(lines)
    except FileExistsError:
        raise DataError(f"'{file}' has appeared meanwhile and was not replaced.") from None
    except OSError as e:
        raise DataError(f"'{file}' cannot be written: {e.strerror or e}.") from None


def write_json(file: str, report: dict[str, Any], overwrite: bool) -> None:
    """The report; bytes of names that are no UTF-8 stand there as \\udc80 - \\udcff (os.fsencode gives them back)."""
    write_text(file, [json.dumps(report, indent=1, ensure_ascii=True), '\n'], overwrite)


def _fits(name, labelled):
    """True if `read_list` reads a line with `name` back as it is."""
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        return False
    if name != name.strip() or not name or name[0] == '\ufeff' or '\n' in name or '\r' in name:
        return False
    parts = name.rsplit(None, 1)
    return labelled or not (len(parts) == 2 and parts[1].isdigit())


def kept(images: Images, part: Part, drop_duplicates: bool) -> np.ndarray:
    """Numbers (in the part) of the readable images; with `drop_duplicates` the first of each content only.

    Images whose copies stand under two labels are all left out then: nobody knows which label is right.
    """
    good = np.flatnonzero(images.ok[part.offset:part.offset + len(part)])
    if not drop_duplicates:
        return good
    content = images.content[part.offset + good]
    if part.labels is not None:
        low = np.full(len(images.records), np.iinfo(np.int32).max, np.int32)
        high = np.full(len(images.records), -1, np.int32)
        np.minimum.at(low, content, part.labels[good])
        np.maximum.at(high, content, part.labels[good])
        good, content = good[low[content] == high[content]], content[low[content] == high[content]]
    return good[np.sort(np.unique(content, return_index=True)[1])]


def write_list(file: str, images: Images, part: Part, drop_duplicates: bool, overwrite: bool) -> tuple[int, str, int]:
    """The list of good images for the data set ImageList.

    Returns:
        (number of images in it, folder that its names are relative to, number of names that no list can hold).
    """
    root = part.files[0].root if len(part.files) == 1 else \
        os.path.commonpath([os.path.abspath(f.root) for f in part.files])
    absolute = len(part.files) > 1
    prefix = os.path.join(root, '')
    lines, odd = [], 0
    for i in kept(images, part, drop_duplicates):
        path = os.path.abspath(part.path(i)) if absolute else part.path(i)
        name = path[len(prefix):] if path.startswith(prefix) else path
        if not _fits(name, part.labels is not None):
            odd += 1
            continue
        lines.append(f'{name}\n' if part.labels is None else f'{name} {part.labels[i]}\n')
    if not lines:
        raise DataError(f"No good image is left for '{file}', so it was not written.")
    write_text(file, lines, overwrite)
    return len(lines), root, odd
