"""A worker of jobs.py: one training step of a minimal DenseCL or MoCo v2 in PyTorch per request, on random images.

A baseline: the same sizes, the same method, the same precision (float32), and what makes PyTorch fast on a CPU:
channels-last memory, a momentum update and an optimizer in one call each, keys in inference mode. Needs PyTorch and
the standard library only.

    python tools/benchmarks/torch_step.py --arch densecl --depth 18 --size 64 --batch 4 --queue 256 --alone 3
"""

import argparse
import contextlib
import copy
import ctypes
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import jobs  # noqa: E402  tools/benchmarks

if sys.platform == 'linux':
    with contextlib.suppress(OSError, AttributeError):  # as the other side does: freed memory is kept for the next step
        ctypes.CDLL(None).mallopt(-4, 0)
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

STAGES = {18: (False, (2, 2, 2, 2)), 34: (False, (3, 4, 6, 3)), 50: (True, (3, 4, 6, 3)), 101: (True, (3, 4, 23, 3)),
          152: (True, (3, 8, 36, 3))}
DIM, MOMENTUM, TEMPERATURE = 128, 0.999, 0.2


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3 (with the stride), 1x1 of four times the width."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        layers = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)] if bottleneck else \
            [(inputs, width, 3, stride), (width, width, 3, 1)]
        parts = []
        for i, (n_in, n_out, kernel, step) in enumerate(layers):
            parts += [conv(n_in, n_out, kernel, step), nn.BatchNorm2d(n_out)]
            parts += [nn.ReLU(inplace=True)] if i < len(layers) - 1 else []
        self.branch = nn.Sequential(*parts)
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.branch(x).add_(x if self.shortcut is None else self.shortcut(x)), inplace=True)


