"""The benchmark's common part in closed form, its jobs, and one step of this project through them."""

import math
import os
import subprocess
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.join(ROOT, 'tools')
sys.path.insert(0, TOOLS)

from benchmarks import common, jobs  # noqa: E402
from benchmarks import step_bench  # noqa: E402

WORKER = """
import os, sys, time
sys.path.insert(0, {tools!r})
from benchmarks import jobs

rank = int(os.environ['BENCHMARK_RANK'])
steps = []


def die():
    print('last words')
    os._exit(3)


def fail():
    raise ValueError('no such thing')


jobs.serve({{'step': lambda: steps.append(1), 'count': lambda: len(steps), 'add': lambda a, b: a + b + rank,
            'pid': os.getpid, 'die': die, 'fail': fail, 'hang': lambda: time.sleep(60)}},
           rank, {{'name': f'rank {{rank}}'}})
"""


@pytest.fixture(scope='module')
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp('jobs') / 'worker.py'
    path.write_text(WORKER.format(tools=TOOLS))
    return [sys.executable, str(path)]


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


# --- common.py

def test_interleave_takes_turns_and_forgets_the_warmup():
    order = []

    def case(name, seconds):
        return lambda: order.append(name) or seconds
    times = common.interleave({'a': case('a', 1.0), 'b': case('b', 2.0)}, rounds=3, warmup=2)
    assert order == ['a', 'b'] * 5
    assert times == {'a': [1.0] * 3, 'b': [2.0] * 3}


def test_interleave_measures_what_gives_no_figure_of_its_own():
    times = common.interleave({'a': lambda: time.sleep(0.01)}, rounds=2, warmup=0)
    assert len(times['a']) == 2 and min(times['a']) >= 0.01


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

def test_all_ranks_do_every_step_and_answer_by_rank(worker):
    with jobs.Job('two', [worker, worker], pause=0) as job:
        assert job.facts == {'name': 'rank 0'}
        assert job.ask('add', 1, 2) == [3, 4]
        for _ in range(3):
            assert job.step() > 0
        assert job.ask('count') == [3, 3]
        assert all(5 < memory < 500 for memory in job.ask('memory'))
        folder, pids = job.folder, job.ask('pid')
    assert not os.path.exists(folder) and not any(map(alive, pids))


def test_step_waits_for_the_slowest_rank_and_does_not_count_the_pause(tmp_path):
    script = tmp_path / 'slow.py'
    script.write_text(f'import os, sys, time\nsys.path.insert(0, {TOOLS!r})\nfrom benchmarks import jobs\n'
                      'rank = int(os.environ["BENCHMARK_RANK"])\n'
                      'jobs.serve({"step": lambda: time.sleep(0.3 * rank)}, rank)\n')
    with jobs.Job('slow', [[sys.executable, str(script)]] * 2, pause=2) as job:
        start = time.perf_counter()
        seconds = job.step()
        assert 0.3 <= seconds <= time.perf_counter() - start - 2


def test_a_failing_request_gives_its_traceback_and_the_job_goes_on(worker):
    with jobs.Job('failing', [worker]) as job:
        with pytest.raises(jobs.JobError, match='rank 0 failed in .fail.(.|\n)*ValueError: no such thing'):
            job.ask('fail')
        assert job.ask('add', 1, 1) == [2]


def test_a_dying_and_a_hanging_rank_are_named(worker):
    with jobs.Job('dying', [worker], timeout=30) as job:
        with pytest.raises(jobs.JobError, match="rank 0 died during 'die'(.|\n)*last words"):
            job.ask('die')
    with jobs.Job('hanging', [worker], timeout=30) as job:
        job.timeout, pid = 1, job.ask('pid')[0]
        with pytest.raises(jobs.JobError, match=r"no answer to 'hang' of rank \[0\] within 1 s"):
            job.ask('hang')
    assert not alive(pid)


def test_a_worker_that_does_not_start_shows_its_output():
    with pytest.raises(jobs.JobError, match='ended with code 4 (.|\n)*something is missing'):
        jobs.Job('early', [[sys.executable, '-c', 'print("something is missing"); raise SystemExit(4)']], timeout=30)


@pytest.mark.skipif(not os.path.isdir('/proc'), reason='needs /proc')
def test_workers_die_with_a_benchmark_that_is_killed_during_a_step(worker):
    code = (f'import sys\nsys.path.insert(0, {TOOLS!r})\nfrom benchmarks import jobs\n'
            f'job = jobs.Job("killed", [{worker!r}])\n'
            f'print(*job.ask("pid"), job.folder, flush=True)\njob.ask("hang")\n')
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    pid, folder = parent.stdout.readline().split()
    assert alive(pid) and os.path.isdir(folder)
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid) and not os.path.exists(folder)


# --- step_bench.py and its worker

SMALL = step_bench.Case('moco', 18, 32, 4, 64)


@pytest.fixture(scope='module')
def measured():
    """One step (and one more with the profiler) of this project's DenseCL, as the benchmark takes it."""
    with step_bench.paddle_job('densecl', SMALL, 1, 1)() as job:
        seconds = job.step()
        return seconds, job.ask('loss')[0], job.facts, job.ask('profile', 1)[0]


