"""A worker of jobs.py: one training step of a minimal DenseCL or MoCo v2 in PyTorch per request, on random images.

A baseline: the same sizes, the same method, the same precision, and what makes PyTorch fast on a CPU:
channels-last memory, a momentum update and an optimizer in one call each, keys in inference mode. Needs PyTorch and
the standard library only.
"""

import argparse
import contextlib
import copy
import ctypes
import itertools
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import jobs  # noqa: E402  tools/benchmarks

if sys.platform == 'linux':
    with contextlib.suppress(OSError, AttributeError):  # as the other side does: freed memory is kept for the next step
        ctypes.CDLL(None).mallopt(-4, 0)
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)

import torch  # noqa: E402
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

    def __init__(self, depth, dense, half):
        super().__init__()
        self.half = half
        self.backbone, c = resnet(depth)
        self.mlp = nn.Sequential(nn.Linear(c, c), nn.ReLU(inplace=True), nn.Linear(c, DIM))
        self.mlp2 = None
        if dense:
            self.mlp2 = nn.Sequential(nn.Conv2d(c, c, 1), nn.ReLU(inplace=True), nn.Conv2d(c, DIM, 1))

    def forward(self, x):
        with torch.autocast('cpu', torch.bfloat16, enabled=self.half):
            return tuple(part.float() for part in self.parts(x))

    def parts(self, x):
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


class Worker:
    """Model, optimizer and inputs."""

    def __init__(self, args):
        torch.manual_seed(0)
        self.size = args.size
        self.dense = args.arch == 'densecl'
        self.encoder_q = Encoder(args.depth, self.dense, args.bfloat16).to(memory_format=torch.channels_last).train()
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.pairs = [list(encoder.parameters()) for encoder in (self.encoder_k, self.encoder_q)]
        self.queues = [Queue(args.queue) for _ in range(1 + self.dense)]
        self.optimizer = torch.optim.SGD(self.encoder_q.parameters(), 0.03, 0.9, weight_decay=1e-4, fused=True)
        torch.manual_seed(1)
        shape = (args.batch, 3, args.size, args.size)
        self.batches = itertools.cycle([[torch.randn(shape).to(memory_format=torch.channels_last) for _ in range(2)]
                                        for _ in range(2)])
        self.iteration, self.last = 0, None

    @torch.inference_mode()
    def keys(self, x):
        """Keys of the momentum encoder, shuffled before it and back after it."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.iteration))
        out = self.encoder_k(x[order].contiguous(memory_format=torch.channels_last))
        back = torch.argsort(order)
        return [F.normalize(part, dim=1)[back] for part in out]

    def step(self):
        """One training step; nothing is logged."""
        torch._foreach_lerp_(*self.pairs, 1 - MOMENTUM)
        im_q, im_k = next(self.batches)
        q, *dense = self.encoder_q(im_q)
        k, *dense_k = keys = self.keys(im_k)
        loss = naive_loss(F.normalize(q, dim=1), k.clone(), self.queues[0].keys)  # clone: no inference tensor
        if self.dense:
            q_dense, map_q = F.normalize(dense[1], dim=1), F.normalize(dense[2].detach(), dim=1)
            _, k_dense, map_k = dense_k
            index = torch.matmul(map_q.transpose(1, 2), map_k).argmax(dim=2)                        # [N, L]
            matched = k_dense.gather(2, index.unsqueeze(1).expand(-1, DIM, -1))
            rows = [part.transpose(1, 2).reshape(-1, DIM) for part in (q_dense, matched)]
            loss = 0.5 * loss + 0.5 * naive_loss(rows[0], rows[1].clone(), self.queues[1].keys)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for queue, rows in zip(self.queues, keys):
            queue.push(rows)
        self.iteration, self.last = self.iteration + 1, loss.detach()

    def loss(self):
        """The loss of the last step."""
        return float(self.last)

    def facts(self):
        """What both sides of a comparison must agree in, and the settings."""
        return {'framework': f'PyTorch {torch.__version__}', 'parameters': sum(p.numel() for p in self.pairs[1]),
                'backbone_macs': self.backbone_macs(), 'queue': list(self.queues[0].keys.shape),
                'threads': torch.get_num_threads(), 'settings': {'layout': 'channels-last'}}

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
    parser.add_argument('--batch', type=int, default=16, help='images per step')
    parser.add_argument('--queue', type=int, default=65536, help='keys in each queue')
    parser.add_argument('--bfloat16', action='store_true', help='autocast around the encoders')
    parser.add_argument('--threads', type=int, help="of this process; default: PyTorch's choice")
    return parser


def main():
    args = build_parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    worker = Worker(args)
    jobs.serve({'step': worker.step, 'loss': worker.loss}, worker.facts())


if __name__ == '__main__':
    main()
