"""Notices that another process of a distributed run has died, was stopped, or no longer gets on."""

import contextlib
import faulthandler
import json
import os
import socket
import subprocess
import sys
import threading
import time

from . import dist
from .errors import PeerLostError
from .logger import get_logger
from .witness import STATES, STOPPED, process_state

BEAT, POLL, LOOK = 1.0, 2.0, 0.25       # seconds between signs of life, looks at those of others, at local processes
SILENCE = 60.0                  # without a sign of life a process is given up
GRACE = 10.0                    # then the main thread has so long to end by itself
LAST_WORD = 60.0                # so long after the limit a process ends whose threads cannot speak any more
EXIT_CODE = PeerLostError.exit_code
WITNESS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'witness.py')


def start_witness(*arguments):
    """The program witness.py beside this process, to be written to; None, with a warning, if it cannot be started."""
    try:
        return subprocess.Popen([sys.executable, '-I', '-S', WITNESS, *arguments], stdin=subprocess.PIPE,
                                stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError as e:
        get_logger().warning('No witness for the processes of this machine: %s', e)
        return None


@contextlib.contextmanager
def witness_of_the_start():
    """Block in which the processes meet, with a witness (see `passl.utils.witness`)."""
    witness = start_witness('start', str(os.getpid()), str(dist.rank()), socket.gethostname())
    try:
        yield
    finally:
        if witness is not None:
            witness.stdin.close()
            witness.wait()


class Peer:
    """Another process: where it is, and when it last gave a sign of life."""

    def __init__(self, rank, host, pid, start):
        self.rank, self.host, self.pid, self.start = rank, host, pid, start
        self.beat, self.heard, self.iteration, self.stopped = 0, time.monotonic(), 0, None

    def __str__(self):
        return f"process {self.rank} (pid {self.pid} on '{self.host}')"

    def trouble(self, local, now):
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

    Attributes:
        lost: None, or the message about who is missing.
        on_loss: called with that message, from a thread.
    """

    def __init__(self, limit):
        self.limit, self.lost, self.iteration, self.doing = limit, None, 0, 'starting'
        self.moved, self.ended, self.on_loss = time.monotonic(), threading.Event(), None
        self.timed = None       # when the thread in C was last told that the process gets on
        host, pid = socket.gethostname(), os.getpid()
        known = dist.gather_objects((host, pid, process_state(pid)[1]))
        self.host, self.peers = host, [Peer(r, *k) for r, k in enumerate(known) if r != dist.rank()]
        self.looked = time.monotonic()
        self.store, self.witness = dist.second_store(), self._start_witness(known)
        self.threads = [threading.Thread(target=job, daemon=True, name=f'passl-watch{job.__name__}')
                        for job in (self._exchange, self._look)]
        for thread in self.threads:
            thread.start()

    def _start_witness(self, known):
        """The witness of this machine's processes, started by the first of them; None for the others."""
        here = [(r, pid, start) for r, (host, pid, start) in enumerate(known)
                if host == self.host and start is not None]
        if not here or here[0][0] != dist.rank():
            return None
        witness = start_witness()
        if witness is not None:
            self._send(witness, json.dumps({'processes': here, 'host': self.host}))
        return witness

    @staticmethod
    def _send(witness, line):
        with contextlib.suppress(OSError):          # it may have ended
            witness.stdin.write(os.fsencode(line) + b'\n')
            witness.stdin.flush()

    def tell_log(self, path):
        """The file that the witness writes to, beside standard error."""
        if self.witness is not None:
            self._send(self.witness, f'log {os.path.abspath(path)}')

    def progress(self, doing, iteration=None):
        """Tell that this process gets on. `doing`: what it begins, for messages."""
        self.doing, self.moved = doing, time.monotonic()
        if iteration is not None:
            self.iteration = iteration
        # on gloo a collective gives up by itself; and a suspended job would end when it goes on
        if not dist.on_cpu() and (self.timed is None or self.moved - self.timed >= BEAT):
            faulthandler.dump_traceback_later(self.limit + LAST_WORD, exit=True, file=sys.__stderr__)
            self.timed = self.moved

    def stop(self):
        """Look no more: from now on others may end."""
        self.ended.set()
        if self.timed is not None:
            faulthandler.cancel_dump_traceback_later()
        for thread in self.threads:     # a thread inside Paddle must not meet the end of the interpreter
            thread.join(2 * BEAT)
        self._dismiss_witness()

    def _dismiss_witness(self):
        if self.witness is not None:
            self._send(self.witness, 'bye')
            with contextlib.suppress(OSError):
                self.witness.stdin.close()

    def missing(self, patience=0.0):
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

    def explain(self, trouble):
        """`trouble` as the message for the log."""
        return (f'{trouble[0].upper()}{trouble[1:]}. This process {dist.rank()} has finished {self.iteration} '
                f'iterations and was {self.doing}. Look into the log of the other process for the reason (the launcher '
                'keeps it as workerlog.N); the job can go on with --resume auto.')

    def _exchange(self):
        """Thread: signs of life by way of the store."""
        dist.block_signals()
        told, mine = 0, dist.rank()
        while not self.ended.is_set():
            try:
                self.store.add(f'passl/beat/{mine}', 1)
                if self.iteration != told:
                    self.store.add(f'passl/iteration/{mine}', self.iteration - told)
                    told = self.iteration
                if time.monotonic() - self.looked >= POLL:
                    self._read()
            except Exception:           # the store is gone, and process 0 with it: `heard` gets old
                self.ended.wait(POLL)
            self.ended.wait(BEAT)

    def _read(self):
        for peer in self.peers:
            if dist.rank() == 0 or peer.rank == 0:
                beat = self.store.add(f'passl/beat/{peer.rank}', 0)
                if beat != peer.beat:
                    peer.beat, peer.heard = beat, time.monotonic()
                peer.iteration = self.store.add(f'passl/iteration/{peer.rank}', 0)
            else:
                peer.heard = time.monotonic()           # process 0 looks after it
        self.looked = time.monotonic()

    def _look(self):
        """Thread: ends the process when somebody is missing or nothing moves."""
        dist.block_signals()
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
                    get_logger().error('Process %d ends with code %d.', dist.rank(), EXIT_CODE)
                    self._dismiss_witness()         # the reason has been told
                    os._exit(EXIT_CODE)

    def _standstill(self):
        waited = time.monotonic() - self.moved
        if waited <= self.limit:
            return None
        behind = [f'{p} after iteration {p.iteration}' for p in self.peers if p.iteration < self.iteration]
        who = f'; behind this process: {", ".join(behind)}' if behind else ''
        return (f'process {dist.rank()} has been {self.doing} for {waited:.0f} s, longer than dist_timeout: '
                f'{self.limit}{who}')
