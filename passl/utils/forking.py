"""Forked processes leave the garbage of their parent alone.

An unreachable object of the parent may need a thread to end, and threads are not forked: the end of a data loader of
Paddle's waits for ever in such a process. So none is collected there.
"""

import contextlib
import gc
from typing import Iterator


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Block in which processes are forked; each of them calls `forked` first of all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def forked() -> None:
    """From here on this process collects its own garbage only."""
    gc.freeze()
    gc.enable()
