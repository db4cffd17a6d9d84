"""The folder of a run: where it is, whether it is free, what to resume from."""

import contextlib
import json
import os
import time

from ..utils.distributed import dist
from ..utils.weights.checkpoint import CHECKPOINT, load_file, read_note, remove_leftovers
from ..utils.config import dump_config
from ..utils.errors import CheckpointError, ConfigError, PasslError
from ..utils.file_lock import FileLock, LockedError
from ..utils.logger import get_logger
from ..utils.misc import replace_text
from .state import FORMAT

LOCK, CONFIG, STATUS = '.lock', 'config.yaml', 'status.json'
_PATIENCE = 15.0            # seconds for a former holder of the lock that is just ending


def run_folder(cfg, config_path):
    """`<output_dir>/<stem of the config file>[-time]`, the same on every process."""
    stem = os.path.splitext(os.path.basename(config_path))[0]
    if cfg.get('timestamp'):
        stem += time.strftime('-%Y%m%d-%H%M%S')
    return dist.broadcast_object(os.path.join(cfg['output_dir'], stem))


def checkpoints(folder):
    """Names of the checkpoints in `folder`, newest first: by iteration; files that do not tell it last, by time."""
    names = [n for n in os.listdir(folder) if CHECKPOINT.fullmatch(n)] if os.path.isdir(folder) else []
    return sorted(names, key=lambda n: _age(os.path.join(folder, n)), reverse=True)


def _age(path):
    note = read_note(path)
    iteration = note.get('iteration') if note.get('format') == FORMAT else None
    return iteration if isinstance(iteration, int) else -1, os.lstat(path).st_mtime_ns


def _has_steps(folder):
    """Whether the log of `folder` has a training step."""
    path = os.path.join(folder, 'log.jsonl')
    if not os.path.exists(path):
        return False
    with open(path, encoding='utf-8', errors='replace') as f:
        return any('"mode": "train"' in line for line in f)


def on_main(function, *args):
    """What `function(*args)` returns on process 0, on every process; its PasslError is raised on every process."""
    result, error = None, None
    if dist.is_main():
        try:
            result = function(*args)
        except PasslError as e:
            error = (type(e).__name__, str(e))
        except OSError as e:
            error = ('ConfigError', f"Cannot write to the run folder: {e.strerror or e}"
                                    f"{f' ({e.filename})' if e.filename else ''}. Choose another with "
                                    '-o output_dir=DIR, or free some space.')
    result, error = dist.broadcast_object((result, error))
    if error:
        raise {'CheckpointError': CheckpointError}.get(error[0], ConfigError)(error[1])
    return result


