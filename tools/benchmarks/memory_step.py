"""One process of memory_bench.py: a warm-up step and a measured step of DenseCL; prints one line of JSON.

    python tools/benchmarks/memory_step.py --depth 18 --size 64 --batch 16 --loss naive
"""

import json
import os
import sys
import time

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TOOLS, os.path.dirname(TOOLS)]

from benchmarks import paddle_step  # noqa: E402  tools/benchmarks
from benchmarks.paddle_step import paddle  # noqa: E402
from passl.modeling.heads import ContrastiveHead  # noqa: E402


def naive_loss(self, query, key, queue, with_accuracy=True):
    """All logits as one matrix [M, 1 + K], and a cross-entropy with class 0: the usual formulation."""
    positive = (query * key).sum(axis=1, keepdim=True)
    logits = paddle.concat([positive, paddle.matmul(query, queue)], axis=1) / self.temperature
    target = paddle.zeros([query.shape[0]], dtype='int64')
    return {'loss': paddle.nn.functional.cross_entropy(logits, target)}


def resident(field):
    """MiB of this process: VmRSS is now, VmHWM the peak; nan where the system does not tell."""
    try:
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith(field + ':'))
    except (OSError, StopIteration):
        return float('nan')


def allocated():
    """MiB of the tensors that Paddle's allocator has given out so far at most."""
    return paddle.base.core.host_memory_stat_peak_value('Allocated', 0) / 2**20


def forget_peaks():
    """Start-up, such as the first values of the queues, is not part of the step (where the system can forget it)."""
    getattr(paddle.base.core, 'host_memory_stat_reset_peak_value', lambda *_: None)('Allocated', 0)
    try:
        with open('/proc/self/clear_refs', 'w') as f:
            f.write('5')
    except OSError:
        pass


def counted(backbone, size):
    """What a backward pass needs of the backbone's forward pass, in elements per image.

    Kept are the outputs of convolutions (inputs of batch norm), of ReLU and of pooling; those of batch norm and of
    the additions are not.

    Returns:
        {'kept', 'inputs' (of stem and blocks), 'block' (kept of the largest block), 'largest' (map)}
    """
    nn, parts = paddle.nn, [[0]]
    largest, inputs, removers = [0], [3 * size * size], []

    def keep(layer, _, out):
        parts[-1].append(int(out.size))
        largest[0] = max(largest[0], int(out.size))

    def enter(layer, given):
        inputs.append(int(given[0].size))
        parts.append([])

    for layer in backbone.sublayers():
        if isinstance(layer, (nn.Conv2D, nn.ReLU, nn.MaxPool2D)):
            removers.append(layer.register_forward_post_hook(keep))
    for stage in range(1, 5):
        for block in getattr(backbone, f'layer{stage}'):
            removers.append(block.register_forward_pre_hook(enter))
    backbone.eval()
    with paddle.no_grad():
        backbone(paddle.zeros([1, 3, size, size]))
    backbone.train()
    for remover in removers:
        remover.remove()
    sums = [sum(part) for part in parts]
    return {'kept': sum(sums) + inputs[0], 'inputs': sum(inputs), 'block': max(sums), 'largest': largest[0]}


def main():
    parser = paddle_step.build_parser()
    parser.add_argument('--loss', choices=['naive', 'own'], default='own')
    args = parser.parse_args()
    if args.loss == 'naive':
        ContrastiveHead.forward = naive_loss
    before = resident('VmRSS')
    worker = paddle_step.Worker(args)
    model = worker.trainer.model
    seconds = []
    for _ in range(2):
        forget_peaks()
        start = time.perf_counter(), time.process_time()
        worker.step()
        loss = worker.loss()
        seconds = [time.perf_counter() - start[0], time.process_time() - start[1]]
    facts = {'peak': resident('VmHWM') - before, 'allocated': allocated(), 'seconds': seconds[0],
             'cpu_seconds': seconds[1], 'loss': loss,
             'parameters': sum(int(p.size) for p in model.parameters() if not p.stop_gradient)}
    print(json.dumps({**facts, **counted(model.backbone, args.size)}))


if __name__ == '__main__':
    main()
