"""A worker of jobs.py: one training step of this project's DenseCL or MoCo v2 per request, on random images.

The step is `Trainer.train_step` with the hooks of a real run (momentum update, forward, backward, optimizer, queues,
learning rate, log hook between two log lines); only the data loader is replaced by batches held in memory. Threads
and maths-library settings are those that the project chooses, unless the environment sets them.

    python tools/benchmarks/paddle_step.py --arch densecl --depth 18 --size 64 --batch 4 --queue 256 --alone 3
"""

import argparse
import itertools
import os
import re
import sys
import time

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TOOLS, os.path.dirname(TOOLS)]

from passl.utils.paddle_env import require_paddle, tune_cpu  # noqa: E402

paddle = require_paddle()

from benchmarks import jobs  # noqa: E402  tools/benchmarks
from passl.datasets.builder import DATASETS  # noqa: E402
from passl.engine import build_trainer  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402
from passl.utils.config import apply_overrides, with_defaults  # noqa: E402

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
    parser.add_argument('--batch', type=int, default=16, help='images per process')
    parser.add_argument('--queue', type=int, default=65536, help='keys in each queue')
    parser.add_argument('--override', nargs='*', default=[], metavar='KEY=VALUE', help='changes of the config, as -o')
    parser.add_argument('--alone', type=int, metavar='STEPS', help='print the seconds of so many steps and end')
    return parser


def config(args):
    """The config of densecl_r50.yaml or moco_v2_r50.yaml with the given sizes."""
    name, neck = NECKS[args.arch]
    width = 512 if args.depth < 50 else 2048
    cfg = {
        'epochs': 200, 'seed': 0, 'device': 'cpu',
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
    return with_defaults(apply_overrides(cfg, args.override))


class Worker:
    """A trainer at the start of its first epoch."""

    def __init__(self, args):
        paddle.set_device('cpu')
        dist.init()
        self.trainer = build_trainer(config(args))
        self.trainer.model.train()
        for point in ('run_begin', 'train_epoch_begin'):
            self.trainer.call(point)
        paddle.seed(1 + dist.rank())
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

    def profile(self, steps):
        """(seconds per step, [(operator, calls per step, seconds per step)] longest first), of `steps` steps."""
        from paddle.profiler import Profiler, ProfilerTarget
        from paddle.profiler.profiler_statistic import StatisticData
        own = time_own_kernels()
        profiler = Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=lambda _: None)
        profiler.start()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        wall = (time.perf_counter() - start) / steps
        profiler.stop()
        result = profiler.profiler_result
        items = StatisticData(result.get_data(), result.get_extra_info()).event_summary.items
        totals = {name: (calls / steps, seconds / steps) for name, (calls, seconds) in own.items()}
        for event, item in items.items():       # one operator may have events of several names
            calls, seconds = totals.get(operator_name(event), (0, 0))
            totals[operator_name(event)] = calls + item.call / steps, seconds + item.cpu_time / steps / 1e9
        return wall, sorted(((name, *total) for name, total in totals.items()), key=lambda row: -row[2])


def time_own_kernels():
    """{name: [calls, seconds]}, filled from now on by forward calls of kernels that are not Paddle's operators.

    The profiler sees their backward calls only (within its event of the gradient node).
    """
    module, totals = sys.modules.get('passl.modules.cpu.onednn'), {}
    for kernel in [c for c in vars(module).values() if isinstance(c, type)] if module else []:
        for method in [m for m in ('forward', 'forward_') if m in vars(kernel)]:
            def timed(*args, _call=vars(kernel)[method], _name=kernel.__name__):
                start = time.perf_counter()
                result = _call(*args)
                total = totals.setdefault(_name, [0, 0.0])
                total[0], total[1] = total[0] + 1, total[1] + time.perf_counter() - start
                return result
            setattr(kernel, method, timed)
    return totals


def operator_name(event):
    """'conv2d dygraph' -> 'conv2d', 'Global_Conv2dGradNodeFinal' -> 'conv2d backward'."""
    name = re.sub(' dygraph$|^Global_', '', event)
    own = re.fullmatch('GradNodePyLayer_+(.*?)(_backward)?', name)
    if own:
        return own.group(1) + ' backward'
    backward = re.fullmatch('(.+?)Grad(Node)?(Final)?', name)
    if not backward:
        return name
    return re.sub('(?<=.)([A-Z])', r'_\1', backward.group(1)).lower() + ' backward'


def main():
    args = build_parser().parse_args()
    worker = Worker(args)
    if args.alone:
        for _ in range(args.alone):
            start = time.perf_counter()
            worker.step()
            print(f'{time.perf_counter() - start:.3f} s, loss {worker.loss():.4f}', flush=True)
        print(worker.facts())
        return
    jobs.serve({'step': worker.step, 'loss': worker.loss, 'profile': worker.profile}, rank=dist.rank(),
               facts=worker.facts())


if __name__ == '__main__':
    main()
