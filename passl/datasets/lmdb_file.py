"""Reads LMDB files by positioned reads, every number in them checked before it is used.

LMDB's own library maps the file into memory and follows the page numbers, offsets and lengths in it unchecked: it is
made for files of the own machine. A damaged or hostile file ends the process, or worse. Here such a file is a
`FormatError`, a file that shrinks while it is read too, and reading needs no package.
"""

import os
import struct
from collections import namedtuple

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16                                # bytes of a page's header
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_ELSEWHERE, _NESTED = 1, 2 | 4              # flags of an entry: its value has pages of its own; it is no plain value
_EMPTY = 2**64 - 1                          # root of a tree without entries
_DEEPEST = 32
_KEPT = 512                                 # inner pages kept in memory, which is enough for some 10 million entries

Meta = namedtuple('Meta', 'page_size entries root last_page transaction')


class FormatError(Exception):
    """The file is no LMDB file, or a damaged one."""


class LmdbFile:
    """An LMDB file opened for reading; processes that inherit it by a fork may use it too.

    Args:
        path: the file.

    Raises:
        FormatError: see the class. OSError: it cannot be opened.
    """

    def __init__(self, path):
        self._file = open(path, 'rb', buffering=0)
        self._inner = {}
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.meta = self._read_meta()
        except BaseException:
            self._file.close()
            raise

    def fileno(self):
        return self._file.fileno()

    def _bytes(self, start, length):
        parts = []
        while length > 0:                   # one call returns 2 GiB at most
            part = os.pread(self._file.fileno(), length, start)
            if not part:
                raise FormatError('it is shorter than it was')
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b''.join(parts)

    def _read_meta(self):
        """The newer of the two descriptions of the file at its beginning."""
        found = []
        first = self._meta_at(0)
        for meta in (first, self._meta_at(first.page_size, first.page_size)):
            if meta is not None:
                found.append(meta)
        return max(found, key=lambda m: m.transaction)

    def _meta_at(self, start, page_size=None):
        if start + 152 > self.size:
            raise FormatError('it is too short')
        data = self._bytes(start, 152)
        flags, magic, version = *struct.unpack_from('<H', data, 10), *struct.unpack_from('<II', data, _HEADER)
        size, = struct.unpack_from('<I', data, 40)
        if not flags & _META or magic != _MAGIC or version != _VERSION:
            raise FormatError('it does not begin as one')
        if size not in (2**n for n in range(9, 17)) or page_size not in (None, size):
            raise FormatError(f'pages of {size} bytes')
        entries, root = struct.unpack_from('<QQ', data, 120)
        return Meta(size, entries, root, *struct.unpack_from('<QQ', data, 136))

    def _page(self, number, kinds):
        """(kind, bytes) of a page, which must be of one of `kinds`."""
        size = self.meta.page_size
        if not 2 <= number <= self.meta.last_page or (number + 1) * size > self.size:
            raise FormatError(f'there is no page {number}')
        data = self._bytes(number * size, size)
        kind, = struct.unpack_from('<H', data, 10)
        if kind & ~0x10 not in kinds:       # 0x10: "dirty", of no meaning in a file
            raise FormatError(f'page {number} is of another kind')
        return kind & ~0x10, data

    def _entries(self, data):
        """Offsets of a page's entries, in the order of their keys."""
        lower, = struct.unpack_from('<H', data, 12)
        if not _HEADER <= lower <= len(data):
            raise FormatError('a page with more entries than room')
        return struct.unpack_from(f'<{(lower - _HEADER) // 2}H', data, _HEADER)

    @staticmethod
    def _key(data, at):
        """(key, position behind it) of the entry at byte `at`."""
        if at + 8 > len(data):
            raise FormatError('an entry outside its page')
        length, = struct.unpack_from('<H', data, at + 6)
        if at + 8 + length > len(data):
            raise FormatError('a key that leaves its page')
        return data[at + 8:at + 8 + length], at + 8 + length

    def _branches(self, data):
        """(keys, page numbers) of an inner page; its first key stands for everything smaller."""
        keys, numbers = [], []
        for at in self._entries(data):
            keys.append(self._key(data, at)[0])
            low, high, top = struct.unpack_from('<HHH', data, at)
            numbers.append(low | high << 16 | top << 32)
        if not keys:
            raise FormatError('an inner page without entries')
        keys[0] = b''
        return keys, numbers

    def get(self, key):
        """The bytes stored under the bytes `key`, or None."""
        number = self.meta.root
        if number == _EMPTY:
            return None
        for _ in range(_DEEPEST):
            found = self._inner.get(number)
            if found is None:
                kind, data = self._page(number, (_BRANCH, _LEAF))
                if kind == _LEAF:
                    return self._value(data, key)
                found = self._branches(data)
                if len(self._inner) < _KEPT:
                    self._inner[number] = found
            keys, numbers = found
            number = numbers[_rightmost(len(keys), lambda i: keys[i] <= key)]
        raise FormatError('its pages go in a circle')

    def _value(self, data, key):
        offsets = self._entries(data)
        if not offsets:
            return None
        at = offsets[_rightmost(len(offsets), lambda i: self._key(data, offsets[i])[0] <= key)]
        found, end = self._key(data, at)
        if found != key:
            return None
        low, high, flags = struct.unpack_from('<HHH', data, at)
        length = low | high << 16
        if flags & _NESTED:
            raise FormatError('an entry that is no plain value')
        if not flags & _ELSEWHERE:
            if end + length > len(data):
                raise FormatError('a value that leaves its page')
            return data[end:end + length]
        if end + 8 > len(data):
            raise FormatError('a value that leaves its page')
        number, = struct.unpack_from('<Q', data, end)
        _, head = self._page(number, (_OVERFLOW,))
        pages, = struct.unpack_from('<I', head, 12)
        start, size = number * self.meta.page_size, self.meta.page_size
        if _HEADER + length > pages * size or start + _HEADER + length > self.size:
            raise FormatError('a value that leaves its pages')
        return self._bytes(start + _HEADER, length) if _HEADER + length > size else head[_HEADER:_HEADER + length]


def _rightmost(count, holds):
    """The last of 0 .. count - 1 for which `holds`, which turns from true to false once; 0 if it never holds."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
