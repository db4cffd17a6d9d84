"""Trains with two processes, kills them at random, resumes, and compares with a run that nobody disturbed; for hours.

    python -m tests.soak --minutes 60 --output /tmp/soak

Writes samples.jsonl (memory, files, shared memory and disk every two seconds), incidents.jsonl and summary.json into
the output folder, and prints the summary. Exit code 1: something was lost, left behind, or took too long to end.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from passl.utils.weights.checkpoint import load_file
from passl.utils.logger import read_json_lines
from tests.conftest import write_images
from tests.tiny import densecl_config, write_config

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MARK = 'PASSL_SOAK'
SAVE_EVERY, END_WITHIN = 7, 120         # iterations; seconds from an incident to the end of the job
KILL, TERM, INT, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP
INCIDENTS = [('rank 0', KILL), ('rank 1', KILL), ('everything', KILL), ('a data worker', KILL), ('the launcher', TERM),
             ('rank 0', TERM), ('rank 1', TERM), ('the launcher', INT), ('rank 0', STOP), ('rank 1', STOP)]


def stat(pid):
    """(state, parent) of a process, or None."""
    try:
        with open(f'/proc/{pid}/stat', errors='replace') as f:
            fields = f.read().rpartition(')')[2].split()
        return fields[0], int(fields[1])
    except (OSError, IndexError, ValueError):
        return None


def environment(pid):
    """{name: value} of a process's environment; empty if it cannot be read."""
    try:
        with open(f'/proc/{pid}/environ', 'rb') as f:
            return dict(e.split(b'=', 1) for e in f.read().split(b'\0') if b'=' in e)
    except OSError:
        return {}


def job_processes(mark):
    """{pid: parent} of the living processes that carry the mark of a job."""
    found = {}
    for pid in (int(p) for p in os.listdir('/proc') if p.isdigit()):
        if environment(pid).get(MARK.encode()) == mark.encode():
            known = stat(pid)
            if known and known[0] not in 'XZ':
                found[pid] = known[1]
    return found


class Job:
    """A launched run with two processes that goes on from where it stands."""

    def __init__(self, config, logs, mark):
        self.mark, self.output = mark, open(logs + '.txt', 'w')
        env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
        self.launcher = subprocess.Popen(
            [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir', logs,
             'tools/train.py', '-c', config, '--allow-imports', '--resume', 'auto'], cwd=ROOT, stdout=self.output,
            stderr=subprocess.STDOUT, env=dict(env, OMP_NUM_THREADS='1', PYTHONPATH=ROOT, **{MARK: mark}))

    def victims(self, whom):
        """The processes that are meant by a word of INCIDENTS."""
        processes = job_processes(self.mark)
        if whom == 'everything':
            return list(processes)
        if whom == 'the launcher':
            return [self.launcher.pid]
        ranks = {int(environment(p).get(b'PADDLE_TRAINER_ID', b'-1')): p for p, parent in processes.items()
                 if parent == self.launcher.pid}
        if whom == 'a data worker':
            return [p for p, parent in processes.items() if parent in ranks.values()][:1]
        return [ranks[int(whom[-1])]] if int(whom[-1]) in ranks else []

    def wait(self, seconds):
        """The exit code, or None after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.launcher.wait(seconds)
        return None

    def left(self, seconds=45):
        """Processes of the job that are still there so long after its end; they are killed."""
        end = time.monotonic() + seconds
        while job_processes(self.mark) and time.monotonic() < end:
            time.sleep(0.5)
        left = list(job_processes(self.mark))
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, KILL)
        self.output.close()
        return left


class Sampler(threading.Thread):
    """Writes every two seconds what the processes of a mark use."""

    def __init__(self, path, mark, folder):
        super().__init__(daemon=True)
        self.path, self.mark, self.folder, self.ended = path, mark, folder, threading.Event()

    def run(self):
        with open(self.path, 'a') as f:
            while not self.ended.wait(2):
                f.write(json.dumps(self.sample()) + '\n')
                f.flush()

    def sample(self):
        memory, files = 0, 0
        processes = job_processes(self.mark)
        for pid in processes:
            with contextlib.suppress(OSError, IndexError):
                files += len(os.listdir(f'/proc/{pid}/fd'))
                with open(f'/proc/{pid}/statm') as f:
                    memory += int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
        disk = sum(os.path.getsize(os.path.join(d, n)) for d, _, names in os.walk(self.folder) for n in names
                   if os.path.isfile(os.path.join(d, n)))
        return {'time': round(time.time(), 1), 'run': os.path.basename(self.folder), 'processes': len(processes),
                'rss_mb': memory >> 20, 'fds': files, 'shm_mb': shared_memory(processes.__contains__),
                'disk_mb': disk / 2**20}


def listed(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


def shared_memory(of):
    """MB of Paddle's files in /dev/shm whose process number satisfies `of`."""
    size = 0
    for name in listed('/dev/shm'):
        number = name.split('_')[1] if name.startswith('paddle_') else ''
        if number.isdigit() and of(int(number)):
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join('/dev/shm', name)).st_blocks * 512
    return size / 2**20


