"""Counts reads of tensors by the host, and copies of the host's values to tensors: on a GPU each of them may wait for
all that was queued before it."""

import collections
import contextlib
import os
import sys

import paddle

from passl.hooks import Hook

READS = ('numpy', 'item', 'tolist', 'cpu', '__array__', '__float__', '__int__', '__bool__', '__index__', '__complex__',
         '__str__', '__repr__', '__format__', 'nonzero', 'masked_select')
COPIES = ('set_value', 'copy_', '__setitem__')
PADDLE = os.path.dirname(paddle.__file__)


class SyncCounter:
    """Within the `with` block every read and every copy is noted; what another one causes is not counted again.

    Attributes:
        reads: list of 'method at file:line function', the place being the innermost one outside Paddle.
    """

    def __init__(self):
        self.reads, self.depth, self.saved, self.to_tensor = [], 0, {}, paddle.to_tensor

    def __enter__(self):
        tensor = type(paddle.zeros([1]))
        for name in READS + COPIES:
            if hasattr(tensor, name):
                self.saved[name] = getattr(tensor, name)
                setattr(tensor, name, self._counting(name, self.saved[name]))
        paddle.to_tensor = self._counting('to_tensor', self.to_tensor)
        return self

    def __exit__(self, *_):
        tensor = type(paddle.zeros([1]))
        for name, method in self.saved.items():
            setattr(tensor, name, method)
        paddle.to_tensor, self.saved = self.to_tensor, {}

    @contextlib.contextmanager
    def paused(self):
        """Count nothing within this block."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def take(self):
        """What was noted since the last call."""
        taken, self.reads = self.reads, []
        return taken

    def _counting(self, name, method):
        def counted(*args, **kwargs):
            if self.depth == 0:
                self.reads.append(f'{name} at {_place()}')
            with self.paused():
                return method(*args, **kwargs)
        return counted


def _place():
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith((PADDLE, contextlib.__file__)):
        frame = frame.f_back
    return f'{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}'


class _Quiet:
    """A loader whose own reads are not counted."""

    def __init__(self, loader, counter):
        self.loader, self.counter = loader, counter

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        with self.counter.paused():
            batches = iter(self.loader)
        while True:
            with self.counter.paused():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


class _Edge(Hook):
    def __init__(self, priority, begin=None, end=None):
        super().__init__(priority)
        self.begin, self.end = begin, end

    def train_iter_begin(self, trainer):
        if self.begin:
            self.begin(trainer)

    def train_iter_end(self, trainer):
        if self.end:
            self.end(trainer)


def reads_of_steps(trainer):
    """Run `trainer`; {iteration (from 1): reads and copies} of whole steps with all hooks, without the data."""
    counter, steps = SyncCounter(), collections.OrderedDict()

    def finish(trainer):
        steps[trainer.iteration] = counter.take()

    trainer.train_loader = _Quiet(trainer.train_loader, counter)
    trainer.hooks = [_Edge(-1000, begin=lambda _: counter.take())] + trainer.hooks + [_Edge(1000, end=finish)]
    with counter:
        trainer.run()
    return steps
