"""Names and lines that are not as they should be: which file is meant, what a line of a list looks like."""

import os
import re
from collections.abc import Sequence
from typing import Callable, Optional

from .image import shown
from .listing import is_image_name
from .text import as_gbk

_NUMBER = re.compile(r'[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?', re.I)
FORM = 'Expected: a name, or a name, a space and the number of its class from 0 on, such as: cats/1.jpg 0.'


def other_name(root: str, name: str, listed: dict[str, dict[str, Optional[str]]]) -> Optional[tuple[str, str]]:
    """(name that the file has in fact, how `name` differs from it), or None: a file below `root` that is not there.

    Names are written on other systems: with backslashes, in other case, in GBK (short texts of it are valid UTF-8).

    Args:
        listed: folders that were listed; the caller keeps the dict.
    """
    gbk = as_gbk(name)
    if gbk and os.path.isfile(os.path.join(root, gbk)):
        return gbk, 'was written in GBK: save the text as UTF-8'
    here, parts = root, []
    for part in name.replace('\\', '/').split('/'):
        if part in ('', '.'):
            continue
        if here not in listed:
            listed[here] = {}
            for entry in os.listdir(here) if os.path.isdir(here) else ():
                key = entry.lower()
                listed[here][key] = None if key in listed[here] else entry      # two of them: not known which
        real = part if os.path.lexists(os.path.join(here, part)) and part != '..' else listed[here].get(part.lower())
        if real is None:
            return None
        parts.append(real)
        here = os.path.join(here, real)
    found = '/'.join(parts)
    if found == name or not os.path.isfile(here):
        return None
    return found, "has backslashes: write '/'" if '\\' in name else 'differs in capital letters' \
        if found.lower() == name.lower() else "begins with '/' or './': leave that out"


def _bare(text):
    return text.strip().strip('"\'“”').strip()


def _fields(line):
    """(separator, fields) of a line of a table, or None."""
    found = next((s for s in (',', ';', '|', '\t') if s in line), None)
    return None if found is None else (found, [_bare(f) for f in line.split(found)])


def _as_table(line):
    separator, fields = _fields(line) or ('', [])
    if len(fields) < 2 or not any(map(is_image_name, fields)):
        return ''
    names = {',': 'commas (CSV)', ';': 'semicolons', '|': 'bars', '\t': 'tabs'}
    at = next(i for i, f in enumerate(fields) if is_image_name(f))
    rest = [f for i, f in enumerate(fields) if i != at and f]
    if separator == '\t':
        return _as_words(' '.join([fields[at], *rest]))
    label = rest[0] if rest and rest[0].isdecimal() else 0
    return f'its fields are separated by {names[separator]}. Write the name first, then a space and the class ' \
           f'number: {fields[at]} {label}'


def _as_words(line):
    """Names with something behind that is no class number."""
    words = line.split()
    at = next((i for i, w in enumerate(words) if is_image_name(_bare(w)) or is_image_name(_bare(w).rstrip(',;'))), None)
    if at is None:
        return ''
    name, behind = ' '.join(words[:at + 1]), words[at + 1:]
    if at and all(_NUMBER.fullmatch(w) for w in words[:at]):
        return f'a number stands before the name. Take it out, or put it behind: {words[at]} {words[0]}'
    if not behind:
        return ''
    if len(behind) > 1 and all(_NUMBER.fullmatch(w) for w in behind):
        return f'{len(behind)} numbers stand behind the name; an image has one class. Keep one: {name} {behind[0]}'
    if len(behind) == 1 and is_image_name(_bare(behind[0])):
        return 'it names two files, as lists of images and masks do. Keep the images alone, one per line, or see ' \
               'passl evaluate for masks'
    if len(behind) == 1 and _NUMBER.fullmatch(behind[0]) and not behind[0].isdecimal():
        return f'its label {behind[0]} is no whole number from 0 on. Number the classes 0, 1, 2 ...: {name} 0'
    if not behind[0].isdecimal():
        return f"its label {' '.join(behind)!r} is a word. Number the classes 0, 1, 2 ... ({name} 0), or sort the " \
               'images into one folder per class and use ImageFolder'
    return ''


def _as_path(line: str, root: str) -> str:
    """A name that leads to a file if it is read in another way."""
    name = line.rsplit(None, 1)[0] if line.rsplit(None, 1)[-1].isdecimal() else line
    found = other_name(root, name, {})
    if found:
        return f'its name {found[1]} ({shown(found[0])} is there)'
    readings: Sequence[tuple[str, Callable[[str], str]]] = (
        ('its name stands in quotes. Take them out', _bare),
        ("its name stands before dataroot's own files with a path of its own. Name only what follows dataroot, or give "
         'the folder above it as dataroot', _below(root)))
    for words, mend in readings:
        other = mend(name)
        if other and other != name and os.path.isfile(os.path.join(root, other)):
            return f'{words}: {other}'
    if re.match(r'[A-Za-z]:[\\/]', name):
        return 'it is a path of Windows. Write names relative to dataroot, with / between folders'
    if re.match(r'(?:https?|s3|gs|ftp)://', name):
        return 'it is an address. Images are read from dataroot; nothing is downloaded'
    return 'it is written with backslashes. Write / between folders' if '\\' in name and '/' not in name else ''


def _as_other_name(line, root):
    name = line.rsplit(None, 1)[0] if line.rsplit(None, 1)[-1].isdecimal() else line
    other = _spelled(root, name)
    if other:
        return f'a file has nearly this name: {other}'
    return '' if name.isascii() else 'its name is not in plain letters. If the list is not in UTF-8 but in GBK or ' \
        'such, save it anew: iconv -f GB18030 -t UTF-8 LIST > NEW_LIST'


def _below(root):
    """Takes parts off the front of a name until the file exists in `root`."""
    def shorter(name):
        parts = name.replace('\\', '/').split('/')
        return next(('/'.join(parts[i:]) for i in range(1, len(parts))
                     if os.path.isfile(os.path.join(root, *parts[i:]))), '')
    return shorter


def _spelled(root, name):
    """The file of the same name with another ending; or ''."""
    folder, base = os.path.split(name)
    try:
        found = os.listdir(os.path.join(root, folder))[:10**5]
    except (OSError, ValueError):
        return ''
    stem = os.path.splitext(base)[0].lower()
    same = [f for f in found if is_image_name(f) and os.path.splitext(f)[0].lower() in (stem, base.lower())]
    return os.path.join(folder, same[0]) if same else ''


def guess_form(line: str, root: Optional[str] = None, first: bool = False) -> str:
    """What a line that names no file, or differs from others, is taken for; with the way out.

    Args:
        line: as it stands in the list. root: the folder that names are relative to, if it is known.
        first: it is the list's first line, where a table has its header.

    Returns:
        Such as 'its name stands in quotes. Take them out: a.jpg'; or '' if nothing comes to mind.
    """
    line = line.strip()
    found = ''
    if line[:1] in '#%' or line[:2] == '//':
        found = 'it is a comment. Take it out'
    elif line[:1] in '{[':
        found = 'it is JSON'
    elif root is not None:
        found = _as_path(line, root)
    found = found or _as_table(line) or ('its name stands in quotes. Take them out' if line[:1] in '"\'“' else '')
    found = found or _as_words(line) or ('' if root is None else _as_other_name(line, root))
    words = [_bare(w) for w in re.split(r'[\s,;|]+', line) if w]
    if not found and first and words and not any(map(is_image_name, words)):
        found = 'it is a header. Take it out'
    return found
