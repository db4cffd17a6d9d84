"""Is there room for the batches in /dev/shm? Workers that find it full die of a bus error, in the middle of a run."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional

import numpy as np

from ..utils.errors import ConfigError
from ..utils.logger import get_logger

if TYPE_CHECKING:
    from paddle.io import Dataset

FOLDER = '/dev/shm'
_IN_HAND = 2            # batches that the main process holds: of this step, and of the last until it is let go
_MIB = 2**20


def batch_bytes(dataset: 'Dataset', collate: Callable[[Sequence[tuple]], list[np.ndarray]], batch_size: int) -> int:
    """Bytes of one batch, judged by the views of a made-up image; 0 if the data set cannot tell."""
    if not hasattr(dataset, 'example'):
        return 0
    return batch_size * sum(np.asarray(field).nbytes for field in collate([dataset.example()]))


def free_bytes() -> Optional[int]:
    """Free bytes of /dev/shm; None where there is none."""
    try:
        room = os.statvfs(FOLDER)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def use_shared_memory(wanted: Optional[bool], needed: int, workers: int, prefetch: int, processes: int,
                      where: str) -> bool:
    """Whether the workers hand over their batches through /dev/shm.

    Args:
        wanted: as the config says: True, False or None.
        needed: bytes of one batch.
        workers, prefetch: worker processes and batches that each prepares ahead.
        processes: training processes on this machine, which share /dev/shm.
        where: dotted path of the loader's settings, for messages.

    Raises:
        ConfigError: `wanted` is True and there is too little room.
    """
    if wanted is False:
        return False
    free, total = free_bytes(), needed * (workers * prefetch + _IN_HAND) * processes
    if free is None:
        text = f"There is no {FOLDER} here, through which data workers would hand over their batches."
    elif total > free:
        several = f' x {processes} processes' if processes > 1 else ''
        text = (f'{FOLDER} is too small: {total / _MIB:.0f} MiB are needed (a batch of {needed / _MIB:.1f} MiB x '
                f'({workers} workers x {prefetch} ahead + {_IN_HAND}){several}), {free / _MIB:.0f} MiB are free.')
    else:
        return True
    ways = (f'Give the container more (docker run --shm-size={max(1, -(-2 * total // 2**30))}g, or --ipc=host), or '
            f'lower {where}.num_workers, {where}.prefetch_factor or the batch size, or set {where}.transport: uint8 (a '
            'quarter of the size)')
    if wanted:
        raise ConfigError(f"'{where}.use_shared_memory' is true, but: {text} {ways}, or set {where}.use_shared_memory: "
                          'false (slower).')
    get_logger().warning('%s Batches go through pipes instead, which is slower. %s.', text, ways)
    return False
