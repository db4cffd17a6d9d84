"""Three steps of a recipe on the CPU along the branches that a GPU takes: `gpu_kernels.py check` reads the log of it.

Batch, queue, data and length are small; networks and image sizes are the recipe's own. Paddle's own log and
the lines `@@ ...` of this program go to stderr: which step, which hook, whether inside `auto_cast`.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import zlib  # noqa: F401  before Paddle: 2.6 exports zlib's symbols

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402

from passl.engine.builder import build_trainer  # noqa: E402
from passl.modules import contrastive_loss  # noqa: E402
from passl.utils.config import load_config, with_defaults  # noqa: E402

BATCH, STEPS, SHRINK = 2, 3, 16             # images per step, steps (the last is a log step), divisor of the queue
POINTS = ('train_iter_begin', 'train_forward_end', 'train_iter_end')


def mark(text):
    """A line of ours, on a line of its own between Paddle's."""
    sys.stderr.write(f'\n@@ {text}\n')
    sys.stderr.flush()


def small(cfg, folder):
    """`cfg` with made-up images, two to a step, one epoch of three steps; the loss's blocks shrink with the queue.

    The number of blocks of the loss decides how many operators it has: it stays that of the recipe on a GPU.
    """
    for name in ('a', 'b'):
        os.makedirs(os.path.join(folder, name))
        for i in range(BATCH * STEPS // 2):
            image = np.random.RandomState(i).randint(0, 255, (256, 256, 3), dtype=np.uint8)
            cv2.imwrite(os.path.join(folder, name, f'{i}.png'), image)
    for part in cfg['dataloader'].values():
        part['dataset']['dataroot'] = folder
        part['loader'] = dict(part.get('loader') or {}, num_workers=0)
        batch, part['sampler']['batch_size'] = part['sampler']['batch_size'], BATCH
    if 'K' in cfg['model']:
        cfg['model']['K'] //= SHRINK
        contrastive_loss.GPU_BLOCK = contrastive_loss.GPU_BLOCK * BATCH // (batch * SHRINK)
    cfg.pop('epochs', None)
    return dict(cfg, total_iters=STEPS, seed=0, log_config=dict(cfg.get('log_config') or {}, interval=STEPS))


def pretend():
    """Every question where something runs is answered as on a GPU; the kernels stay the CPU's."""
    paddle.set_device('cpu')
    paddle.get_device = lambda: 'gpu:0'
    paddle.base.core.Place.is_cpu_place = lambda place: False


def mark_amp():
    """Mark what lies inside `auto_cast`, and the losses' exception from it. Returns the context for a forward pass."""
    inside = [False]

    @contextlib.contextmanager
    def auto_cast(enable=True, **settings):
        before, inside[0] = inside[0], bool(enable)
        mark(f'amp {int(inside[0])}')
        try:
            yield
        finally:
            inside[0] = before
            mark(f'amp {int(before)}')

    paddle.amp.auto_cast = auto_cast
    return auto_cast


def mark_calls(trainer):
    """Mark the beginning and the end of every step and of every hook's work in it."""
    def marked(function, before, after):
        def call(*args, **kwargs):
            mark(before())
            try:
                return function(*args, **kwargs)
            finally:
                mark(after)
        return call

    trainer.train_step = marked(trainer.train_step, lambda: f'step {trainer.iteration}', 'outside')
    for hook in trainer.hooks:
        for point in POINTS:
            name = f'{type(hook).__name__}.{point}'
            setattr(hook, point, marked(getattr(hook, point), lambda name=name: f'in {name}', 'in forward'))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('config')
    parser.add_argument('-o', dest='override', action='append', default=[])
    args = parser.parse_args(argv)
    cfg = load_config(args.config, args.override)
    mark(f'paddle {paddle.__version__}')
    pretend()
    from paddle.amp.amp_lists import white_list
    for dtype, levels in white_list().items():
        mark(f'white {dtype} {",".join(sorted(levels["O1"]))}')
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(with_defaults(small(cfg, os.path.join(folder, 'images'))), None,
                                val_interval=1 if 'val' in cfg['dataloader'] else None)
        trainer.auto_cast = mark_amp()
        mark_calls(trainer)
        mark('outside')
        trainer.run()
    mark('done')


if __name__ == '__main__':
    main()
    os._exit(0)         # with a log of single parts, Paddle 3.3.1 may abort while the interpreter clears up
