"""The benchmark's common part in closed form, its jobs, and one step of this project through them."""

import argparse
import math
import os
import sys
import types

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.join(ROOT, 'tools')
sys.path.insert(0, TOOLS)

from benchmarks import common, jobs  # noqa: E402
from benchmarks import step_bench  # noqa: E402

WORKER = """
import os, sys
sys.path.insert(0, {tools!r})
from benchmarks import jobs

steps = []


def die():
    print('last words', flush=True)
    os._exit(3)


def fail():
    raise ValueError('no such thing')


print('not an answer')
jobs.serve({{'step': lambda: steps.append(1), 'count': lambda: len(steps), 'add': lambda a, b: a + b, 'die': die,
            'fail': fail}}, {{'name': 'worker'}})
"""


@pytest.fixture(scope='module')
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp('jobs') / 'worker.py'
    path.write_text(WORKER.format(tools=TOOLS))
    return [sys.executable, str(path)]


# --- common.py

def test_interleave_takes_turns_and_forgets_the_warmup():
    order = []

    def case(name, seconds):
        return lambda: order.append(name) or seconds
    times = common.interleave({'a': case('a', 1.0), 'b': case('b', 2.0)}, rounds=3, warmup=2)
    assert order == ['a', 'b'] * 5
    assert times == {'a': [1.0] * 3, 'b': [2.0] * 3}


def test_interleave_measures_what_gives_no_figure_of_its_own(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(common, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))
    times = common.interleave({'a': lambda: clock.append(clock.pop() + 0.25)}, rounds=2, warmup=0)
    assert times == {'a': [0.25, 0.25]}


def test_summary_is_the_median_and_the_quartiles():
    assert common.summary([5.0, 1.0, 3.0, 2.0, 4.0]) == {'median': 3.0, 'low': 2.0, 'high': 4.0, 'n': 5}
    assert common.summary([1.0, 2.0]) == {'median': 1.5, 'low': 1.25, 'high': 1.75, 'n': 2}
    assert common.summary([7.0]) == {'median': 7.0, 'low': 7.0, 'high': 7.0, 'n': 1}


def test_ratio_is_taken_turn_by_turn():
    # twice as slow in every turn, on a machine whose turns differ by a factor of a hundred
    assert common.ratio([2.0, 200.0, 20.0], [1.0, 100.0, 10.0]) == {'median': 2.0, 'low': 2.0, 'high': 2.0, 'n': 3}


def test_text_and_table():
    assert common.text(common.summary([1.0, 2.0, 3.0, 4.0, 5.0]), 1, ' s') == '3.0 s (2.0 - 4.0)'
    assert common.table(['a', 'b'], [[1, 'x'], [2, 'y']]) == '| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |'


# --- jobs.py

def test_a_worker_answers_and_ends(worker):
    with jobs.Job('one', worker) as job:
        assert job.facts == {'name': 'worker'} and job.ask('add', 1, 2) == 3
        for _ in range(3):
            assert job.step() > 0
        assert job.ask('count') == 3 and 5 < job.ask('memory') < 500
    assert job.process.returncode == 0


