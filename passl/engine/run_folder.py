"""The folder of a run, in one meaning for train, evaluate, transfer-seg and transfer-det (docs/GETTING_STARTED.md)."""

import contextlib
import json
import os
import re
import time
import traceback
from typing import Any, Callable, Optional, Sequence

from ..utils.distributed import dist
from ..utils.weights.checkpoint import load_file
from ..utils.errors import CheckpointError, ConfigError, PasslError, listed
from ..utils.files import FileLock, LockedError, free_name, remove_leftovers, replace_text
from ..utils.logger import get_logger, log_to_file
from .checkpoint import checkpoints, newest
from .signals import EXIT_CODES

LOCK, CONFIG, STATUS, LOG = '.lock', 'config.yaml', 'status.json', 'log.jsonl'
_PATIENCE = 15.0            # seconds for a former holder of the lock that is just ending
# what shows that a folder holds a run: of train, PaddleSeg's trainer, PaddleDetection's, evaluate
_RESULTS = re.compile(r'(epoch|iter)_\d+(\.pdparams)?|best_model|model_final\.pdparams|metrics\.json|results\.jsonl|'
                      r'comparison\.(txt|csv|json|png)')
_WRITTEN = re.compile(r'((epoch|iter)_\d+|latest|best)\.pdparams|config\.ya?ml|comparison\.\w+|'
                      r'(status|best|metrics|evaluat\w+|predict\w*)\.json')


def folder_of(config_path: str, output_dir: str = 'output_dir') -> str:
    """The run folder of a config file: `<output_dir>/<name of the file>`."""
    return os.path.join(output_dir, os.path.splitext(os.path.basename(config_path))[0])


def run_folder(cfg: dict[str, Any], config_path: str) -> str:
    """As `folder_of` with the config's `output_dir`, and the time if it wants that; the same on every process."""
    folder = folder_of(config_path, cfg['output_dir'])
    if cfg.get('timestamp'):
        folder += time.strftime('-%Y%m%d-%H%M%S')
    return dist.broadcast_object(folder)


def results_in(folder: str) -> list[str]:
    """Names of what a run has left in `folder`: checkpoints, figures, a log with steps. [] for a free folder."""
    found = sorted(n for n in os.listdir(folder) if _RESULTS.fullmatch(n)) if os.path.isdir(folder) else []
    path = os.path.join(folder, LOG)
    if os.path.isfile(path):
        with open(path, encoding='utf-8', errors='replace') as f:
            found += [LOG] if any('"mode": "train"' in line for line in f) else []
    return found


def on_main(function: Callable[..., Any], *args: Any, way_out: str = '-o output_dir=DIR') -> Any:
    """What `function(*args)` returns on process 0, on every process; its PasslError is raised on every process."""
    result, error = None, None
    if dist.is_main():
        try:
            result = function(*args)
        except PasslError as e:
            error = (type(e).__name__, str(e))
        except OSError as e:
            where = f' ({e.filename})' if e.filename else ''
            error = ('ConfigError', f'Cannot write to the run folder: {e.strerror or e}{where}. Choose another with '
                                    f'{way_out}, or free some space.')
    result, error = dist.broadcast_object((result, error))
    if error:
        raise {'CheckpointError': CheckpointError}.get(error[0], ConfigError)(error[1])
    return result


