"""A worker of jobs.py for the scaling benchmark: as paddle_step.py, on uint8 images if wanted, and it counts bytes.

    python tools/benchmarks/scaling_step.py --depth 18 --size 64 --batch 4 --queue 256 --raw --alone 3
"""

import itertools
import os
import sys

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TOOLS, os.path.dirname(TOOLS)]

from benchmarks import jobs, paddle_step  # noqa: E402  tools/benchmarks; imports Paddle with the project's settings
from passl.modules.batch_shuffle import shared_permutation  # noqa: E402
from passl.modules.input_normalize import InputNormalize  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402

paddle = paddle_step.paddle


class Worker(paddle_step.Worker):
    """args.raw: the loader hands over uint8 images, which are normalised on the device."""

    def __init__(self, args):
        super().__init__(args)
        self.batch = args.batch
        if args.raw:
            self.trainer.model.input_transform = InputNormalize([1 / 57.0] * 3, [120 / 57.0] * 3)
            shape = [args.batch, args.size, args.size, 3]
            raw = [[paddle.randint(0, 256, shape).astype('uint8') for _ in range(2)] for _ in range(2)]
            self.batches = itertools.cycle(raw)

    def traffic(self):
        """What one step sends and receives, and how many images of it come from other processes."""
        model, n, me = self.trainer.model, self.batch, dist.rank()
        with dist.traffic() as counted:
            self.step()
        order = shared_permutation(n * dist.world_size(), model.seed, model.step)
        crossing = int((order[me * n:(me + 1) * n] // n != me).sum())
        return {'crossing': crossing, **counted, 'gradients': dist.gradient_traffic(self.trainer.parallel)}


def main():
    parser = paddle_step.build_parser()
    parser.add_argument('--raw', action='store_true', help='uint8 images')
    args = parser.parse_args()
    worker = Worker(args)
    if args.alone:
        for _ in range(args.alone):
            print(worker.traffic(), f'loss {worker.loss():.4f}', flush=True)
        return
    jobs.serve({'step': worker.step, 'loss': worker.loss, 'traffic': worker.traffic}, rank=dist.rank(),
               facts=worker.facts())


if __name__ == '__main__':
    main()