def configuration(folder, name, steps):
    """Path of the config: DenseCL, data workers, accumulation, saves every SAVE_EVERY iterations, two kept."""
    cfg = densecl_config(os.path.join(folder, 'images'), os.path.join(folder, 'out'), epochs=None, batch_size=4,
                         workers=1, K=64, total_iters=steps,
                         lr_scheduler={'name': 'CosineAnnealingDecay', 'learning_rate': 0.02, 'T_max': steps / 8},
                         optimizer_config={'name': 'OptimizerHook', 'accumulate_steps': 2},
                         checkpoint={'name': 'CheckpointHook', 'by_epoch': False, 'interval': SAVE_EVERY,
                                     'max_keep_ckpts': 2})
    cfg.pop('epochs')
    return write_config(cfg, folder, name)


def last_iteration(run):
    path = os.path.join(run, 'log.jsonl')
    records = [r['iteration'] for r in read_json_lines(path) if 'loss' in r] if os.path.isfile(path) else []
    return max(records, default=0), len(records)


def differences(a, b, steps):
    """What differs between two finished runs: names of tensors, iterations whose loss is another one."""
    one, two = (load_file(os.path.join(run, f'iter_{steps}.pdparams')) for run in (a, b))
    names = [n for n in one['state_dict'] if not np.array_equal(one['state_dict'][n], two['state_dict'][n])]
    names += [f"optimizer: {n}" for n in one['optimizer'] if isinstance(one['optimizer'][n], np.ndarray)
              and not np.array_equal(one['optimizer'][n], two['optimizer'].get(n))]
    if not np.array_equal(one['statistics']['values'], two['statistics']['values']):
        names.append('statistics')
    losses = [{r['iteration']: r['loss'] for r in read_json_lines(os.path.join(run, 'log.jsonl')) if 'loss' in r}
              for run in (a, b)]
    names += [f'loss of iteration {i}' for i in range(1, steps + 1) if losses[0].get(i) != losses[1].get(i)]
    return names, len(one['state_dict'])


def disturb(job, run, rng, longest):
    """One incident, after a random time; None if the job was over before."""
    delay = rng.uniform(2, longest)
    if job.wait(delay) is not None:
        return None
    victims = []
    while not victims:              # processes that are not there yet cannot be killed
        whom, what = rng.choice(INCIDENTS)
        victims = job.victims(whom)
    before = last_iteration(run)[0]
    began = time.monotonic()
    for pid in victims:
        with contextlib.suppress(OSError):
            os.kill(pid, what)
    code = job.wait(END_WITHIN)
    return {'whom': whom, 'signal': what.name, 'victims': len(victims), 'after': round(delay, 1), 'iteration': before,
            'code': code, 'seconds_to_end': round(time.monotonic() - began, 1)}


