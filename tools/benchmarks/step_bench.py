"""The training step: DenseCL against MoCo v2, against a minimal PyTorch DenseCL of the same sizes, and in bfloat16.

Every case starts its workers, takes their steps in turns, and ends them before the next case begins.
"""

import contextlib
import os
import subprocess
import sys
from collections import namedtuple

from passl.utils.paddle_env import usable_cores

from . import common
from .jobs import Job

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT = ['moco:50:224:16:65536', 'torch:50:224:16:65536', 'torch:18:64:64:65536']
QUICK = ['moco:18:64:16:4096', 'torch:18:64:16:4096']
KINDS = {'moco': 'DenseCL against MoCo v2', 'torch': 'DenseCL against PyTorch',
         'bfloat16': 'DenseCL in bfloat16 against float32, and PyTorch if it is there'}

Case = namedtuple('Case', 'kind depth size batch queue')


def add_arguments(parser):
    parser.add_argument('--cases', nargs='+', metavar='KIND:DEPTH:SIZE:BATCH:QUEUE', default=None,
                        help=f'comparisons ({", ".join(KINDS)}), with the depth of the ResNet, the side in pixels, the '
                             f'images per step and the keys per queue; default: {" ".join(DEFAULT)}')
    parser.add_argument('--threads', type=int, default=None,
                        help='of each side; None: all cores, by the settings that the project chooses')
    parser.add_argument('--torch-python', metavar='FILE', default=None,
                        help='a Python with PyTorch; None: the running one')


def run(args):
    """Tables of all cases, and every measured second; what needs PyTorch is left out where there is none."""
    cases = [parse_case(text) for text in args.cases or (QUICK if args.quick else DEFAULT)]
    rounds, results = args.rounds or (3 if args.quick else 15), {'tables': [], 'cases': []}
    python = find_torch(args.torch_python) if any(case.kind != 'moco' for case in cases) else None
    for case in cases:
        if case.kind == 'torch' and python is None:
            results.setdefault('left_out', []).append(
                f'step, {KINDS[case.kind]} {case[1:]}: no PyTorch in {args.torch_python or "this Python"}; give '
                'another one with --torch-python FILE')
            continue
        measured = measure(case, args, python, rounds, 1 if args.quick else 2)
        results['cases'].append({**case._asdict(), 'sides': measured})
        results['tables'].append(table_of(case, measured))
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


def job(arch, case, threads=None, python=None, half=False):
    """The worker of a side: this project's, or with a `python` PyTorch's; `half`: in bfloat16."""
    words = ['--arch', arch, '--depth', case.depth, '--size', case.size, '--batch', case.batch, '--queue', case.queue,
             *['--bfloat16'] * half]
    if python is None:
        env = {**{name: None for name in os.environ if name.startswith('PADDLE_')}, 'OMP_NUM_THREADS': threads}
        return Job(f'{arch}, Paddle', [sys.executable, os.path.join(HERE, 'paddle_step.py'), *words], env)
    threads = threads or usable_cores()
    command = [python, os.path.join(HERE, 'torch_step.py'), *words, '--threads', threads]
    return Job(f'{arch}, PyTorch', command, {'OMP_NUM_THREADS': threads})


def measure(case, args, python, rounds, warmup):
    """Steps of all sides in turns: {name: {'seconds', 'first_loss', 'memory_mib', 'facts'}}; the last is the base."""
    sides = {'moco': {'DenseCL': ('densecl',), 'MoCo v2': ('moco',)},
             'torch': {'DenseCL': ('densecl',), 'PyTorch': ('densecl', python)},
             'bfloat16': {'DenseCL in bfloat16': ('densecl', None, True), **({} if python is None else {
                 'PyTorch in bfloat16': ('densecl', python, True), 'PyTorch': ('densecl', python)}),
                 'DenseCL': ('densecl',)}}[case.kind]
    with contextlib.ExitStack() as stack:
        jobs = {name: stack.enter_context(job(arch, case, args.threads, *rest))
                for name, (arch, *rest) in sides.items()}
        check_same({name: one.facts for name, one in jobs.items()}, case.kind != 'moco')
        first = {name: (one.step(), one.ask('loss'))[1] for name, one in jobs.items()}
        times = common.interleave({name: one.step for name, one in jobs.items()}, rounds, warmup)
        return {name: {'seconds': times[name], 'first_loss': first[name], 'memory_mib': one.ask('memory'),
                       'facts': one.facts} for name, one in jobs.items()}


def check_same(facts, parameters_too):
    """All sides must compute the same: convolutions of the backbone, queues, and (of one method) parameters.

    Raises:
        RuntimeError: they do not.
    """
    for key in ('backbone_macs', 'queue') + (('parameters',) if parameters_too else ()):
        values = {name: fact[key] for name, fact in facts.items()}
        if len(set(map(str, values.values()))) > 1:
            raise RuntimeError(f"The sides differ in '{key}': {values}. Their times cannot be compared.")


def table_of(case, measured):
    """(title, header, rows) of one case: seconds of each side, ratio to the last one, turn by turn."""
    base, rows = list(measured)[-1], []
    for name, side in measured.items():
        side['ratio'] = None if name == base else common.ratio(side['seconds'], measured[base]['seconds'])
        settings = ', '.join(f'{key} {value}' for key, value in side['facts']['settings'].items()) or '-'
        rows.append([name, side['facts']['framework'], common.text(common.summary(side['seconds'])),
                     common.text(side['ratio'], 2) if side['ratio'] else '1', f"{side['memory_mib'] / 1024:.2f}",
                     f"{side['facts']['parameters'] / 1e6:.2f}", f"{side['first_loss']:.3f}", settings])
    macs, turns = measured[base]['facts']['backbone_macs'], len(measured[base]['seconds'])
    title = (f'Step: {KINDS[case.kind]}; ResNet-{case.depth}, {case.size} px, batch {case.batch}, K = {case.queue}, '
             f'{macs / 1e9:.2f} GMAC per view, {turns} turns')
    header = ['step of', 'with', 'seconds (quartiles)', f'ratio to {base}', 'peak GiB', 'M parameters', 'first loss',
              'settings']
    return title, header, rows
