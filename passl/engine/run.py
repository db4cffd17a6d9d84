"""From command-line arguments to a finished run."""

import argparse
import functools
import os
import platform
import signal
from typing import Any, Callable, Optional

import cv2
import numpy
import paddle

from .. import __version__
from ..datasets.contents import describe_images
from ..hooks.checkpoint_hook import LATEST
from ..modules import cpu
from ..utils.distributed import dist
from ..utils.config import dump_config, load_config, with_defaults
from ..utils.errors import ConfigError, PeerLostError
from ..utils.logger import get_logger, setup_logger
from ..utils.next_commands import next_commands
from ..utils.paddle_env import tune_cpu
from ..utils.config.registry import import_plugins
from .builder import build_trainer
from .consistency import check_processes
from .device import describe_device, memory_advice, select_device
from .doubts import tell_doubts
from .export import export
from .run_folder import RunFolder, on_main, run_folder
from .signals import EXIT_CODES, StopSignals
from .summary import write_summary
from .trainer import Trainer

_OWN_PARTS = {'passl.transfer.probes.best'}     # what `passl pretrain --val` names; the engine may not import it


Ending = Callable[[Trainer, Optional[str]], object]


def train(args: argparse.Namespace, ending: Optional[Ending] = None) -> int:
    """`run`, with signals that stop it between two steps."""
    with StopSignals() as signals:
        return run(args, signals, ending)


def run(args: argparse.Namespace, signals: StopSignals, ending: Optional[Ending] = None) -> int:
    """Run what `passl train` was asked for: training, `--evaluate-only` or `--export`.

    Args:
        args: Namespace of `passl.utils.options.build_train_parser()`.
        signals: StopSignals.
        ending: called on process 0 when a training is complete, with the trainer and the checkpoint that it went on
            from; default: `tell_end`.
    Returns:
        0, or the code of the signal that ended a training (after it was saved); problems that the user can mend are
        raised as PasslError.
    """
    training = not (args.evaluate_only or args.export)
    overrides = list(args.override)
    if args.pretrained:
        overrides.append('model.backbone.pretrained=' + _quoted(args.pretrained))
    needs = None if args.export else training       # an export needs the model only
    cfg = with_defaults(load_config(args.config_file, overrides, training=needs))
    import_plugins(permitted_imports(args, cfg), os.path.dirname(os.path.abspath(args.config_file)))
    setup_logger(rank=dist.rank())
    device = select_device(cfg.get('device'), args.no_cuda, cfg['deterministic'])
    dist.init(None if args.export else cfg['dist_timeout'])
    if args.export:
        return export(cfg, args.export, run_folder(cfg, args.config_file))
    try:
        with dist.name_the_lost():
            check_processes(cfg, device)
            code = run_in_folder(args, cfg, device, signals, ending)
            dist.meet('waiting for the end')        # now each may end when it likes
        return code
    finally:
        dist.end_watch()


def run_in_folder(args: argparse.Namespace, cfg: dict[str, Any], device: str, signals: StopSignals,
                  ending: Optional[Ending] = None) -> int:
    """Find or claim the run folder, and work there; as `run`."""
    training, resume = not args.evaluate_only, None
    saves = (cfg.get('checkpoint') or {}).get('out_dir')
    saves = saves if isinstance(saves, str) else None       # the hook refuses anything else
    folder = RunFolder(run_folder(cfg, args.config_file), saves, '-o output_dir=DIR or -o timestamp=true', resumes=True)
    dist.on_loss(lambda message: folder.tell('failed', PeerLostError.exit_code, message))
    with folder:
        if training:
            needed = [('--load', args.load), ('--pretrained', args.pretrained)]
            resume = folder.start(args.resume, args.overwrite, needed)
        elif args.resume:
            raise ConfigError('--evaluate-only takes its weights from --load FILE, not from --resume.')
        elif not args.load:
            get_logger().warning('--evaluate-only without --load: evaluating a classifier that was never trained.')
        with dist.name_the_lost(), memory_advice():
            return work(args, cfg, folder, resume, device, signals, ending)


