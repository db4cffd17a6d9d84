"""Shuffle-BN: the key encoder must not see the grouping that the query encoder sees (MoCo, section 3.3).

Every process draws the same permutation of the global batch from (seed, step), so that no index has to be
sent. An image goes only to the process that encodes it. What comes back goes to the image's owner, apart from
the vectors that enter a queue: everybody writes the same queue and needs them all.
"""

from typing import Any, Callable, Optional, Sequence

import numpy as np
import paddle

from ..utils.distributed import dist
from ..utils.seed import derive_seed


def shared_permutation(n: int, seed: int, step: int) -> np.ndarray:
    """Permutation of n elements, the same on every process (int64 numpy [n])."""
    return np.random.RandomState(derive_seed(seed, step, 0x5bf)).permutation(n).astype('int64')


class BatchShuffle:
    """One step's shuffle of the global batch over processes and over BN splits within one.

    With one process and one split there is one group, whose statistics do not depend on the order: nothing moves.
    To be made before the step's forward pass: what the device must know of it is copied there now, in one piece.

    Args:
        local_batch: samples per process.
        seed, step: the permutation's identity.
        splits: BN groups per process.
    """

    def __init__(self, local_batch: int, seed: int, step: int, splits: int = 1) -> None:
        self.n = local_batch
        self.moves = dist.world_size() > 1 or splits > 1
        if self.moves:
            self.forward_index = shared_permutation(local_batch * dist.world_size(), seed, step)
            backward_index = np.argsort(self.forward_index)
            self.there, self.back = (dist.Exchange(index, self.n) for index in (self.forward_index, backward_index))
            self.backward_index, = dist.place([self.there, self.back], backward_index)

    @paddle.no_grad()
    def shuffle(self, x: paddle.Tensor) -> paddle.Tensor:
        """x [n, ...] of this process -> the n samples of the shuffled global batch that it encodes."""
        return self.there.move(x) if self.moves else x

    @paddle.no_grad()
    def unshuffle(self, parts: Sequence[paddle.Tensor],
                  shared: Sequence[bool]) -> tuple[list[paddle.Tensor], list[Optional[paddle.Tensor]]]:
        """Bring encoder outputs back in order: one exchange for what the owner needs, one gather for what all need.

        Args:
            parts: list of Tensors [n, ...], in shuffled order.
            shared: list of bool, one per part: True if every process needs the rows of all. These become float32.
        Returns:
            (local, everything): per part this process's rows [n, ...], and the rows of all processes
            [world_size * n, ...] (None for a part that is not shared), both in the original order.
        """
        if not self.moves:
            return list(parts), [p if s else None for p, s in zip(parts, shared)]
        if dist.world_size() == 1:
            local = [self.back.move(p) for p in parts]
            return local, [p if s else None for p, s in zip(local, shared)]
        local = list(parts)
        everything: list[Optional[paddle.Tensor]] = [None] * len(parts)
        own, common = ([i for i, s in enumerate(shared) if bool(s) == kind] for kind in (False, True))
        with paddle.amp.auto_cast(enable=False):
            if own:
                packed, unpack = pack([parts[i] for i in own])
                for i, part in zip(own, unpack(self.back.move(packed))):
                    local[i] = part
            if common:
                packed, unpack = pack([parts[i].astype('float32') for i in common])
                gathered = paddle.gather(dist.all_gather(packed), self.backward_index)
                lo = dist.rank() * self.n
                for i, part in zip(common, unpack(gathered)):
                    local[i], everything[i] = part[lo:lo + self.n], part
        return local, everything


def pack(parts: Sequence[paddle.Tensor]) -> tuple[paddle.Tensor, Callable[[paddle.Tensor], list[paddle.Tensor]]]:
    """Tensors [n, ...] -> (one Tensor [n, width], function that takes Tensors [m, width] apart again).

    Parts of different types become float32.
    """
    if len({p.dtype for p in parts}) > 1:
        parts = [p.astype('float32') for p in parts]
    shapes = [list(p.shape[1:]) for p in parts]
    flat = [p.flatten(1) for p in parts]
    packed = paddle.concat(flat, axis=1) if len(flat) > 1 else flat[0]

    def unpack(x):
        columns = paddle.split(x, [int(np.prod(s)) for s in shapes], axis=1) if len(shapes) > 1 else [x]
        return [c.reshape([-1] + s) for c, s in zip(columns, shapes)]
    return packed, unpack


def in_splits(encoder: Callable[[paddle.Tensor], Any], x: paddle.Tensor, splits: int) -> Any:
    """Run `encoder` on `splits` equal groups of x [n, ...], each with its own BN statistics.

    What `splits` cards with n / splits samples each would do, on one card.
    """
    if splits == 1:
        return encoder(x)
    outputs = [encoder(part) for part in paddle.split(x, splits, axis=0)]
    if isinstance(outputs[0], (tuple, list)):
        return tuple(paddle.concat(list(o), axis=0) for o in zip(*outputs))
    return paddle.concat(outputs, axis=0)
