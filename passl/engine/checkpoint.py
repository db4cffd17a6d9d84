"""What a checkpoint holds, which is the newest, the look at one that comes from somewhere, and putting it back."""

import contextlib
import os
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional

import numpy as np
import paddle

from ..hooks import LRSchedulerHook
from ..solver.optimizer import load_optimizer_state, optimizer_state
from ..utils.distributed import dist
from ..utils.weights.checkpoint import CHECKPOINT, fingerprint, load_file, read_note
from ..utils.errors import CheckpointError
from ..utils.logger import get_logger
from ..utils.weights import load_into
from .changes import check_changes

if TYPE_CHECKING:
    from .trainer import Trainer

FORMAT, VERSION = 'passl-densecl', 1
_COUNTERS = {'iteration': 0, 'iters_per_epoch': 1, 'seed': 0, 'epoch': 0}      # name -> smallest value
# settings from which the learning rate follows
_OF_THE_RATE = ('lr_scheduler', 'lr_config', 'optimizer.learning_rate', 'epochs', 'total_iters')
_MAPPINGS = ('state_dict', 'optimizer', 'lr_scheduler', 'scaler', 'config')


def numpy_state_dict(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """{structured name: array} of parameters and buffers."""
    return {k: v.numpy() for k, v in model.state_dict().items()}


def _statistics(model):
    """(names, Tensors) of BN's running statistics."""
    named = [(n, p) for n, p in model.named_parameters() if n.endswith(('._mean', '._variance'))]
    return [n for n, _ in named], [p for _, p in named]


def _put(tensors, flat):
    """Spread a flat float array over `tensors`."""
    at = 0
    for p in tensors:
        size = int(np.prod(p.shape))
        p.set_value(paddle.to_tensor(flat[at:at + size].reshape(p.shape).astype('float32')))
        at += size


@contextlib.contextmanager
def averaged_statistics(model: paddle.nn.Layer) -> Iterator[Optional[np.ndarray]]:
    """Inside, BN's running statistics are their mean over processes, each of which sees its own share of the data.

    Afterwards every process has its own again: whether and when somebody saves or evaluates changes nothing.

    Yields:
        float32 [world size, n], the statistics of every process one after the other; None in a world of one.
    """
    names, tensors = _statistics(model)
    if dist.world_size() == 1 or not names:
        yield None
        return
    with paddle.no_grad():
        dist.meet()
        own = np.concatenate([p.numpy().astype('float32').ravel() for p in tensors])
        everything = dist.all_gather(paddle.to_tensor(own[None])).numpy()
        _put(tensors, everything.astype('float64').mean(axis=0))
        try:
            yield everything
        finally:
            _put(tensors, own)


def training_state(trainer: 'Trainer', with_optimizer: bool = True,
                   statistics: Optional[np.ndarray] = None) -> dict[str, Any]:
    """Everything that continuing needs, as plain data and arrays.

    Args:
        trainer: whose state it is; inside `averaged_statistics`, so that `state_dict` holds the averages.
        with_optimizer: also what only continuing needs.
        statistics: what `averaged_statistics` yields.
    """
    state = {
        'format': FORMAT, 'version': VERSION,
        'epoch': trainer.finished_epochs, 'iteration': trainer.iteration,
        'iters_per_epoch': trainer.iters_per_epoch, 'world_size': dist.world_size(), 'seed': trainer.seed,
        'state_dict': numpy_state_dict(trainer.model),
        'saved_files': list(trainer.saved_files), 'config': trainer.cfg, 'run_id': trainer.run_id,
    }
    if with_optimizer:
        state['optimizer'] = optimizer_state(trainer.optimizer, trainer.model)
        state['lr_scheduler'] = _plain(trainer.lr_scheduler.state_dict())
        state['scaler'] = _plain(trainer.scaler.state_dict())
        if statistics is not None:
            state['statistics'] = {'names': _statistics(trainer.model)[0], 'values': statistics}
    return state


def note_of(state: dict[str, Any]) -> dict[str, Any]:
    """The facts of `training_state` that can be read without reading the whole file."""
    return {key: state[key] for key in ('format', 'run_id', 'iteration', 'epoch')}


def _plain(obj):
    if isinstance(obj, dict):
        return {k: _plain(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(v) for v in obj]
    return obj.numpy() if hasattr(obj, 'numpy') else obj


def checkpoints(folder: str) -> list[str]:
    """Names of the checkpoints in `folder`, newest first: by iteration; files that do not tell it last, by time."""
    names = [n for n in os.listdir(folder) if CHECKPOINT.fullmatch(n)] if os.path.isdir(folder) else []
    return sorted(names, key=lambda n: _age(os.path.join(folder, n)), reverse=True)


def _age(path):
    note = read_note(path)
    iteration = note.get('iteration') if note.get('format') == FORMAT else None
    return iteration if isinstance(iteration, int) else -1, os.lstat(path).st_mtime_ns


def newest(folder: str) -> tuple[Optional[str], Any]:
    """(path, content) of the newest checkpoint in `folder` that is whole, or (None, None); damaged ones are reported.

    Each file is read once. What does not tell its iteration is looked at first: it is damaged, or of somebody else.
    """
    names = checkpoints(folder)
    found: tuple[Optional[str], Any] = (None, None)
    untold = [n for n in names if _age(os.path.join(folder, n))[0] < 0]
    for name in untold + [n for n in names if n not in untold]:
        path = os.path.join(folder, name)
        try:
            state = load_file(path)
        except CheckpointError as e:
            get_logger().warning('Damaged checkpoint left aside: %s', e)
            continue
        if name not in untold:
            return path, state
        if found[0] is None and isinstance(state, dict) and state.get('format') == FORMAT:
            found = path, state
    return found


def load_on_all(path: str, read: Callable[[str], Any] = load_file) -> Any:
    """Content of the checkpoint `path`, which every process reads.

    Args:
        read: reads a file; `RunFolder.read` knows what has been read already.
    Raises:
        CheckpointError: on every process, if one of them cannot read the file or reads another one.
    """
    state, problem = None, None
    try:
        state = read(path)
    except CheckpointError as e:
        problem = str(e)
    found = dist.gather_objects((problem, fingerprint(path)))
    for rank, (what, _) in enumerate(found):
        if what:
            raise CheckpointError(what if len(found) == 1 else f'Process {rank}: {what}')
    if len({mark for _, mark in found}) > 1:
        other = next(rank for rank, (_, mark) in enumerate(found) if mark != found[0][1])
        raise CheckpointError(f"Processes 0 and {other} read different files under the name '{path}'. All must see the "
                              'same run folder: put output_dir on a disk that the machines share, or copy the '
                              'checkpoint of process 0 to the others.')
    return state


def check_fields(state: dict[str, Any], path: str) -> None:
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


def restore(trainer: 'Trainer', state: Any, path: str, same_config: bool = False) -> None:
    """Put `state` (of `training_state`) into `trainer`, so that the next step is the one that would have come.

    Raises:
        CheckpointError: not a full checkpoint, of another model, or in the middle of an epoch of another length.
        ConfigError: `same_config`, and a setting that changes the numbers differs.
    """
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of a run of this project, so it cannot be resumed. "
                              'Use --load for model weights, --pretrained for backbone weights.')
    if not isinstance(state.get('version', 0), int) or state.get('version', 0) > VERSION:
        raise CheckpointError(f"'{path}' has format version {str(state['version'])[:20]}; this release reads up to "
                              f'{VERSION}. Update passl.')
    check_fields(state, path)
    if 'optimizer' not in state:
        raise CheckpointError(f"'{path}' was saved without the optimizer (save_optimizer: false) and cannot be "
                              'resumed exactly. Use --load to start anew from its weights.')
    changed = check_changes(state.get('config') or {}, trainer.cfg, same_config, path)
    load_into(trainer.model, state['state_dict'], 'model', source=f"'{path}'")
    _restore_statistics(trainer.model, state.get('statistics'))
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
    _restore_schedule(trainer, state, iteration, length != trainer.iters_per_epoch or any(
        name.startswith(_OF_THE_RATE) for name in changed))
    if state.get('scaler'):
        trainer.scaler.load_state_dict(state['scaler'])
    if state['seed'] != trainer.seed:
        get_logger().warning('The run had seed %s; going on with it instead of %s.', state['seed'], trainer.seed)
        trainer.seed = trainer.model.seed = state['seed']
        trainer.train_loader.batch_sampler.seed = state['seed']
    trainer.iteration, trainer.epoch = iteration, iteration // trainer.iters_per_epoch + 1
    trainer.run_id = state.get('run_id') or trainer.run_id
    trainer.saved_files = list(state.get('saved_files', []))
    get_logger().info("Resumed from '%s': %d iterations (%d epochs) done, %d to go.", path, iteration,
                      trainer.finished_epochs, trainer.max_iters - iteration)


def _restore_schedule(trainer, state, iteration, anew):
    """Put the schedule where it was, or, `anew`, compute its rate from the settings of now."""
    stored = dict(state['lr_scheduler'])
    if not anew:
        trainer.lr_scheduler.set_state_dict(stored)
        return
    per_iter = next(hook for hook in trainer.hooks if isinstance(hook, LRSchedulerHook)).unit == 'iter'
    trainer.lr_scheduler.step(iteration if per_iter else iteration // trainer.iters_per_epoch)
    rate, before = trainer.lr_scheduler(), stored.get('last_lr')
    if rate != before:
        get_logger().warning('The schedule of the learning rate is computed anew with the settings of now: after '
                             'iteration %d it goes on with %.4g (with the former ones: %.4g).', iteration, rate, before)


def _restore_statistics(model, stored):
    """This process's own running statistics, if the run had as many processes; otherwise the averages stay."""
    names, tensors = _statistics(model)
    if stored is None or stored['names'] != names or len(stored['values']) != dist.world_size() \
            or stored['values'].shape[1] != sum(int(np.prod(t.shape)) for t in tensors):
        return
    _put(tensors, stored['values'][dist.rank()])
