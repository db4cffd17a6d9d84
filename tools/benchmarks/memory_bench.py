"""Peak memory of a training step over batch sizes: naive loss, own loss, own loss with recompute; and an estimate."""

import json
import os
import subprocess
import sys

STEP = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'memory_step.py')
CASES = {  # name -> arguments of memory_step.py
    'naive loss': ['--loss', 'naive'],
    'own loss': ['--loss', 'own'],
    'own loss, recompute': ['--loss', 'own', '--override', 'model.backbone.recompute=true'],
}
DIM, GRID, LOSS_BLOCK = 128, 32, 2**26      # width of the keys, pixels per cell of the map, bytes of the own loss


def add_arguments(parser):
    parser.add_argument('--batches', type=int, nargs='+', default=None, metavar='N',
                        help='images per step (default: 8 16 32; with --quick: 16)')
    parser.add_argument('--depth', type=int, default=None, help='of the ResNet (default: 50; with --quick: 18)')
    parser.add_argument('--size', type=int, default=None, help='of the views in pixels (default: 224; --quick: 64)')
    parser.add_argument('--queue', type=int, default=65536, help='keys per queue')


def run(args):
    depth = args.depth or (18 if args.quick else 50)
    size = args.size or (64 if args.quick else 224)
    batches = args.batches or ([16] if args.quick else [8, 16, 32])
    rounds = args.rounds or 1
    measured = [dict(measure(words, depth, size, batch, args.queue, rounds), case=case, batch=batch)
                for batch in batches for case, words in CASES.items()]
    title = f'DenseCL, ResNet-{depth}, {size} px, K = {args.queue}'
    rows, checks = [], []
    for m in measured:
        kind = {word: word in m['case'] for word in ('naive', 'recompute')}
        guess = estimate(m, m['batch'], size, args.queue, **kind)
        rows.append([m['batch'], m['case'], f"{m['peak']:.0f}", f"{m['allocated']:.0f}", f"{m['seconds']:.2f}",
                     f"{m['cpu_seconds']:.2f}"])
        checks.append([m['batch'], m['case'], f"{guess['total']:.0f}", f"{m['allocated'] / guess['total']:.2f}",
                       f"{m['peak'] / guess['total']:.2f}"])
    guesses = [dict(estimate(measured[0], batch, size, args.queue, **kind), batch=batch, case=case)
               for batch in sorted({*batches, 32, 64, 128}) for case, kind in KINDS.items()]
    return {
        'measured': measured, 'estimates': guesses,
        'tables': [
            (f'Peak memory of a step on this CPU: {title}',
             ['batch', 'case', 'process, MiB', 'tensors, MiB', 'seconds', 'CPU seconds'], rows),
            (f'Estimate (not measured) of the memory on one GPU, MiB: {title}',
             ['batch', 'case', 'total', 'activations', 'weights and state', 'loss', 'passing'],
             [[g['batch'], g['case']] + [f'{g[k]:.0f}' for k in ('total', 'activations', 'weights', 'loss', 'passing')]
              for g in guesses]),
            ('The estimate (fp32) checked on this CPU',
             ['batch', 'case', 'estimate, MiB', 'tensors / estimate', 'process / estimate'], checks)]}


KINDS = {
    'fp32, naive loss': {'naive': True},
    'fp32': {},
    'fp32, recompute': {'recompute': True},
    'AMP O1': {'half': True},
    'AMP O1, recompute': {'half': True, 'recompute': True},
}


def measure(words, depth, size, batch, queue, rounds):
    """One case in fresh processes; of several rounds the one with the lowest peak."""
    found = []
    for _ in range(rounds):
        command = [sys.executable, STEP, '--depth', str(depth), '--size', str(size), '--batch', str(batch),
                   '--queue', str(queue), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(found, key=lambda f: f['peak'])


def estimate(count, batch, size, queue, naive=False, recompute=False, half=False):
    """MiB of a step by formula. Without the framework's own memory and the workspaces of its convolutions.

    * activations: what backward needs, 4 bytes per element (2 in half precision). With recompute: the inputs of stem
      and blocks, and one block's activations while it is computed again.
    * weights: parameters, gradients, momentum, key encoder (4 bytes each); under AMP O1 the half-precision copies
      of the query's parameters; two queues.
    * loss: the naive logits [N S^2, K] three times (logits, their concatenation and the softmax); the own loss works
      on blocks of a fixed size.
    * passing: maps in flight in the key branch, taken as four of the largest.

    Args:
        count: result of `memory_step.counted`, and 'parameters'.
    """
    width, mib = 2 if half else 4, 2**20
    kept = count['inputs'] + count['block'] if recompute else count['kept']
    cells = (size // GRID) ** 2
    out = {
        'activations': batch * kept * width / mib,
        'weights': (count['parameters'] * (4 * 4 + 2 * half) + 2 * DIM * queue * 4) / mib,
        'loss': (3 * batch * cells * queue * 4 if naive else min(LOSS_BLOCK, batch * cells * queue * 4)) / mib,
        'passing': 4 * batch * count['largest'] * width / mib,
    }
    # the naive loss comes after the key branch: of the two only the larger one counts
    return dict(out, total=out['activations'] + out['weights'] + max(out['loss'], out['passing']))
