"""The key-value store through which the processes of a job found each other."""

import contextlib
import os
import signal
import threading
from typing import Any, Iterator


class Store:
    """The key-value store through which the processes found each other, for counters and small texts.

    Unlike a collective on gloo, which gives up after 30 s, asking it again and again has no limit, and a process may
    use it alone. Its socket does not survive a signal in the middle of a call, so signals wait outside.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def add(self, key: str, amount: int) -> int:
        """Add to the counter `key` (0 at first), atomically over all processes; its new value."""
        with _signals_wait():
            return self.inner.add(key, amount)


def meeting_place() -> tuple[str, str]:
    """(host, port) of the store, by Paddle's rule: a launcher or an operator may set but one of the three."""
    host, port = os.environ.get('MASTER_ADDR'), os.environ.get('MASTER_PORT')
    if not (host and port):
        first = os.environ.get('PADDLE_MASTER') or os.environ.get('PADDLE_TRAINER_ENDPOINTS', '').split(',')[0]
        host, _, port = first.rpartition(':')
    return host, port


def second_store() -> Store:
    """A Store with a connection of its own, for another thread."""
    import paddle
    host, port = meeting_place()
    return Store(paddle.base.core.TCPStore(host, int(port), False, 0, 60))


@contextlib.contextmanager
def _signals_wait():
    """Signals to this thread are delivered after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_end_at_once() -> Iterator[None]:
    """Inside, a signal that Python has a handler for ends the process without it.

    For calls of Paddle that wait for long and keep Python's lock meanwhile: no handler would run before they return.
    """
    mine = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in signal.valid_signals()} if mine else {}
    before = {n: handler for n, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