def soak(folder, minutes, steps, seed, longest):
    """Rounds of a whole run each until the time is over; returns the summary."""
    os.makedirs(folder)
    write_images(os.path.join(folder, 'images'), 64, size=40)
    rng, began, failures, rounds, records = random.Random(seed), time.monotonic(), [], 0, 0
    incidents = open(os.path.join(folder, 'incidents.jsonl'), 'w')
    seen = []
    reference = None
    while rounds == 0 or time.monotonic() - began < minutes * 60:
        name = f'round{rounds}' if rounds else 'reference'
        config, run = configuration(folder, name, steps), os.path.join(folder, 'out', name)
        sampler = Sampler(os.path.join(folder, 'samples.jsonl'), name, run)
        sampler.start()
        part = 0
        while True:
            job = Job(config, os.path.join(folder, f'log_{name}_{part}'), name)
            done = disturb(job, run, rng, longest) if rounds else None
            code = job.wait(None if done is None else 0)
            left = job.left()
            if done is None and code == 0:
                break
            done = dict(done or {'whom': 'nobody', 'code': code}, round=name, left=len(left))
            seen.append(done)
            incidents.write(json.dumps(done) + '\n')
            incidents.flush()
            if left or code is None or done['whom'] == 'nobody':
                failures.append(f'{name}, part {part}: {done}')
            if done['whom'] == 'nobody' or part > 200:
                break
            part += 1
        sampler.ended.set()
        if not os.path.isfile(os.path.join(run, f'iter_{steps}.pdparams')):
            raise SystemExit(f'{name} did not come to its end: see {folder}/log_{name}_{part}.txt')
        if reference is None:
            reference = run
        else:
            changed, tensors = differences(reference, run, steps)
            failures += [f'{name}: {c} differs' for c in changed]
            records += steps
            shutil.rmtree(run)
        rounds += 1
    samples = read_json_lines(os.path.join(folder, 'samples.jsonl'))
    quiet = [s['rss_mb'] for s in samples if s['run'] == 'reference' and s['processes'] >= 5]
    third = max(1, len(quiet) // 3)
    count = {}
    for i in seen:
        count[f"{i.get('signal')} to {i['whom']}"] = count.get(f"{i.get('signal')} to {i['whom']}", 0) + 1
    summary = {
        'minutes': round((time.monotonic() - began) / 60, 1), 'rounds': rounds - 1, 'steps_per_round': steps,
        'incidents': len(seen), 'by_kind': dict(sorted(count.items())),
        'longest_seconds_to_end': max((i.get('seconds_to_end', 0) for i in seen), default=0),
        'losses_compared': records, 'tensors_compared_per_round': tensors if rounds > 1 else 0,
        'processes_left_behind': sum(i['left'] for i in seen),
        'shared_memory_left_mb': shared_memory(lambda pid: not os.path.exists(f'/proc/{pid}')),
        'rss_mb_first_third': float(np.median(quiet[:third])), 'rss_mb_last_third': float(np.median(quiet[-third:])),
        'rss_mb_max': max(s['rss_mb'] for s in samples), 'fds_max': max(s['fds'] for s in samples),
        'shm_mb_max': max(s['shm_mb'] for s in samples), 'disk_mb_max': max(s['disk_mb'] for s in samples),
        'failures': failures}
    with open(os.path.join(folder, 'summary.json'), 'w') as f:
        json.dump(summary, f, indent=1)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=60)
    parser.add_argument('--steps', type=int, default=240, help='iterations of a round (default: 240)')
    parser.add_argument('--longest', type=float, default=45, help='seconds until the next kill at most (default: 45)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', required=True, help='folder to make')
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)     # background jobs of a shell ignore it
    summary = soak(os.path.abspath(args.output), args.minutes, args.steps, args.seed, args.longest)
    print(json.dumps(summary, indent=1))
    return bool(summary['failures'])


if __name__ == '__main__':
    sys.exit(main())
