"""Notices that another process of a distributed run has died, was stopped, or no longer gets on."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from typing import Callable, Iterator, Optional, Sequence
from .store import Store

from ..errors import PeerLostError
from ..logger import get_logger

BEAT, POLL, LOOK = 1.0, 2.0, 0.25       # seconds between signs of life, looks at those of others, at local processes
SILENCE = 60.0                  # without a sign of life a process is given up
GRACE = 10.0                    # then the main thread has so long to end by itself
LAST_WORD = 60.0                # so long after the limit a process ends whose threads cannot speak any more
EXIT_CODE = PeerLostError.exit_code
STOPPED = 5.0                   # so long in a stopped state: a whole job may be suspended and continued
STATES = {'T': 'was stopped (SIGSTOP, or a debugger)', 't': 'was stopped (a debugger)'}

_running = None                 # the Watch of this process
_turns = 0                      # how often it has begun to watch: the same on all processes


def process_state(pid: int) -> tuple[str, Optional[int]]:
    """(letter of the state, start time) of a process of this machine; ('X', None) if there is none."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            fields = f.read().rpartition(')')[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return 'X', None


def facts() -> tuple[str, int, Optional[int]]:
    """(host, pid, start time) of this process, by which another one looks after it."""
    return socket.gethostname(), os.getpid(), process_state(os.getpid())[1]


class Peer:
    """Another process: where it is, and when it last gave a sign of life."""

    def __init__(self, rank: int, host: str, pid: int, start: Optional[int]) -> None:
        self.rank, self.host, self.pid, self.start = rank, host, pid, start
        self.beat, self.heard, self.iteration = 0, time.monotonic(), 0
        self.stopped: Optional[float] = None        # since when it is seen in a stopped state

    def __str__(self):
        return f"process {self.rank} (pid {self.pid} on '{self.host}')"

    def trouble(self, local: bool, now: float) -> Optional[str]:
        """What is wrong with it, or None. `local`: it runs on this machine, which is asked."""
        if local and self.start is not None:
            state, start = process_state(self.pid)
            if state in 'XZ' or start != self.start:
                return f'{self} has ended'
            if state in STATES:
                self.stopped = now if self.stopped is None else self.stopped
                return f'{self} {STATES[state]}' if now - self.stopped >= STOPPED else None
            self.stopped = None
        if now - self.heard > SILENCE:
            return f'{self} has given no sign of life for {now - self.heard:.0f} s'
        return None


