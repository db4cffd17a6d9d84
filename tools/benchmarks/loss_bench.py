"""Time and memory of the contrastive loss (global and dense) and of the momentum update, beside their baselines."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if __name__ == '__main__':                       # a worker of its own
    sys.path[:0] = [ROOT, os.path.join(ROOT, 'tools')]

from benchmarks import common  # noqa: E402

OURS, NAIVE, PLAIN = 'ours', 'concat + cross-entropy', 'logsumexp, no concat'
DIM, TEMPERATURE = 128, 0.2
# Paddle as it comes gives large blocks back to the system at every step; the project keeps them (`tune_cpu`).
ALLOCATORS = {'kept': {}, "system's": {'MALLOC_ARENA_MAX': '8'}}


def add_arguments(parser):
    parser.add_argument('--threads', type=int, default=1, help='threads of Paddle on the CPU')
    parser.add_argument('--no-memory', action='store_true', help='leave out the peak memory')
    parser.add_argument('--no-ema', action='store_true', help='leave out the momentum update')


def sizes(quick):
    """{name: (M, K)}: dense (32 images of 7 x 7 cells) and global (32 images)."""
    k = 8192 if quick else 65536
    return {'dense': (392 if quick else 32 * 7 * 7, k), 'global': (32, k)}


def run(args):
    result, quick = {'tables': []}, args.quick
    if args.threads < 1:
        raise SystemExit(f'--threads is {args.threads}; it must be at least 1.')
    rounds = args.rounds or (3 if quick else 7)
    rows, result['loss'] = [], {}
    for allocator in list(ALLOCATORS)[:1] if quick else ALLOCATORS:
        measured = worker({'task': 'time', 'sizes': sizes(quick), 'rounds': rounds}, args.threads, allocator)
        result['loss'][allocator] = measured
        for name, case in measured.items():
            rows += [[name, f"{case['M']} x {case['K']}", allocator, kind, common.text(case['seconds'][kind], 4),
                      common.text(case['ratio'][kind]), f"{case['loss_error'][kind]:.1e}",
                      f"{case['gradient_error'][kind]:.1e}"] for kind in (OURS, NAIVE, PLAIN)]
    result['tables'].append((
        f'Contrastive loss, forward and backward: processor seconds, {args.threads} thread(s) (median, quartiles)',
        ['loss', 'logits', 'freed memory', 'formulation', 'seconds', f'ratio to {NAIVE}', 'loss against float64',
         'gradient against float64'], rows))
    if not args.no_memory:
        result['memory'], rows = memory(args), []
        for name, by_kind in result['memory'].items():
            for kind, figures in by_kind.items():
                rows.append([name, kind, f"{figures['mib']:.1f}", f"{figures['mib'] / by_kind[NAIVE]['mib']:.4f}",
                             figures['largest'], figures['largest'] * 4 >> 20])
        result['tables'].append((
            'Contrastive loss: peak memory beyond the inputs, each in a process of its own',
            ['loss', 'formulation', 'MiB', f'ratio to {NAIVE}', 'largest product, entries', 'largest product, MiB'],
            rows))
    if not args.no_ema:
        ema = result['ema'] = worker({'task': 'ema', 'depth': 18 if quick else 50, 'rounds': rounds}, args.threads,
                                     'kept')
        rows = [[kind, ema['calls'][kind], common.text(ema['seconds'][kind], 4), common.text(ema['ratio'][kind])]
                for kind in ema['seconds']]
        result['tables'].append((
            f"Momentum update of ResNet-{ema['depth']} and DenseCLNeck: {ema['parameters']} parameters, "
            f"{ema['entries'] / 1e6:.1f} million entries",
            ['formulation', 'Paddle calls', 'seconds', 'ratio'], rows))
    return result


def memory(args):
    """{loss: {formulation: {'mib', 'largest'}}}, each in a fresh process that keeps no freed memory."""
    return {name: {kind: worker({'task': 'memory', 'kind': kind, 'M': m, 'K': k}, args.threads, "system's")
                   for kind in (OURS, NAIVE, PLAIN)} for name, (m, k) in sizes(args.quick).items()}


def worker(task, threads, allocator):
    """Run `task` in a process of its own; its figures."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    env.update(ALLOCATORS[allocator], OMP_NUM_THREADS=str(threads))
    done = subprocess.run([sys.executable, os.path.abspath(__file__), json.dumps(task)], env=env, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"The measurement '{task['task']}' failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def features(paddle, m, k, seed=0):
    """Unit (query [M, D], key [M, D], queue [D, K]); keys are near their queries, as in training."""
    paddle.seed(seed)
    unit = paddle.nn.functional.normalize
    query = unit(paddle.randn([m, DIM]), axis=1)
    return query, unit(query + 0.1 * paddle.randn([m, DIM]), axis=1), unit(paddle.randn([DIM, k]), axis=0)


def clock(paddle):
    """Processor time of a call on a CPU, which other processes do not lengthen; on a GPU the time until it is done."""
    if paddle.get_device() == 'cpu':
        return time.process_time
    return lambda: (paddle.device.synchronize(), time.perf_counter())[1]


def timed(now, call):
    start = now()
    call()
    return now() - start


def compared(cases, base, rounds):
    """{'seconds', 'ratio'}: summaries of each case, and of its ratios to `base` turn by turn."""
    times = common.interleave(cases, rounds)
    return {'seconds': {k: common.summary(v) for k, v in times.items()},
            'ratio': {k: common.summary([1.0] * len(v)) if k == base else common.ratio(v, times[base])
                      for k, v in times.items()}}


def measure_time(paddle, task):
    from benchmarks import baselines_loss
    now, result = clock(paddle), {}
    for name, (m, k) in task['sizes'].items():
        query, key, queue = features(paddle, m, k)
        repeats = max(1, 2**23 // (m * k))        # a short call is repeated, so that the clock resolves it

        def call(kind):
            def many():
                for _ in range(repeats):
                    baselines_loss.forward_backward(kind, query, key, queue, TEMPERATURE)
            return lambda: timed(now, many) / repeats

        figures = compared({kind: call(kind) for kind in baselines_loss.LOSSES}, NAIVE, task['rounds'])
        result[name] = {'M': m, 'K': k, **figures, **errors(baselines_loss, query, key, queue)}
    return result


def errors(baselines_loss, query, key, queue):
    """{'loss_error', 'gradient_error'} of every formulation against float64, relative (to the largest entry)."""
    import numpy as np
    q, k, n = (x.numpy().astype('float64') for x in (query, key, queue))
    loss, gradient = 0.0, []
    for at in range(0, len(q), 32):
        rows, keys = q[at:at + 32], k[at:at + 32]
        pos, p = (rows * keys).sum(1, keepdims=True) / TEMPERATURE, np.exp(rows @ n / TEMPERATURE)
        whole = p.sum(1, keepdims=True) + np.exp(pos)
        loss += (np.log(whole) - pos).sum() / len(q)
        gradient.append((p @ n.T / whole + (np.exp(pos) / whole - 1) * keys) / TEMPERATURE / len(q))
    gradient, found = np.concatenate(gradient), {'loss_error': {}, 'gradient_error': {}}
    for kind in baselines_loss.LOSSES:
        value, grad = baselines_loss.forward_backward(kind, query, key, queue, TEMPERATURE)
        found['loss_error'][kind] = abs(float(value) - loss) / loss
        found['gradient_error'][kind] = float(np.abs(grad.numpy() - gradient).max() / np.abs(gradient).max())
    return found


def measure_memory(paddle, task):
    from benchmarks import baselines_loss
    small = features(paddle, 2, 64)
    baselines_loss.forward_backward(task['kind'], *small, TEMPERATURE)         # what libraries allocate once
    inputs = features(paddle, task['M'], task['K'])
    before = reset_peak(paddle)
    baselines_loss.forward_backward(task['kind'], *inputs, TEMPERATURE)
    mib = (peak(paddle) - before) / 2**20
    with largest_product(paddle) as largest:
        baselines_loss.forward_backward(task['kind'], *inputs, TEMPERATURE)
    return {'mib': mib, 'largest': largest[0]}


@contextlib.contextmanager
def largest_product(paddle):
    """[entries of the largest output of a matrix product] while it is open."""
    found, real = [0], paddle.matmul

    def counted(*args, **kwargs):
        out = real(*args, **kwargs)
        found[0] = max(found[0], out.size if isinstance(out.size, int) else int(out.size))
        return out

    paddle.matmul = counted
    try:
        yield found
    finally:
        paddle.matmul = real


def reset_peak(paddle):
    """Bytes in use now; the peak is counted from here."""
    if paddle.get_device() != 'cpu':
        paddle.device.cuda.reset_max_memory_allocated()
        return paddle.device.cuda.memory_allocated()
    with open('/proc/self/clear_refs', 'w') as f:
        f.write('5')
    return status('VmRSS')


def peak(paddle):
    return paddle.device.cuda.max_memory_allocated() if paddle.get_device() != 'cpu' else status('VmHWM')


def status(field):
    """Bytes of a line of /proc/self/status."""
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field + ':'))


