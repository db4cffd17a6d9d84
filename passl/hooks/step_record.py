"""The file that holds one step for replay: its batch, the state it saw and what it gave."""

import copy
import glob
import itertools
import math
import os
import shlex

import paddle

from ..utils.checkpoint import save_file
from ..utils.dist import gather_objects, rank, world_size
from ..utils.errors import CheckpointError
from ..utils.numerics import as_array, digest, gradients_of

FORMAT, VERSION = 'passl-step', 2
SETTINGS = ('OMP_NUM_THREADS', 'MKL_DEBUG_CPU_TYPE', 'PASSL_ONEDNN')        # change last bits on a CPU
MOST_FILES = 8                  # of one process in a folder: a loop that starts a run again and again fills no disk
_MOST_BYTES = 2 * 2**30         # of images in a file
_LONGEST_NAME = 1000


def losses_of(outputs):
    """{name: float} of the losses among a model's outputs."""
    return {k: float(as_array(v)) for k, v in outputs.items() if 'loss' in k and hasattr(v, 'astype')}


def save_step(trainer, batches, outputs, seen):
    """Write `nonfinite_iter_N[_rank_R].pdparams` to the run folder; every process calls and writes its own.

    To be called after backward and before anything else changes: the weights and queues are those of the forward
    pass (only BN's running statistics, which training does not use, have moved).

    Args:
        batches: the step's micro-batches, as the loader gave them.
        outputs: what the model returned for each.
        seen: {'gradients', 'state'}: {name: [nan, inf]}, see `passl.utils.numerics.bad_tensors`.
    Returns:
        the path, or None for a run without a folder.
    Raises:
        CheckpointError: it cannot be written, or the folder holds MOST_FILES of them.
    """
    if trainer.run_dir is None:
        return None
    stem = os.path.join(trainer.run_dir, f'nonfinite_iter_{trainer.iteration}')
    end = f'_rank_{rank()}.pdparams' if world_size() > 1 else '.pdparams'
    free = 1
    while os.path.lexists(_numbered(stem, free) + end):
        free += 1
    there = len(glob.glob(os.path.join(glob.escape(trainer.run_dir), 'nonfinite_iter_*' + end)))
    found = gather_objects((free, there))                           # the same decision on every process
    if max(n for _, n in found) >= MOST_FILES:
        raise CheckpointError(f"'{trainer.run_dir}' already holds {MOST_FILES} files nonfinite_iter_*{end}. Move them "
                              'away if another one is wanted.')
    path = _numbered(stem, max(n for n, _ in found)) + end
    save_file(step_record(trainer, batches, outputs, seen), path)
    return path


def replay_commands(path):
    """The command that repeats the step saved at `path`, as lines."""
    one = f'  passl replay-step {shlex.quote(path)} --scan'
    if world_size() == 1:
        return ['Repeat the step, and try each image alone:', one]
    return ['Repeat the step with all processes, exactly:',
            f'  python -m paddle.distributed.launch --nproc_per_node {world_size()} tools/replay_step.py '
            f'{shlex.quote(path)}', "or one process's part of it, and try each image alone:", one]


def _numbered(stem, n):
    return stem if n == 1 else f'{stem}_{n}'


def step_record(trainer, batches, outputs, seen):
    """The content of the file, as plain data and arrays."""
    model = trainer.model
    losses = [losses_of(o) for o in outputs]
    return {
        'format': FORMAT, 'version': VERSION, 'paddle': paddle.__version__, 'device': paddle.get_device(),
        'settings': {k: os.environ[k] for k in SETTINGS if k in os.environ},
        'iteration': trainer.iteration, 'epoch': trainer.epoch, 'lr': float(trainer.lr), 'seed': trainer.seed,
        'rank': rank(), 'world_size': world_size(), 'accumulate_steps': trainer.accumulate_steps,
        'scaled': bool(trainer.scaler.is_enable()), 'scale': scale_of(trainer),
        'with_metrics': bool(model.with_metrics),
        'loss_lambda': getattr(model, 'loss_lambda', None),       # a hook may have changed it
        'config': copy.deepcopy(trainer.cfg),
        'state_dict': {k: v.numpy() for k, v in model.state_dict().items()},
        'batches': _bounded(model, batches, losses), 'images': image_names(trainer, len(batches)),
        'losses': losses,
        'bad_gradients': seen['gradients'], 'bad_state': seen['state'],
        'gradients': {n: digest(g) for n, g in gradients_of(model)},
    }


def scale_of(trainer):
    """The loss scale of mixed precision; None without."""
    if not trainer.scaler.is_enable():
        return None
    try:
        return float(as_array(trainer.scaler.state_dict()['scale']).item())         # an array of one value
    except (KeyError, TypeError, ValueError):
        return None


def _bounded(model, batches, losses):
    """The micro-batches as arrays; None for those beyond _MOST_BYTES. Those with a broken loss have first claim."""
    def is_fine(i):
        return all(math.isfinite(v) for v in losses[i].values())
    kept, room = [None] * len(batches), _MOST_BYTES
    for i in sorted(range(len(batches)), key=is_fine):
        size = sum(4 * int(x.size) for x in batches[i])
        if size <= room or room == _MOST_BYTES:         # one in any case
            kept[i] = [as_array(_as_input(model, x)) for x in batches[i]]
            room -= size
    return kept


def _as_input(model, x):
    """uint8 images as the float images that the model makes of them: the file then stands for itself."""
    return model.to_input(x) if x.ndim == 4 and hasattr(model, 'to_input') else x


def image_names(trainer, count):
    """[[name of each image] of each of the step's `count` micro-batches], from the order of the epoch; None where the
    loader does not tell."""
    loader = trainer.train_loader
    sampler, dataset = getattr(loader, 'batch_sampler', None), getattr(loader, 'dataset', None)
    if not hasattr(sampler, 'start_batch') or not hasattr(dataset, 'image_name'):
        return None
    at = (trainer.iteration - 1) % trainer.iters_per_epoch * trainer.accumulate_steps - sampler.start_batch
    try:
        replaced = set(dataset.bad_names())
        return [[_name(dataset.image_name(key.index), replaced) for key in keys]
                for keys in itertools.islice(sampler, max(0, at), max(0, at) + count)]
    except (LookupError, TypeError, AttributeError):        # a data set of one's own: the names are only a help
        return None


def _name(name, replaced):
    return (name + ' (unreadable: another image stood in its place)' if name in replaced else name)[-_LONGEST_NAME:]