def resnet(depth):
    """(network from [N, 3, H, W] to [N, C, H / 32, W / 32], C)."""
    bottleneck, counts = STAGES[depth]
    layers = [conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(counts):
        for i in range(count):
            width = 64 << stage
            layers.append(Block(inputs, width, 2 if stage and not i else 1, bottleneck))
            inputs = 4 * width if bottleneck else width
    for layer in nn.Sequential(*layers).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(*layers), inputs


class Encoder(nn.Module):
    """Backbone and projections: [N, 3, H, W] -> (global [N, D],) or, dense, (global, pooled, dense [N, D, L], map)."""

    def __init__(self, depth, dense):
        super().__init__()
        self.backbone, c = resnet(depth)
        self.mlp = nn.Sequential(nn.Linear(c, c), nn.ReLU(inplace=True), nn.Linear(c, DIM))
        self.mlp2 = None
        if dense:
            self.mlp2 = nn.Sequential(nn.Conv2d(c, c, 1), nn.ReLU(inplace=True), nn.Conv2d(c, DIM, 1))

    def forward(self, x):
        x = self.backbone(x)
        whole = self.mlp(x.mean((2, 3)))
        if self.mlp2 is None:
            return (whole,)
        dense = self.mlp2(x).flatten(2)
        return whole, dense.mean(2), dense, x.flatten(2)


class Queue:
    """Ring of K unit columns, [D, K]."""

    def __init__(self, size):
        self.keys, self.at = F.normalize(torch.randn(DIM, size), dim=0), 0

    @torch.no_grad()
    def push(self, rows):
        where = (self.at + torch.arange(len(rows))) % self.keys.shape[1]
        self.keys[:, where] = rows.t()
        self.at = (self.at + len(rows)) % self.keys.shape[1]


def naive_loss(query, key, queue):
    """As the authors' implementation: all logits in one tensor, cross entropy with class 0."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def logsumexp_loss(query, key, queue):
    """The same number without joining the logits."""
    positive = (query * key).sum(1) / TEMPERATURE
    return F.softplus(torch.logsumexp(query @ (queue / TEMPERATURE), dim=1) - positive).mean()


LOSSES = {'naive': naive_loss, 'logsumexp': logsumexp_loss}


def gather(x, world):
    """Rows of all processes."""
    if world == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class Worker:
    """Model, optimizer and inputs."""

    def __init__(self, args, rank, world):
        torch.manual_seed(0)
        self.rank, self.world, self.size = rank, world, args.size
        self.dense, self.loss_of = args.arch == 'densecl', LOSSES[args.loss]
        self.format = torch.contiguous_format if args.contiguous else torch.channels_last
        self.encoder_q = Encoder(args.depth, self.dense).to(memory_format=self.format).train()
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.pairs = [list(encoder.parameters()) for encoder in (self.encoder_k, self.encoder_q)]
        self.queues = [Queue(args.queue) for _ in range(1 + self.dense)]
        self.call = self.encoder_q if world == 1 else nn.parallel.DistributedDataParallel(
            self.encoder_q, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.SGD(self.encoder_q.parameters(), 0.03, 0.9, weight_decay=1e-4,
                                         **{args.update: True})
        torch.manual_seed(1 + rank)
        shape = (args.batch, 3, args.size, args.size)
        self.batches = itertools.cycle([[torch.randn(shape).to(memory_format=self.format) for _ in range(2)]
                                        for _ in range(2)])
        self.iteration, self.last = 0, None

    @torch.inference_mode()
    def keys(self, x):
        """Keys of the momentum encoder, shuffled over the processes, one gather before it and one after."""
        n, generator = len(x), torch.Generator().manual_seed(self.iteration)
        order = torch.randperm(n * self.world, generator=generator)
        mine = slice(self.rank * n, (self.rank + 1) * n)
        out = self.encoder_k(gather(x, self.world)[order[mine]].contiguous(memory_format=self.format))
        out = [F.normalize(part, dim=1) for part in out]
        widths, back = [part[0].numel() for part in out], torch.argsort(order)
        everything = gather(torch.cat([part.flatten(1) for part in out], dim=1), self.world)[back]
        everything = [part.view(-1, *like.shape[1:]) for part, like in zip(everything.split(widths, dim=1), out)]
        return [part[mine] for part in everything], everything

    def step(self):
        """One training step; nothing is logged."""
        torch._foreach_lerp_(*self.pairs, 1 - MOMENTUM)
        im_q, im_k = next(self.batches)
        q, *dense = self.call(im_q)
        (k, *dense_k), everything = self.keys(im_k)
        loss = self.loss_of(F.normalize(q, dim=1), k.clone(), self.queues[0].keys)  # clone: no inference tensor
        if self.dense:
            q_dense, map_q = F.normalize(dense[1], dim=1), F.normalize(dense[2].detach(), dim=1)
            _, k_dense, map_k = dense_k
            index = torch.matmul(map_q.transpose(1, 2), map_k).argmax(dim=2)                        # [N, L]
            matched = k_dense.gather(2, index.unsqueeze(1).expand(-1, DIM, -1))
            rows = [part.transpose(1, 2).reshape(-1, DIM) for part in (q_dense, matched)]
            loss = 0.5 * loss + 0.5 * self.loss_of(rows[0], rows[1].clone(), self.queues[1].keys)
        self.optimizer.zero_grad(set_to_none=self.world == 1)
        loss.backward()
        self.optimizer.step()
        for queue, rows in zip(self.queues, everything):
            queue.push(rows)
        self.iteration, self.last = self.iteration + 1, loss.detach()

    def loss(self):
        """The loss of the last step."""
        return float(self.last)

    def facts(self, args):
        """What both sides of a comparison must agree in, and the settings."""
        settings = {'layout': 'NCHW' if args.contiguous else 'channels-last', 'loss': args.loss, 'update': args.update}
        return {'framework': f'PyTorch {torch.__version__}', 'parameters': sum(p.numel() for p in self.pairs[1]),
                'backbone_macs': self.backbone_macs(), 'queue': list(self.queues[0].keys.shape),
                'threads': torch.get_num_threads(), 'settings': settings}

    def backbone_macs(self):
        """Multiply-adds of all convolutions for one image, counted from the shapes of their outputs."""
        backbone, counts = copy.deepcopy(self.encoder_k.backbone).eval(), []
        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(
                    lambda layer, _, out: counts.append(out.numel() * layer.weight[0].numel()))
        with torch.no_grad():
            backbone(torch.zeros(1, 3, self.size, self.size))
        return sum(counts)


def build_parser():
    parser = argparse.ArgumentParser(prog='torch_step.py', description=__doc__.split('\n')[0])
    parser.add_argument('--arch', choices=['densecl', 'moco'], default='densecl')
    parser.add_argument('--depth', type=int, choices=sorted(STAGES), default=50)
    parser.add_argument('--size', type=int, default=224, help='side of the views in pixels')
    parser.add_argument('--batch', type=int, default=16, help='images per process')
    parser.add_argument('--queue', type=int, default=65536, help='keys in each queue')
    parser.add_argument('--threads', type=int, help="of this process; default: PyTorch's choice")
    parser.add_argument('--loss', choices=sorted(LOSSES), default='naive')
    parser.add_argument('--contiguous', action='store_true', help='NCHW memory instead of channels-last')
    parser.add_argument('--update', choices=['fused', 'foreach'], default='fused', help='implementation of SGD')
    parser.add_argument('--ranks', type=int, default=1)
    parser.add_argument('--rendezvous', metavar='FILE', help='for several ranks')
    parser.add_argument('--alone', type=int, metavar='STEPS', help='print the seconds of so many steps and end')
    return parser


def main():
    args = build_parser().parse_args()
    rank = int(os.environ.get('BENCHMARK_RANK', 0))
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.ranks > 1:
        dist.init_process_group('gloo', init_method=f'file://{args.rendezvous}', rank=rank, world_size=args.ranks)
    worker = Worker(args, rank, args.ranks)
    if args.alone:
        for _ in range(args.alone):
            start = time.perf_counter()
            worker.step()
            print(f'{time.perf_counter() - start:.3f} s, loss {worker.loss():.4f}', flush=True)
        print(worker.facts(args))
        return
    jobs.serve({'step': worker.step, 'loss': worker.loss}, rank=rank, facts=worker.facts(args))


if __name__ == '__main__':
    main()
