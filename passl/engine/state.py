"""What a checkpoint holds, and putting it back."""

import re

import numpy as np
import paddle

from ..solver.optimizer import load_optimizer_state, optimizer_state
from ..utils import dist
from ..utils.errors import CheckpointError
from ..utils.logger import get_logger
from ..utils.weights import load_into

FORMAT, VERSION = 'passl-densecl', 1


def numpy_state_dict(model):
    """{structured name: array} of parameters and buffers."""
    return {k: v.numpy() for k, v in model.state_dict().items()}


@paddle.no_grad()
def sync_statistics(model):
    """Average BN's running statistics over processes: each has seen its own share of the data."""
    if dist.world_size() == 1:
        return
    stats = [p for n, p in model.named_parameters() if n.endswith(('._mean', '._variance'))]
    if not stats:
        return
    flat = np.concatenate([p.numpy().astype('float64').ravel() for p in stats])
    mean = np.asarray(dist.sum_over_processes(flat)) / dist.world_size()
    at = 0
    for p in stats:
        size = int(np.prod(p.shape))
        p.set_value(paddle.to_tensor(mean[at:at + size].reshape(p.shape).astype('float32')))
        at += size


def training_state(trainer, with_optimizer=True):
    """Everything that continuing needs, as plain data and arrays."""
    state = {
        'format': FORMAT, 'version': VERSION,
        'epoch': trainer.finished_epochs, 'iteration': trainer.iteration,
        'iters_per_epoch': trainer.iters_per_epoch, 'world_size': dist.world_size(), 'seed': trainer.seed,
        'state_dict': numpy_state_dict(trainer.model),
        'saved_files': list(trainer.saved_files), 'config': trainer.cfg,
    }
    if with_optimizer:
        state['optimizer'] = optimizer_state(trainer.optimizer, trainer.model)
        state['lr_scheduler'] = _plain(trainer.lr_scheduler.state_dict())
        state['scaler'] = _plain(trainer.scaler.state_dict())
    return state


def _plain(obj):
    if isinstance(obj, dict):
        return {k: _plain(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(v) for v in obj]
    return obj.numpy() if hasattr(obj, 'numpy') else obj


def restore(trainer, state, path):
    """Put `state` (of `training_state`) into `trainer`, so that the next step is the one that would have come.

    Raises:
        CheckpointError: not a full checkpoint, of another model, or in the middle of an epoch of another length.
    """
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of a run of this project, so it cannot be resumed. "
                              'Use --load for model weights, --pretrained for backbone weights.')
    if not isinstance(state.get('version', 0), int) or state.get('version', 0) > VERSION:
        raise CheckpointError(f"'{path}' has format version {str(state['version'])[:20]}; this release reads up to "
                              f'{VERSION}. '
                              'Update passl.')
    check_fields(state, path)
    if 'optimizer' not in state:
        raise CheckpointError(f"'{path}' was saved without the optimizer (save_optimizer: false) and cannot be "
                              'resumed exactly. Use --load to start anew from its weights.')
    load_into(trainer.model, state['state_dict'], 'model', source=f"'{path}'")
    load_optimizer_state(trainer.optimizer, trainer.model, state['optimizer'])
    iteration, length = state['iteration'], state['iters_per_epoch']
    if length != trainer.iters_per_epoch:
        if iteration % length:
            raise CheckpointError(
                f"'{path}' stands in the middle of an epoch of {length} iterations; with this config and number of "
                f'processes an epoch has {trainer.iters_per_epoch}. Resume with the former data, batch size and '
                'number of processes, or from a checkpoint at the end of an epoch.')
        iteration = iteration // length * trainer.iters_per_epoch
        get_logger().warning('An epoch has %d iterations now and had %d: going on after epoch %d, not bit for bit.',
                             trainer.iters_per_epoch, length, state['epoch'])
        per_epoch = state['lr_scheduler']['last_epoch'] == state['epoch']
        trainer.lr_scheduler.step(state['epoch'] if per_epoch else iteration)
    else:
        trainer.lr_scheduler.set_state_dict(dict(state['lr_scheduler']))
    if state.get('scaler'):
        trainer.scaler.load_state_dict(state['scaler'])
    if state['seed'] != trainer.seed:
        get_logger().warning('The run had seed %s; going on with it instead of %s.', state['seed'], trainer.seed)
        trainer.seed = trainer.model.seed = state['seed']
        trainer.train_loader.batch_sampler.seed = state['seed']
    trainer.iteration, trainer.epoch = iteration, iteration // trainer.iters_per_epoch + 1
    trainer.saved_files = list(state.get('saved_files', []))
    for line in config_differences(state.get('config') or {}, trainer.cfg):
        get_logger().warning('Config differs from the resumed run: %s', line)
    get_logger().info("Resumed from '%s': %d iterations (%d epochs) done, %d to go.", path, iteration,
                      trainer.finished_epochs, trainer.max_iters - iteration)


_COUNTERS = {'iteration': 0, 'iters_per_epoch': 1, 'seed': 0, 'epoch': 0}      # name -> smallest value
_MAPPINGS = ('state_dict', 'optimizer', 'lr_scheduler', 'scaler', 'config')
_OWN_FILE = re.compile(r'(epoch|iter)_\d+\.pdparams')


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
    files = state.get('saved_files', [])
    if not isinstance(files, (list, tuple)) or not all(isinstance(f, str) and _OWN_FILE.fullmatch(f) for f in files):
        wrong.append('saved_files')
    if wrong:
        raise CheckpointError(f"'{path}' is not a checkpoint as a run of this project writes it: '{wrong[0]}' is "
                              'missing or not what it should be. Use another one, or --load for its weights alone.')


def config_differences(old, new, prefix=''):
    """Lines 'a.b: old -> new' for every setting that differs."""
    lines = []
    for key in sorted(set(old) | set(new), key=str):
        a, b, name = old.get(key, '(absent)'), new.get(key, '(absent)'), f'{prefix}{key}'
        if isinstance(a, dict) and isinstance(b, dict):
            lines += config_differences(a, b, name + '.')
        elif a != b:
            lines.append(f'{name}: {a} -> {b}')
    return lines
