"""Run by the launcher: `faulty.py KIND RANK ITERATION train-arguments`: a training in which one process has a fault."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.cli import train_main  # noqa: E402
from passl.engine import consistency, trainer  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402
from passl.utils.weights import checkpoint  # noqa: E402

kind, rank, iteration = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
arguments = sys.argv[4:]
SLOW = 36               # seconds, longer than gloo's collectives wait


def once(function, fault):
    """`function`, before whose first call at `iteration` the fault happens."""
    done = []

    def wrapped(self, *args, **kwargs):
        if self.iteration == iteration and not done:
            done.append(True)
            fault()
        return function(self, *args, **kwargs)
    return wrapped


def pause():
    sys.stderr.write(f'planted: a pause of {SLOW} s\n')
    time.sleep(SLOW)


def fail():
    raise RuntimeError('planted')


faults = {'error': fail, 'sleep': lambda: time.sleep(600), 'slow step': pause}
if dist.rank() == rank:
    if kind in faults:
        trainer.Trainer.train_step = once(trainer.Trainer.train_step, faults[kind])
    if kind == 'slow save':
        save_file = checkpoint.save_file
        checkpoint.save_file = lambda *a: (pause(), save_file(*a))
    elif kind == 'slow evaluation':
        evaluate = trainer.evaluate
        trainer.evaluate = lambda *a, **k: (pause(), evaluate(*a, **k))[1]
    elif kind == 'other code and config':
        consistency.code_hash = lambda *_: 'another'
        arguments += ['-o', 'model.m=0.5', '-o', 'seed=9']
if kind == 'other data':            # the same relative name, another folder
    os.chdir(os.path.join(os.environ['DATA_OF_RANKS'], str(dist.rank())))
sys.exit(train_main(arguments))
