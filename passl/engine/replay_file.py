"""Reading the file of a step, which may come from anywhere: every field is checked before it is used."""

import re

import numpy as np

from ..hooks.step_record import FORMAT, VERSION
from ..utils.checkpoint import load_file
from ..utils.config import validate, with_defaults
from ..utils.errors import CheckpointError, ConfigError

_COUNTERS = {'iteration': 1, 'epoch': 1, 'seed': 0, 'rank': 0, 'world_size': 1, 'accumulate_steps': 1}
_MOST_PROCESSES = 2**20


def own_file(path, rank):
    """The file of process `rank` beside `path`, of any process of the same step."""
    return re.sub(r'_rank_\d+(\.pdparams)$', rf'_rank_{rank}\1', path)


def read_record(path):
    """The content of a file that `passl.hooks.step_record` wrote, types checked. Nothing in it is executed.

    Raises:
        CheckpointError: not readable, of another kind, or a field is not what it should be.
    """
    record = load_file(path)
    if not isinstance(record, dict) or record.get('format') != FORMAT:
        raise CheckpointError(f"'{path}' is not the file of a step. A run whose numbers break writes one to its run "
                              'folder: nonfinite_iter_N.pdparams.')
    if type(record.get('version')) is not int or record['version'] > VERSION:
        raise CheckpointError(f"'{path}' has format version {str(record.get('version'))[:20]}; this release reads up "
                              f'to {VERSION}. Update passl.')
    wrong = [k for k, low in _COUNTERS.items() if type(record.get(k)) is not int or not low <= record[k] < 2**62]
    wrong += [k for k in ('state_dict', 'config', 'gradients', 'bad_gradients', 'bad_state')
              if not isinstance(record.get(k), dict)]
    wrong += [k for k in ('bad_gradients', 'bad_state')
              if k not in wrong and not all(map(_is_count, record[k].values()))]
    wrong += [k for k in ('lr',) if type(record.get(k)) is not float]
    wrong += [k for k in ('scale', 'loss_lambda') if type(record.get(k)) not in (float, int, type(None))]
    wrong += [] if _are_batches(record) else ['batches']
    wrong += [] if _are_names(record) else ['images']
    if not wrong and not record['rank'] < record['world_size'] <= _MOST_PROCESSES:
        wrong = ['rank']
    if wrong:
        raise CheckpointError(f"'{path}' is not the file of a step as a run of this project writes it: '{wrong[0]}' is "
                              'missing or not what it should be.')
    return record


def _is_count(value):
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value)


def _are_batches(record):
    batches, losses = record.get('batches'), record.get('losses')
    return (isinstance(batches, list) and isinstance(losses, list) and len(batches) == len(losses) > 0
            and any(b is not None for b in batches)
            and all(b is None or isinstance(b, list) and b and all(_is_field(x, b[0]) for x in b) for b in batches)
            and all(isinstance(o, dict) and all(type(v) is float for v in o.values()) for o in losses))


def _is_field(x, first):
    return (isinstance(x, np.ndarray) and isinstance(first, np.ndarray) and x.dtype.kind in 'biuf' and x.ndim >= 1
            and len(x) == len(first) > 0)


def _are_names(record):
    names = record.get('images')
    return names is None or isinstance(names, list) and all(
        isinstance(n, list) and all(isinstance(text, str) for text in n) for n in names)


def without_pretrained(cfg, path):
    """`cfg` checked, with defaults, and without the weights that it names: those of the step take their place."""
    try:
        validate(cfg)
        cfg = with_defaults(cfg)
        if not isinstance(cfg.get('model'), dict):
            raise ConfigError("'model' is missing.")
    except ConfigError as e:
        raise CheckpointError(f"The config in '{path}' is none of this project: {e}") from None
    if isinstance(cfg['model'].get('backbone'), dict):
        cfg['model']['backbone'].pop('pretrained', None)
    return cfg
