"""The results folder: figures are kept as each is measured, so that a stopped comparison goes on."""

import hashlib
import json
import os
from typing import Any, Optional

import numpy as np

from ...utils.files import whole_file
from ...utils.logger import JsonLines, read_json_lines

FILE = 'results.jsonl'
PROTOCOL = 1        # raise it when figures are no longer comparable with those of earlier code


def key_of(facts: dict[str, Any]) -> str:
    """20 digits that stand for everything that a figure depends on: {name: plain value}."""
    text = json.dumps({'protocol': PROTOCOL, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _is_record(r):
    """Whether a line of the file is one of ours; the figures must be numbers."""
    return (isinstance(r, dict) and isinstance(r.get('key'), str) and isinstance(r.get('figures'), dict)
            and all(type(v) in (int, float) for v in r['figures'].values()))


class Results:
    """Finished figures by key, in <folder>/results.jsonl. Use as a context manager, in a folder that is claimed."""

    def __init__(self, folder: str) -> None:
        path, self._folder = os.path.join(folder, FILE), folder
        records = read_json_lines(path) if os.path.isfile(path) else []
        self._done = {r['key']: r for r in records if _is_record(r)}
        self._file = JsonLines(path)

    def get(self, key: str) -> Optional[dict[str, Any]]:
        """The record of a finished figure, or None."""
        return self._done.get(key)

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record: a dict with 'key' and 'figures'."""
        self._done[record['key']] = record
        self._file.write(record)

    def outcomes(self, key: str) -> Optional[dict[str, np.ndarray]]:
        """{figure: what became of every test image} of a finished figure, or None: they were not kept."""
        try:
            with np.load(self._outcomes(key), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except Exception:           # missing or damaged: measured again
            return None

    def keep(self, key: str, outcomes: dict[str, np.ndarray]) -> None:
        """Keep them beside the record of `key`; before it, since a record stands for both."""
        os.makedirs(os.path.dirname(self._outcomes(key)), exist_ok=True)
        with whole_file(self._outcomes(key)) as f:
            kept: dict[str, Any] = dict(outcomes)
            np.savez_compressed(f, **kept)

    def _outcomes(self, key):
        return os.path.join(self._folder, 'outcomes', f'{key}.npz')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()
