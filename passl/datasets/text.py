"""Texts that users give (lists, names of classes, XML, JSON), whatever wrote them: the one reader of their bytes."""

import codecs
import contextlib
import os
import re
from typing import Union

from ..utils.errors import DataError
from .image import read_file, shown

MAX_TEXT_BYTES = 2**26          # a list of a million names has some 20 MB
_MARKS = ((codecs.BOM_UTF8, 'utf-8-sig'), (codecs.BOM_UTF32_LE, 'utf-32'), (codecs.BOM_UTF32_BE, 'utf-32'),
          (codecs.BOM_UTF16_LE, 'utf-16'), (codecs.BOM_UTF16_BE, 'utf-16'))        # a mark of 32 begins with that of 16
_DECLARED = re.compile(rb'''\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']''')
_WIDER = {'gb2312': 'gb18030', 'gbk': 'gb18030'}           # what such files hold in fact
_HAN = re.compile('[\u3400-\u9fff]')


def decode_text(data: bytes, name: object) -> str:
    """The text in `data`: UTF-8, or what a byte order mark or an XML declaration says.

    Anything else is refused, not guessed: wrong names of classes and files would follow.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: another encoding, or a zero byte in the text.
    """
    marked = next((e for mark, e in _MARKS if data.startswith(mark)), None)
    declared = None if marked else _declared(data, name)
    # without a mark: a first character of ASCII in 16 bits
    wide = 0 in data[:2] and len(data) % 2 == 0 and ('utf-16-be' if data[0] == 0 else 'utf-16-le')
    for kind in filter(None, (marked,) if marked else (wide, declared, 'utf-8')):
        try:
            text = data.decode(kind)
            break
        except UnicodeError as e:
            at = getattr(e, 'start', 0)
    else:
        raise DataError(_refusal(data, name, declared or marked or 'UTF-8', at))
    if '\0' in text:
        line = text.count('\n', 0, text.index('\0')) + 1
        raise DataError(f'{shown(name)}: line {line} holds a zero byte: it is no text file.')
    return text


def _declared(data, name):
    """The encoding that an XML file declares, or None."""
    found = _DECLARED.match(data[:400])
    if not found:
        return None
    said = found.group(1).decode('ascii', 'replace')
    try:
        encoding = codecs.lookup(said).name
        with contextlib.suppress(UnicodeError):
            'a'.encode(encoding)            # LookupError for codecs that are no encoding of texts
    except LookupError:
        raise DataError(f'{shown(name)} declares the encoding {shown(said)}, which is not known. Save it as UTF-8.') \
            from None
    # what declares 16 bits in a declaration of 8 was saved again since
    return 'utf-8' if encoding.startswith(('utf-16', 'utf-32')) else _WIDER.get(encoding, encoding)


def _refusal(data, name, encoding, at):
    line = data.count(b'\n', 0, at) + 1
    here = data[data.rfind(b'\n', 0, at) + 1:].split(b'\n', 1)[0]
    reading = _gbk(here).strip()
    hint = reading and f" As GBK line {line} would read {shown(reading[:60])}: if that is right, make it UTF-8 with " \
        "'iconv -f GB18030 -t UTF-8'."
    return f'{shown(name)} is no {encoding} text (byte {at}, line {line}). Save it as UTF-8.{hint}'


def read_text(path: Union[str, os.PathLike], limit: int = MAX_TEXT_BYTES) -> str:
    """`decode_text` of a file.

    Raises:
        DataError: also: missing, no regular file, or more than `limit` bytes.
    """
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as e:
        raise DataError(f"{shown(path)} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
    if size > limit:
        raise DataError(f'{shown(path)} has {size} bytes, more than the {limit} that such a file can have.')
    return decode_text(read_file(path), path)


def read_lines(path: Union[str, os.PathLike], limit: int = MAX_TEXT_BYTES) -> list[tuple[int, str]]:
    """[(number from 1 on, line without blanks at its ends)] of the lines of a text file that are not empty.

    Lines end as in text files of any system; other separators (form feed, U+2028) are part of a line.

    Raises:
        DataError: see `read_text`.
    """
    lines = re.split('\r\n|\r|\n', read_text(path, limit))
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def as_gbk(name: str) -> str:
    """`name` as it would be if its text was GBK: short ones are valid UTF-8, too; '' if it cannot be that."""
    return '' if name.isascii() else _gbk(name.encode('utf-8', 'replace'))


def _gbk(data):
    """`data` read as GBK if that gives Chinese characters, else ''."""
    try:
        text = data.decode('gb18030')
    except UnicodeError:
        return ''
    return text if _HAN.search(text) else ''
