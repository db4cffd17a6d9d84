"""Worker processes that survive a file which kills its reader."""

import multiprocessing
import multiprocessing.connection
import mmap
import os
import signal
from collections.abc import Sequence
from typing import Any, Callable

import cv2
import numpy as np

from ...utils.errors import DataError
from ...utils.forking import forked, forking
from .look import CRASH, RECORD, look_at

_TASK = 32                  # files handed to a worker at a time
_PATIENCE = 2.0             # seconds after which a worker looks whether its parent is still there


def _work(function, paths, connection, current, parent):
    """Body of a worker: ranges of file numbers come in, ([results], [(number, reason)]) go out."""
    forked()
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    try:
        while os.getppid() == parent:
            if not connection.poll(_PATIENCE):
                continue
            numbers = connection.recv()
            records, reasons = [], []
            for number in numbers:
                current[0] = number
                record, reason = function(paths[number])
                records.append(record)
                if reason:
                    reasons.append((number, reason))
            connection.send((np.array(records, RECORD), reasons))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        os._exit(0)                 # nothing of the parent's (files, threads) is to be closed here


class _Worker:
    def __init__(self, context: 'multiprocessing.context.ForkContext', function: Callable[[str], tuple[tuple, str]],
                 paths: Sequence[str]) -> None:
        self.connection, other = context.Pipe()
        # anonymous memory: multiprocessing's own lies in /dev/shm, which may be read-only or full
        self.current = memoryview(mmap.mmap(-1, 8)).cast('q')
        self.current[0] = -1
        self.process = context.Process(target=_work, args=(function, paths, other, self.current, os.getpid()),
                                       daemon=True)
        with forking():
            self.process.start()
        other.close()
        self.task = None

    def give(self, task: range) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            pass                    # it has died; receiving will tell

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _how_it_died(process):
    process.join()
    code = process.exitcode
    if code is not None and code < 0:
        try:
            return f'the process that read it was killed by {signal.Signals(-code).name}'
        except ValueError:
            return f'the process that read it was killed by signal {-code}'
    return f'the process that read it ended with code {code}'


class _Tasks:
    """Ranges of file numbers still to be looked at; a file that has killed two workers is given up."""

    def __init__(self, number: int) -> None:
        self._next, self._number, self._again, self._deaths = 0, number, [], {}

    def take(self) -> range:
        """The next numbers; an empty range when there are no more."""
        if self._again:
            return self._again.pop()
        start, self._next = self._next, min(self._number, self._next + _TASK)
        return range(start, self._next)

    def died_at(self, task: range, number: int) -> bool:
        """Return the rest of `task`; True if file `number` is given up."""
        if number not in task:      # before its first file
            self._again.append(task)
            return False
        self._deaths[number] = self._deaths.get(number, 0) + 1
        given_up = self._deaths[number] > 1
        parts = [range(task.start, number), range(number + 1, task.stop)]
        if not given_up:
            parts.append(range(number, number + 1))         # alone: the others' memory may have been the cause
        self._again += [p for p in parts if len(p)]
        return given_up


def look_at_all(paths: Sequence[str], workers: int, advance: Callable[[int], object],
                function: Callable[[str], tuple[tuple, str]] = look_at) -> tuple[np.ndarray, dict[int, str]]:
    """Look at every file in worker processes.

    Args:
        paths: a sequence of names; workers get it by forking.
        workers: number of processes.
        advance: called with the number of files that have just been done.
        function: name -> (record, reason); for tests.

    Returns:
        (records [n] of dtype RECORD, {number: reason} of files with one), both independent of the number of workers.
    """
    context = multiprocessing.get_context('fork')
    tasks, records, reasons = _Tasks(len(paths)), np.zeros(len(paths), RECORD), {}
    crew = []
    try:
        for _ in range(min(workers, -(-len(paths) // _TASK))):
            try:
                crew.append(_Worker(context, function, paths))
            except OSError as e:        # no more files or processes: fewer workers do it too
                if not crew:
                    raise DataError(f'No process to look at files could be started: {e.strerror or e}. Raise the '
                                    'number of open files or processes (ulimit -n, ulimit -u).') from e
                break
        idle = list(crew)
        while True:
            for worker in idle:
                task = tasks.take()
                if len(task):
                    worker.give(task)
            busy: dict[Any, _Worker] = {w.connection: w for w in crew if w.task is not None}
            if not busy:
                return records, dict(sorted(reasons.items()))
            idle = [w for w in crew if w.task is None]
            for connection in multiprocessing.connection.wait(list(busy)):
                worker = busy[connection]
                idle.append(_collect(worker, crew, tasks, records, reasons, advance, (context, function, paths)))
    finally:
        for worker in crew:
            worker.end()


def _collect(worker, crew, tasks, records, reasons, advance, how):
    """Take the results of `worker`, or replace it if it has died; the worker that is idle now."""
    task = worker.task
    try:
        found, why = worker.connection.recv()
    except (EOFError, OSError):
        number = worker.current[0]
        cause = _how_it_died(worker.process)
        if tasks.died_at(task, number):
            records[number]['state'] = CRASH
            reasons[number] = cause
            advance(1)
        worker.end()
        crew[crew.index(worker)] = fresh = _Worker(*how)
        return fresh
    records[task.start:task.stop] = found
    reasons.update(why)
    advance(len(task))
    worker.task = None
    return worker
