"""Saving."""

import math
import os
import shutil
import time
from typing import Optional, TYPE_CHECKING

from ..utils.weights.checkpoint import CHECKPOINT, read_note
from ..utils.distributed.dist import broadcast_object, is_main
from ..utils.config.kinds import Count, Flag, Positive, Text
from ..utils.errors import CheckpointError
from ..utils.files import whole
from ..utils.logger import get_logger
from .broken_state import check_state
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

LATEST = 'latest.pdparams'
_FIRST_RETRY, _LAST_RETRY = 60.0, 3600.0        # seconds after a failed save; doubled from one to the other
_PATIENCE, _EVERY = 600.0, 30.0                 # at the end of a run: so long, and so often


@HOOKS.register()
class CheckpointHook(Hook):
    """Saves `epoch_N.pdparams` (or `iter_N.pdparams`) and points `latest.pdparams` to it.

    The last step is always saved, also that of a run that a signal ends. A file that cannot be written (no space, a
    folder that vanished) does not end the run: older checkpoints are kept, the reason is logged as an error, and
    saving is tried again after a minute, then in growing intervals. Only the last save of a run must succeed: it is
    tried for ten minutes, then the run ends with the error.

    Args:
        interval: in epochs, or iterations with `by_epoch: false`.
        by_epoch: unit of `interval` and `keep_every`.
        save_optimizer: false leaves the optimizer's state out: smaller files, which `--load` takes and
            `--resume` refuses.
        out_dir: another folder than the run folder.
        max_keep_ckpts: keep the newest N files that this run wrote; None or a number <= 0 keeps all. Files of
            others are never removed, whatever their names.
        keep_every: files whose epoch (iteration) is a multiple of this are kept as well.
        every_minutes: also save when so much time has passed since the last save.
    """

    priority = Priority.CHECKPOINT

    def __init__(self, interval: Count = 1, by_epoch: Flag = True, save_optimizer: Flag = True,
                 out_dir: Optional[Text] = None, max_keep_ckpts: Optional[int] = None,
                 keep_every: Optional[Count] = None, every_minutes: Optional[Positive] = None,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.interval, self.by_epoch, self.save_optimizer = interval, by_epoch, save_optimizer
        self.out_dir = out_dir
        self.keep = max_keep_ckpts if max_keep_ckpts and max_keep_ckpts > 0 else None
        self.keep_every = keep_every
        self.seconds = every_minutes and 60.0 * every_minutes
        self.saved_iteration: Optional[int] = None
        self.last, self.retry_after = 0.0, _FIRST_RETRY
        self.retry_at: Optional[float] = None
        self.place = None

    def run_begin(self, trainer: 'Trainer') -> None:
        self.saved_iteration = trainer.iteration if trainer.iteration else None
        self.last = time.monotonic()
        self.place = _identity(self.out_dir or trainer.run_dir)
        self._check_space(trainer)

    def _check_space(self, trainer):
        """Before the first step: is there room for a checkpoint, and for as many as are kept?

        (By a lower bound of its size: the weights, and one number for the optimizer beside each that is trained.)
        """
        folder, problem = self.out_dir or trainer.run_dir, None
        if folder is None:
            return
        size = sum(map(_bytes, trainer.model.state_dict().values()))
        if self.save_optimizer:
            size += sum(_bytes(p) for p in trainer.model.parameters() if not p.stop_gradient)
        free = free_bytes(folder) if is_main() else None
        if free is not None and free < size:
            problem = f"A checkpoint of this run has some {size / 2**20:.0f} MiB, and the disk of '{folder}' has " \
                      f'{free / 2**20:.0f} MiB free: nothing could be saved. Free some space, or write elsewhere: ' \
                      '-o output_dir=DIR, or -o checkpoint.out_dir=DIR (passl pretrain: --out RUN).'
        at_once = 2 if trainer.iteration or not self.keep else self.keep + 1
        if free is not None and size <= free < at_once * size:
            get_logger().warning("A checkpoint of this run has some %.0f MiB, and %d lie on the disk at a time; that "
                                 "of '%s' has room for %d. Free some space, or lower checkpoint.max_keep_ckpts.",
                                 size / 2**20, at_once, folder, free // size)
        problem = broadcast_object(problem)
        if problem:
            raise CheckpointError(problem)

    def train_iter_end(self, trainer: 'Trainer') -> None:
        # in the last step of an epoch the epoch's end, with its evaluation and schedule, belongs to the state
        if trainer.iteration % trainer.iters_per_epoch:
            self._after_step(trainer)

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        if self.by_epoch and trainer.epoch % self.interval == 0:
            self.save(trainer, f'epoch_{trainer.epoch}.pdparams')
        self._after_step(trainer)

    def _after_step(self, trainer):
        """Save if iterations or minutes say so, or after a failure."""
        by_time = self._time_is_up(trainer)
        due = by_time or not self.by_epoch and trainer.iteration % self.interval == 0
        if due and self.saved_iteration != trainer.iteration:
            self.save(trainer, self._name(trainer))

    def _time_is_up(self, trainer):
        """The same on all processes; by the clock of process 0."""
        if self.seconds is None and self.retry_at is None or not trainer.all_wait:
            return False
        now = time.monotonic()
        wanted = self.seconds is not None and now - self.last >= self.seconds
        wanted = now >= self.retry_at if self.retry_at is not None else wanted
        return trainer.agreement.due('save', is_main() and wanted)

    def run_end(self, trainer: 'Trainer') -> None:
        if self.saved_iteration != trainer.iteration:
            self.save(trainer, self._name(trainer), final=True)

    def _name(self, trainer):
        whole = trainer.iteration % trainer.iters_per_epoch == 0
        return f'epoch_{trainer.finished_epochs}.pdparams' if self.by_epoch and whole \
            else f'iter_{trainer.iteration}.pdparams'

    def save(self, trainer: 'Trainer', name: str, final: bool = False) -> None:
        """Save now, under `name`. Only process 0 writes; all must call (the others' state is gathered).

        Raises:
            CheckpointError: `final`, and the file cannot be written.
            PasslError: weights, queues or BN statistics are nan or inf.
        """
        folder = self.out_dir or trainer.run_dir
        if folder is None:          # a trainer that was built to write nothing
            return
        check_state(trainer)
        before = trainer.saved_files
        kept, drop = self._plan(before, name)
        # with those to remove: a run that is killed before they are gone finds them again
        trainer.saved_files = [f for f in before if f != name] + [name]
        give_up = time.monotonic() + (_PATIENCE if final and not trainer.stopping else 0)
        while True:
            error = self._try(trainer, folder, name)
            wait = error and time.monotonic() + _EVERY < give_up and trainer.signals.received is None
            error, wait = broadcast_object((error, wait))
            if not wait:
                break
            get_logger().error('%s Trying again every %.0f s; Ctrl-C gives up.', error, _EVERY)
            time.sleep(_EVERY)
        if error:
            trainer.saved_files = before
            if final:
                raise CheckpointError(error)
            self.retry_at = time.monotonic() + self.retry_after
            get_logger().error('%s The training goes on; saving is tried again in %.0f minutes.', error,
                               self.retry_after / 60)
            self.retry_after = min(2 * self.retry_after, _LAST_RETRY)
            return
        trainer.saved_files = kept
        self.saved_iteration, self.last = trainer.iteration, time.monotonic()
        self.retry_at, self.retry_after = None, _FIRST_RETRY
        if is_main():
            self._tidy(trainer, folder, name, drop)
        trainer.last_checkpoint = os.path.join(folder, name)
        trainer.call('checkpoint_saved')

    def _plan(self, files, name):
        """(files of this run after saving `name`, those of them to remove)."""
        files = [f for f in files if f != name] + [name]
        drop = [f for f in files[:-self.keep] if not self._is_kept(f)] if self.keep else []
        return [f for f in files if f not in drop], drop

    def _is_kept(self, name):
        found = CHECKPOINT.fullmatch(name)
        return bool(self.keep_every and found and found[1] == ('epoch' if self.by_epoch else 'iter')
                    and int(found[2]) % self.keep_every == 0)

    def _try(self, trainer, folder, name):
        """Write the file; None, or the message of what went wrong on process 0."""
        if is_main() and self.place not in (None, _identity(folder)):
            get_logger().warning("The folder '%s' has vanished (removed, renamed, or its disk is no longer mounted); "
                                 'saving to a new one of this name.', folder)
            self.place = None
        try:
            trainer.save_checkpoint(os.path.join(folder, name), with_optimizer=self.save_optimizer)
        except CheckpointError as e:
            return str(e)
        return None

    def _tidy(self, trainer, folder, name, drop):
        path = os.path.join(folder, name)
        point(os.path.join(folder, LATEST), name)
        get_logger().info('Saved %s', path)
        for old in drop:
            remove_own(folder, old, trainer.run_id)


def _identity(folder):
    """What tells a folder from another one of the same name; None where there is none."""
    try:
        found = os.stat(folder)
    except (OSError, TypeError):
        return None
    return found.st_dev, found.st_ino


def remove_own(folder: str, name: str, run_id: str) -> None:
    """Remove a checkpoint of the run `run_id`; a file that is not its own stays, whatever its name."""
    path = os.path.join(folder, name)
    if not CHECKPOINT.fullmatch(name) or not os.path.lexists(path):     # names come from a checkpoint: no '../'
        return
    if os.path.islink(path) or read_note(path).get('run_id') != run_id:
        get_logger().warning("'%s' was not written by this run and is not removed.", path)
        return
    try:
        os.remove(path)
    except OSError as e:
        get_logger().warning("The old checkpoint '%s' cannot be removed: %s", path, e.strerror)


def _bytes(tensor):
    return math.prod(tensor.shape) * tensor.element_size()


def free_bytes(folder: str) -> Optional[int]:
    """Of the disk that holds `folder`, which may have to be made yet; None where that cannot be told."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def point(link: str, name: str) -> None:
    """Let `link` mean the file `name` of the same folder, atomically; a copy where links cannot be made.

    A file called like the link that is neither a link nor a checkpoint of this project stays.
    """
    if os.path.isdir(link) or os.path.lexists(link) and not os.path.islink(link) and not read_note(link):
        get_logger().warning("'%s' was not made by this project and stays as it is; the newest checkpoint is '%s'.",
                             link, name)
        return
    try:
        with whole(link) as place:
            try:
                os.symlink(name, place)
            except OSError:
                shutil.copyfile(os.path.join(os.path.dirname(link), name), place)
    except OSError as e:
        get_logger().warning("'%s' cannot be pointed to %s: %s", link, name, e.strerror)
