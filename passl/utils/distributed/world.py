"""The processes of a job: which they are, how they join, meet and tell each other objects.

All functions may be called without initialisation; they then act as in a world of one.
"""

import os
import time
from typing import Optional, TypeVar

from . import watch as watching
from .store import Store, meeting_place, second_store, signals_end_at_once
from ..errors import DeviceError
from ..logger import get_logger

T = TypeVar('T')

_initialised = False
_met = 0                     # how often all have met


def world_size() -> int:
    """Number of training processes that the launcher started (1 without a launcher)."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def rank() -> int:
    """Index of this process, 0 .. world_size() - 1."""
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def is_main() -> bool:
    """True on the process that logs and saves."""
    return rank() == 0


def on_cpu() -> bool:
    """Whether this process computes on the CPU, and talks to the others over gloo."""
    import paddle
    return paddle.get_device() == 'cpu'


def init(limit: Optional[float] = None) -> None:
    """Join the other processes of the launcher's job; call after paddle.set_device.

    Args:
        limit: begin to `watch` them with this limit, unless this process does so already.
    """
    global _initialised
    if world_size() == 1:
        return
    if not _initialised:
        _join()
        _initialised = True
    if limit is not None:
        watch(limit)


def _join():
    import paddle.distributed as dist
    if on_cpu():        # Paddle built for a GPU would go there, whatever device was set
        os.environ['PADDLE_DISTRI_BACKEND'] = 'gloo'
    get_logger().info('Process %d of %d looks for the others at %s:%s.', rank(), world_size(), *meeting_place())
    try:
        with signals_end_at_once():         # there is nothing to save yet
            dist.init_parallel_env()
    except OSError as e:                    # a library that Paddle loads when it is needed
        raise DeviceError(f'Process {rank()} of {world_size()} could not load what connects GPUs (NCCL): {e}\n'
                          'Install it; Paddle 2.6 looks for libnccl.so, a name without a version (on Debian and '
                          'Ubuntu: libnccl-dev), see docs/INSTALL.md. Or use the CPU: --no-cuda.') from e
    except (RuntimeError, SystemError, ValueError) as e:
        raise DeviceError(
            f'Process {rank()} of {world_size()} could not join the others: {e}\n'
            'On machines without a GPU start with: python -m paddle.distributed.launch '
            '--nproc_per_node 2 tools/train.py ... --no-cuda') from e


def watch(limit: float) -> None:
    """Begin to watch the other processes (see `passl.utils.distributed.watch`); nothing in a world of one."""
    if world_size() > 1 and not watching.running():
        known = gather_objects(watching.facts())
        watching.start(limit, rank(), known, second_store(), on_cpu())


def store() -> Optional[Store]:
    """The Store; None in a world of one."""
    if world_size() == 1:
        return None
    import paddle
    return Store(paddle.base.core.create_or_get_global_tcp_store())


def meet(doing: Optional[str] = None) -> None:
    """Wait, without limit, until every process is here; process 0 may work alone meanwhile.

    To be called before collectives to which processes may come at very different times: those of gloo give up after
    30 s. With NCCL, which waits for long by itself, too; it costs some questions to the store.

    Args:
        doing: what this process does, where others may work for longer than `dist_timeout`: the watch is told so all
            the while. Those that work tell it themselves that they get on.

    Raises:
        PeerLostError: a process that is waited for has died or hangs.
    """
    global _met
    if world_size() == 1:
        return
    _met += 1
    # one counter for all meetings: nobody comes to the next one before this one is complete
    key, counter, pause, complete = 'passl/meet', store(), 0.001, _met * world_size()
    assert counter is not None          # there are several processes
    here = counter.add(key, 1)
    while here < complete:
        watching.raise_if_lost()
        if doing is not None:
            watching.progress(doing)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
        here = counter.add(key, 0)


def broadcast_object(obj: T) -> T:
    """Process 0's `obj` (plain python data) on every process; waits for all without limit."""
    if world_size() == 1:
        return obj
    meet()
    import paddle.distributed as dist
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(obj: T) -> list[T]:
    """List of every process's `obj`, in rank order; waits for all without limit."""
    if world_size() == 1:
        return [obj]
    meet()
    import paddle.distributed as dist
    box: list[T] = []
    dist.all_gather_object(box, obj)
    return box
