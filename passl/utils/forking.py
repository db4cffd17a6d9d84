"""Forked processes leave the garbage of their parent alone, and get no signal before they have their handlers.

An unreachable object of the parent may need a thread to end, and threads are not forked: the end of a data loader of
Paddle's waits for ever in such a process. So none is collected there. And a signal to all processes of a job may come
in the milliseconds in which a worker has Paddle's handlers, which end it, while the parent still needs it to save.
"""

import contextlib
import gc
import signal
from typing import Iterator

# signals that ask a job to stop, of those that the system has
STOPS = {s for s in signal.Signals if s.name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2')}


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Block in which processes are forked; each of them calls `forked` once it has its handlers of signals."""
    enabled = gc.isenabled()
    gc.disable()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forked() -> None:
    """From here on this process collects its own garbage only, and the signals that were held back arrive."""
    gc.freeze()
    gc.enable()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
