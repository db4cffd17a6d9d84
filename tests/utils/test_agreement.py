"""A wish of one process becomes a decision of all at the same step."""

import random
import threading

import pytest

from passl.utils.distributed import agreement
from passl.utils.distributed.agreement import Agreement


class Counters:
    """The store of all processes: counters with an atomic add."""

    def __init__(self):
        self.values, self.lock, self.calls = {}, threading.Lock(), 0

    def add(self, key, amount):
        with self.lock:
            self.calls += 1
            self.values[key] = self.values.get(key, 0) + amount
            return self.values[key]


def run(wishes, steps, seed, monkeypatch):
    """Steps at which each process found `kind` due; `wishes[r]`: steps at which process r wants it."""
    store, together = Counters(), threading.Barrier(len(wishes))
    monkeypatch.setattr(agreement.dist, 'store', lambda: store)
    found = [[] for _ in wishes]

    def process(rank):
        rng = random.Random(seed * 100 + rank)
        mine = Agreement('run')
        for step in range(steps):
            together.wait(10)               # the step's collective
            for _ in range(rng.randrange(200)):
                pass
            if mine.due('stop', any(w <= step for w in wishes[rank])):
                found[rank].append(step)
    threads = [threading.Thread(target=process, args=(r,)) for r in range(len(wishes))]
    [t.start() for t in threads]
    [t.join(20) for t in threads]
    return found, store


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('wishes', [[[3], []], [[], [3]], [[3], [3]], [[3], [4]], [[5], [], [3], [4]]])
def test_all_find_it_due_at_the_step_after_the_first_wish(wishes, seed, monkeypatch):
    found, _ = run(wishes, 6, seed, monkeypatch)
    first = min(w[0] for w in wishes if w)
    assert [f[0] for f in found] == [first + 1] * len(wishes)


def test_nobody_wants_it(monkeypatch):
    found, store = run([[], []], 10, 0, monkeypatch)
    assert found == [[], []] and store.calls == 20 and len(store.values) == 1       # one question a step, one key


def test_again_and_again(monkeypatch):
    found, _ = run([[0], []], 9, 0, monkeypatch)
    assert found[0] == found[1] == [1, 3, 5, 7]         # wanted at 0, 2, 4 ... as well


def test_kinds_do_not_mix(monkeypatch):
    monkeypatch.setattr(agreement.dist, 'store', lambda store=Counters(): store)
    a, b = Agreement('x'), Agreement('x')
    assert [m.due('save', w) for m, w in ((a, True), (b, False))] == [False, False]
    assert [m.due('stop', False) for m in (a, b)] == [False, False]
    assert [m.due('save', False) for m in (a, b)] == [True, True]
    other = Agreement('y')
    assert not other.due('save', False) and not other.due('save', False)


def test_a_process_alone_decides_at_once():
    alone = Agreement('run')
    assert alone.store is None
    assert [alone.due('stop', w) for w in (False, True, True, False)] == [False, True, True, False]
