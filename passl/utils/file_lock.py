"""A lock that two runs cannot hold at once, and that the system takes back from a process that dies."""

import errno
import json
import os
import socket
import time

try:
    import fcntl
except ImportError:             # not a Unix
    fcntl = None

from .errors import PasslError
from .logger import get_logger

_BUSY = (errno.EACCES, errno.EAGAIN)


class LockedError(PasslError):
    """Somebody else holds the lock."""


class FileLock:
    """Exclusive use of what a lock file stands for, across processes and, where the file system can, machines.

    POSIX record locks: they are not inherited by forked data workers, and end with their process, however it ends.
    The file stays; it holds who has (had) the lock, as JSON.

    Args:
        path: the lock file; made if missing.
    """

    def __init__(self, path):
        self.path, self.file = path, None

    def acquire(self, patience=0.0):
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

    def release(self):
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
