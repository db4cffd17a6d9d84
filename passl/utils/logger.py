"""The log: console lines that do not tear a progress bar, log.txt, and JSON lines."""

import contextlib
import json
import logging
import math
import os
import sys
import time
from typing import Any, Iterator, Optional, Union

NAME = 'passl'
LOG_FILE = 'log.txt'
COLUMNS = 100               # of a line for people on a terminal, with STAMP
STAMP = len('12:00:00 ')
_quiet, _rank = False, 0


def on_terminal() -> bool:
    """Whether somebody looks at the log lines while they come."""
    return bool(getattr(sys.stdout, 'isatty', lambda: False)())


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """Inside, a terminal gets errors only; pipes and files get what they always get."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


class _ConsoleHandler(logging.Handler):
    """Writes through `tqdm.write`, so that a running bar moves down instead of being torn.

    On a terminal a record that brings a line for people (`extra={'short': text}`) is shown as that, and of the stamp
    the time alone; a pipe or a file gets what log.txt gets.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if _quiet and record.levelno < logging.ERROR and on_terminal():
            return
        try:
            text = _for_people(record) if on_terminal() else self.format(record)
            try:
                from tqdm import tqdm
            except ImportError:             # reading configs or weights needs no bar
                sys.stdout.write(text + '\n')
            else:
                tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()              # rank 0 of a launched job writes into a pipe
        except Exception:
            self.handleError(record)


def _for_people(record):
    """The line of a terminal."""
    level = f'{record.levelname}: ' if record.levelno > logging.INFO else ''
    mark = f'[rank {_rank}] ' if _rank else ''
    return time.strftime('%H:%M:%S ', time.localtime(record.created)) + level + mark + getattr(
        record, 'short', record.getMessage())


def get_logger() -> logging.Logger:
    """The project's logger. Before `setup_logger` only warnings appear, on stderr."""
    return logging.getLogger(NAME)


def warn_for_all(text: str) -> None:
    """Warn of what every process of the job finds alike: process 0 says it."""
    if _rank == 0:
        get_logger().warning('%s', text)


def setup_logger(run_dir: Optional[str] = None, rank: int = 0) -> logging.Logger:
    """Set up the project's logger; may be called again (the former outputs are closed).

    Args:
        run_dir: folder whose log.txt is appended to; created when missing. None: console only.
        rank: number of this process. Processes other than 0 report warnings only, marked
            with their rank, in the same log.txt.

    Returns:
        The logger 'passl'.
    """
    global _rank
    logger, _rank = get_logger(), rank
    for handler in [h for h in logger.handlers if getattr(h, 'passl_owned', False)]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False        # imported libraries put a handler on the root: every line twice
    mark = '' if rank == 0 else f'[rank {rank}] '
    form = logging.Formatter(f'[%(asctime)s] %(levelname)s: {mark}%(message)s', '%Y-%m-%d %H:%M:%S')
    handlers: list[logging.Handler] = [_ConsoleHandler()]
    if run_dir is not None:
        os.makedirs(run_dir, exist_ok=True)
        handlers.append(logging.FileHandler(os.path.join(run_dir, LOG_FILE), mode='a', encoding='utf-8'))
    for handler in handlers:
        handler.setFormatter(form)
        setattr(handler, 'passl_owned', True)
        logger.addHandler(handler)
    return logger


def log_to_file(text: str) -> None:
    """Write an error to log.txt only, for what the console is told otherwise."""
    logger = get_logger()
    record = logger.makeRecord(NAME, logging.ERROR, __file__, 0, '%s', (text,), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _plain(value):
    """`value` as JSON types. NaN and infinities, which JSON lacks, become 'nan', 'inf', '-inf'."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, 'tolist') and not isinstance(value, (str, bytes)):     # NumPy, Paddle
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


class JsonLines:
    """Appends objects to a file, one flushed JSON line each.

    Example:
        >>> with JsonLines('output/run/log.jsonl') as log:
        ...     log.write({'mode': 'train', 'iteration': 1, 'loss': 9.2})
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path = os.fspath(path)
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        self._torn = _ends_without_newline(self.path)       # the former run was killed while writing
        self._failing = False
        self._file = open(self.path, 'ab', buffering=0)

    def write(self, obj: dict[str, Any]) -> None:
        """Append one mapping. Values: numbers, strings, None, lists, mappings, arrays.

        A line that cannot be written (no space left) is lost, which is logged once; it does not end a run.
        """
        line = json.dumps(_plain(obj), ensure_ascii=False, allow_nan=False).encode('utf-8', 'surrogatepass') + b'\n'
        if self._torn:              # keep the torn line apart
            line = b'\n' + line
        try:
            self._torn = self._file.write(line) != len(line)
            self._failing = False
        except OSError as e:
            if not self._failing:
                get_logger().error("Lines of '%s' are lost: %s.", self.path, e.strerror or e)
            self._failing = True

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def _ends_without_newline(path):
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return False
    with open(path, 'rb') as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) != b'\n'


def read_json_lines(path: Union[str, os.PathLike[str]]) -> list[Any]:
    """The objects of a JSON-lines file, in order; a line torn by a kill is left out, with a warning."""
    objects = []
    with open(path, encoding='utf-8', errors='replace') as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                objects.append(json.loads(line))
            except (ValueError, RecursionError):
                get_logger().warning('%s, line %d is damaged and was left out.', path, number)
    return objects
