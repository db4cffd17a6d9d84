"""Which images make up which batch on which process, as a function of (seed, epoch) alone."""

from typing import NamedTuple

import numpy as np

from ..utils.errors import ConfigError
from ..utils.seed import derive_seed


class SampleKey(NamedTuple):
    """What the loader asks a data set for: an index, and the seed of its random augmentation."""
    index: int          # type: ignore[assignment]  # hides tuple.index, which nobody asks for
    seed: int


class EpochBatchSampler:
    """Yields one list of SampleKey per batch.

    The order of an epoch is a permutation that depends on (seed, epoch) only. Global batch b
    is its b-th slice of batch_size * world_size images, of which rank r takes the r-th part:
    two processes of batch 16 see the same global batches as one process of batch 32.

    Args:
        dataset_len: number of images.
        batch_size: images per process.
        shuffle: permute; otherwise the order of the data set.
        drop_last: leave out the last, incomplete global batch.
        seed: run seed.
        rank, world_size: of this process.
        pad: with drop_last=False, fill the last global batch with images from the start of the
            order so that every rank gets equally many (training: ranks must stay in step).
            False gives every image to exactly one rank (evaluation); ranks may then differ in
            the size and number of batches, and drop_last must be False.
    """

    def __init__(self, dataset_len: int, batch_size: int, shuffle: bool = False, drop_last: bool = False, seed: int = 0,
                 rank: int = 0, world_size: int = 1, pad: bool = True) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f'rank must be in [0, {world_size}), not {rank}.')
        if drop_last and not pad:
            raise ConfigError('drop_last leaves images out, and pad=False promises each of them once: choose '
                              'one.')
        self.dataset_len = int(dataset_len)
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.seed = int(seed)
        self.rank = rank
        self.world_size = world_size
        self.pad = pad
        self.epoch = 0
        self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch (from 0) to iterate over; the first `start_batch` batches are skipped."""
        self.epoch = int(epoch)
        self.start_batch = int(start_batch)

    def order(self) -> np.ndarray:
        """int array: the images of this epoch in global order, before padding and splitting."""
        if not self.shuffle:
            return np.arange(self.dataset_len)
        # RandomState, not default_rng: its stream is frozen across NumPy versions
        return np.random.RandomState(derive_seed(self.seed, self.epoch)).permutation(self.dataset_len)

    def _parts(self, order):
        """Yield this rank's index array of each global batch."""
        world, step = self.world_size, self.batch_size * self.world_size
        full = self.dataset_len // step
        for b in range(full):
            start = b * step + self.rank * self.batch_size
            yield order[start:start + self.batch_size]
        rest = order[full * step:]
        if self.drop_last or not len(rest):
            return
        if self.pad:
            rest = np.concatenate([rest, np.resize(order, -len(rest) % world)])
        part = np.array_split(rest, world)[self.rank]
        if len(part):
            yield part

    def __iter__(self):
        seed = derive_seed(self.seed, self.epoch)
        for b, part in enumerate(self._parts(self.order())):
            if b >= self.start_batch:
                yield [SampleKey(int(i), seed) for i in part]

    def __len__(self):
        """Batches of a full epoch on this rank, whatever `start_batch` is."""
        step = self.batch_size * self.world_size
        full, rest = divmod(self.dataset_len, step)
        if self.drop_last or not rest:
            return full
        return full + (1 if self.pad or self.rank < rest else 0)
