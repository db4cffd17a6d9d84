"""Looking at the folders of a labelled data set before anything is read, and saying what is wrong with them."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

from ...utils.errors import ConfigError, DataError
from ..folder import check_folder
from ..image import shown
from ..image_list import paths_in
from ..list_lines import other_name
from ..listing import is_hidden, is_image_name
from ..text import as_gbk, read_lines

_SHOWN = 12                     # so many entries of a folder are named
_LISTED = 10**5                 # of a larger folder only so many are looked at for a message


def entries_of(folder: str) -> list[str]:
    """Sorted names in `folder`, folders with a slash; of a huge folder a part, of one that may not be read none."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    names.append(entry.name + ('/' if entry.is_dir() else ''))
                if len(names) >= _LISTED:
                    break
    except OSError:
        return []
    return sorted(names)


def found_in(folder: str) -> str:
    """What stands in `folder`, as one line for a message."""
    names = entries_of(folder)
    folders, files = [n for n in names if n.endswith('/')], [n for n in names if not n.endswith('/')]
    text = ', '.join(shown(n)[1:-1] for n in (folders + files)[:_SHOWN])
    more = len(names) - _SHOWN
    return (text or 'nothing') + (f', ... ({more} more)' if more > 0 else '')


def nearby(root: str, marks: Sequence[str]) -> Optional[str]:
    """A folder near `root` that holds all of `marks`: above it, or up to two levels below; None if there is none.

    Args:
        root: the folder that was given.
        marks: paths that the right folder holds.
    """
    def fits(folder):
        return all(os.path.exists(os.path.join(folder, m)) for m in marks)
    root = os.path.abspath(root)
    above = [os.path.dirname(root), os.path.dirname(os.path.dirname(root))]
    below = [os.path.join(root, n[:-1]) for n in entries_of(root)[:200] if n.endswith('/')]
    deeper = [os.path.join(b, n[:-1]) for b in below[:20] for n in entries_of(b)[:50] if n.endswith('/')]
    return next((f for f in above + below + deeper if fits(f)), None)


def layout_error(root: str, problem: str, tree: Iterable[str], way_out: str) -> DataError:
    """DataError that shows what is wrong, what was expected, what is there, and the way out.

    Args:
        root: the data set's folder.
        problem: one sentence.
        tree: lines of the expected tree.
        way_out: one or two sentences.
    """
    lines = '\n'.join(f'    {line}' for line in tree)
    return DataError(f'{problem}\n  expected:\n{lines}\n  found in {shown(root)}: {found_in(root)}\n  {way_out}')


def check_root(root: Union[str, os.PathLike], tree: Iterable[str], marks: Sequence[str], kind: str) -> str:
    """`root` as a string, if it is a folder that holds all of `marks`.

    Args:
        root: as the user gave it.
        tree: lines of the expected tree, for the message.
        marks: names directly below `root` that must be there.
        kind: what the user asked for, such as 'voc'.

    Raises:
        DataError: no folder, or another one; a right one nearby is named.
    """
    root = check_folder(root, 'root')
    missing = [m for m in marks if not os.path.exists(inside(root, m, 'path'))]
    if not missing:
        return root
    near = nearby(root, marks)
    if near is not None:
        way_out = f'The right folder seems to be near: use root={shown(near)}.'
    else:
        way_out = 'Give the folder that holds ' + ' and '.join(f"'{m}'" for m in marks) + ' as root.'
    raise layout_error(root, f"{shown(root)} is no data set of the kind '{kind}'; missing: {', '.join(missing)}.", tree,
                       way_out)


def check_text(value: str, key: str) -> str:
    """`value` if it is a plain non-empty text, as names of splits and folders are. Raises ConfigError."""
    if not isinstance(value, str) or not value.strip() or '\0' in value:
        raise ConfigError(f'{key} must be a name, not {value!r}.')
    return value


def inside(root: str, name: str, key: str) -> str:
    """The path of `name` below `root`. Raises ConfigError where it leads out of it."""
    check_text(name, key)
    try:
        return paths_in(root, [name], key)[0]
    except DataError:
        raise ConfigError(f"{key}: '{name}' lies outside root '{root}'. Give a path below it.") from None


def read_ids(path: Union[str, os.PathLike]) -> list[str]:
    """The names in a list file, one per line; what follows the first blank is left out.

    Raises:
        DataError: unreadable, empty, or a name stands twice.
    """
    names = [line.split()[0] for _, line in read_lines(path)]
    if not names:
        raise DataError(f'{shown(path)} names no images. Expected: one name per line.')
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f'{shown(path)} names {shown(name)} twice. Remove one of the two lines.')
        seen.add(name)
    return names


def _listing(folder):
    """Names in a folder, all at once: asking for each file takes minutes on a network file system; none if missing."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise DataError(f'{shown(folder)} cannot be listed: {e.strerror}.') from None


def same_stem(one: str, other: str) -> DataError:
    """DataError for two images that have one name but for the ending."""
    return DataError(f'{shown(one)} and {shown(other)} differ in their ending only: it is not clear whose mask is '
                     'meant. Rename one of them.')


def find_images(root: str, folders: Sequence[str], ids: Sequence[str], what: str, tree: Iterable[str],
                source: str) -> list[str]:
    """The image `<id>.<any ending>` of each id, in the first of the `folders` below `root` that has one.

    Raises:
        DataError: an id leads out of its folder, has no file, or two that differ in their ending only.
    """
    known: dict[str, dict[str, list[str]]] = {}
    found: list[Any] = [None] * len(ids)
    for top in folders:
        for k, path in enumerate(paths_in(os.path.join(root, top), ids, source)):
            folder, stem = os.path.split(path)
            if folder not in known:
                known[folder] = {}
                for name in sorted(filter(is_image_name, _listing(folder))):
                    known[folder].setdefault(os.path.splitext(name)[0], []).append(os.path.join(folder, name))
            files = known[folder].get(stem, ())
            if found[k] is None and len(files) > 1:
                raise same_stem(*files[:2])
            if found[k] is None and files:
                found[k] = files[0]
    missing = [i for i, path in zip(ids, found) if path is None]
    if missing:
        first = shown(os.path.join(root, folders[-1], missing[0]))
        raise layout_error(root, f"{len(missing)} of {len(ids)} {what} are missing, first {first} (with any ending of "
                           'an image).', tree, f'They are named by {shown(source)}. Mend the list, or add the files.'
                           + _about_id(missing[0], known))
    return found


def _about_id(name, known):
    """Sentence on an id without a file that may have been written in another way."""
    there = {stem.lower() for files in known.values() for stem in files}
    gbk = as_gbk(name)
    return ' They differ in capital letters.' if name.lower() in there else \
        f' In GBK {shown(name)} would be {shown(gbk)}: save the list as UTF-8.' if gbk else ''


def missing_in(paths: Sequence[str]) -> list[int]:
    """Indices of the `paths` that are not there; each folder is listed once."""
    listed, missing = {}, []
    for k, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(_listing(folder))
        if name not in listed[folder]:
            missing.append(k)
    return missing


def check_all_exist(paths: Sequence[str], what: str, root: str, tree: Iterable[str], way_out: str) -> None:
    """Raises DataError if some of `paths` are missing, with their number and the first."""
    missing = missing_in(paths)
    if missing:
        problem = f'{len(missing)} of {len(paths)} {what} are missing, first {shown(paths[missing[0]])}.'
        other = other_name(root, os.path.relpath(paths[missing[0]], root), {})
        way_out = f'{way_out} The name {other[1]} ({shown(other[0])} is there).' if other else way_out
        raise layout_error(root, problem, tree, way_out)