class Watch:
    """Threads that give signs of life for this process and look for those of others.

    Process 0 looks at all, the others at process 0 and at those on their own machine, where the system tells at once
    who has ended. When somebody is missing, or this process has finished no step for `limit` seconds, that is logged,
    `lost` holds the reason, and after some seconds the process ends with EXIT_CODE, wherever its main thread hangs.

    A main thread that waits for an accelerator behind a collective that never ends (a copy from the host's memory does)
    holds Python's lock: no thread of this class runs any more. A thread in C, Python's faulthandler, then ends the
    process LAST_WORD seconds after the limit, with code 1, and writes to standard error where it stood.

    Args:
        limit: seconds within which every step, save or evaluation must be done.
        rank: of this process.
        known: the `facts` of all processes, in rank order.
        store: where counters are added to and read, from a thread.
        on_cpu: whether collectives are those of gloo.
        turn: which watch of this process it is: a job may train more than once, and counts anew.

    Attributes:
        lost: None, or the message about who is missing.
        on_loss: called with that message, from a thread.
    """

    def __init__(self, limit: float, rank: int, known: Sequence[tuple[str, int, Optional[int]]], store: Store,
                 on_cpu: bool, turn: int = 0) -> None:
        self.limit, self.rank, self.store, self.on_cpu, self.turn = limit, rank, store, on_cpu, turn
        self.host, self.peers = known[rank][0], [Peer(r, *k) for r, k in enumerate(known) if r != rank]
        self.lost: Optional[str] = None
        self.on_loss: Optional[Callable[[str], None]] = None
        self.iteration, self.doing = 0, 'starting'
        self.moved = self.looked = time.monotonic()
        self.timed: Optional[float] = None      # when the thread in C was last told that the process gets on
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=job, daemon=True, name=f'passl-watch{job.__name__}')
                        for job in (self._exchange, self._look)]
        for thread in self.threads:
            thread.start()

    def progress(self, doing: str, iteration: Optional[int] = None) -> None:
        """Tell that this process gets on. `doing`: what it begins, for messages."""
        self.doing, self.moved = doing, time.monotonic()
        if iteration is not None:
            self.iteration = iteration
        # on gloo a collective gives up by itself; and a suspended job would end when it goes on
        if not self.on_cpu and (self.timed is None or self.moved - self.timed >= BEAT):
            faulthandler.dump_traceback_later(self.limit + LAST_WORD, exit=True, file=sys.__stderr__ or 2)
            self.timed = self.moved

    def stop(self) -> None:
        """Look no more: from now on others may end."""
        self.ended.set()
        if self.timed is not None:
            faulthandler.cancel_dump_traceback_later()
        for thread in self.threads:     # a thread inside Paddle must not meet the end of the interpreter
            thread.join(2 * BEAT)

    def missing(self, patience: float = 0.0) -> Optional[str]:
        """Sentence that names who is missing, or None; looks again for `patience` seconds."""
        end = time.monotonic() + patience
        while True:
            now = time.monotonic()
            found = [t for t in (p.trouble(p.host == self.host, now) for p in self.peers) if t]
            if found:
                return '; '.join(found)
            if now >= end:
                return None
            time.sleep(0.1)

    def explain(self, trouble: str) -> str:
        """`trouble` as the message for the log."""
        return (f'{trouble[0].upper()}{trouble[1:]}. This process {self.rank} has finished {self.iteration} '
                f'iterations and was {self.doing}. Look into the log of the other process for the reason (the launcher '
                'keeps it as workerlog.N); the job can go on with --resume auto.')

    def _exchange(self):
        """Thread: signs of life by way of the store."""
        block_signals()
        told, mine = 0, self.rank
        while not self.ended.is_set():
            try:
                self.store.add(f'passl/beat/{self.turn}/{mine}', 1)
                if self.iteration != told:
                    self.store.add(f'passl/iteration/{self.turn}/{mine}', self.iteration - told)
                    told = self.iteration
                if time.monotonic() - self.looked >= POLL:
                    self._read()
            except Exception:           # the store is gone, and process 0 with it: `heard` gets old
                self.ended.wait(POLL)
            self.ended.wait(BEAT)

    def _read(self):
        for peer in self.peers:
            if self.rank == 0 or peer.rank == 0:
                beat = self.store.add(f'passl/beat/{self.turn}/{peer.rank}', 0)
                if beat != peer.beat:
                    peer.beat, peer.heard = beat, time.monotonic()
                peer.iteration = self.store.add(f'passl/iteration/{self.turn}/{peer.rank}', 0)
            else:
                peer.heard = time.monotonic()           # process 0 looks after it
        self.looked = time.monotonic()

    def _look(self):
        """Thread: ends the process when somebody is missing or nothing moves."""
        block_signals()
        looked = time.monotonic()
        while not self.ended.wait(LOOK):
            now = time.monotonic()
            if now - looked > 5 * BEAT:         # this process itself stood still: nothing is known of the time between
                self.moved += now - looked
                for peer in self.peers:
                    peer.heard, peer.stopped = now, None
            looked = now
            trouble = self.missing() or self._standstill()
            if trouble:
                self.lost = self.explain(trouble)
                get_logger().error('%s', self.lost)
                if self.on_loss is not None:
                    self.on_loss(self.lost)
                if not self.ended.wait(GRACE):
                    get_logger().error('Process %d ends with code %d.', self.rank, EXIT_CODE)
                    os._exit(EXIT_CODE)

    def _standstill(self):
        waited = time.monotonic() - self.moved
        if waited <= self.limit:
            return None
        behind = [f'{p} after iteration {p.iteration}' for p in self.peers if p.iteration < self.iteration]
        who = f'; behind this process: {", ".join(behind)}' if behind else ''
        return (f'process {self.rank} has been {self.doing} for {waited:.0f} s, longer than dist_timeout: '
                f'{self.limit}{who}')


def block_signals() -> None:
    """Let no signal reach this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def running() -> bool:
    """Whether this process watches the others."""
    return _running is not None


def start(limit: float, rank: int, known: Sequence[tuple[str, int, Optional[int]]], store: Store,
          on_cpu: bool) -> None:
    """Begin to watch, with the arguments of Watch, unless this process watches already."""
    global _running, _turns
    if _running is None:
        _running = Watch(limit, rank, known, store, on_cpu, _turns)
        _turns += 1


def progress(doing: str, iteration: Optional[int] = None) -> None:
    """Tell the watch what this process begins to do (`doing`: as in 'was saving'), and its finished iterations."""
    if _running is not None:
        _running.progress(doing, iteration)


def on_loss(function: Callable[[str], None]) -> None:
    """Let the watch call `function(message)`, from a thread, when another process is lost."""
    if _running is not None:
        _running.on_loss = function


def raise_if_lost() -> None:
    """PeerLostError if the watch knows that a process is missing."""
    if _running is not None and _running.lost:
        raise PeerLostError(_running.lost)


def end_watch() -> None:
    """Look no more after the others. After a job that ended well all call it and may end at different times."""
    global _running
    if _running is not None:
        _running.stop()
        _running = None


@contextlib.contextmanager
def name_the_lost() -> Iterator[None]:
    """Turns the error of a collective, when another process is missing, into a PeerLostError that names it."""
    try:
        yield
    except (RuntimeError, SystemError, ValueError, OSError) as e:
        if _running is None:
            raise
        trouble = _running.missing(patience=2.0)
        if trouble is None:
            raise
        raise PeerLostError(_running.lost or _running.explain(trouble)) from e