class RunFolder:
    """The folder that a run works in: free or refused, locked while it works, marked with how it went.

    As a context it gives the lock back at the end, and status.json tells of an error that ended the run.

    Args:
        folder: the run folder.
        saves: folder of the checkpoints, `checkpoint.out_dir` or the same.
        way_out: the flag that chooses another folder.
        resumes: the command has --resume auto.

    Attributes:
        facts: {name: plain value} that status.json tells beside how it stands.
    """

    def __init__(self, folder: str, saves: Optional[str] = None, way_out: str = '--output DIR',
                 resumes: bool = False) -> None:
        self.folder, self.way_out, self.resumes = os.path.normpath(folder), way_out, resumes
        self.saves = os.path.normpath(saves or folder)
        self.claimed = False
        self.locks: dict[str, FileLock] = {}
        self.facts: dict[str, Any] = {}
        self._content: dict[Optional[str], Any] = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception):        # the console gets it from the command line
            mine = isinstance(error, PasslError)
            log_to_file(f'{kind.__name__}: {error}' if mine else
                        ''.join(traceback.format_exception(kind, error, trace)))
            self.tell('failed', error.exit_code if mine else 1, str(error) if mine else f'{kind.__name__}: {error}')
        elif error is not None:                 # Ctrl-C, or SIGTERM where there was nothing to save
            code = getattr(error, 'code', 130)
            self.tell('stopped' if code in EXIT_CODES.values() else 'failed', code)
        self.release()

    def holds(self, path: str) -> bool:
        """Whether `path` lies directly in one of the two folders."""
        above = os.path.realpath(os.path.dirname(os.path.normpath(path)) or '.')
        return above in map(os.path.realpath, (self.folder, self.saves))

    def start(self, resume: Optional[str] = None, overwrite: bool = False,
              needed: Sequence[tuple[str, Optional[str]]] = ()) -> Optional[str]:
        """Make the folder ready for this run, and lock it.

        Args:
            resume: what to go on from: a path, or 'auto': the newest of the folder that is whole.
            overwrite: a former run is moved aside, or with `resume` the newer checkpoints.
            needed: [(flag, path)] that the run will read, so that they must not be moved aside.
        Returns:
            Path to go on from; None for a run from the beginning. The same on every process.
        Raises:
            ConfigError, CheckpointError: on every process.
        """
        path = None
        if resume == 'auto':
            self._on_main(self._lock)
            path = self._on_main(self._newest)
        elif resume:
            path = self._on_main(self._existing, resume)
        if path and self.holds(path):
            self._on_main(self._go_on, path, resume == 'auto', overwrite)
        else:       # --resume auto with nothing to resume keeps what a run left before its first checkpoint
            self.claim(overwrite or resume == 'auto', [*needed, ('--resume', path)])
        return path

    def claim(self, overwrite: bool = False, needed: Sequence[tuple[str, Optional[str]]] = (),
              goes_on: Optional[str] = None, keep: Sequence[str] = ()) -> None:
        """Make the folder ready for a new run, and lock it.

        A folder that holds a run (`results_in`) is refused, or with `overwrite` moved aside to `<folder>.bak-N`. Other
        files, also of a run that failed before its first step, are no obstacle. `checkpoint.out_dir` may be any folder,
        so one with checkpoints is refused, never moved.

        Args:
            needed: see `start`.
            goes_on: a file of the folder with which this run goes on; if it is there nothing is in the way.
            keep: names that stay when the rest is moved aside.
        """
        self._on_main(self._claim, overwrite, needed, goes_on, keep)

    def _claim(self, overwrite, needed, goes_on, keep):
        self._lock()            # nobody is at work in what may be moved aside now
        found = results_in(self.folder)
        if found and (overwrite or goes_on not in found):
            if not overwrite:
                first = 'Continue it with --resume auto, start' if self.resumes else 'Start'
                raise ConfigError(f"'{self.folder}' already holds a run ({listed(found, 3)}). {first} anew with "
                                  '--overwrite (the former run is moved aside), or choose another folder with '
                                  f'{self.way_out}.')
            self._set_aside(needed, keep)
        if self.saves != self.folder and checkpoints(self.saves):
            raise ConfigError(f"'checkpoint.out_dir' is '{self.saves}', which holds {checkpoints(self.saves)[0]} of "
                              'another run: it would be replaced. Choose another with -o checkpoint.out_dir=DIR, or '
                              'continue that run with --resume auto.')
        self._lock()
        self.claimed = True

    def _set_aside(self, needed, keep):
        for flag, path in needed:
            here = os.path.realpath(self.folder) + os.sep
            if path and os.path.exists(path) and (os.path.realpath(path) + os.sep).startswith(here):
                raise ConfigError(f"{flag} '{path}' lies in the run folder that --overwrite moves aside. Copy it "
                                  f'elsewhere first, or choose another folder with {self.way_out}.')
        aside = free_name(f'{self.folder}.bak-')
        self.release()
        os.rename(self.folder, aside)
        get_logger().info("Moved the former run to '%s'.", aside)
        os.mkdir(self.folder)
        for name in keep:
            if os.path.lexists(os.path.join(aside, name)):
                os.rename(os.path.join(aside, name), os.path.join(self.folder, name))

    def add(self, names: str, overwrite: bool = False) -> None:
        """Lock the folder to add results to it, which leaves a run in it, and its status.json, as they are.

        Args:
            names: pattern of the names of these results. Former ones are refused, or with `overwrite` moved to
                `<folder>/superseded-N`.
        """
        self._on_main(self._add, re.compile(names), overwrite)

    def _add(self, names, overwrite):
        self._lock()
        found = sorted(n for n in os.listdir(self.folder) if names.fullmatch(n))
        if found and not overwrite:
            raise ConfigError(f"'{self.folder}' already holds {listed(found, 3)}. Replace it with --overwrite (the "
                              f'former one is moved aside), or choose another folder with {self.way_out}.')
        self._supersede(self.folder, found)

    def _supersede(self, folder, names):
        if names:
            aside = free_name(os.path.join(folder, 'superseded-'))
            os.mkdir(aside)
            for name in names:
                os.rename(os.path.join(folder, name), os.path.join(aside, name))
            get_logger().info("Moved %d former results (%s) to '%s'.", len(names), listed(names, 3), aside)

    def _lock(self):
        for path in dict.fromkeys(map(os.path.realpath, (self.folder, self.saves))):
            if path in self.locks:
                continue
            if os.path.lexists(path) and not os.path.isdir(path):
                raise ConfigError(f"'{path}' is a file. Choose a folder with {self.way_out}.")
            os.makedirs(path, exist_ok=True)
            try:
                self.locks[path] = FileLock(os.path.join(path, LOCK)).acquire(_PATIENCE)
            except LockedError as e:
                more = ' (or -o checkpoint.out_dir=DIR)' if self.saves != self.folder else ''
                raise ConfigError(f"'{path}' is in use by another run ({e}). Stop that run, or choose another folder "
                                  f'with {self.way_out}{more}.') from None
            remove_leftovers(path, _WRITTEN)

    def release(self) -> None:
        for lock in self.locks.values():
            lock.release()
        self.locks = {}

    def states(self, folder: str) -> list[str]:
        """Names of what --resume can go on from in `folder`, newest first."""
        return checkpoints(folder)

    def read(self, path: str) -> Any:
        """Content of a checkpoint; what `--resume auto` has read on process 0 is handed out, and not read again."""
        return self._content.pop(path, None) or load_file(path)

    def _newest(self):
        path, content = newest(self.saves)
        self._content = {path: content}
        return path

    def _existing(self, path):
        if os.path.exists(path):
            return path
        here = self.states(os.path.dirname(path) or '.')
        hint = f'That folder has {", ".join(here[:5])}.' if here else \
            'Use --resume auto for the newest one of the run folder.'
        raise CheckpointError(f"--resume: no file '{path}'. {hint}")

    def _go_on(self, path, newest, allowed):
        """Take the folder for going on from `path`; if that is not its newest state, the newer ones go aside.

        They would be replaced one by one, and `--resume auto` could not tell old from new.
        """
        self._lock()
        own, names = os.path.basename(os.path.realpath(path)), self.states(self.saves)
        newer = names[:names.index(own)] if own in names and not newest else []
        if newer and not allowed:
            raise ConfigError(f"'{self.saves}' holds newer checkpoints than '{path}' ({', '.join(newer[:3])}). To go "
                              'on from the newest use --resume auto; to go on from this one add --overwrite: the newer '
                              'ones are then moved to a sub-folder.')
        self._supersede(self.saves, newer)
        self.claimed = True

    def _on_main(self, function, *args):
        return on_main(function, *args, way_out=self.way_out)

    def tell(self, state: str, code: Optional[int] = None, message: str = '') -> None:
        """Write how it stands with the run to status.json, on process 0 while it holds the lock.

        `state`: running, done, stopped or failed; `code`: exit code of process 0. The launcher has exit codes of its
        own, so scripts that start a job again look here.
        """
        if not self.locks or not self.claimed:        # a folder of another run, which refused this one
            return
        now = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        with contextlib.suppress(OSError):          # a full disk: the log tells it
            self._write(STATUS, {'state': state, 'code': code, 'message': message, 'time': now, **self.facts})

    def write_json(self, name: str, content: Any) -> None:
        """Write figures as JSON, on process 0."""
        path = os.path.join(self.folder, name)
        if dist.is_main():
            try:
                self._write(name, content)
            except OSError as e:
                raise ConfigError(f"Cannot write '{path}': {e.strerror or e}. Free some space, or choose another "
                                  f'folder with {self.way_out}.') from e
            get_logger().info('Wrote %s', path)

    def _write(self, name, content):
        replace_text(os.path.join(self.folder, name), json.dumps(content, indent=1, ensure_ascii=False) + '\n')

    def write_config(self, text: str, name: str = CONFIG) -> None:
        """Write the config, on process 0. One with other content is kept as config-N.yaml."""
        self._on_main(self._write_config, text, os.path.join(self.folder, name))

    def _write_config(self, text, path):
        if os.path.lexists(path):
            with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding='utf-8') as f:
                if f.read() == text:
                    return
            stem, ending = os.path.splitext(path)
            aside = free_name(f'{stem}-', ending)
            os.rename(path, aside)
            get_logger().info("Another configuration was in the run folder; it is kept as '%s'.", aside)
        replace_text(path, text)
