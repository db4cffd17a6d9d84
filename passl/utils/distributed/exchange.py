"""Tensors that cross from process to process: gradients, rows of a batch, sums. What is sent can be counted: `traffic`.
"""

import contextlib
from typing import TYPE_CHECKING, Iterator, Optional, Sequence

import numpy as np

from .world import meet, on_cpu, rank, world_size

if TYPE_CHECKING:
    import paddle

# {collective: {'calls', 'sent', 'received'}} while somebody counts
_traffic: Optional[dict[str, dict[str, int]]] = None


def wrap(model: 'paddle.nn.Layer') -> 'paddle.nn.Layer':
    """The model whose backward averages gradients over processes (the model itself in a world of one).

    Parameters and persistable buffers (queues) of process 0 are sent to all others.
    """
    if world_size() == 1:
        return model
    import paddle
    meet()
    return paddle.DataParallel(model)


def no_sync(model: 'paddle.nn.Layer', active: bool) -> contextlib.AbstractContextManager[None]:
    """Context in which `model`'s gradients are not averaged (gradient accumulation)."""
    return model.no_sync() if active and hasattr(model, 'no_sync') else contextlib.nullcontext()


def all_gather(x: 'paddle.Tensor') -> 'paddle.Tensor':
    """Concatenate `x` of all processes along axis 0, in rank order; no gradient.

    Args:
        x: Tensor [n, ...] of equal shape on every process.
    Returns:
        Tensor [world_size * n, ...].
    """
    size = world_size()
    if size == 1:
        return x
    import paddle
    import paddle.distributed as dist
    with paddle.no_grad():
        everything = paddle.empty([size * x.shape[0]] + list(x.shape[1:]), dtype=x.dtype)
        dist.stream.all_gather(everything, x.detach().contiguous())
    if _traffic is not None:
        _count('all_gather', (size - 1) * _bytes(x), (size - 1) * _bytes(x))
    return everything


