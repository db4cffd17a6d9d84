"""A file that can no longer be read in the middle of a run ends it in words.

Paddle's loader waits for ever when a data set raises in the process that trains (`num_workers` 0), and tells no reason
when a worker does. So the reader notes what happened and gives a stand-in; the run asks after each step.
"""

import ctypes
import multiprocessing
from typing import Any

from ..utils.errors import DataError

_LONGEST = 2000


class Lost:
    """The first fault of any process; made before workers are forked."""

    def __init__(self) -> None:
        self._text: Any = multiprocessing.get_context('fork').Array(ctypes.c_char, _LONGEST)

    def note(self, error: Exception) -> None:
        """Called by a reader, in any process or thread."""
        with self._text.get_lock():
            if not self._text.value:
                self._text.value = str(error).encode('utf-8', 'replace')[:_LONGEST - 1] or b'?'

    def check(self) -> None:
        """Called by the process that trains. Raises DataError if a reader has noted something."""
        if self._text.value:
            text = self._text.value.decode('utf-8', 'ignore').rstrip('.')
            raise DataError(f'{text}. It could be read when the run started: were files changed meanwhile? The run '
                            'ends here.')


lost = Lost()
