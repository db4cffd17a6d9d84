"""The file that holds one step for replay: its batch, the state it saw and what it gave."""

import copy
import os

import paddle

from ..utils.checkpoint import save_file
from ..utils.dist import gather_objects, rank, world_size
from ..utils.numerics import as_array, digest, gradients_of

FORMAT, VERSION = 'passl-step', 1


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
        CheckpointError: it cannot be written.
    """
    if trainer.run_dir is None:
        return None
    stem = os.path.join(trainer.run_dir, f'nonfinite_iter_{trainer.iteration}')
    end = f'_rank_{rank()}.pdparams' if world_size() > 1 else '.pdparams'
    free = 1
    while os.path.lexists(_numbered(stem, free) + end):
        free += 1
    path = _numbered(stem, max(gather_objects(free))) + end         # the same number on every process
    save_file(step_record(trainer, batches, outputs, seen), path)
    return path


def _numbered(stem, n):
    return stem if n == 1 else f'{stem}_{n}'


def step_record(trainer, batches, outputs, seen):
    """The content of the file, as plain data and arrays."""
    model = trainer.model
    return {
        'format': FORMAT, 'version': VERSION, 'paddle': paddle.__version__, 'device': paddle.get_device(),
        'iteration': trainer.iteration, 'epoch': trainer.epoch, 'lr': float(trainer.lr), 'seed': trainer.seed,
        'rank': rank(), 'world_size': world_size(), 'accumulate_steps': trainer.accumulate_steps,
        'scaled': bool(trainer.scaler.is_enable()), 'with_metrics': bool(model.with_metrics),
        'loss_lambda': getattr(model, 'loss_lambda', None),       # a hook may have changed it
        'config': copy.deepcopy(trainer.cfg),
        'state_dict': {k: v.numpy() for k, v in model.state_dict().items()},
        'batches': [[as_array(_as_input(model, x)) for x in batch] for batch in batches],
        'losses': [losses_of(o) for o in outputs],
        'bad_gradients': seen['gradients'], 'bad_state': seen['state'],
        'gradients': {n: digest(g) for n, g in gradients_of(model)},
    }


def _as_input(model, x):
    """uint8 images as the float images that the model makes of them: the file then stands for itself."""
    return model.to_input(x) if x.ndim == 4 and hasattr(model, 'to_input') else x