def work(args: argparse.Namespace, cfg: dict[str, Any], folder: RunFolder, resume: Optional[str], device: str,
         signals: StopSignals, ending: Optional[Ending] = None) -> int:
    """The training or the evaluation in a run folder that is ready for it."""
    training, path = not args.evaluate_only, folder.folder
    on_main(lambda: os.makedirs(path, exist_ok=True))
    logger = setup_logger(path, dist.rank())
    logger.info('PASSL %s, Paddle %s, NumPy %s, OpenCV %s, Python %s, %s, %d process(es)%s', __version__,
                paddle.__version__, numpy.__version__, cv2.__version__, platform.python_version(),
                describe_device(device, cfg['deterministic']),
                dist.world_size(), ''.join(f', {k}={v}' for k, v in tune_cpu().items()))
    if paddle.get_device() == 'cpu':
        logger.info('Convolutions: %s', cpu.convolutions())
    logger.info('Run folder: %s', path)
    trainer = build_trainer(cfg, path, training, load=None if resume else args.load, resume=resume,
                            val_interval=args.val_interval, signals=signals, read=folder.read,
                            same_config=resume is not None and folder.holds(resume) and not args.allow_changes)
    if training:
        folder.write_config(dump_config(cfg))
    if not training:
        trainer.evaluate()
        trainer.call('run_end')
        return 0
    if resume is None and args.resume:
        logger.info('--resume auto: no checkpoint in %s, starting anew.', folder.saves)
    describe(trainer)
    if trainer.iteration >= trainer.max_iters:
        logger.info('Nothing to do: the run already has %d of %d iterations. Raise epochs to go on.',
                    trainer.iteration, trainer.max_iters)
        _end(trainer, args, folder, resume, ending)
        return 0
    folder.tell('running')
    trainer.run()
    if trainer.stopping and trainer.iteration < trainer.max_iters:
        logger.warning('Stopped by %s after iteration %d of %d; everything is saved. Go on with --resume auto.',
                       signals.name or 'a signal to another process', trainer.iteration, trainer.max_iters)
        code = signals.exit_code or EXIT_CODES[signal.SIGTERM]
        folder.tell('stopped', code)
        return code
    logger.info('Done: %s', path)
    _end(trainer, args, folder, resume, ending)
    return 0


def _end(trainer, args, folder, resume, ending):
    """Everything is saved; process 0 tells about it while the others wait without limit."""
    folder.tell('done', 0)
    dist.progress('telling about the run')
    if dist.is_main():
        (ending or functools.partial(tell_end, args))(trainer, resume)


def tell_end(args: argparse.Namespace, trainer: Trainer, resume: Optional[str]) -> None:
    """The summary of a training without labels; others end with their log."""
    if trainer.model.supervised or trainer.run_dir is None:
        return
    weights = os.path.join((trainer.cfg.get('checkpoint') or {}).get('out_dir') or trainer.run_dir, LATEST)
    commands = next_commands(trainer.run_dir, weights, args.config_file, trainer.cfg['model']['backbone'],
                             extracted=False)
    write_summary(trainer, weights, commands, args.load, start_known=resume is None or bool(args.load))


def permitted_imports(args: argparse.Namespace, cfg: dict[str, Any]) -> list[str]:
    """What `custom_imports` names, if the command line allows it to run: a config file alone executes nothing.

    The user's word is `--allow-imports`, or `-o custom_imports=...`, which names the code itself. Parts of PASSL that
    only register something need none.

    Raises:
        ConfigError: the config file names code that nobody has allowed.
    """
    wanted = cfg.get('custom_imports') or []
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    own_word = any(text.partition('=')[0].strip() == 'custom_imports' for text in args.override)
    if set(wanted) <= _OWN_PARTS or args.allow_imports or own_word:
        return wanted
    folder = os.path.dirname(os.path.abspath(args.config_file))
    places = [f"'{os.path.normpath(os.path.join(folder, w))}'" if w.endswith('.py') else f"the module '{w}'"
              for w in wanted]
    raise ConfigError(f"'{args.config_file}' asks to run Python code: custom_imports names {', '.join(places)}. A "
                      'config file alone may not run code. Look at what is named there; if you trust it, add '
                      '--allow-imports.')


def describe(trainer: Trainer) -> None:
    """Log what is about to run."""
    count = sum(p.size for p in trainer.model.parameters() if not p.stop_gradient)
    get_logger().info('%s: %.2f M trained parameters; %d images; batch %d in all; %d iterations per epoch, %d in all',
                      type(trainer.model).__name__, float(count) / 1e6, len(trainer.train_loader.dataset),
                      trainer.global_batch_size, trainer.iters_per_epoch, trainer.max_iters)
    for part, loader in (('train', trainer.train_loader), ('val', trainer.val_loader)):
        if dist.is_main() and loader is not None:
            lines, warnings = describe_images(loader.dataset, f'dataloader.{part}')
            for line in lines:
                get_logger().info('%s', line)
            for line in warnings:
                get_logger().warning('%s', line)
    if hasattr(trainer.model, 'queue'):
        size = trainer.model.queue.shape[1]
        get_logger().info('Queue of %d keys: chance is loss %.2f; the loss rises while the queue fills (%d '
                          'iterations), then falls.', size, numpy.log(size + 1), trainer.steps_to_fill)
    tell_doubts(trainer)


def _quoted(text):
    return "'" + text.replace("'", "''") + "'"
