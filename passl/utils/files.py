"""Files that appear whole or not at all, free names, and a lock that the system takes back from a process that dies."""

import contextlib
import errno
import glob
import json
import os
import re
import secrets
import socket
import time
from typing import IO, Any, Iterator, Optional

try:
    import fcntl
except ImportError:             # not a Unix
    fcntl = None                # type: ignore[assignment]  # mypy knows no module that may be None

from .errors import PasslError
from .logger import get_logger

_BUSY = (errno.EACCES, errno.EAGAIN)
_TEMPORARY = re.compile(r'\.(.+)\.\d+\.tmp')
_LONGEST = 3600             # seconds that a file may take to be written


@contextlib.contextmanager
def whole(path: str, replace: bool = True) -> Iterator[str]:
    """A place of its own to write the file `path` at; the file gets its name when the block ends well.

    It then holds everything or is not there, also when the process is killed or the disk is full, and a file that was
    there before stays until then. The place lies in the same folder, which must exist; nothing is there at first.

    Args:
        path: the file.
        replace: False: FileExistsError if there is a file of this name at the end.
    Yields:
        path of the place.
    Raises:
        OSError: it cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    _remove_stale(folder, name)
    # not the process's number: on a shared disk another machine may have the same
    place = os.path.join(folder, f'.{name}.{secrets.randbelow(10**12)}.tmp')
    try:
        yield place
        settle(place, path, replace)
    finally:
        _unlink(place)


@contextlib.contextmanager
def whole_file(path: str, mode: str = 'wb', replace: bool = True, **options: Any) -> Iterator[IO[Any]]:
    """As `whole`; yields the open file. `mode` and `options` are those of `open`."""
    with whole(path, replace) as place, open(place, mode.replace('w', 'x'), **options) as f:   # x: never through a link
        yield f


def settle(place: str, path: str, replace: bool = True) -> None:
    """Give a finished file, link or folder at `place` its name `path` for good; as `whole`."""
    if not os.path.islink(place):
        _sync(place)
    try:
        if not replace:
            os.link(place, path)
    except FileExistsError:
        raise
    except OSError:                     # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        replace = True
    if replace:
        os.replace(place, path)
    with contextlib.suppress(OSError):  # file systems that cannot make a rename durable are left alone
        _sync(os.path.dirname(os.path.abspath(path)))


def replace_text(path: str, text: str) -> None:
    """Write a text file whole or not at all; one that is there stays until then. Raises OSError."""
    with whole_file(path, 'w', encoding='utf-8', errors='surrogateescape') as f:
        f.write(text)


def remove_leftovers(folder: str, names: re.Pattern[str]) -> None:
    """Remove the unfinished files that killed processes left in a folder; only for who holds the folder's lock.

    Args:
        names: compiled pattern of the names that the files would have got.
    """
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        found = _TEMPORARY.fullmatch(name)
        if found and names.fullmatch(found[1]):
            _unlink(os.path.join(folder, name))


def free_name(front: str, end: str = '') -> str:
    """The first of `front`1`end`, `front`2`end`, ... that does not exist."""
    n = 1
    while os.path.lexists(f'{front}{n}{end}'):
        n += 1
    return f'{front}{n}{end}'


def _remove_stale(folder, name):
    """Remove what killed processes left of this file."""
    for leftover in glob.glob(os.path.join(glob.escape(folder), f'.{glob.escape(name)}.*.tmp')):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(leftover) > _LONGEST:
                os.unlink(leftover)


def _unlink(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync(path):
    fd = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LockedError(PasslError):
    """Somebody else holds the lock."""


class FileLock:
    """Exclusive use of what a lock file stands for, across processes and, where the file system can, machines.

    POSIX record locks: they are not inherited by forked data workers, and end with their process, however it ends.
    The file stays; it holds who has (had) the lock, as JSON.

    Args:
        path: the lock file; made if missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: Optional[IO[str]] = None

    def acquire(self, patience: float = 0.0) -> 'FileLock':
        """Take the lock.

        Args:
            patience: seconds to wait for a holder that is just ending.
        Returns:
            self. On a file system without locks a warning is logged and nothing is held.
        Raises:
            LockedError: held by somebody else, who is named. OSError: the file cannot be made.
        """
        file = open(self.path, 'a+', encoding='utf-8')
        end = time.monotonic() + patience
        while fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as e:
                if e.errno not in _BUSY:
                    get_logger().warning("No lock on '%s' (%s): see to it yourself that no second run uses this "
                                         'folder.', self.path, e.strerror)
                    break
                if time.monotonic() >= end:
                    file.seek(0)
                    holder = file.read()
                    file.close()
                    raise LockedError(_describe(holder)) from None
                time.sleep(0.2)
        self.file = file
        try:
            file.truncate(0)
            file.write(json.dumps({'host': socket.gethostname(), 'pid': os.getpid(), 'since': time.time()}) + '\n')
            file.flush()
        except OSError:             # a full disk: the lock holds all the same, without a name in it
            pass
        return self

    def release(self) -> None:
        """Give the lock back; more than once does no harm."""
        if self.file is not None:
            try:
                self.file.close()
            except OSError:         # the text could not be written
                pass
            self.file = None


def _describe(holder):
    try:
        facts = json.loads(holder)
        since = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(float(facts['since'])))
        return f"process {int(facts['pid'])} on '{facts['host']}', since {since}"
    except (ValueError, TypeError, KeyError, OverflowError):
        return 'another process'
