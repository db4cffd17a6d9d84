"""Lists of very many paths in few bytes."""

import array
import bisect
import collections
import hashlib
import operator
import os
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np


class Names:
    """Texts in one block of bytes (as the file system has them), each ended by a zero byte."""

    def __init__(self, block: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 0)
        self.block = block
        self._ends = array.array('I' if len(block) < 2**32 else 'Q')
        self._ends.frombytes(ends.astype(self._ends.typecode).tobytes())

    @classmethod
    def of(cls, names: Sequence[str]) -> 'Names':
        """From a list of str. Raises ValueError for what cannot be the name of a file here."""
        joined = '\0'.join(names)
        if joined.count('\0') != max(0, len(names) - 1):
            raise ValueError('a name holds a zero byte')
        return cls(os.fsencode(joined) + b'\0' * bool(len(names)))

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, index):
        return os.fsdecode(self.block[self._ends[index - 1] + 1 if index else 0:self._ends[index]])

    def part(self, start: int, stop: int) -> list[str]:
        """The list of names start .. stop - 1."""
        if start >= stop:
            return []
        return os.fsdecode(self.block[self._ends[start - 1] + 1 if start else 0:self._ends[stop - 1]]).split('\0')


class PathList(Sequence):
    """A read-only list of paths, or of (path, class number), in few bytes.

    A million str in tuples cost some 200 MB, in every worker: Python's reference counts are
    written on reading, so the pages that a fork shares are copied. Here they are three blocks.

    Args:
        names: Names, the ends of the paths.
        folders: Names, their beginnings, with the separator.
        counts: how many names belong to each folder, in this order.
        labels: class numbers [len(names)], or None.
    """

    __hash__ = None         # type: ignore[assignment]  # how Python says that there is no hash

    def __init__(self, names: Names, folders: Names, counts: Union[Sequence[int], np.ndarray],
                 labels: Union[None, Sequence[int], np.ndarray] = None) -> None:
        self._names, self._folders = names, folders
        self._starts = array.array('q', (np.cumsum(counts) - counts).astype(np.int64).tobytes())
        self._labels = None if labels is None else np.asarray(labels, np.int32)

    @classmethod
    def of(cls, paths: Sequence[str], labels: Optional[Sequence[int]] = None, prefix: str = '') -> 'PathList':
        """From a list of str; `prefix` is taken off where all begin with it."""
        if not all(p.startswith(prefix) for p in paths):
            prefix = ''
        return cls(Names.of([p[len(prefix):] for p in paths] if prefix else paths), Names.of([prefix]), [len(paths)],
                   labels)

    def fingerprint(self) -> str:
        """Text that is the same for the same names, in the same folders' order, with the same labels, wherever they
        are: the folders' own names are left out."""
        digest = hashlib.sha256(self._names.block)
        for block in (self._starts, () if self._labels is None else self._labels):
            digest.update(np.asarray(block, np.int64).tobytes() + b'|')
        return digest.hexdigest()[:16]

    def folders(self) -> list[tuple[str, int]]:
        """[(folder, how many names belong to it)], in the order of the list."""
        stops = [*self._starts[1:], len(self)]
        return [(self._folders[i], stops[i] - start) for i, start in enumerate(self._starts)]

    def names(self, folder: int) -> list[str]:
        """The ends of the paths of folder number `folder`."""
        stop = self._starts[folder + 1] if folder + 1 < len(self._starts) else len(self)
        return self._names.part(self._starts[folder], stop)

    def endings(self) -> dict[str, int]:
        """How many names end in '.jpg' and so on."""
        found: collections.Counter[str] = collections.Counter()
        for end, count in collections.Counter(n.rpartition('.')[2] for n in self._names.part(0, len(self))).items():
            found['.' + end.lower()] += count
        return dict(found)

    def __len__(self):
        return len(self._names)

    def _item(self, index):
        path = self._folders[bisect.bisect_right(self._starts, index) - 1] + self._names[index]
        return path if self._labels is None else (path, int(self._labels[index]))

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f'No image {index} in a list of {len(self)}.')
        return self._item(index % len(self))

    def __iter__(self):
        labels = iter(() if self._labels is None else self._labels)
        for number, start in enumerate(self._starts):
            stop = self._starts[number + 1] if number + 1 < len(self._starts) else len(self)
            folder = self._folders[number] if start < stop else ''
            for name in self._names.part(start, stop):
                yield folder + name if self._labels is None else (folder + name, int(next(labels)))

    def __eq__(self, other):
        if not isinstance(other, (PathList, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __repr__(self):
        return f'PathList({len(self)} paths' + (f', first {self[0]!r})' if len(self) else ')')
