"""Run by the launcher in two processes: what processes exchange. Writes lines of JSON to <folder>/rank<r>.jsonl.

Arguments: the folder, and the device ('' as a training chooses it, 'cpu' as with --no-cuda, or Paddle's name).
"""

import ctypes
import json
import os
import signal
import sys
import threading

if __name__ == '__main__':
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))      # not this folder

from passl.utils.paddle_env import require_paddle  # noqa: E402

paddle = require_paddle()

import numpy as np  # noqa: E402
from paddle import nn  # noqa: E402

from passl.environment.child import choose_device  # noqa: E402
from passl.environment.words import NO, NOT_HERE, OK, in_words  # noqa: E402
from passl.modules.batch_shuffle import BatchShuffle, shared_permutation  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402
from passl.utils.numerics import as_array  # noqa: E402

LIMIT = 40          # seconds that a check may take before the watch ends the process
NOTICE = 20         # seconds within which a stopped process must be noticed
ROWS = 3


def steps_to_try() -> list[int]:
    """Steps whose permutation leaves some pair of processes without a row to send, and steps where all send."""
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for step in range(1000):
        owner = shared_permutation(ROWS * dist.world_size(), 0, step).reshape([-1, ROWS]) // ROWS
        empty = any(r not in owner[to] for r in range(dist.world_size()) for to in range(dist.world_size()))
        if len(kinds[empty]) < 2:
            kinds[empty].append(step)
    return kinds[True] + kinds[False]


def exchange() -> tuple[str, str]:
    """Rows there and back, in several types, with empty splits among them."""
    me, size = dist.rank(), dist.world_size()
    everything = np.random.RandomState(0).randint(0, 200, (size * ROWS, 2, 2))
    mine = slice(me * ROWS, (me + 1) * ROWS)
    for step in steps_to_try():
        for kind in ('uint8', 'float32'):
            x = paddle.to_tensor(everything[mine].astype(kind))
            shuffle = BatchShuffle(ROWS, 0, step)
            there = shuffle.shuffle(x)
            if not np.array_equal(there.numpy(), everything[shared_permutation(size * ROWS, 0, step)[mine]]):
                return NO, 'rows of images come from the wrong place: train with one process'
            (back,), _ = shuffle.unshuffle([there.astype('float32')], [False])
            _, (both,) = shuffle.unshuffle([there.astype('float32')], [True])
            if not np.array_equal(back.numpy(), everything[mine]) or not np.array_equal(as_array(both), everything):
                return NO, 'rows of keys come back to the wrong place: train with one process'
    return OK, 'every row arrives, also where a process has none to send'


def gathers() -> tuple[str, str]:
    """What all processes give to all, and the gradient of it."""
    me, size = dist.rank(), dist.world_size()
    x = paddle.to_tensor(np.array([[me, 10 * me]], 'float32'))
    x.stop_gradient = False
    values = np.array([[r, 10 * r] for r in range(size)], 'float32')
    gathered = dist.all_gather_with_grad(x)
    (gathered * gathered).sum().backward()
    if not np.array_equal(dist.all_gather(x).numpy(), values) or not np.array_equal(gathered.numpy(), values):
        return NO, 'gathered rows are wrong: train with one process'
    if not np.array_equal(as_array(x.grad), 2 * size * values[me:me + 1]):
        return NO, 'the gradient of gathered rows is wrong: SimCLR needs one process here'
    if dist.sum_over_processes([me, 1]) != [sum(range(size)), size] or dist.gather_objects([me]) != [
            [r] for r in range(size)] or dist.broadcast_object(me) != 0:
        return NO, 'sums or objects arrive wrong: train with one process'
    return OK, 'tensors, sums, objects and gradients are right'


def no_sync() -> tuple[str, str]:
    """Gradients stay a process's own while they are accumulated, and are averaged in the last pass."""
    me, size = dist.rank(), dist.world_size()
    layer = nn.Linear(2, 1)
    parallel = dist.wrap(layer)
    x = np.array([[me + 1, 2 * me - 1]], 'float32')
    with dist.no_sync(parallel, True):
        parallel(paddle.to_tensor(x)).sum().backward()
    own = as_array(layer.weight.grad)[:, 0].copy()
    parallel(paddle.to_tensor(x)).sum().backward()
    both = as_array(layer.weight.grad)[:, 0]
    mean = 2 * np.mean([[r + 1, 2 * r - 1] for r in range(size)], axis=0)
    if not np.array_equal(own, x[0]):
        return NO, 'gradients are averaged too early: leave out accumulate_steps'
    if not np.allclose(both, mean, rtol=1e-6):
        return NO, f'accumulated gradients are {both.tolist()}, {mean.tolist()} is right: leave out accumulate_steps'
    return OK, 'gradients are accumulated alone and averaged once'


def lost_process() -> tuple[str, str]:
    """A process that stands still is noticed by the other one."""
    if not hasattr(signal, 'SIGSTOP') or not os.path.isdir('/proc/self'):
        return NOT_HERE, 'this system does not tell whether a process stands still'
    noticed = threading.Event()
    dist.on_loss(lambda message: noticed.set())
    pids = dist.gather_objects(os.getpid())
    dist.meet()
    if dist.rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)        # the other one ends this process
        return OK, ''
    seen = noticed.wait(NOTICE)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGKILL)
    if not seen:
        return NO, f'a stopped process is not noticed within {NOTICE} s: a job may hang for ever'
    return OK, 'a process that stands still is noticed'


CHECKS = {'exchange': exchange, 'gathers': gathers, 'no_sync': no_sync, 'lost process': lost_process}


def main(folder: str, device: str) -> int:
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # do not outlive the launcher
    with open(os.path.join(folder, f'rank{dist.rank()}.jsonl'), 'w') as out:
        def tell(name, outcome):
            out.write(json.dumps([name, *outcome]) + '\n')
            out.flush()
        try:
            device = choose_device(device)
            dist.init(LIMIT)
            tell('start', (OK, device))
        except Exception as e:
            tell('start', (NO, in_words(e)))
            return 1
        for name, check in CHECKS.items():
            dist.progress(f'checking {name}', 0)
            try:
                tell(name, check())
            except Exception as e:
                tell(name, (NO, in_words(e)))
                os._exit(1)             # the other process waits for this one
    os._exit(0)                         # the other process of the last check is no more


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
