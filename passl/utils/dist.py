"""The only file that touches paddle.distributed. One process is the case world size = 1.

All functions may be called without initialisation; they then act as in a world of one.
"""

import contextlib
import os

import numpy as np

from .errors import DeviceError

_initialised = False


def world_size():
    """Number of training processes that the launcher started (1 without a launcher)."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def rank():
    """Index of this process, 0 .. world_size() - 1."""
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def is_main():
    """True on the process that logs and saves."""
    return rank() == 0


def init():
    """Join the other processes of the launcher's job; call after paddle.set_device."""
    global _initialised
    if world_size() > 1 and not _initialised:
        import paddle.distributed as dist
        try:
            dist.init_parallel_env()
        except (RuntimeError, SystemError, ValueError) as e:
            raise DeviceError(
                f'Process {rank()} of {world_size()} could not join the others: {e}\n'
                'On machines without a GPU start with: python -m paddle.distributed.launch '
                '--nproc_per_node 2 tools/train.py ... --no-cuda') from e
        _initialised = True


def wrap(model):
    """The model whose backward averages gradients over processes (the model itself in a world of one).

    Parameters and persistable buffers (queues) of process 0 are sent to all others.
    """
    if world_size() == 1:
        return model
    import paddle
    return paddle.DataParallel(model)


def no_sync(model, active):
    """Context in which `model`'s gradients are not averaged (gradient accumulation)."""
    return model.no_sync() if active and hasattr(model, 'no_sync') else contextlib.nullcontext()


def barrier():
    """Wait until every process is here."""
    if world_size() > 1:
        import paddle.distributed as dist
        dist.barrier()


def all_gather(x):
    """Concatenate `x` of all processes along axis 0, in rank order; no gradient.

    Args:
        x: Tensor [n, ...] of equal shape on every process.
    Returns:
        Tensor [world_size * n, ...].
    """
    if world_size() == 1:
        return x
    import paddle
    import paddle.distributed as dist
    parts = []
    with paddle.no_grad():
        dist.all_gather(parts, x.detach().contiguous())
        return paddle.concat(parts, axis=0)


def all_gather_with_grad(x):
    """As `all_gather`; the gradient of every process's use of `x` comes back to `x`."""
    if world_size() == 1:
        return x
    return _gather_layer().apply(x)


def _gather_layer():
    from paddle.autograd import PyLayer

    class Gather(PyLayer):
        @staticmethod
        def forward(ctx, x):
            ctx.n = x.shape[0]
            return all_gather(x)

        @staticmethod
        def backward(ctx, grad):
            import paddle.distributed as dist
            grad = grad.clone()
            dist.all_reduce(grad)
            return grad[rank() * ctx.n:(rank() + 1) * ctx.n]

    return Gather


def sum_over_processes(values):
    """Sum a list of floats over all processes (float64).

    Returns:
        list of floats, equal on every process.
    """
    if world_size() == 1:
        return [float(v) for v in values]
    import paddle
    import paddle.distributed as dist
    t = paddle.to_tensor(np.asarray(values, dtype='float64'))
    dist.all_reduce(t)
    return [float(v) for v in t.numpy()]


def broadcast_object(obj):
    """Process 0's `obj` (plain python data) on every process."""
    if world_size() == 1:
        return obj
    import paddle.distributed as dist
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(obj):
    """List of every process's `obj`, in rank order."""
    if world_size() == 1:
        return [obj]
    import paddle.distributed as dist
    box = []
    dist.all_gather_object(box, obj)
    return box
