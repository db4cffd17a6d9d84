"""Scaling: one process against several on the same cores, and the bytes of every collective of a step.

The counted bytes of two processes are checked against closed forms; these then give the bytes of more processes.
"""

import os
import sys
from collections import namedtuple

from . import common
from .jobs import Job, paddle_launch

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT = ['18:64:64:65536', '50:224:16:65536']
QUICK = ['18:64:64:4096']
DIM = 128
WORLDS = (2, 8, 64)
BATCH = 32                   # images per process in the table of bytes
# trainable numbers of the query encoder with ResNet-50; a counted step of it replaces this
R50_GRADIENTS = 32_425_280

Case = namedtuple('Case', 'depth size batch queue')
Sizes = namedtuple('Sizes', 'batch size channels cells parameters')


def add_arguments(parser):
    parser.add_argument('--cases', nargs='+', metavar='DEPTH:SIZE:BATCH:QUEUE', default=None,
                        help='DenseCL with this ResNet, side of the views, images per step in all processes, and '
                             f'keys per queue; default: {" ".join(DEFAULT)}')
    parser.add_argument('--processes', type=int, default=2, help='of the job with several processes')


def run(args):
    """Tables of times and of bytes, and every measured second."""
    cases = [parse_case(text, args.processes) for text in args.cases or (QUICK if args.quick else DEFAULT)]
    rounds = args.rounds or (3 if args.quick else 10)
    results = {'tables': [], 'cases': []}
    for case in cases:
        measured = measure(case, args.processes, rounds, 1 if args.quick else 2)
        results['cases'].append({**case._asdict(), **measured})
    results['tables'].append(times_table(results['cases'], args.processes))
    results['checked'] = [check(case, args.processes) for case in cases]
    results['bytes'], table = bytes_table(next((c['parameters'] for c in results['checked'] if c['depth'] == 50),
                                               R50_GRADIENTS))
    results['tables'] += [counted_table(results['checked'], args.processes), table]
    return results


def parse_case(text, processes):
    """'18:64:64:65536' -> Case.

    Raises:
        SystemExit: not of this form, or a batch that the processes cannot share.
    """
    numbers = text.split(':')
    if len(numbers) != 4 or not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise SystemExit(f"--cases: '{text}' is not DEPTH:SIZE:BATCH:QUEUE with positive numbers, as {DEFAULT[0]}.")
    case = Case(*map(int, numbers))
    if processes < 2 or case.batch % processes:
        raise SystemExit(f'--processes is {processes}: it must be at least 2 and divide the batch of {case.batch}.')
    return case


def job(case, processes, *flags):
    """This project's job; it shares the cores among its processes itself."""
    words = ['--arch', 'densecl', '--depth', case.depth, '--size', case.size, '--batch', case.batch // processes,
             '--queue', case.queue, *flags]
    script = os.path.join(HERE, 'scaling_step.py')
    command = [sys.executable, script, *words] if processes == 1 else paddle_launch(script, words, processes)
    # a setting of one of the two sides would not be fair to the other
    env = {name: None for name in os.environ if name.startswith('PADDLE_') or name == 'OMP_NUM_THREADS'}
    return Job(f'{processes} process(es)', [command], processes, env)


def measure(case, processes, rounds, warmup):
    """{'seconds': {processes: list}, 'threads': {processes: per process}} of the same batch, in turns."""
    with job(case, 1) as one, job(case, processes) as several:
        times = common.interleave({1: one.step, processes: several.step}, rounds, warmup)
        return {'seconds': times, 'threads': {1: one.facts['threads'], processes: several.facts['threads']}}


def check(case, processes):
    """Counted bytes of a step of every process, for float32 and for uint8 images.

    Raises:
        RuntimeError: they are not those of `closed_form`.
    """
    small = case._replace(queue=256)        # the queue is not sent
    result = {**case._asdict(), 'counted': {}}
    for kind, flags in (('float32', []), ('uint8', ['--raw'])):
        with job(small, processes, *flags) as several:
            counted, result['parameters'] = several.ask('traffic'), several.facts['parameters']
        sizes = Sizes(case.batch // processes, case.size, 2048 if case.depth >= 50 else 512, (case.size // 32) ** 2,
                      result['parameters'])
        for rank, got in enumerate(counted):
            want = closed_form(processes, sizes, 4 if kind == 'float32' else 1, got['crossing'])
            sent = {name: got[name]['sent'] for name in want}
            received = {name: got[name]['received'] for name in want}
            if sent != want or received != want or set(got) != {*want, 'crossing'}:
                raise RuntimeError(f'Process {rank} of {processes} counted {got}, and the closed form is {want}.')
        result['counted'][kind] = counted
    return result


