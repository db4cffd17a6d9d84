"""Unreadable images: their number in the log, their names in a file of the run folder."""

import contextlib
import json
import os
from typing import Iterable, Optional, TYPE_CHECKING

from ..utils.distributed.dist import gather_objects, is_main
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Order

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

try:
    import fcntl
except ImportError:             # no file locks there
    fcntl = None                # type: ignore[assignment]  # mypy knows no module that may be None

NAMES_FILE = 'bad_images.txt'


def read_names(f: Iterable[str]) -> list[str]:
    """The names in an open file of one JSON string per line; other lines (torn by a kill) are left out."""
    names = []
    for line in f:
        with contextlib.suppress(ValueError):
            name = json.loads(line)
            if isinstance(name, str):
                names.append(name)
    return names


def add_names(path: str, names: Iterable[str]) -> set[str]:
    """Append those of `names` that the file at `path` does not hold yet, also if several processes do so at once.

    Returns:
        set of all names that the file holds then.
    """
    with open(path, 'a+', encoding='ascii', errors='replace') as f:
        if fcntl is not None:
            with contextlib.suppress(OSError):      # file systems without locks
                fcntl.flock(f, fcntl.LOCK_EX)
        f.seek(0)
        text = f.read()
        held = set(read_names(text.splitlines()))
        new = [n for n in dict.fromkeys(names) if n not in held]
        if new:
            torn = '\n' if text and not text.endswith('\n') else ''
            f.write(torn + ''.join(json.dumps(n) + '\n' for n in new))
        return held.union(new)


@HOOKS.register()
class BadImagesHook(Hook):
    """Counts the images that could not be read, over all workers and processes and all parts of a resumed run.

    A name is written down in the step after it was found, so that a kill loses none. The log says the number at the
    end of an epoch if there are any, and at the end of the run.
    """

    priority = 65               # after the log line of the step, before the checkpoint

    def __init__(self, priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.names: Optional[set[str]] = None       # all that are known here; None before the first call
        self.fresh: set[str] = set()            # found by this process, not yet told to the others
        self.events: dict[str, int] = {}        # {part: number of finds seen}
        self.writable = True

    def _dataset(self, trainer, part):
        return getattr(trainer.train_loader if part == 'train' else trainer.val_loader, 'dataset', None)

    def _write(self, trainer, names):
        """Into the file, or only into memory if there is none."""
        self.names = set() if self.names is None else self.names
        if trainer.run_dir and self.writable:
            path = os.path.join(trainer.run_dir, NAMES_FILE)
            try:
                if names or os.path.exists(path):
                    self.names |= add_names(path, names)
            except OSError as e:
                self.writable = False       # the names are in the log too
                get_logger().warning("'%s' cannot be written: %s. The names of unreadable images are in the log only.",
                                     path, e.strerror)
        self.names.update(names)

    def _look(self, trainer, part):
        """Take in what was found since the last look; costs next to nothing if that is nothing."""
        dataset = self._dataset(trainer, part)
        events = getattr(dataset, 'bad_events', 0)
        if events == self.events.get(part, 0):
            return
        self.events[part] = events
        known = self.names or ()
        new = [n for n in dataset.bad_names() if n not in known]
        self.fresh.update(new)
        self._write(trainer, new)

    def _report(self, trainer, always=False):
        """Every process must call."""
        for part in ('train', 'val'):
            self._look(trainer, part)
        told, self.fresh = gather_objects(sorted(self.fresh)), set()
        if not is_main():
            return
        self._write(trainer, [n for names in told for n in names])
        total = sum(len(d) for d in (self._dataset(trainer, p) for p in ('train', 'val')) if d is not None)
        if self.names:
            where = f'; names in {NAMES_FILE}' if trainer.run_dir and self.writable else ''
            get_logger().warning('Unreadable images so far: %d of %d (in training replaced by others%s).',
                                 len(self.names), total, where)
        elif always:
            get_logger().info('Unreadable images: none of %d.', total)

    def run_begin(self, trainer: 'Trainer') -> None:
        self._write(trainer, [])            # what an earlier part of the run found

    def train_iter_end(self, trainer: 'Trainer') -> None:
        self._look(trainer, 'train')

    def train_epoch_end(self, trainer: 'Trainer') -> None:
        self._report(trainer)

    def val_end(self, trainer: 'Trainer') -> None:
        self._report(trainer)

    def run_end(self, trainer: 'Trainer') -> None:
        self._report(trainer, always=True)

    def run_abort(self, trainer: 'Trainer') -> None:
        for part in ('train', 'val'):       # alone: the other processes may be gone
            self._look(trainer, part)