class Folders:
    """The run folder and the folder of the checkpoints, locked while a run writes to them.

    Args:
        folder: the run folder.
        saves: folder of the checkpoints, `checkpoint.out_dir` or the same.
    """

    def __init__(self, folder, saves=None):
        self.folder, self.saves, self.locks, self.started = folder, saves or folder, {}, False

    def holds(self, path):
        """Whether `path` lies directly in one of the two folders."""
        return os.path.realpath(os.path.dirname(path) or '.') in map(os.path.realpath, (self.folder, self.saves))

    def lock(self):
        """Take the locks, on process 0; ConfigError on every process if another run holds one."""
        on_main(self._lock)

    def _lock(self):
        for path in dict.fromkeys(map(os.path.realpath, (self.folder, self.saves))):
            if path in self.locks:
                continue
            os.makedirs(path, exist_ok=True)
            try:
                self.locks[path] = FileLock(os.path.join(path, LOCK)).acquire(_PATIENCE)
            except LockedError as e:
                raise ConfigError(f"'{path}' is in use by another run ({e}). Stop that run, or choose another folder "
                                  'with -o output_dir=DIR (or -o checkpoint.out_dir=DIR).') from None
            remove_leftovers(path)

    def release(self):
        for lock in self.locks.values():
            lock.release()
        self.locks = {}

    def claim(self, overwrite=False):
        """Make the folder ready for a new run, and lock it.

        A folder that holds a run (a checkpoint or a logged step) is refused, or with `overwrite` moved aside
        to `<folder>.bak-N`. Files of an evaluation or of a run that failed before its first step are no obstacle.
        `checkpoint.out_dir` may be any folder, so one with checkpoints is refused, never moved.
        """
        on_main(self._claim, overwrite)

    def _claim(self, overwrite):
        self._lock()            # nobody is at work in what may be moved aside now
        if checkpoints(self.folder) or _has_steps(self.folder):
            if not overwrite:
                raise ConfigError(f"'{self.folder}' already holds a run. Continue it with --resume auto, or start anew "
                                  'with --overwrite (the old run is moved aside), with another -o output_dir=DIR, or '
                                  'with -o timestamp=true.')
            aside = _free_name(f'{self.folder}.bak-')
            self.release()
            os.rename(self.folder, aside)
            get_logger().info("Moved the former run to '%s'.", aside)
        if self.saves != self.folder and checkpoints(self.saves):
            raise ConfigError(f"'checkpoint.out_dir' is '{self.saves}', which holds {checkpoints(self.saves)[0]} of "
                              'another run: it would be replaced. Choose another with -o checkpoint.out_dir=DIR, or '
                              'continue that run with --resume auto.')
        self._lock()

    def newest(self):
        """Path of the newest checkpoint that is whole, or None; damaged ones are reported."""
        names = checkpoints(self.saves)
        untold = [n for n in names if _age(os.path.join(self.saves, n))[0] < 0]      # so damaged, or of somebody else
        whole = None
        for name in untold + [n for n in names if n not in untold]:
            path = os.path.join(self.saves, name)
            try:
                state = load_file(path)
            except CheckpointError as e:
                get_logger().warning('Damaged checkpoint left aside: %s', e)
                continue
            if name not in untold:
                return path
            if whole is None and isinstance(state, dict) and state.get('format') == FORMAT:
                whole = path
        return whole

    def set_newer_aside(self, path, allowed):
        """Before going on from `path`, which is not the newest checkpoint of the folder.

        The newer ones would be replaced one by one, and `--resume auto` could not tell old from new. So this is
        refused, or if `allowed` they are moved to `<folder>/superseded-N`.
        """
        on_main(self._set_newer_aside, path, allowed)

    def _set_newer_aside(self, path, allowed):
        own = os.path.basename(os.path.realpath(path))
        names = checkpoints(self.saves)
        newer = names[:names.index(own)] if own in names else []
        if not newer:
            return
        if not allowed:
            raise ConfigError(f"'{self.saves}' holds newer checkpoints than '{path}' ({', '.join(newer[:3])}). To go "
                              'on from the newest use --resume auto; to go on from this one add --overwrite: the newer '
                              'ones are then moved to a sub-folder.')
        aside = _free_name(os.path.join(self.saves, 'superseded-'))
        os.mkdir(aside)
        for name in newer:
            os.rename(os.path.join(self.saves, name), os.path.join(aside, name))
        get_logger().info("Moved %d newer checkpoints to '%s'.", len(newer), aside)

    def tell(self, state, code=None, message=''):
        """Write how it stands with the run to status.json, on process 0 while it holds the lock.

        `state`: running, done, stopped or failed; `code`: exit code of process 0. The launcher has exit codes of its
        own, so scripts that start a job again look here.
        """
        if not self.locks or not self.started:        # a folder of another run, which refused this one
            return
        status = {'state': state, 'code': code, 'message': message, 'time': time.strftime('%Y-%m-%dT%H:%M:%S%z')}
        with contextlib.suppress(OSError):          # a full disk: the log tells it
            replace_text(os.path.join(self.folder, STATUS), json.dumps(status, ensure_ascii=False) + '\n')

    def write_config(self, cfg):
        """Write config.yaml, on process 0. One with other content is kept as config-N.yaml."""
        on_main(self._write_config, cfg)

    def _write_config(self, cfg):
        path, text = os.path.join(self.folder, CONFIG), dump_config(cfg)
        if os.path.lexists(path):
            with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding='utf-8') as f:
                if f.read() == text:
                    return
            aside = _free_name(os.path.join(self.folder, 'config-'), '.yaml')
            os.rename(path, aside)
            get_logger().info("Another configuration was in the run folder; it is kept as '%s'.", aside)
        replace_text(path, text)


def _free_name(front, end=''):
    n = 1
    while os.path.lexists(f'{front}{n}{end}'):
        n += 1
    return f'{front}{n}{end}'


def find_resume(resume, folders):
    """The checkpoint that `--resume` means, the same on every process; None for 'auto' with nothing there.

    Args:
        resume: a file, or 'auto': the newest checkpoint that can be read.
        folders: Folders of the run.
    """
    if resume == 'auto':
        return on_main(folders.newest)
    return on_main(_existing, resume)


def _existing(path):
    if os.path.exists(path):
        return path
    here = checkpoints(os.path.dirname(path) or '.')
    hint = f'That folder has {", ".join(here[:5])}.' if here else \
        'Use --resume auto for the newest one of the run folder.'
    raise CheckpointError(f"--resume: no file '{path}'. {hint}")
