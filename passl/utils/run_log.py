"""What log.jsonl and config.yaml of a run folder tell, read with care: they may be damaged or written to by others."""

import math
import os
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigError, DataError
from .logger import read_json_lines

REQUIRED = 'loss', 'loss_global', 'loss_dense', 'acc1', 'acc1_dense', 'lr'
Records = list[dict[str, Any]]


def read_log(jsonl_path: str) -> dict[str, Records]:
    """The records of a log.jsonl by their mode, each by rising iteration: steps of the training under 'train',
    evaluations under 'val', what was measured of checkpoints under 'quality'.

    A resumed run writes the steps since its checkpoint again: the later record of an iteration counts.

    Raises:
        DataError: no such log, or it holds no training step and no evaluation.
    """
    if not os.path.isfile(jsonl_path):
        raise DataError(f"No log '{jsonl_path}'. Give a run folder, or the log.jsonl in it.")
    records = [r for r in read_json_lines(jsonl_path) if is_record(r)]
    latest = {(r.get('mode'), r['iteration']): r for r in records}
    ordered = sorted(latest.values(), key=lambda r: r['iteration'])
    modes = {mode: [r for r in ordered if r.get('mode') == mode] for mode in ('train', 'val', 'quality')}
    if not modes['train'] and not modes['val']:
        raise DataError(f"'{jsonl_path}' holds no logged step yet. Steps are logged every log_config.interval.")
    return modes


def is_record(record: Any) -> bool:
    """Whether a line of the log is one of ours: other programs may have written to the file."""
    if not isinstance(record, dict) or type(record.get('iteration')) is not int or \
            not isinstance(record.get('mode'), (str, type(None))) or not abs(record['iteration']) < 2**53:
        return False
    return all(is_figure(record.get(k)) for k in REQUIRED)


def is_figure(value: Any) -> bool:
    """A number, nothing, or what the log writes in place of numbers that JSON has not."""
    return value is None or isinstance(value, float) or type(value) is int and abs(value) < 2**1000 or \
        isinstance(value, str) and value.lower() in ('nan', 'inf', '-inf', 'infinity', '-infinity')


def series(records: Records, key: str) -> tuple[list[int], list[float]]:
    """(iterations, values) of the records that have a figure under `key`; 'nan' and 'inf' strings become floats."""
    pairs = [(r['iteration'], float(r[key])) for r in records if r.get(key) is not None and is_figure(r[key])]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def running_mean(values: ArrayLike, window: int) -> np.ndarray:
    """Mean over the last `window` values (fewer at the start); NaN and infinities are left out of it."""
    values = np.asarray(values, dtype=float)
    good = np.isfinite(values)
    total = np.cumsum(np.where(good, values, 0.0))
    count = np.cumsum(good)
    total[window:], count[window:] = total[window:] - total[:-window], count[window:] - count[:-window]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def read_config_text(run_dir: str) -> tuple[str, dict[str, Any]]:
    """(text, content) of a run folder's config.yaml; what is missing or damaged is empty: no reader depends on it."""
    from .config.yaml_text import MAX_TEXT, parse_yaml
    path = os.path.join(run_dir, 'config.yaml')
    text = ''
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            text = f.read(MAX_TEXT + 1)
        config = parse_yaml(text, path)
    except (ConfigError, OSError):
        config = None
    return text, config if isinstance(config, dict) else {}


def chance_of(config: dict[str, Any]) -> Optional[tuple[int, float]]:
    """(K, ln(K + 1)): the queue of a config and the loss of guessing with it; None: not a model with a queue."""
    model = config.get('model')
    size = model.get('K') if isinstance(model, dict) else None
    return (size, math.log(size + 1)) if type(size) is int and 0 < size < 2**1000 else None
