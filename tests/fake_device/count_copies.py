"""One process of a job on the fake device: copies between host and device in whole steps of DenseCL.

    python count_copies.py DATA OUT CASE...     writes {case: {iteration: {counter: number}}} to OUT/rank<r>.json

What loading and sending the batch itself costs is left out.
"""

import collections
import json
import os
import sys

from passl.utils.paddle_env import require_paddle

paddle = require_paddle()

import numpy as np  # noqa: E402

from passl.engine.builder import build_trainer  # noqa: E402
from passl.hooks import Hook  # noqa: E402
from passl.utils import dist  # noqa: E402
from passl.utils.config import with_defaults  # noqa: E402
from tests import carrying  # noqa: E402,F401  a data set
from tests.engine.small import dense_parts, densecl  # noqa: E402
from tests.fake_device.plugin import copies  # noqa: E402

CASES = {'plain': densecl, 'bn_splits': lambda *a, **k: densecl(*a, model={'bn_splits': 2}, **k),
         'regions': lambda root, **k: dense_parts(root, 'Regions', 'batch', **k),
         'geometric': lambda root, **k: dense_parts(root, 'Geometric', 'cells', **k)}


class Counting(Hook):
    """From before the first hook of a step to after the last one."""

    def __init__(self, priority, act):
        super().__init__(priority)
        self.act = act

    def train_iter_begin(self, trainer):
        if self.priority < 0:
            self.act()

    def train_iter_end(self, trainer):
        if self.priority > 0:
            self.act()


class Loader:
    """A loader whose own copies count as 'of the batch'."""

    def __init__(self, inner, count):
        self.inner, self.count = inner, count

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        batches = iter(self.inner)
        while True:
            before = collections.Counter(copies())
            batch = next(batches, None)
            self.count.update({k: v - before[k] for k, v in copies().items()})
            if batch is None:
                return
            yield batch


def steps_of(trainer):
    """{iteration: {counter: number}} of a run."""
    found, loading, before = {}, collections.Counter(), collections.Counter()

    def begin():
        loading.clear()
        before.clear()
        before.update(copies())

    def end():
        found[trainer.iteration] = {k: v - before[k] - loading[k] for k, v in copies().items()}
    trainer.train_loader = Loader(trainer.train_loader, loading)
    trainer.hooks = [Counting(-1000, begin), *trainer.hooks, Counting(1000, end)]
    trainer.run()
    return found


def counters_are_right():
    """{what was done: counters that moved by how much}, for the test to compare with what must be."""
    host, found = np.ones([2, 3], 'float32'), {}
    x = paddle.to_tensor(host)
    for name, act in {'to_tensor': lambda: paddle.to_tensor(host), 'set_value': lambda: x.set_value(host),
                      'numpy': x.numpy, 'item': x[0, 0].item, 'bool': lambda: bool(x.sum() > 0),
                      'index': lambda: x[np.array([1, 0])], 'product': lambda: paddle.matmul(x, x, transpose_y=True),
                      'zeros': lambda: paddle.zeros([2, 3])}.items():
        before = copies()
        act()
        found[name] = {k: v - before[k] for k, v in copies().items() if v != before[k] and k != 'for_operators'}
    return found


def main(data, out, *cases):
    paddle.set_device('fake:0')
    dist.init()
    found = {'known': counters_are_right()}
    for case in cases:
        cfg = CASES[case](data, checkpoint={'interval': 1000}, log_config={'name': 'LogHook', 'interval': 1000},
                          dataloader={'train': {'loader': {'transport': 'uint8'}, 'sampler': {'batch_size': 2}}})
        found[case] = steps_of(build_trainer(with_defaults(cfg)))
    with open(os.path.join(out, f'rank{dist.rank()}.json'), 'w') as f:
        json.dump(found, f)
    dist.meet()             # process 0 holds the store for the others


if __name__ == '__main__':
    main(*sys.argv[1:])
