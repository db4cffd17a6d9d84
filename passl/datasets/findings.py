"""What the worker processes of a data set find out, in memory that they share with the main process."""

import mmap
import struct
from collections.abc import Sequence
from typing import Optional

import numpy as np
from paddle.io import get_worker_info

from ..utils.logger import get_logger

_REASON_BYTES = 4096
_MOST_WORKERS = 1024         # of those with a higher number it is not known what they read
_DOUBTS = ('unset', 'narrow')       # of decode_image
_NUMBER = struct.Struct('=q')


class Findings:
    """Part of ImageDataset: which images were unreadable, what each worker reads, why one stopped."""

    samples: Sequence       # of the data set that this is a part of

    def _make_shared(self):
        self._bad = bytearray()
        self._reason = mmap.mmap(-1, _REASON_BYTES)
        self._reading = mmap.mmap(-1, 8 * (_MOST_WORKERS + 1))      # the last number is bad_events
        self._doubted = mmap.mmap(-1, len(_DOUBTS))                 # one byte per kind

    def _make_flags(self, count):
        self._bad = mmap.mmap(-1, max(1, count))                    # one byte per image

    def _flag_bad(self, index):
        """True if that is new."""
        if self._bad[index]:
            return False
        self._bad[index] = 1
        # two workers may write the same number, but both after both bytes: whoever sees it change sees both
        _NUMBER.pack_into(self._reading, 8 * _MOST_WORKERS, self.bad_events + 1)
        return True

    def note_doubt(self, kind: str, sentence: str) -> None:
        """Logs the first doubt of each kind: what holds for one file mostly holds for thousands."""
        if not self._doubted[_DOUBTS.index(kind)]:
            self._doubted[_DOUBTS.index(kind)] = 1
            get_logger().warning('%s (Told once, for the first such file.)', sentence)

    @property
    def num_bad(self) -> int:
        """How many different images were unreadable so far, in all workers together."""
        return int(np.frombuffer(self._bad, np.uint8).sum()) if len(self._bad) else 0

    def image_name(self, index: int) -> str:
        """The name of image `index` for messages and lists."""
        entry = self.samples[index]
        return str(entry[0] if isinstance(entry, tuple) else entry)

    @property
    def bad_events(self) -> int:
        """A number that changes whenever another image turns out to be unreadable: cheap to look at."""
        return _NUMBER.unpack_from(self._reading, 8 * _MOST_WORKERS)[0]

    def bad_names(self) -> list[str]:
        """The names of the images that were unreadable so far, in all workers together, in the order of the set."""
        found = np.flatnonzero(np.frombuffer(self._bad, np.uint8)) if len(self._bad) else ()
        return [self.image_name(int(i)) for i in found]

    def reading(self, worker: int) -> Optional[str]:
        """The name of the image that the worker process of that number is reading or transforming, or None."""
        number = _NUMBER.unpack_from(self._reading, 8 * worker)[0] if worker < _MOST_WORKERS else 0
        return self.image_name(number - 1) if number else None

    def _note_reading(self, number):
        worker = get_worker_info()
        if worker is not None and worker.id < _MOST_WORKERS:
            _NUMBER.pack_into(self._reading, 8 * worker.id, number)

    @property
    def failure(self) -> Optional[str]:
        """Why a worker process stopped, or None."""
        return self._reason[:].rstrip(b'\0').decode('utf-8', 'ignore') or None

    def report_failure(self, error: Exception) -> None:
        """Keep the reason of a failing worker where the main process and the reader of the log find it."""
        if get_worker_info() is None:
            return
        text = f'{type(error).__name__}: {error}'
        get_logger().error('A data loader worker stops. %s', text)
        self._reason[:] = text.encode('utf-8', 'replace')[:_REASON_BYTES].ljust(_REASON_BYTES, b'\0')

    def __getstate__(self):
        """Shared memory cannot be pickled (start method 'spawn'): the copy gets its own."""
        state = dict(self.__dict__)
        state['_bad'] = bytes(self._bad)
        state.update(_reason=None, _reading=None, _doubted=None)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._make_shared()
        self._make_flags(len(state['_bad']))
        self._bad[:len(state['_bad'])] = state['_bad']
