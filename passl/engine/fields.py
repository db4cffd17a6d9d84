"""The types in a checkpoint, which may come from anywhere, are checked before they are used."""

import numpy as np

from ..utils.weights.checkpoint import CHECKPOINT
from ..utils.errors import CheckpointError

_COUNTERS = {'iteration': 0, 'iters_per_epoch': 1, 'seed': 0, 'epoch': 0}      # name -> smallest value
_MAPPINGS = ('state_dict', 'optimizer', 'lr_scheduler', 'scaler', 'config')


def check_fields(state, path):
    """Check the types in a checkpoint, which may come from anywhere, before they are used.

    `saved_files` names files that retention will remove, so it may hold names of checkpoints only, never paths.

    Raises:
        CheckpointError: a field is missing or of another type.
    """
    wrong = [k for k, low in _COUNTERS.items()
             if type(state.get(k)) is not int or not low <= state[k] < 2**62]
    wrong += [k for k in _MAPPINGS if not isinstance(state.get(k, {}), (dict, type(None)))]
    wrong += [k for k in ('state_dict',) if k not in state]
    if 'optimizer' in state:
        schedule, optimizer = state.get('lr_scheduler'), state['optimizer']
        optimizer = optimizer if isinstance(optimizer, dict) else {}
        if not isinstance(schedule, dict) or type(schedule.get('last_epoch')) is not int:
            wrong.append('lr_scheduler')
        slots, masters = optimizer.get('slots', {}), optimizer.get('master_weights', {})
        tensors = [slots, masters, *(slots.values() if isinstance(slots, dict) else ())]
        if not optimizer or not all(isinstance(t, dict) for t in tensors) or not all(
                isinstance(v, (np.ndarray, np.generic)) and v.dtype.kind in 'biuf'
                for t in tensors[1:] for v in t.values()):
            wrong.append('optimizer')
    statistics = state.get('statistics')
    if statistics is not None and not (
            isinstance(statistics, dict) and isinstance(statistics.get('names'), list)
            and isinstance(statistics.get('values'), np.ndarray) and statistics['values'].ndim == 2
            and statistics['values'].dtype.kind == 'f'):
        wrong.append('statistics')
    if not isinstance(state.get('run_id', ''), str):
        wrong.append('run_id')
    files = state.get('saved_files', [])
    if not isinstance(files, (list, tuple)) or not all(isinstance(f, str) and CHECKPOINT.fullmatch(f) for f in files):
        wrong.append('saved_files')
    if wrong:
        raise CheckpointError(f"'{path}' is not a checkpoint as a run of this project writes it: '{wrong[0]}' is "
                              'missing or not what it should be. Use another one, or --load for its weights alone.')