def measure_ema(paddle, task):
    import copy
    from benchmarks import baselines_loss
    from passl.modeling import build_backbone, build_neck
    from passl.modules.ema import WeightAverage
    from passl.modules.freeze import freeze_
    width = 512 if task['depth'] < 50 else 2048
    query = paddle.nn.Sequential(
        build_backbone({'name': 'ResNet', 'depth': task['depth']}),
        build_neck({'name': 'DenseCLNeck', 'in_channels': width, 'hid_channels': width, 'out_channels': DIM}))
    keys = [copy.deepcopy(query) for _ in range(2)]
    for key in keys:
        freeze_(key)
    average, now, loop = WeightAverage(query, keys[0]), clock(paddle), 'parameter by parameter'
    moves = {OURS: lambda: average.update(0.999),
             loop: lambda: baselines_loss.update_parameter_by_parameter(query, keys[1], 0.999)}
    calls = {}
    for kind, move in moves.items():
        move()
        calls[kind] = paddle_calls(paddle, move)
    trained = [p for p in query.parameters() if not p.stop_gradient]
    cases = {kind: (lambda move=move: timed(now, move)) for kind, move in moves.items()}
    return {'depth': task['depth'], 'parameters': len(trained), 'entries': sum(int(p.size) for p in trained),
            'calls': calls, **compared(cases, loop, 3 * task['rounds'])}


def paddle_calls(paddle, move):
    """Number of operators that `move` runs."""
    from passl.modules import ema
    owners = [(paddle.Tensor, n) for n in ('scale_', 'add_', '__mul__', 'astype')] + [(ema, '_fused_update_')]
    count, real = [0], [(owner, name, getattr(owner, name)) for owner, name in owners]

    def counted(function):
        def call(*args, **kwargs):
            count[0] += 1
            return function(*args, **kwargs)
        return call

    for owner, name, function in real:
        setattr(owner, name, counted(function))
    try:
        move()
    finally:
        for owner, name, function in real:
            setattr(owner, name, function)
    return count[0]


def main():
    parser = argparse.ArgumentParser(description='Worker of the loss benchmark.')
    parser.add_argument('task')
    task = json.loads(parser.parse_args().task)
    from passl.utils.paddle_env import require_paddle
    paddle = require_paddle()
    measure = {'time': measure_time, 'memory': measure_memory, 'ema': measure_ema}[task['task']]
    print(json.dumps(measure(paddle, task)))


if __name__ == '__main__':
    main()
