"""Worker processes that survive what kills one of them: a file that its decoder does not stand."""

import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from typing import Any, Callable, Optional, Sequence

import cv2
import numpy as np

from ..utils.errors import DataError
from ..utils.forking import forked, forking

_TASK = 32                  # items handed to a worker at a time
_PATIENCE = 2.0             # seconds after which a worker looks whether its parent is still there


def _work(function, items, dtype, connection, current, parent):
    """Body of a worker: ranges of numbers come in, ([records], [(number, reason)]) go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    forked()
    cv2.setNumThreads(0)
    code = 0
    try:
        while os.getppid() == parent:
            if not connection.poll(_PATIENCE):
                continue
            numbers = connection.recv()
            records, reasons = [], []
            for number in numbers:
                current[0] = number
                record, reason = function(items[number])
                records.append(record)
                if reason:
                    reasons.append((number, reason))
            connection.send((np.array(records, dtype), reasons))
    except (EOFError, BrokenPipeError):
        pass
    except Exception:
        traceback.print_exc()       # a mistake of the program; the parent names the item
        code = 1
    finally:
        os._exit(code)              # nothing of the parent's (files, threads) is to be closed here


class _Worker:
    def __init__(self, context: Any, *job: Any) -> None:
        self.connection, other = context.Pipe()
        # anonymous memory: multiprocessing's own lies in /dev/shm, which may be read-only or full
        self.current = memoryview(mmap.mmap(-1, 8)).cast('q')
        self.current[0] = -1
        self.process = context.Process(target=_work, args=(*job, other, self.current, os.getpid()),
                                       daemon=True)
        with forking():
            self.process.start()
        other.close()
        self.task: Optional[range] = None

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
    """Ranges of numbers still to be done; an item that has killed two workers is given up."""

    def __init__(self, number: int, size: int) -> None:
        self._next, self._number, self._size = 0, number, size
        self._again: list[range] = []
        self._deaths: dict[int, int] = {}

    def take(self) -> range:
        """The next numbers; an empty range when there are no more."""
        if self._again:
            return self._again.pop()
        start, self._next = self._next, min(self._number, self._next + self._size)
        return range(start, self._next)

    def died_at(self, task: range, number: int) -> bool:
        """Return the rest of `task`; True if item `number` is given up."""
        if number not in task:      # before its first one
            self._again.append(task)
            return False
        self._deaths[number] = self._deaths.get(number, 0) + 1
        given_up = self._deaths[number] > 1
        parts = [range(task.start, number), range(number + 1, task.stop)]
        if not given_up:
            parts.append(range(number, number + 1))         # alone: the others' memory may have been the cause
        self._again += [p for p in parts if len(p)]
        return given_up


def run_all(function: Callable[[Any], tuple[Any, str]], items: Sequence, workers: int, advance: Callable[[int], object],
            dtype: Any, task: int = _TASK) -> tuple[np.ndarray, dict[int, str], list[int]]:
    """Call `function(item)` for every item in worker processes.

    Args:
        function: item -> (record, reason or ''); workers get it, and the items, by forking.
        items: a sequence.
        workers: number of processes.
        advance: called with the number of items that have just been done.
        dtype: of a record.
        task: how many items a worker gets at a time.

    Returns:
        (records [n] of `dtype`, {number: reason} of the items with one, list of the numbers of those that killed two
        workers), all independent of the number of workers. The record of the latter is zero.
    """
    job = multiprocessing.get_context('fork'), function, items, dtype
    tasks, records = _Tasks(len(items), task), np.zeros(len(items), dtype)
    reasons: dict[int, str] = {}
    given_up: list[int] = []
    crew = []
    try:
        for _ in range(min(workers, -(-len(items) // task))):
            try:
                crew.append(_Worker(*job))
            except OSError as e:        # no more files or processes: fewer workers do it too
                if not crew:
                    raise DataError(f'No process to look at files could be started: {e.strerror or e}. Raise the '
                                    'number of open files or processes (ulimit -n, ulimit -u).') from e
                break
        idle = list(crew)
        while True:
            for worker in idle:
                numbers = tasks.take()
                if len(numbers):
                    worker.give(numbers)
            busy = {w.connection: w for w in crew if w.task is not None}
            if not busy:
                return records, dict(sorted(reasons.items())), sorted(given_up)
            idle = [w for w in crew if w.task is None]
            for connection in multiprocessing.connection.wait(list(busy)):
                worker = busy[connection]
                done, fresh = _collect(worker, tasks, records, reasons, given_up)
                if fresh:
                    worker.end()
                    crew[crew.index(worker)] = worker = _Worker(*job)
                idle.append(worker)
                advance(done)
    finally:
        for worker in crew:
            worker.end()


def _collect(worker, tasks, records, reasons, given_up):
    """Take the results of `worker`; (number of items that are done, whether it has died)."""
    task = worker.task
    try:
        found, why = worker.connection.recv()
    except (EOFError, OSError):
        number = worker.current[0]
        cause = _how_it_died(worker.process)
        if not tasks.died_at(task, number):
            return 0, True
        reasons[number] = cause
        given_up.append(number)
        return 1, True
    records[task.start:task.stop] = found
    reasons.update(why)
    worker.task = None
    return len(task), False
