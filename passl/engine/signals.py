"""Signals that ask a run to end: a wish to stop, which the loop grants after the step that runs."""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Optional

from ..utils.forking import STOPS

# Ctrl-C; kill, batch systems; a closed terminal or a lost connection; batch systems shortly before the time is up
_NAMES: dict[int, str] = {s: 'Ctrl-C' if s == signal.SIGINT else s.name for s in STOPS}
EXIT_CODES: dict[int, int] = {number: 128 + number for number in _NAMES}
_SECOND = 1.0           # seconds; a terminal and the launcher may both send the first one


class StopSignals:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1/2 are remembered instead of ending the process at once.

    Until `armed` is set there is nothing to save: the signals end the process through Python (exit codes of a shell:
    143, 130, ...), so that data workers and shared memory are cleaned up. Then the first one only sets `received`, and
    others change nothing, but for a second Ctrl-C more than a second later, which ends the process at once. SIGHUP
    stays ignored where it is (nohup). Signals can only be handled in the main thread; elsewhere nothing is changed.

    Attributes:
        received: None, or the number of the first signal.
        armed: see above.
    """

    def __init__(self) -> None:
        self.received: Optional[int] = None
        self.armed, self._at = False, 0.0
        self._before: dict[int, object] = {}        # {signal: its handler until then}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:       # after Paddle's import, which installs a handler of its own
                if _NAMES[number] == 'SIGHUP' and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler if callable(handler) else signal.SIG_DFL)
        self._before = {}

    @property
    def exit_code(self) -> int:
        """0, or the code that tells which signal ended the run."""
        return EXIT_CODES.get(self.received or 0, 0)

    @property
    def name(self) -> str:
        return _NAMES.get(self.received or 0, '')

    def _handle(self, number, _frame):
        if self.received is not None:       # on its way out, and even when all is saved: the launcher sends three
            if number == signal.SIGINT and time.monotonic() - self._at > _SECOND:
                raise KeyboardInterrupt
            return
        if not self.armed:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(EXIT_CODES[number])
        self.received, self._at = number, time.monotonic()
        hint = ' Press Ctrl-C again to leave at once, without saving.' if number == signal.SIGINT else ''
        # not the logger: the signal may have come while it was writing; and the terminal may be gone
        with contextlib.suppress(OSError):
            os.write(2, f'\n{_NAMES[number]}: saving and leaving after this step.{hint}\n'.encode())