class Exchange:
    """Gives every process the rows of the global batch that it asks for, and nobody else; no gradient.

    Args:
        index: numpy int64 [world_size * n], the same on every process: process r asks for the rows
            index[r * n:(r + 1) * n], numbered over the global batch.
        n: rows of every process.

    Attributes:
        indices: list of int64 arrays that are needed on the device; see `place`.
    """

    def __init__(self, index: np.ndarray, n: int) -> None:
        size, me = world_size(), rank()
        wanted, self.n = index.reshape([size, n]), n
        self.placed: list[paddle.Tensor] = []
        self.from_all = size == 1 or bool(size % 2 and on_cpu())       # an odd number has no pairs, see _all_to_all
        if self.from_all:
            self.indices = [wanted[me]]
            return
        owner = wanted // n
        send = [wanted[r][owner[r] == me] % n for r in range(size)]
        receive = np.bincount(owner[me], minlength=size)
        # rows arrive by sender; back to the places that asked for them
        places = np.argsort(np.argsort(owner[me], kind='stable'))
        if not (on_cpu() or _sends_nothing()):
            send = [rows if len(rows) else np.zeros([1], 'int64') for rows in send]
            filled = np.maximum(receive, 1)
            places = places + (np.cumsum(filled - receive) - (filled - receive))[owner[me]]
            receive = filled
        self.counts = [len(rows) for rows in send], receive.tolist()
        self.indices = [np.concatenate(send), places]

    def move(self, x: 'paddle.Tensor') -> 'paddle.Tensor':
        """Tensor [n, ...] of equal shape and type on every process, its rows of the global batch -> Tensor [n, ...]:
        the rows that this process asked for, in that order."""
        import paddle
        if not self.placed:
            place([self])
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):      # mixed precision would cast while moving
            x = x.detach()
            if self.from_all:
                return paddle.gather(all_gather(x), self.placed[0])
            send, places = self.placed
            arrived = _all_to_all(paddle.gather(x, send), *self.counts)
            if _traffic is not None:
                _count('exchange', *(_bytes(x) // self.n * (sum(c) - c[rank()]) for c in self.counts))
            return paddle.gather(arrived, places)


def place(exchanges: Sequence[Exchange], *arrays: np.ndarray) -> 'list[paddle.Tensor]':
    """Copy what `exchanges` need on the device, and int64 `arrays`, in one piece; the arrays as Tensors.

    (A copy from the host's memory can wait for all that the device has to do, with Python's lock held.)
    """
    import paddle
    parts = [i for e in exchanges for i in e.indices] + list(arrays)
    tensors = paddle.split(paddle.to_tensor(np.concatenate(parts)), [len(p) for p in parts])
    for e in exchanges:
        e.placed, tensors = tensors[:len(e.indices)], tensors[len(e.indices):]
    return tensors


def _sends_nothing():
    """Whether this Paddle's all-to-all can send 0 rows to a process: 2.6 cannot cut an empty piece."""
    import paddle
    return int(paddle.__version__.split('.')[0]) != 2


def _all_to_all(rows, send, receive):
    """Send `send[r]` of the rows (in order of r) to process r, and put together `receive[r]` rows from each."""
    import paddle
    import paddle.distributed as dist
    if not on_cpu():
        out = paddle.empty([sum(receive)] + list(rows.shape[1:]), dtype=rows.dtype)
        # by name: Paddle 2.6 and 3 expect the two tensors in different order
        dist.alltoall_single(in_tensor=rows, out_tensor=out, in_split_sizes=send, out_split_sizes=receive)
        return out
    # gloo has no all-to-all: the processes meet in pairs. It numbers the messages of a process and matches
    # equal numbers, so that in every round everybody sends and receives once, be it nothing.
    ends, me = np.cumsum(send), rank()
    none = paddle.empty([0] + list(rows.shape[1:]), dtype=rows.dtype)
    parts = [rows[int(end - n):int(end)] if n else none for end, n in zip(ends, send)]
    arrived = list(parts)
    for peer in meeting_order(me, world_size()):
        arrived[peer] = paddle.empty([receive[peer]] + list(rows.shape[1:]), dtype=rows.dtype)
        if me < peer:
            dist.send(parts[peer].contiguous(), peer)
            dist.recv(arrived[peer], peer)
        else:
            dist.recv(arrived[peer], peer)
            dist.send(parts[peer].contiguous(), peer)
    return paddle.concat([a for a, n in zip(arrived, receive) if n])


def meeting_order(me: int, size: int) -> Iterator[int]:
    """Whom process `me` meets in each of the size - 1 rounds in which an even number of processes all meet in pairs."""
    last = size - 1
    for turn in range(last):
        if me == last:
            yield turn * size // 2 % last
        else:
            peer = (turn - me) % last
            yield last if peer == me else peer


def all_gather_with_grad(x: 'paddle.Tensor') -> 'paddle.Tensor':
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
            _count_all_reduce(grad)
            return grad[rank() * ctx.n:(rank() + 1) * ctx.n]

    return Gather


def sum_over_processes(values: Sequence[float]) -> list[float]:
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
    _count_all_reduce(t)
    return [float(v) for v in t.numpy()]


@contextlib.contextmanager
def traffic() -> Iterator[dict[str, dict[str, int]]]:
    """Count what this process sends and receives within the `with` block (tensors; without it nothing is counted).

    Yields:
        {collective: {'calls', 'sent', 'received'}}, in bytes that reach or leave this process: what it gives to or
        needs from others; a sum (all_reduce) is counted as in a ring, 2 (W - 1) / W of its size each way.
        The averaging of gradients is done by Paddle and not seen here: see `gradient_traffic`.
    """
    global _traffic
    outer, _traffic = _traffic, {}
    try:
        yield _traffic
    finally:
        _traffic = outer


def gradient_traffic(parallel: 'paddle.nn.Layer') -> dict[str, int]:
    """{'calls', 'sent', 'received'} of averaging the gradients once, for what `wrap` returned; as in a ring.

    Paddle packs gradients to buffers of about 25 MB: `calls` is the number of these.
    """
    groups = getattr(parallel, 'group_indices', [])
    size = sum(_bytes(p) for p in parallel.parameters() if not p.stop_gradient) if groups else 0
    share = 2 * (world_size() - 1) * size // world_size()
    return {'calls': len(groups), 'sent': share, 'received': share}


def _bytes(x):
    return int(np.prod(x.shape)) * x.element_size()


def _count(name, sent, received):
    entry = _traffic.setdefault(name, {'calls': 0, 'sent': 0, 'received': 0})
    for key, value in (('calls', 1), ('sent', sent), ('received', received)):
        entry[key] += value


def _count_all_reduce(x):
    if _traffic is not None:
        share = 2 * (world_size() - 1) * _bytes(x) // world_size()
        _count('all_reduce', share, share)
