"""The command: look, plan, write an ordinary config, train, say what to do next."""

import argparse
import json
import os
import shutil
import tempfile
from typing import Any, Optional, Sequence

from ..datasets.regions import require_slic
from ..utils.config import apply_overrides, dump_config, read_config, validate
from ..utils.errors import ConfigError
from ..utils.files import free_name, replace_text
from ..utils.logger import get_logger, setup_logger
from ..utils.options import Parser, build_train_parser, not_empty, override, positive_int
from .rules import Choice, Facts, dense_loss, plan

METHODS = ('densecl', 'moco', 'simclr')
BACKBONES = {f'resnet{depth}{vd}': (depth, 'ResNet' + vd) for vd in ('', '_vd') for depth in (18, 34, 50, 101, 152)}
_MODELS = {'densecl': 'densecl', 'moco': 'moco_v2', 'simclr': 'simclr'}
_SPEED_STEPS, _WARM = 14, 4         # steps that are timed for --hours, after those that are not
_CPU_HOURS = 1.0                    # of a run on a CPU, if nobody says how long
EXAMPLES = """\
examples:
  %(prog)s data/my_images
  %(prog)s data/my_images --hours 8 --backbone resnet18 --out runs/leaves
  %(prog)s data/my_images --init imagenet_resnet50.pdparams
  go on after a stop:  %(prog)s data/my_images --out runs/leaves --resume
"""


def positive_number(text: str) -> float:
    """Argument type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def build_pretrain_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `passl pretrain` and `tools/pretrain.py`.

    The namespace has: data, out, backbone, method, init, hours, epochs, override, plan, resume, overwrite, no_cuda.
    """
    parser = Parser(prog=prog, description='Pre-train a backbone on a folder of images, with settings that follow from '
                                           'the images and the device.', epilog=EXAMPLES)
    parser.add_argument('data', metavar='DATA', type=not_empty, help='folder of images, flat or nested')
    parser.add_argument('--out', metavar='RUN', type=not_empty,
                        help='run folder (default: output_dir/pretrain_<name of the data>); its config is RUN.yaml')
    parser.add_argument('--backbone', choices=sorted(BACKBONES), default='resnet50', metavar='NAME',
                        help=f"one of {', '.join(sorted(BACKBONES))} (default: %(default)s)")
    parser.add_argument('--method', choices=METHODS, default='densecl', help='default: %(default)s')
    parser.add_argument('--init', metavar='FILE', type=not_empty,
                        help='start from these backbone weights (ImageNet-supervised, or of any method)')
    time = parser.add_mutually_exclusive_group()
    time.add_argument('--hours', metavar='H', type=positive_number, help='end the schedule after so many hours')
    time.add_argument('--epochs', metavar='N', type=positive_int, help='end it after so many epochs')
    parser.add_argument('-o', '--override', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='set one key of the config, whatever the plan says; repeatable')
    parser.add_argument('--plan', action='store_true', help='print the plan and its reasons, and end')
    parser.add_argument('--resume', action='store_true', help='go on with the run in RUN, as its config says')
    parser.add_argument('--overwrite', action='store_true', help='start anew; what is in RUN is moved aside')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    return parser