def test_step_does_not_count_the_pause(worker, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(jobs, 'time', types.SimpleNamespace(
        perf_counter=lambda: clock[0], sleep=lambda seconds: clock.append(clock.pop() + seconds)))
    with jobs.Job('one', worker) as job:
        assert job.step() == 0 and clock == [jobs.PAUSE] and job.ask('count') == 1


def test_a_failing_request_gives_its_traceback_and_the_job_goes_on(worker):
    with jobs.Job('failing', worker) as job:
        with pytest.raises(jobs.JobError, match="failing failed in 'fail'(.|\n)*ValueError: no such thing"):
            job.ask('fail')
        assert job.ask('add', 1, 1) == 2


def test_a_worker_that_dies_or_does_not_start_shows_its_output(worker):
    with jobs.Job('dying', worker) as job:
        with pytest.raises(jobs.JobError, match="dying ended with code 3 during 'die'(.|\n)*last words"):
            job.ask('die')
        with pytest.raises(jobs.JobError, match="dying ended with code 3 during 'add'"):
            job.ask('add', 1, 1)
    with pytest.raises(jobs.JobError, match='ended with code 4 during its start(.|\n)*something is missing'):
        jobs.Job('early', [sys.executable, '-c', 'import sys; sys.stderr.write("something is missing"); sys.exit(4)'])


# --- step_bench.py and its worker

SMALL = step_bench.Case('moco', 18, 32, 4, 64)


@pytest.fixture(scope='module')
def measured():
    """One step of this project's DenseCL, as the benchmark takes it: (seconds, loss, facts)."""
    with step_bench.job('densecl', SMALL, 1) as job:
        return job.step(), job.ask('loss'), job.facts


def test_a_step_of_this_project(measured):
    seconds, loss, facts = measured
    assert seconds > 0
    # the positives are near 1 at the start: between log(1 + K / e^(1 / T)) and log(1 + K)
    assert math.log(1 + 64 / math.e**5) < loss < 1.2 * math.log(1 + 64)
    assert facts['queue'] == [128, 64] and facts['threads'] == '1'


def test_the_counted_work_is_that_of_the_method(measured):
    _, _, facts = measured
    width = 512
    necks = 2 * (width * width + width + width * 128 + 128)
    assert facts['parameters'] == 11_176_512 + necks              # ResNet-18 without its classifier
    stem = 64 * 3 * 7 * 7 * 16 * 16
    stages = [4 * 64 * 64 * 9 * 8 * 8]
    for stage in (1, 2, 3):
        n, cells = 64 << stage, (8 >> stage)**2
        stages.append((n // 2 * n * 9 + 3 * n * n * 9 + n // 2 * n) * cells)
    assert facts['backbone_macs'] == stem + sum(stages)


def test_cases_are_read_and_wrong_ones_refused():
    assert step_bench.parse_case('torch:18:64:32:4096') == step_bench.Case('torch', 18, 64, 32, 4096)
    for text in ('torch:18:64:32', 'else:18:64:32:4096', 'moco:18:64:0:4096', 'moco:18:64:x:4096'):
        with pytest.raises(SystemExit, match=text):
            step_bench.parse_case(text)


def test_what_needs_a_package_that_is_not_there_is_left_out_and_named(monkeypatch):
    assert step_bench.find_torch(os.path.join(ROOT, 'no_such_python')) is None
    monkeypatch.setattr(step_bench, 'find_torch', lambda python: None)
    args = argparse.Namespace(cases=['torch:18:64:16:64'], quick=True, rounds=1, threads=1, torch_python='other')
    result = step_bench.run(args)
    assert result['tables'] == [] and result['left_out'] == [
        'step, DenseCL against PyTorch (18, 64, 16, 64): no PyTorch in other; give another one with --torch-python '
        'FILE']


def test_sides_that_compute_different_things_are_not_compared():
    facts = {'backbone_macs': 10, 'queue': [128, 64], 'parameters': 5}
    step_bench.check_same({'a': facts, 'b': dict(facts)}, True)
    step_bench.check_same({'a': facts, 'b': dict(facts, parameters=6)}, False)
    for key, value in (('backbone_macs', 11), ('queue', [128, 32]), ('parameters', 6)):
        with pytest.raises(RuntimeError, match=key):
            step_bench.check_same({'a': facts, 'b': {**facts, key: value}}, True)


def test_table_compares_turn_by_turn():
    def side(*seconds):
        return {'seconds': list(seconds), 'first_loss': 1.5, 'memory_mib': 1536.0, 'facts': {
            'framework': 'F 1', 'parameters': 2_500_000, 'backbone_macs': 3_000_000_000,
            'settings': {'layout': 'NCHW'}}}
    measured = {'DenseCL': side(3.0, 3.0, 6.0), 'PyTorch': side(2.0, 2.0, 4.0)}
    title, header, rows = step_bench.table_of(step_bench.Case('torch', 50, 224, 16, 64), measured)
    assert 'ResNet-50, 224 px, batch 16, K = 64, 3.00 GMAC per view, 3 turns' in title
    assert header[3] == 'ratio to PyTorch'
    assert rows[0] == ['DenseCL', 'F 1', '3.000 (3.000 - 4.500)', '1.50 (1.50 - 1.50)', '1.50', '2.50', '1.500',
                       'layout NCHW']
    assert rows[1][3] == '1' and measured['DenseCL']['ratio']['median'] == 1.5
