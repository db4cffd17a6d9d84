"""The results folder: figures are kept as each is measured, so that a stopped comparison goes on."""

import hashlib
import json
import os

from ...utils.errors import ConfigError
from ...utils.file_lock import FileLock, LockedError
from ...utils.logger import JsonLines, read_json_lines

FILE, LOCK = 'results.jsonl', '.lock'
PROTOCOL = 1        # raise it when figures are no longer comparable with those of earlier code


def key_of(facts):
    """20 digits that stand for everything that a figure depends on: {name: plain value}."""
    text = json.dumps({'protocol': PROTOCOL, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _is_record(r):
    """Whether a line of the file is one of ours; the figures must be numbers."""
    return (isinstance(r, dict) and isinstance(r.get('key'), str) and isinstance(r.get('figures'), dict)
            and all(type(v) in (int, float) for v in r['figures'].values()))


class Results:
    """Finished figures by key, in <folder>/results.jsonl.

    Use as a context manager: it holds the folder's lock.

    Args:
        overwrite: measure everything again; the earlier file becomes results.jsonl.old.

    Raises:
        ConfigError: the folder is a file, holds other things and no results, cannot be written or is in use.
    """

    def __init__(self, folder, overwrite=False):
        self.folder = folder
        path = os.path.join(folder, FILE)
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise ConfigError(f"--output '{folder}' is a file. Name a folder.")
        others = [n for n in os.listdir(folder) if n not in (LOCK, 'cache')] if os.path.isdir(folder) else []
        if others and not os.path.isfile(path) and not overwrite:
            raise ConfigError(f"--output '{folder}' holds other things (such as '{sorted(others)[0]}') and no {FILE}. "
                              'Choose another folder, or add --overwrite to write beside them.')
        try:
            os.makedirs(folder, exist_ok=True)
            self._lock = FileLock(os.path.join(folder, LOCK)).acquire()
            if overwrite and os.path.isfile(path):
                os.replace(path, path + '.old')
            records = read_json_lines(path) if os.path.isfile(path) else []
            self._done = {r['key']: r for r in records if _is_record(r)}
            self._file = JsonLines(path)
        except LockedError as e:
            raise ConfigError(f"--output '{folder}' is in use by {e}. Wait for it, or choose another folder.") from None
        except OSError as e:
            raise ConfigError(f"--output '{folder}' cannot be written: {e.strerror or e}. Choose another one.") from e

    def get(self, key):
        """The record of a finished figure, or None."""
        return self._done.get(key)

    def add(self, record):
        """Keep a record: a dict with 'key' and 'figures'."""
        self._done[record['key']] = record
        self._file.write(record)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()
        self._lock.release()