def configs_folder() -> str:
    """The folder `configs` of the clone. Raises ConfigError where there is none."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'configs')
    if not os.path.isdir(os.path.join(folder, '_base_')):
        raise ConfigError(f"There is no folder '{folder}', from which a plan takes its models: install PASSL from a "
                          "clone, with pip install -e '.[cpu]' there (docs/INSTALL.md).")
    return folder


def config_of(args: argparse.Namespace, choices: Sequence[Choice]) -> dict[str, Any]:
    """The whole config of a plan, without any base file."""
    base = os.path.join(configs_folder(), '_base_')
    depth, name = BACKBONES[args.backbone]
    wide = 'r18' if depth < 50 and args.method != 'simclr' else 'r50'
    cfg = read_config(os.path.join(base, 'models', f'{_MODELS[args.method]}_{wide}.yaml'))
    cfg.update(read_config(os.path.join(base, 'datasets', 'small_two_view.yaml')))
    cfg.update(read_config(os.path.join(base, 'default_runtime.yaml')))
    width = 512 if depth < 50 else 2048
    cfg['model']['backbone'].update(name=name, depth=depth)
    cfg['model']['neck'].update(in_channels=width, hid_channels=width)
    if args.init:
        cfg['model']['backbone']['pretrained'] = args.init
    cfg['dataloader']['train']['dataset']['dataroot'] = args.data
    cfg['optimizer'] = {'name': 'Momentum', 'momentum': 0.9, 'weight_decay': 0.0001}
    value = {c.key: c.value for c in choices}
    data = cfg['dataloader']['train']
    steps = value['total_iters']
    cfg['total_iters'] = steps
    data['dataset']['transforms'][0]['size'] = value['side']
    for view in ('view_trans1', 'view_trans2'):
        for step in data['dataset'][view]:
            if step.get('transforms', [{}])[0].get('name') == 'GaussianBlur':
                step['transforms'][0]['sigma'] = [0.1, 2.0 if value['side'] >= 192 else 1.0]
    data['sampler']['batch_size'] = value['dataloader.train.sampler.batch_size']
    data['loader']['num_workers'] = value['dataloader.train.loader.num_workers']
    if value['half'] != 'float32':
        cfg.update(use_amp=True, AMP={'dtype': value['half']})
    cfg['log_config'].update(interval=max(1, min(50, steps // 100)), by_epoch=False)
    cfg['checkpoint'] = {'name': 'CheckpointHook', 'by_epoch': False, 'interval': max(1, steps // 10),
                         'max_keep_ckpts': 3}
    for key in ('K', 'm', 'bn_splits'):
        if f'model.{key}' in value:
            cfg['model'][key] = value[f'model.{key}']
    if 'model' in value:
        cfg['model'].update(value['model'])
    # lengths of a schedule are in epochs; T_max is left out and follows total_iters
    cfg['lr_scheduler'] = {'name': 'CosineWarmup', 'learning_rate': value['lr_scheduler.learning_rate'],
                           'warmup_steps': round(value['warm'] / value['steps of an epoch'], 6)}
    return cfg


def table(choices: Sequence[Choice]) -> str:
    """The choices and their reasons, one line each."""
    shown = [(c.what, str(c.value) if not isinstance(c.value, dict) else ', '.join(
        str(v.get('name', v)) if isinstance(v, dict) else str(v) for v in c.value.values()), c.why) for c in choices]
    first, second = (max(len(row[i]) for row in shown) for i in (0, 1))
    return '\n'.join(f'  {what:<{first}}  {value:<{second}}  {why}' for what, value, why in shown)


def write_config(path: str, cfg: dict[str, Any], choices: Sequence[Choice], words: Sequence[str]) -> None:
    """Write the config, complete in itself, with the reasons at its head."""
    head = ['Written by: ' + ' '.join(words),
            'It needs no other file: `passl train -c` and tools/train.py run it. Why each value:',
            *table(choices).splitlines()]
    replace_text(path, ''.join(f'# {line}\n' for line in head) + '\n' + dump_config(cfg))


def measured_speed(args: argparse.Namespace, cfg: dict[str, Any], place: str) -> tuple[int, float]:
    """(exit code, seconds that a step of the run takes if that is 0): some are made in a folder that goes afterwards.

    It lies beside the run's, so that both share what is kept of the images.
    """
    get_logger().info('How long does a step take? %d steps tell; then the run begins.', _SPEED_STEPS)
    folder = free_name(place + '.speed')
    short = {**cfg, 'total_iters': _SPEED_STEPS, 'output_dir': os.path.dirname(folder) or '.',
             'log_config': {**cfg['log_config'], 'interval': 1, 'progress_bar': False},
             'checkpoint': {'name': 'CheckpointHook', 'by_epoch': False, 'interval': 10 * _SPEED_STEPS}}
    with tempfile.TemporaryDirectory() as own:
        config = os.path.join(own, os.path.basename(folder) + '.yaml')
        replace_text(config, dump_config(short))
        try:
            code = _train(args, config)
            if code:
                return code, 0.0
            with open(os.path.join(folder, 'log.jsonl'), encoding='utf-8') as f:
                times = [r['time'] for r in map(json.loads, f) if r.get('mode') == 'train']
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 0, float(sorted(times[_WARM:])[len(times[_WARM:]) // 2])


def _train(args, config, more=()):
    from ..engine.run import train
    words = ['-c', config, *more] + ['--no-cuda'] * args.no_cuda
    return train(build_train_parser('passl pretrain').parse_args(words))


def run_pretrain(args: argparse.Namespace, words: Sequence[str] = ()) -> int:
    """Do what the command line asks for; the exit code."""
    from .facts import facts_of
    setup_logger()
    place = args.out or os.path.join('output_dir', 'pretrain_' + os.path.basename(os.path.abspath(args.data)))
    place = place.rstrip('/')
    config = place + '.yaml'
    if args.resume:
        if not os.path.isfile(config):
            raise ConfigError(f"--resume goes on with the run that '{config}' describes, and there is no such file. "
                              'Start without --resume, or name the run with --out.')
        return _end(_train(args, config, ['--resume', 'auto']), args, place, config)
    if os.path.exists(config) and not (args.overwrite or args.plan):
        raise ConfigError(f"'{config}' is there already. --resume goes on with it, --overwrite starts anew, --out RUN "
                          'takes another place.')
    facts = facts_of(args.data, BACKBONES[args.backbone][0], bool(args.init), args.no_cuda)
    hours = args.hours or (_CPU_HOURS if facts.device == 'cpu' and not args.epochs else None)
    if hours and facts.processes > 1 and not args.plan:
        raise ConfigError('--hours is for one process: each of several would measure another speed. Give --epochs N.')
    choices, cfg = planned(args, facts, hours)
    if not args.plan:
        _make_folder(os.path.dirname(place) or '.')
    if hours and not args.plan:
        code, seconds = measured_speed(args, apply_overrides(cfg, args.override), place)
        if code:
            return code
        choices, cfg = planned(args, facts, hours, seconds)
    cfg.update(output_dir=os.path.dirname(place) or '.')
    cfg = apply_overrides(cfg, args.override)
    validate(cfg, True)
    get_logger().info('%d images, short side %d px, %s, %d process(es). The plan, and why:\n%s', facts.images,
                      facts.side, facts.device, facts.processes, table(choices))
    if args.plan:
        return 0
    if os.environ.get('PADDLE_TRAINER_ID', '0') != '0':         # the same plan, written where nobody looks
        with tempfile.TemporaryDirectory() as own:
            mine = os.path.join(own, os.path.basename(config))
            write_config(mine, cfg, choices, ['passl', 'pretrain', *words])
            return _train(args, mine, ['--overwrite'] * args.overwrite)
    write_config(config, cfg, choices, ['passl', 'pretrain', *words])
    get_logger().info('Written: %s', config)
    return _end(_train(args, config, ['--overwrite'] * args.overwrite), args, place, config)


def _can_make_regions():
    try:
        require_slic()
    except ConfigError:
        return False
    return True


def _make_folder(folder):
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"'{folder}' cannot be made: {e.strerror}. --out RUN names another place.") from None


def planned(args: argparse.Namespace, facts: Facts, hours: Optional[float],
            seconds: Optional[float] = None) -> tuple[list[Choice], dict[str, Any]]:
    """(choices, config) of a command line; `seconds`: a step takes, if that is known."""
    choices = plan(facts, args.method, dense_loss(facts, _can_make_regions()), args.epochs, hours, seconds)
    return choices, config_of(args, choices)


def _end(code, args, place, config):
    """After the training: the backbone's weights in a file of their own, and what can be done with them."""
    from ..utils.distributed import dist
    if code or not dist.is_main():
        return code
    from ..pictures.curves import plot_loss
    from ..utils.weights.extract import extract_weight
    weights = os.path.join(place, 'backbone.pdparams')
    extract_weight(os.path.join(place, 'latest.pdparams'), weights, remove_prefix=True, overwrite=True)
    plot_loss(os.path.join(place, 'log.jsonl'), os.path.join(place, 'loss.png'))
    get_logger().info('The backbone is in %s, the curve in %s/loss.png. Next:\n%s', weights, place, '\n'.join([
        f'  did it help?  passl evaluate --tasks knn,linear --weights random {weights} --data LABELLED',
        f'  elsewhere:    passl export {weights} --to torchvision --output backbone.pth',
        f'  go on:        raise total_iters in {config}, then: passl pretrain {args.data} --out {place} --resume']))
    return 0


def pretrain(data: str, out: Optional[str] = None, **options: Any) -> int:
    """Pre-train a backbone on a folder of images; as `passl pretrain DATA`.

    Args:
        data: folder of images.  out: run folder.
        options: the flags of the command: backbone='resnet18', hours=2.0, init='file', override=['epochs=3'], ...

    Returns:
        0, or the exit code of a run that a signal has ended.

    Raises:
        PasslError: what the user can mend.
        TypeError: an option that the command does not have.
    """
    words = [data] + (['--out', out] if out else [])
    for name, value in options.items():
        if name == 'override':
            words += [word for text in value for word in ('-o', text)]
        elif value is True:
            words.append('--' + name.replace('_', '-'))
        elif value not in (None, False):
            words += ['--' + name.replace('_', '-'), str(value)]
    args = build_pretrain_parser('passl pretrain').parse_args(words)
    return run_pretrain(args, words)
