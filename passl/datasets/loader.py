"""The loader of images: Paddle's DataLoader, with workers that are watched."""

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING, Optional

import cv2
import paddle
from paddle.base import core

from ..utils.errors import DataError
from ..utils.forking import STOPS, forked, forking
from .base import generators_kept
from .worker_watch import STACK_SIGNAL, WorkerWatch, end_workers, not_started, remove_batches, starting

if TYPE_CHECKING:
    from ..modules.input_normalize import InputNormalize


_NOTICE = 30.0          # seconds


def _end_worker(*_):
    """Signal handler: nobody will fetch this worker's batches, so they go before it does."""
    remove_batches(os.getpid())
    os._exit(143)       # an exception could be swallowed where it arrives, and the worker make another batch


def _on_sigterm(parent):
    """Signal handler for the workers of process `parent`: they end with it.

    While it lives, the signal may have gone to all processes of the job. The main process then ends its step and
    saves, and may need a batch for that.
    """
    def handle(*_):
        if parent is not None and os.getppid() == parent:
            signal.setitimer(signal.ITIMER_REAL, _NOTICE)
        else:
            _end_worker()
    return handle


def init_worker(worker_id: int) -> None:
    """Runs first in every worker process."""
    main = multiprocessing.parent_process()
    parent = None if main is None else main.pid
    cv2.setNumThreads(0)                    # the workers are the parallelism
    os.environ['OMP_NUM_THREADS'] = '1'
    for number in STOPS - {signal.SIGTERM}:     # the main process's to handle: it may save first
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _end_worker)
    signal.signal(signal.SIGTERM, _on_sigterm(parent))
    if STACK_SIGNAL:
        faulthandler.register(STACK_SIGNAL, file=2, all_threads=False)
    if sys.platform == 'linux':
        # Die with the main process, however that ends: Paddle's workers would wait for ever and keep
        # their batches in /dev/shm.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if parent is not None and os.getppid() != parent:          # it died before the line above
            _end_worker()
    forked()


class ImageLoader(paddle.io.DataLoader):
    """Paddle's DataLoader, with four differences.

    * A worker's error arrives as a DataError with its reason (Paddle only says 'Blocking queue
      is killed'). So does its sudden end, at once, and its hanging, after `batch_timeout` seconds (0: no limit).
    * Workers that do not end when they are asked to are killed; what they had in shared memory is removed.
    * `num_workers: 0` reads in the calling thread: Paddle would read in a second thread, which
      hangs on an error and shares the global random generators with the training step.
    * With uint8 transport (`input_transform` is set) the workers' images are uint8 [N, H, W, 3]. They are
      normalised here, on the device, or by the model that `hand_over` was called for.
    """

    input_transform: Optional['InputNormalize'] = None
    handed_over = False
    batch_timeout = 0
    _kept = None            # persistent workers: (Paddle's iterator, watch)

    def hand_over(self, model: paddle.nn.Layer) -> None:
        """Let `model` normalise: it gets `input_transform` and from now on uint8 images.

        Nothing happens with float32 transport, or if the model has no attribute `input_transform`.
        """
        if self.input_transform is not None and hasattr(model, 'input_transform'):
            model.input_transform = self.input_transform
            self.handed_over = True

    def __iter__(self):
        if self.input_transform is None or self.handed_over:
            yield from self._batches()
            return
        views = self.collate_fn.views
        for batch in self._batches():
            yield [self.input_transform(x) for x in batch[:views]] + list(batch[views:])

    def _batches(self):
        if self.num_workers == 0:
            for keys in self.batch_sampler:
                with generators_kept():
                    fields = self.collate_fn([self.dataset[k] for k in keys])
                yield [paddle.to_tensor(field) for field in fields]
            return
        batches = watch = None
        failed = True
        try:
            batches, watch = self._start()
            while True:
                try:
                    batch = watch.fetch(batches.__next__)
                except StopIteration:
                    break
                yield batch
            failed = False
        except SystemError as e:
            raise explain_failure(self, e, watch or self._kept and self._kept[1]) from None
        except GeneratorExit:           # who stops before the last batch must not leave workers behind
            failed = False
            raise
        finally:
            self._finish(batches, watch, failed)

    def _start(self):
        """(Paddle's iterator, with workers at work; the watch over them)."""
        if self._kept is not None:
            batches, watch = self._kept
            if watch.reason:
                raise DataError(watch.reason)
            watch.fetch(super().__iter__)
            return self._kept
        try:
            with forking(), starting():
                batches = super().__iter__()
        except OSError:
            gc.collect()                # the queues of the last iteration may still hold files and locks
            try:
                with forking(), starting():
                    batches = super().__iter__()
            except OSError as e:
                raise not_started(e) from e
        # Paddle's handler of SIGCHLD raises in the middle of whatever runs when one of the workers that it knows dies.
        # It keeps those of other loaders; the watch tells it better of these.
        core._erase_process_pids(id(batches))
        try:
            pair = batches, WorkerWatch(batches, self.dataset, self.batch_timeout)
        except OSError as e:
            end_workers(batches, failed=True)
            raise not_started(e) from e
        if self._persistent_workers:
            self._kept = pair
        return pair

    def close(self) -> None:
        """End persistent workers, which otherwise live as long as the process; another iteration starts new ones."""
        self._finish(None, None, True)

    def _finish(self, batches, watch, failed):
        if self._kept is not None:
            if not failed:
                return
            (batches, watch), self._kept, self._iterator = self._kept, None, None
        if watch is not None:
            watch.stop()
            end_workers(batches, failed)


def explain_failure(loader: ImageLoader, error: Exception, watch: Optional[WorkerWatch] = None) -> Exception:
    """`error` (Paddle's 'Blocking queue is killed') as a DataError with the worker's reason, if known."""
    reason = getattr(loader.dataset, 'failure', None)
    if reason:
        return DataError(f'A data loader worker stopped. {reason}')
    # a dying worker removes its batches first: Paddle may miss one of them before anybody sees the worker dead
    reason = watch and (watch.reason or watch.deaths(patience=5))
    return DataError(reason) if reason else error
