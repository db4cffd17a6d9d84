"""Time and exactness of the contrastive loss (global and dense), beside its baselines."""

import argparse
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
        measured = worker({'sizes': sizes(quick), 'rounds': rounds}, args.threads, allocator)
        result['loss'][allocator] = measured
        for name, case in measured.items():
            rows += [[name, f"{case['M']} x {case['K']}", allocator, kind, common.text(case['seconds'][kind], 4),
                      common.text(case['ratio'][kind]), f"{case['loss_error'][kind]:.1e}",
                      f"{case['gradient_error'][kind]:.1e}"] for kind in (OURS, NAIVE, PLAIN)]
    result['tables'].append((
        f'Contrastive loss, forward and backward: processor seconds, {args.threads} thread(s) (median, quartiles)',
        ['loss', 'logits', 'freed memory', 'formulation', 'seconds', f'ratio to {NAIVE}', 'loss against float64',
         'gradient against float64'], rows))
    return result


def worker(task, threads, allocator):
    """Run `task` in a process of its own; its figures."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    env.update(ALLOCATORS[allocator], OMP_NUM_THREADS=str(threads))
    done = subprocess.run([sys.executable, os.path.abspath(__file__), json.dumps(task)], env=env, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"The measurement failed:\n{done.stderr}")
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


def main():
    parser = argparse.ArgumentParser(description='Worker of the loss benchmark.')
    parser.add_argument('task')
    task = json.loads(parser.parse_args().task)
    from passl.utils.paddle_env import require_paddle
    paddle = require_paddle()
    print(json.dumps(measure_time(paddle, task)))


if __name__ == '__main__':
    main()
