"""From command-line arguments to a finished run."""

import contextlib
import os
import platform
import signal
import sys
import threading

import cv2
import numpy
import paddle

from .. import __version__
from ..modules import channels_last, onednn
from ..utils import dist
from ..utils.config import dump_config, load_config, with_defaults
from ..utils.errors import ConfigError
from ..utils.logger import get_logger, setup_logger
from ..utils.paddle_env import tune_cpu
from ..utils.registry import import_plugins
from .builder import build_trainer
from .device import select_device
from .export import export
from .run_folder import claim, find_resume, run_folder


@contextlib.contextmanager
def clean_exit_on_sigterm():
    """SIGTERM ends the run through Python (exit code 143), so that data workers and shared memory are cleaned up.

    Paddle's import installs a handler that ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if callable(before) else signal.SIG_DFL)


def train(args):
    """`run` with a clean end on SIGTERM."""
    with clean_exit_on_sigterm():
        return run(args)


def run(args):
    """Run what `passl train` was asked for: training, `--evaluate-only` or `--export`.

    Args:
        args: Namespace of `passl.utils.options.build_train_parser()`.
    Returns:
        0; problems that the user can mend are raised as PasslError.
    """
    training = not (args.evaluate_only or args.export)
    overrides = list(args.override)
    if args.pretrained:
        overrides.append('model.backbone.pretrained=' + _quoted(args.pretrained))
    needs = None if args.export else training       # an export needs the model only
    cfg = with_defaults(load_config(args.config_file, overrides, training=needs))
    import_plugins(permitted_imports(args, cfg), os.path.dirname(os.path.abspath(args.config_file)))
    setup_logger(rank=dist.rank())
    device = select_device(cfg.get('device'), args.no_cuda)
    dist.init()
    if args.export:
        return export(cfg, args.export, run_folder(cfg, args.config_file))

    folder = run_folder(cfg, args.config_file)
    resume = None
    if training:
        resume = start_point(args, cfg, folder)
    elif args.resume:
        raise ConfigError('--evaluate-only takes its weights from --load FILE, not from --resume.')
    elif not args.load:
        get_logger().warning('--evaluate-only without --load: evaluating a classifier that was never trained.')
    if dist.is_main():
        os.makedirs(folder, exist_ok=True)
    dist.barrier()
    logger = setup_logger(folder, dist.rank())
    logger.info('PASSL %s, Paddle %s, NumPy %s, OpenCV %s, Python %s, %s, %d process(es)%s', __version__,
                paddle.__version__, numpy.__version__, cv2.__version__, platform.python_version(), device,
                dist.world_size(), ''.join(f', {k}={v}' for k, v in tune_cpu().items()))
    if paddle.get_device() == 'cpu':
        logger.info('Convolutions: %s', f"Paddle's kernels ({channels_last.why_not()})" if channels_last.why_not()
                    else f'oneDNN {onednn.library().version}')
    logger.info('Run folder: %s', folder)
    if training and dist.is_main():
        with open(os.path.join(folder, 'config.yaml'), 'w', encoding='utf-8') as f:
            f.write(dump_config(cfg))

    trainer = build_trainer(cfg, folder, training, load=None if resume else args.load, resume=resume,
                            val_interval=args.val_interval)
    if not training:
        trainer.evaluate()
        trainer.call('run_end')
        return 0
    if resume is None and args.resume:
        logger.info('--resume auto: no checkpoint in %s, starting anew.', folder)
    describe(trainer)
    if trainer.iteration >= trainer.max_iters:
        logger.info('Nothing to do: the run already has %d of %d iterations. Raise epochs to go on.',
                    trainer.iteration, trainer.max_iters)
        return 0
    trainer.run()
    logger.info('Done: %s', folder)
    return 0


def permitted_imports(args, cfg):
    """What `custom_imports` names, if the command line allows it to run: a config file alone executes nothing.

    The user's word is `--allow-imports`, or `-o custom_imports=...`, which names the code itself.

    Raises:
        ConfigError: the config file names code that nobody has allowed.
    """
    wanted = cfg.get('custom_imports') or []
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    own_word = any(text.partition('=')[0].strip() == 'custom_imports' for text in args.override)
    if not wanted or args.allow_imports or own_word:
        return wanted
    folder = os.path.dirname(os.path.abspath(args.config_file))
    places = [f"'{os.path.normpath(os.path.join(folder, w))}'" if w.endswith('.py') else f"the module '{w}'"
              for w in wanted]
    raise ConfigError(f"'{args.config_file}' asks to run Python code: custom_imports names {', '.join(places)}. A "
                      'config file alone may not run code. Look at what is named there; if you trust it, add '
                      '--allow-imports.')


def start_point(args, cfg, folder):
    """The checkpoint to continue from, or None after the run folder was claimed for a new run."""
    saves = (cfg.get('checkpoint') or {}).get('out_dir') or folder
    resume = find_resume(args.resume, saves) if args.resume else None
    if resume and os.path.realpath(os.path.dirname(resume)) in map(os.path.realpath, (folder, saves)):
        return resume
    if args.overwrite:
        for flag, path in (('--load', args.load), ('--pretrained', args.pretrained)):
            if path and os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
                raise ConfigError(f"{flag} '{path}' lies in the run folder that --overwrite moves aside. Copy the "
                                  'file elsewhere first, or choose another -o output_dir=DIR.')
    # --resume auto with nothing to resume keeps what a run left before its first checkpoint
    claim(folder, args.overwrite or args.resume == 'auto', saves)
    return resume


def describe(trainer):
    """Log what is about to run."""
    count = sum(p.size for p in trainer.model.parameters() if not p.stop_gradient)
    get_logger().info('%s: %.2f M trained parameters; %d images; batch %d in all; %d iterations per epoch, %d in all',
                      type(trainer.model).__name__, float(count) / 1e6, len(trainer.train_loader.dataset),
                      trainer.global_batch_size, trainer.iters_per_epoch, trainer.max_iters)
    if hasattr(trainer.model, 'queue'):
        size = trainer.model.queue.shape[1]
        get_logger().info('Queue of %d keys: chance is loss %.2f; the loss rises while the queue fills (%d '
                          'iterations), then falls.', size, numpy.log(size + 1), -(-size // trainer.global_batch_size))


def _quoted(text):
    return "'" + text.replace("'", "''") + "'"
