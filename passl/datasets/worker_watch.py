"""A thread that watches the data workers of one iteration, and the end of workers that do not end by themselves."""

import atexit
import contextlib
import errno
import glob
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import weakref
from typing import Any, Callable, Iterator, Optional

from paddle.base import core

from ..utils.errors import DataError
from ..utils.logger import get_logger
from ..utils.distributed.watch import process_state
from .image import shown

# A worker that gets it writes where it is to stderr. Batch systems send others to all processes of a job.
STACK_SIGNAL = getattr(signal, 'SIGRTMIN', None)
_GRACE = 5.0                # seconds for workers to finish what they do
_CAUSES = {
    'SIGKILL': "Most often this is the system's out-of-memory killer (see dmesg, or the memory limit of the "
               'container): lower loader.num_workers, loader.prefetch_factor or sampler.batch_size, or give the job '
               'more memory.',
    'SIGBUS': '/dev/shm is full, or a disk failed while a file was read: give the container more shared memory (docker '
              'run --shm-size=8g, or --ipc=host), lower loader.num_workers, or set loader.use_shared_memory: false.',
    'SIGSEGV': 'A library crashed, most often the decoder of images on a damaged file: remove that file and '
               'continue with --resume auto. If it happens again elsewhere, reinstall opencv-python and pillow.',
    'SIGTERM': 'Somebody asked this process to end (a batch system, or kill): continue with --resume auto.'}
_CAUSES['SIGABRT'] = _CAUSES['SIGFPE'] = _CAUSES['SIGILL'] = _CAUSES['SIGSEGV']
_STATES = {'D': 'it waits for a disk or a network file system', 'T': 'it is stopped (SIGSTOP)',
           't': 'it is held by a debugger', 'R': 'it computes', 'S': 'it sleeps', 'X': 'state unknown'}


_LIVE: weakref.WeakSet['WorkerWatch'] = weakref.WeakSet()


def remove_batches(pid: int) -> None:
    """Remove what the dead or dying worker `pid` left in shared memory."""
    for path in glob.glob(f'/dev/shm/paddle_{pid}_*'):
        try:
            os.unlink(path)
        except OSError:
            pass


def _end_of(worker):
    """(how the process ended, its likely cause and the way out), as two texts."""
    code = worker.exitcode
    if code is not None and code < 0:
        number = -code
    elif code is not None and code > 128:       # as a shell and Paddle's handlers report a signal
        number = code - 128
    else:
        return f'exit code {code}', 'Something in it ended the process (a transform, a library); its last lines on ' \
                                    'the console say more.'
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f'signal {number}'
    how = f'killed by {name}' if code < 0 else f'exit code {code}, that of {name}'
    return how, _CAUSES.get(name, 'Somebody or something sent it that signal.')