def test_a_step_of_this_project(measured):
    seconds, loss, facts, _ = measured
    assert seconds > 0
    # the positives are near 1 at the start: between log(1 + K / e^(1 / T)) and log(1 + K)
    assert math.log(1 + 64 / math.e**5) < loss < 1.2 * math.log(1 + 64)
    assert facts['queue'] == [128, 64] and facts['threads'] == '1'


def test_the_counted_work_is_that_of_the_method(measured):
    _, _, facts, _ = measured
    width = 512
    necks = 2 * (width * width + width + width * 128 + 128)
    assert facts['parameters'] == 11_176_512 + necks              # ResNet-18 without its classifier
    stem = 64 * 3 * 7 * 7 * 16 * 16
    stages = [4 * 64 * 64 * 9 * 8 * 8]
    for stage in (1, 2, 3):
        n, cells = 64 << stage, (8 >> stage)**2
        stages.append((n // 2 * n * 9 + 3 * n * n * 9 + n // 2 * n) * cells)
    assert facts['backbone_macs'] == stem + sum(stages)


def test_the_profile_names_operators_and_stays_within_the_step(measured):
    wall, rows = measured[3]
    convolutions = [(name, count) for name, count, _ in rows if 'conv' in name.lower()]
    # of ResNet-18: 20 in each encoder forward, 20 backward, and those of the dense neck
    assert sum(count for name, count in convolutions if 'backward' in name) >= 20
    assert sum(count for name, count in convolutions if 'backward' not in name) >= 40
    assert len({name for name, _, _ in rows}) == len(rows)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    assert 0.2 * wall < sum(row[2] for row in rows) <= 1.05 * wall


def test_cases_are_read_and_wrong_ones_refused():
    assert step_bench.parse_case('torch:18:64:32:4096') == step_bench.Case('torch', 18, 64, 32, 4096)
    for text in ('torch:18:64:32', 'else:18:64:32:4096', 'moco:18:64:0:4096', 'moco:18:64:x:4096'):
        with pytest.raises(SystemExit, match=text):
            step_bench.parse_case(text)


def arguments(*words):
    import argparse
    parser = argparse.ArgumentParser()
    step_bench.add_arguments(parser)
    return parser.parse_args(words)


def test_plan_shares_batch_and_threads_and_says_what_is_left_out():
    case = step_bench.Case('torch', 18, 64, 16, 64)
    variants, left_out = step_bench.plan(case, arguments('--threads', '4'), 'python')
    assert left_out is None
    assert [(v.name, v.processes, v.threads) for v in variants] == [
        ('this project', 1, 4), ('this project', 2, 2), ('PyTorch', 1, 4), ('PyTorch', 2, 2)]
    variants, left_out = step_bench.plan(case, arguments('--threads', '4'), None)
    assert [v.name for v in variants] == ['this project'] * 2 and '--torch-python' in left_out
    variants, _ = step_bench.plan(case._replace(batch=15), arguments(), 'python')       # cannot be halved
    assert [v.processes for v in variants] == [1, 1]
    assert step_bench.sizes('moco', case, 2)[7] == 8
    assert step_bench.find_torch(os.path.join(ROOT, 'no_such_python')) is None


def test_sides_that_compute_different_things_are_not_compared():
    facts = {'backbone_macs': 10, 'queue': [128, 64], 'parameters': 5}
    step_bench.check_same({'a': facts, 'b': dict(facts)}, True)
    step_bench.check_same({'a': facts, 'b': dict(facts, parameters=6)}, False)
    for key, value in (('backbone_macs', 11), ('queue', [128, 32]), ('parameters', 6)):
        with pytest.raises(RuntimeError, match=key):
            step_bench.check_same({'a': facts, 'b': {**facts, key: value}}, True)


def test_table_compares_the_best_of_each_side():
    facts = {'framework': 'F 1', 'parameters': 2_500_000, 'backbone_macs': 3_000_000_000,
             'settings': {'layout': 'NCHW'}}

    def variant(name, processes, seconds):
        return {'name': name, 'processes': processes, 'threads': 2 // processes, 'seconds': seconds, 'facts': facts,
                'first_loss': 1.5, 'memory_mib': 1536.0}
    measured = {'variants': [variant('this project', 1, [4.0, 4.0, 8.0]), variant('this project', 2, [3.0, 3.0, 6.0]),
                             variant('PyTorch', 1, [2.0, 2.0, 4.0]), variant('PyTorch', 2, [5.0, 5.0, 5.0])]}
    title, header, rows = step_bench.table_of(step_bench.Case('torch', 50, 224, 16, 64), measured)
    assert 'ResNet-50, 224 px, batch 16, K = 64, 3.00 GMAC per view, 3 turns' in title
    assert header[4] == 'ratio to PyTorch, 1 x 2'
    assert [row[0] for row in rows] == ['this project', 'this project (best)', 'PyTorch (best)', 'PyTorch']
    assert rows[1] == ['this project (best)', 'F 1', '2 x 1', '3.000 (3.000 - 4.500)', '1.50 (1.50 - 1.50)', '1.50',
                       '2.50', '1.500', 'layout NCHW']
    assert rows[2][4] == '1' and rows[0][4] == '2.00 (2.00 - 2.00)'
    assert measured['variants'][1]['ratio']['median'] == 1.5
