"""Shuffle-BN: the key encoder must not see the grouping that the query encoder sees (MoCo, section 3.3).

Every process draws the same permutation of the global batch from (seed, step), so that no index
has to be sent. One gather before and one after the key encoder is all that is exchanged.
"""

import numpy as np
import paddle

from ..utils import dist
from ..utils.seed import derive_seed


def shared_permutation(n, seed, step):
    """Permutation of n elements, the same on every process (int64 numpy [n])."""
    return np.random.RandomState(derive_seed(seed, step, 0x5bf)).permutation(n).astype('int64')


class BatchShuffle:
    """One step's shuffle of the global batch over processes (and over BN splits within one).

    Args:
        local_batch: samples per process.
        seed, step: the permutation's identity.
    """

    def __init__(self, local_batch, seed, step):
        self.n = local_batch
        total = local_batch * dist.world_size()
        self.forward_index = shared_permutation(total, seed, step)
        self.backward_index = np.argsort(self.forward_index)

    def _mine(self, index):
        lo = dist.rank() * self.n
        return paddle.to_tensor(index[lo:lo + self.n])

    @paddle.no_grad()
    def shuffle(self, x):
        """x [n, ...] of this process -> the n samples of the shuffled global batch that it encodes."""
        return paddle.index_select(dist.all_gather(x), self._mine(self.forward_index), axis=0)

    @paddle.no_grad()
    def unshuffle(self, parts):
        """Bring encoder outputs back in order, with a single gather for all of them.

        Args:
            parts: list of Tensors [n, ...], in shuffled order.
        Returns:
            (local, everything): lists of this process's rows [n, ...] and of all rows
            [world_size * n, ...], both in the original order.
        """
        shapes = [p.shape for p in parts]
        packed = paddle.concat([p.astype('float32').reshape([self.n, -1]) for p in parts], axis=1)
        gathered = paddle.index_select(dist.all_gather(packed), paddle.to_tensor(self.backward_index), axis=0)
        widths = [int(np.prod(s[1:])) for s in shapes]
        columns = paddle.split(gathered, widths, axis=1) if len(parts) > 1 else [gathered]
        everything = [c.reshape([-1] + list(s[1:])) for c, s in zip(columns, shapes)]
        lo = dist.rank() * self.n
        return [e[lo:lo + self.n] for e in everything], everything


def in_splits(encoder, x, splits):
    """Run `encoder` on `splits` equal groups of x [n, ...], each with its own BN statistics.

    What `splits` cards with n / splits samples each would do, on one card.
    """
    if splits == 1:
        return encoder(x)
    outputs = [encoder(part) for part in paddle.split(x, splits, axis=0)]
    if isinstance(outputs[0], (tuple, list)):
        return tuple(paddle.concat(list(o), axis=0) for o in zip(*outputs))
    return paddle.concat(outputs, axis=0)