class WorkerWatch(threading.Thread):
    """Ends an iteration whose workers died, or gave no batch for `timeout` seconds while one was waited for.

    The main thread waits for batches inside Paddle's queue, where no signal handler runs and where Paddle's own
    timeout has no effect. A thread can close that queue.

    Args:
        batches: Paddle's iterator over several worker processes.
        dataset: the workers' data set; with a method `reading(worker number)` messages name the file.
        timeout: seconds; 0: no limit.

    Attributes:
        reason: why the iteration was ended; None while all is well.
    """

    def __init__(self, batches: Any, dataset: object, timeout: float = 0) -> None:
        super().__init__(name='passl-worker-watch', daemon=True)
        self._batches = weakref.ref(batches)    # the iterator's own end must not wait for this thread
        self._workers = list(batches._workers)
        self._dataset = dataset
        self._timeout = timeout
        self._tick = min(1.0, timeout / 4) if timeout else 1.0
        self._waited: Optional[float] = None    # seconds for which the main thread has waited; None: it does not
        self._waker: Optional[int]
        self._wake, self._waker = os.pipe()
        self.reason: Optional[str] = None
        _LIVE.add(self)
        self.start()

    def fetch(self, function: Callable[[], Any]) -> Any:
        """function(), under the time limit."""
        self._waited = 0.0
        try:
            return function()
        finally:
            self._waited = None

    def stop(self) -> None:
        """End the thread."""
        if self._waker is not None:
            os.write(self._waker, b'.')     # closing would not wake it: workers of other iterators hold that end too
            os.close(self._waker)
            self._waker = None
            _LIVE.discard(self)
            if threading.current_thread() is not self:
                self.join()
            os.close(self._wake)

    def run(self) -> None:
        ends = [w.sentinel for w in self._workers] + [self._wake]
        last = time.monotonic()
        while True:
            ready = multiprocessing.connection.wait(ends, self._tick)
            batches = self._batches()
            if self._wake in ready or batches is None:
                return
            if batches._thread_done_event.is_set():         # no event of processes: a dead worker may hold its lock
                self._see_the_end()
                return
            now = time.monotonic()
            if ready:
                time.sleep(0.1)                 # a system out of memory kills several at once
                self._give_up(batches, self.deaths())
                return
            waited = self._waited
            if self._timeout and waited is not None:
                # by small steps: the whole job may be stopped for a while and continued
                self._waited = waited + min(now - last, 2 * self._tick)
                if self._waited >= self._timeout:
                    late = self._late(batches)
                    self._give_up(batches, self._hang(late), late)
                    return
            last = now
            del batches

    def _see_the_end(self):
        """All batches are there, or a worker raised an error; Paddle waits for the workers to end, without limit."""
        if not multiprocessing.connection.wait([self._wake], 2 * _GRACE) and self._waited is not None:
            for worker in self._workers:
                worker.kill()
                remove_batches(worker.pid)

    def _give_up(self, batches, reason, late=()):
        self.reason = reason
        batches._exit_thread_unexpectedly()     # wakes the main thread
        del batches
        self._show_stacks(late)
        while not multiprocessing.connection.wait([self._wake], 0.5):
            batches = self._batches()
            if batches is None:
                return
            batches._resume_worker_cnt = 0      # persistent workers are waited for between epochs, by this number
            del batches

    def end_at_exit(self) -> None:
        """The program ends in the middle of an iteration: nobody wants the batches."""
        for worker in self._workers:
            worker.kill()
            remove_batches(worker.pid)
        batches = self._batches()
        if batches is not None:
            batches._exit_thread_expectedly()
            batches._shutdown = True

    def _file(self, number):
        reading = getattr(self._dataset, 'reading', lambda number: None)(number)
        return '' if reading is None else f' while it read {shown(reading)}'

    def deaths(self, patience: float = 0) -> Optional[str]:
        """The sentences about workers that died within `patience` seconds from now, or before; None if none did."""
        ends = {w.sentinel: w for w in self._workers}
        for end in multiprocessing.connection.wait(list(ends), patience):
            ends[end].join(_GRACE)              # this end closes a moment before the system calls the process dead
        dead = [(n, w) for n, w in enumerate(self._workers) if not w.is_alive()]
        if not dead:
            return None
        found = [(_end_of(w), self._file(n), w.pid, n) for n, w in dead]
        texts = [f'number {n} (pid {pid}): {how}{file}' for (how, _), file, pid, n in found]
        causes = list(dict.fromkeys(cause for (_, cause), *_ in found))
        return f'A data loader worker ended, {"; ".join(texts)[:2000]}. {" ".join(causes)}'

    def _late(self, batches):
        """Numbers of the workers whose batches are due; all if that cannot be told."""
        tasks = dict(list(batches._task_infos.items()))
        return sorted({task[0] for task in tasks.values() if len(task) == 1}) or list(range(len(self._workers)))

    def _hang(self, late):
        """The sentences about workers that hang."""
        texts = []
        for n in late:
            state = process_state(self._workers[n].pid)[0]
            texts.append(f'worker {n} (pid {self._workers[n].pid}{self._file(n)}; '
                         f'{_STATES.get(state, "state " + state)})')
        return (f'No batch came for {self._timeout} s (loader.timeout). Late: {", ".join(texts)[:2000]}. Look whether '
                'the disk or network file system with the images answers, then continue with --resume auto; if batches '
                'really take that long, raise loader.timeout (0: no limit).')

    def _show_stacks(self, late):
        """Let the workers write to stderr where they are."""
        for n in late:
            pid = self._workers[n].pid
            if STACK_SIGNAL and process_state(pid)[0] in ('R', 'S'):
                get_logger().error('Data worker %d (pid %d) hangs; where it is follows on stderr.', n, pid)
                os.kill(pid, STACK_SIGNAL)
        if late:
            time.sleep(0.5)


def end_workers(batches: Any, failed: bool = False) -> None:
    """Paddle's end of an iteration, in bounded time.

    Workers get some seconds to finish what they do, after a failure none. Then they are killed, and what they
    have in shared memory is removed.
    """
    if batches._shutdown:
        return
    workers = list(batches._workers)
    if failed:
        for worker in workers:
            worker.kill()
    # in a thread: after a kill, Paddle may wait for the rest of a message that nobody writes any more
    ender = threading.Thread(target=batches._try_shutdown_all, args=(_GRACE / len(workers),), daemon=True)
    ender.start()
    ender.join(2 * _GRACE)
    batches._shutdown = True
    killed = [w for w in workers if failed or w.is_alive()]
    for worker in killed:
        worker.kill()
    for worker in killed:
        worker.join(1.0)
        remove_batches(worker.pid)
    if any(w.is_alive() for w in killed):
        # the system cannot kill what waits for a disk; the end of this process would wait for it
        get_logger().error('Data workers %s cannot be killed while they wait for a disk; they end when it answers.',
                           [w.pid for w in killed if w.is_alive()])
        atexit.register(_leave)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Block in which Paddle starts the workers of an iteration: none of them is left when that fails half-way."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException as e:
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
            worker.join(1.0)
            if worker.pid is not None:
                remove_batches(worker.pid)
        trace = e.__traceback__
        while trace is not None:        # its iterator, which nobody has got, would try to end what it has not
            half: Any = trace.tb_frame.f_locals.get('self')
            if hasattr(half, '_try_shutdown_all'):
                half._shutdown = True
                getattr(core, '_erase_process_pids')(id(half))
            trace = trace.tb_next
        raise


def not_started(error: OSError) -> DataError:
    """The message about workers that the system did not let start."""
    number = error.errno
    if number in (errno.EMFILE, errno.ENFILE):
        way = 'Raise the number of open files (ulimit -n 65535), or lower loader.num_workers.'
    elif number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS):
        way = 'Locks that processes share are files in /dev/shm, which is missing, full or read-only: give the ' \
              'container a writable one (docker run --shm-size=8g, or --ipc=host), or set loader.num_workers: 0.'
    else:
        way = 'Lower loader.num_workers, or raise the number of processes (ulimit -u) or the memory of the job.'
    return DataError(f'Data loader workers could not be started: {error.strerror or error}. {way}')


@atexit.register
def _end_all():
    # after this, multiprocessing asks all workers that are left to end, and waits for them
    for watch in list(_LIVE):
        watch.end_at_exit()


def _leave():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
