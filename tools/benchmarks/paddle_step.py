"""A worker of jobs.py: one training step of this project's DenseCL or MoCo v2 per request, on random images.

The step is `Trainer.train_step` with the hooks of a real run (momentum update, forward, backward, optimizer, queues,
learning rate, log hook between two log lines); only the data loader is replaced by batches held in memory. Threads
and maths-library settings are those that the project chooses, unless the environment sets them.
"""

import argparse
import itertools
import os
import sys

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TOOLS, os.path.dirname(TOOLS)]

from passl.utils.paddle_env import require_paddle, tune_cpu  # noqa: E402

paddle = require_paddle()

from benchmarks import jobs  # noqa: E402  tools/benchmarks
from passl.datasets.builder import DATASETS  # noqa: E402
from passl.engine import build_trainer  # noqa: E402
from passl.utils.config import with_defaults  # noqa: E402

NEVER = 10**9
NECKS = {'densecl': ('DenseCL', 'DenseCLNeck'), 'moco': ('MoCo', 'NonLinearNeckV1')}


@DATASETS.register()
class BenchmarkViews(paddle.io.Dataset):
    """A length only: the batches of the benchmark do not come from a loader."""

    def __len__(self):
        return NEVER

    def __getitem__(self, index):
        raise IndexError(index)


def build_parser():
    parser = argparse.ArgumentParser(prog='paddle_step.py', description=__doc__.split('\n')[0])
    parser.add_argument('--arch', choices=sorted(NECKS), default='densecl')
    parser.add_argument('--depth', type=int, default=50)
    parser.add_argument('--size', type=int, default=224, help='side of the views in pixels')
    parser.add_argument('--batch', type=int, default=16, help='images per step')
    parser.add_argument('--queue', type=int, default=65536, help='keys in each queue')
    parser.add_argument('--bfloat16', action='store_true', help='mixed precision')
    return parser


def config(args):
    """The config of densecl_r50.yaml or moco_v2_r50.yaml with the given sizes."""
    name, neck = NECKS[args.arch]
    width = 512 if args.depth < 50 else 2048
    cfg = {
        'epochs': 200, 'seed': 0, 'device': 'cpu', 'use_amp': args.bfloat16, 'AMP': {'dtype': 'bfloat16'},
        'model': {'name': name, 'dim': 128, 'K': args.queue, 'm': 0.999,
                  'backbone': {'name': 'ResNet', 'depth': args.depth},
                  'neck': {'name': neck, 'in_channels': width, 'hid_channels': width, 'out_channels': 128},
                  'head': {'name': 'ContrastiveHead', 'temperature': 0.2}},
        'dataloader': {'train': {'loader': {'num_workers': 0}, 'dataset': {'name': 'BenchmarkViews'},
                                 'sampler': {'batch_size': args.batch, 'shuffle': False, 'drop_last': True}}},
        'lr_scheduler': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.03, 'T_max': 200},
        'optimizer': {'name': 'Momentum', 'momentum': 0.9, 'weight_decay': 0.0001},
        'log_config': {'name': 'LogHook', 'interval': NEVER, 'progress_bar': False},
    }
    return with_defaults(cfg)


class Worker:
    """A trainer at the start of its first epoch."""

    def __init__(self, args):
        paddle.set_device('cpu')
        self.trainer = build_trainer(config(args))
        self.trainer.model.train()
        for point in ('run_begin', 'train_epoch_begin'):
            self.trainer.call(point)
        paddle.seed(1)
        shape = [args.batch, 3, args.size, args.size]
        self.batches = itertools.cycle([[paddle.randn(shape), paddle.randn(shape)] for _ in range(2)])
        self.size = args.size

    def step(self):
        """One iteration of a run, between two log steps."""
        self.trainer.train_step(self.batches)

    def loss(self):
        """The loss of the last step."""
        return float(self.trainer.outputs['loss'])

    def facts(self):
        """What both sides of a comparison must agree in, and the settings."""
        model = self.trainer.model
        count = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
        return {'framework': f'Paddle {paddle.__version__}', 'parameters': count,
                'backbone_macs': self.backbone_macs(), 'queue': list(model.queue.shape),
                'threads': os.environ.get('OMP_NUM_THREADS'),
                'settings': {k: v for k, v in tune_cpu().items() if k != 'OMP_NUM_THREADS'}}

    def backbone_macs(self):
        """Multiply-adds of all convolutions for one image, counted from the shapes of their outputs."""
        backbone, counts = self.trainer.model.backbone, []
        removers = [layer.register_forward_post_hook(
            lambda layer, _, out: counts.append(int(out.size) * int(layer.weight.size) // int(layer.weight.shape[0])))
            for layer in backbone.sublayers() if isinstance(layer, paddle.nn.Conv2D)]
        backbone.eval()
        with paddle.no_grad():
            backbone(paddle.zeros([1, 3, self.size, self.size]))
        backbone.train()
        for remover in removers:
            remover.remove()
        return sum(counts)


def main():
    worker = Worker(build_parser().parse_args())
    jobs.serve({'step': worker.step, 'loss': worker.loss}, worker.facts())


if __name__ == '__main__':
    main()
