"""The training step: DenseCL against MoCo v2, and against a minimal PyTorch DenseCL of the same sizes.

Every case starts its jobs, takes their steps in turns, and ends them before the next case begins. Each side of a
comparison with PyTorch runs as one process on all cores and as several processes that share them, and is judged by
its best.
"""

import os
import subprocess
import sys
from collections import namedtuple

from passl.utils.paddle_env import usable_cores

from . import common
from .jobs import Job, paddle_launch

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT = ['moco:50:224:16:65536', 'torch:50:224:16:65536', 'torch:18:64:64:65536']
QUICK = ['moco:18:64:16:4096', 'torch:18:64:16:4096']
KINDS = {'moco': 'DenseCL against MoCo v2', 'torch': 'DenseCL against PyTorch',
         'torch-moco': "PyTorch's DenseCL against its MoCo v2"}
TOP = 12

Case = namedtuple('Case', 'kind depth size batch queue')
Variant = namedtuple('Variant', 'name job processes threads')


def add_arguments(parser):
    parser.add_argument('--cases', nargs='+', metavar='KIND:DEPTH:SIZE:BATCH:QUEUE', default=None,
                        help=f'comparisons ({", ".join(KINDS)}), with the depth of the ResNet, the side in pixels, the '
                             f'images per step and the keys per queue; default: {" ".join(DEFAULT)}')
    parser.add_argument('--threads', type=int, default=None,
                        help='cores that a step may use in all; None: all, by the settings that the project chooses')
    parser.add_argument('--processes', type=int, default=2, help='of the jobs with several processes; 1: none')
    parser.add_argument('--torch-python', metavar='FILE', default=None,
                        help='a Python with PyTorch; None: the running one')
    parser.add_argument('--torch-loss', choices=['naive', 'logsumexp'], default='naive',
                        help='naive: joined logits and cross entropy, as in the authors\' code')
    parser.add_argument('--torch-contiguous', action='store_true', help='NCHW instead of channels-last for PyTorch')
    parser.add_argument('--profile', action='store_true', help="also the time by operator of this project's step")


def run(args):
    """Tables of all cases, and every measured second."""
    cases = [parse_case(text) for text in args.cases or (QUICK if args.quick else DEFAULT)]
    rounds = args.rounds or (3 if args.quick else 15)
    torch_python = find_torch(args.torch_python) if any(case.kind != 'moco' for case in cases) else None
    results = {'tables': [], 'cases': []}
    for case in cases:
        variants, left_out = plan(case, args, torch_python)
        if left_out:
            print(left_out, flush=True)
        if variants:
            measured = measure(case, variants, rounds, 1 if args.quick else 2)
            results['cases'].append({**case._asdict(), 'left_out': left_out, **measured})
            results['tables'].append(table_of(case, measured, left_out))
    if args.profile:
        profile, table = profile_of(cases[0], args.threads, 2 if args.quick else 5)
        results['profile'] = profile
        results['tables'].append(table)
    return results


def parse_case(text):
    """'moco:50:224:16:65536' -> Case.

    Raises:
        SystemExit: not of this form.
    """
    kind, *numbers = text.split(':')
    if kind not in KINDS or len(numbers) != 4 or not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise SystemExit(f"--cases: '{text}' is not KIND:DEPTH:SIZE:BATCH:QUEUE with KIND one of {', '.join(KINDS)} "
                         f'and positive numbers, as {DEFAULT[0]}.')
    return Case(kind, *map(int, numbers))