def closed_form(world, sizes, bytes_per_value, crossing=None):
    """Bytes that a process sends (and as many that it receives) in a step of DenseCL, by collective.

    Args:
        world: processes W. sizes: Sizes. bytes_per_value: 4 for float32 images, 1 for uint8.
        crossing: images of the process's share of the shuffled batch that others own; None: their mean, n (W-1)/W.
    """
    n = sizes.batch
    crossing = n * (world - 1) / world if crossing is None else crossing
    image = 3 * sizes.size ** 2 * bytes_per_value
    back = (sizes.channels + DIM) * sizes.cells * 4                 # the backbone's map and the dense keys
    return {'exchange': crossing * (image + back),                  # of images, and back
            'all_gather': (world - 1) * n * 2 * DIM * 4,            # keys and pooled keys
            'gradients': 2 * (world - 1) * 4 * sizes.parameters // world}


def gather_everything(world, sizes):
    """As `closed_form`, when all images and all outputs of the key encoder are gathered as float32 by everybody."""
    values = 3 * sizes.size ** 2 + (sizes.channels + DIM) * sizes.cells + 2 * DIM
    return {'exchange': 0, 'all_gather': (world - 1) * sizes.batch * values * 4,
            'gradients': closed_form(world, sizes, 4)['gradients']}


def times_table(cases, processes):
    """(title, header, rows): images per second and the ratio turn by turn."""
    rows = []
    for case in cases:
        seconds, base = case['seconds'], case['seconds'][1]
        case['ratio'] = common.ratio(base, seconds[processes])
        rate = {p: common.summary([case['batch'] / s for s in seconds[p]]) for p in seconds}
        rows.append([f"ResNet-{case['depth']}, {case['size']} px, batch {case['batch']}, K = {case['queue']}",
                     common.text(rate[1], 1), common.text(rate[processes], 1), common.text(case['ratio'], 2),
                     f"1 x {case['threads'][1]}, {processes} x {case['threads'][processes]}", len(base)])
    header = ['step of DenseCL', 'images/s, 1 process', f'images/s, {processes} processes', 'gain', 'threads', 'turns']
    return f'Scaling: one process against {processes} on the same cores, with the same batch', header, rows


def counted_table(checked, processes):
    """(title, header, rows): what process 0 counted."""
    rows = []
    for result in checked:
        for kind, counted in result['counted'].items():
            for name in ('exchange', 'all_gather', 'gradients'):
                entry = counted[0][name]
                rows.append([f"ResNet-{result['depth']}, {result['size']} px, {result['batch'] // processes} "
                             f'{kind} images per process', name, entry['calls'], f"{entry['sent']:,}",
                             f"{entry['received']:,}"])
    return (f'Scaling: collectives of a step counted on process 0 of {processes} (equal to the closed form)',
            ['step of DenseCL', 'collective', 'calls', 'bytes sent', 'bytes received'], rows)


def bytes_table(parameters):
    """({world: {how: {collective: bytes}}}, (title, header, rows)) for ResNet-50 at 224 px by closed form."""
    sizes = Sizes(BATCH, 224, 2048, 49, parameters)
    figures, rows = {}, []
    for world in WORLDS:
        ways = {'uint8 images': closed_form(world, sizes, 1), 'float32 images': closed_form(world, sizes, 4),
                'gather everything': gather_everything(world, sizes)}
        figures[world] = ways
        for how, amounts in ways.items():
            shuffle = amounts['exchange'] + amounts['all_gather']
            ratio = (ways['gather everything']['all_gather']) / shuffle
            rows.append([world, how] + [f'{amounts[c] / 1e6:.2f}' for c in ('exchange', 'all_gather')]
                        + [f'{shuffle / 1e6:.2f}', f'{ratio:.1f}x less' if ratio != 1 else '-',
                           f"{amounts['gradients'] / 1e6:.1f}"])
    header = ['processes', 'way', 'exchange', 'gather', 'both', 'against gathering everything', 'gradients']
    return figures, (f'Scaling: MB that a process sends in a step (and as many that it receives), by closed form; '
                     f'DenseCL, ResNet-50, 224 px, {BATCH} images per process', header, rows)