def find_torch(python):
    """The Python that has PyTorch (`python`, or the running one), or None."""
    python = python or sys.executable
    try:
        found = subprocess.run([python, '-c', 'import torch'], capture_output=True, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        found = False
    return python if found else None


def plan(case, args, torch_python):
    """([Variant] of a case, None or a line that says what is left out)."""
    several = args.processes if args.processes > 1 and case.batch % args.processes == 0 else 1
    cores = args.threads or usable_cores()
    shares = [(1, cores)] + ([(several, max(1, cores // several))] if several > 1 else [])
    given = args.threads is not None
    if case.kind == 'moco':
        return [Variant(name, paddle_job(arch, case, 1, cores if given else None), 1, cores)
                for name, arch in (('DenseCL', 'densecl'), ('MoCo v2', 'moco'))], None
    left_out = None if torch_python else \
        f'{KINDS[case.kind]} is left out: no PyTorch in this Python. Give another one with --torch-python FILE.'
    if case.kind == 'torch-moco':
        return [Variant(name, torch_job(arch, case, 1, cores, args, torch_python), 1, cores)
                for name, arch in (('DenseCL', 'densecl'), ('MoCo v2', 'moco'))] if torch_python else [], left_out
    variants = [Variant('this project', paddle_job('densecl', case, n, threads if given else None), n, threads)
                for n, threads in shares]
    if torch_python:
        variants += [Variant('PyTorch', torch_job('densecl', case, n, threads, args, torch_python), n, threads)
                     for n, threads in shares]
    return variants, left_out


def sizes(arch, case, processes):
    return ['--arch', arch, '--depth', case.depth, '--size', case.size, '--batch', case.batch // processes,
            '--queue', case.queue]


def paddle_job(arch, case, processes, threads):
    """Function that starts this project's job: `processes` with `threads` threads each (None: as it chooses)."""
    script, words = os.path.join(HERE, 'paddle_step.py'), sizes(arch, case, processes)
    command = [sys.executable, script, *words] if processes == 1 else paddle_launch(script, words, processes)
    env = {**{name: None for name in os.environ if name.startswith('PADDLE_')}, 'OMP_NUM_THREADS': threads}
    return lambda: Job(f'{arch}, Paddle, {processes} process(es)', [command], processes, env)


def torch_job(arch, case, processes, threads, args, python):
    """Function that starts the PyTorch job: `processes` with `threads` threads each."""
    command = [python, os.path.join(HERE, 'torch_step.py'), *sizes(arch, case, processes), '--threads', threads,
               '--loss', args.torch_loss, '--ranks', processes, '--rendezvous', '{folder}/rendezvous']
    command += ['--contiguous'] * args.torch_contiguous
    env = {'OMP_NUM_THREADS': threads}
    if sys.platform == 'linux':
        env['GLOO_SOCKET_IFNAME'] = 'lo'
    return lambda: Job(f'{arch}, PyTorch, {processes} process(es)', [command] * processes, env=env)


def measure(case, variants, rounds, warmup):
    """Steps of all variants in turns.

    Returns:
        {'variants': [{'name', 'processes', 'threads', 'seconds', 'first_loss', 'memory_mib', 'facts'}]}.
    """
    jobs = {}
    try:
        for i, variant in enumerate(variants):
            jobs[i] = variant.job()
        check_same({variants[i].name: job.facts for i, job in jobs.items()}, case.kind == 'torch')
        first = {}
        for i, job in jobs.items():
            job.step()
            losses = job.ask('loss')
            first[i] = sum(losses) / len(losses)
        times = common.interleave({i: job.step for i, job in jobs.items()}, rounds, warmup)
        memory = {i: sum(job.ask('memory')) for i, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.close()
    return {'variants': [{'name': v.name, 'processes': v.processes, 'threads': v.threads, 'seconds': times[i],
                          'first_loss': first[i], 'memory_mib': memory[i], 'facts': jobs[i].facts}
                         for i, v in enumerate(variants)]}


def check_same(facts, parameters_too):
    """Both sides must compute the same: convolutions of the backbone, queues, and (of one method) parameters.

    Raises:
        RuntimeError: they do not.
    """
    for key in ('backbone_macs', 'queue') + (('parameters',) if parameters_too else ()):
        values = {name: fact[key] for name, fact in facts.items()}
        if len(set(map(str, values.values()))) > 1:
            raise RuntimeError(f"The sides differ in '{key}': {values}. Their times cannot be compared.")


def best_of(variants, name):
    """The variant of this name with the smallest median."""
    return min((v for v in variants if v['name'] == name), key=lambda v: common.summary(v['seconds'])['median'])


def table_of(case, measured, left_out=None):
    """(title, header, rows) of one case: seconds of each variant, ratio to the base of the comparison, turn by turn."""
    variants = measured['variants']
    names = list(dict.fromkeys(v['name'] for v in variants))
    best = {name: best_of(variants, name) for name in names}
    base = best[names[-1]]
    rows = []
    for v in variants:
        mark = ' (best)' if v is best[v['name']] and len(variants) > len(names) else ''
        ratio = '1' if v is base else common.text(common.ratio(v['seconds'], base['seconds']), 2)
        rows.append([v['name'] + mark, v['facts']['framework'], f"{v['processes']} x {v['threads']}",
                     common.text(common.summary(v['seconds'])), ratio, f"{v['memory_mib'] / 1024:.2f}",
                     f"{v['facts']['parameters'] / 1e6:.2f}", f"{v['first_loss']:.3f}", settings_of(v['facts'])])
        v['ratio'] = None if v is base else common.ratio(v['seconds'], base['seconds'])
    title = (f'Step: {KINDS[case.kind]}; ResNet-{case.depth}, {case.size} px, batch {case.batch}, K = {case.queue}, '
             f"{base['facts']['backbone_macs'] / 1e9:.2f} GMAC per view, {len(base['seconds'])} turns")
    if left_out:
        title += '; PyTorch is left out'
    header = ['step of', 'with', 'processes x threads', 'seconds (quartiles)',
              f"ratio to {base['name']}, {base['processes']} x {base['threads']}", 'peak GiB, all processes',
              'M parameters', 'first loss', 'settings']
    return title, header, rows


def settings_of(facts):
    return ', '.join(f'{key} {value}' for key, value in facts['settings'].items()) or '-'


def profile_of(case, threads, steps):
    """(raw figures, table) of the operators that take the longest in this project's DenseCL step, one process."""
    with paddle_job('densecl', case, 1, threads)() as job:
        job.step()
        wall, rows = job.ask('profile', steps)[0]
    rest = wall - sum(seconds for _, _, seconds in rows[:TOP])
    table = [[name, f'{calls:.0f}', f'{1000 * seconds:.1f}', f'{100 * seconds / wall:.1f} %']
             for name, calls, seconds in rows[:TOP]]
    table.append(['all else', '', f'{1000 * rest:.1f}', f'{100 * rest / wall:.1f} %'])
    title = (f'Step: time by operator, DenseCL; ResNet-{case.depth}, {case.size} px, batch {case.batch}, '
             f'K = {case.queue}, 1 x {threads or usable_cores()}, {wall:.3f} s per step with the profiler')
    return {'wall': wall, 'operators': rows}, (title, ['operator', 'calls', 'ms per step', 'share'], table)
