"""The command: look, plan, write an ordinary config, train, say what to do next."""

import argparse
import os
import sys
import tempfile
from typing import Any, Iterable, Optional

from ..datasets.regions import require_slic
from ..utils.config import apply_overrides, validate
from ..utils.distributed import dist
from ..utils.errors import ConfigError
from ..utils.files import replace_text
from ..utils.logger import COLUMNS, get_logger, setup_logger
from ..utils.options import Parser, not_empty, override, positive_int
from .config import BACKBONES, config_of, config_text, table
from .rules import Choice, Facts, dense_loss, plan
from .training import agreed, join, measured_speed, on_main, train_plan

METHODS = ('densecl', 'moco', 'simclr')
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


class _Parser(Parser):
    """Keeps the words, as `words`, for the first line of the config."""

    def parse_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        found = super().parse_args(words, namespace)
        found.words = words
        return found


def build_pretrain_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `passl pretrain` and `tools/pretrain.py`.

    The namespace has: data, out, backbone, method, init, val, hours, epochs, override, plan, resume, overwrite,
    no_cuda, words.
    """
    parser = _Parser(prog=prog, description='Pre-train a backbone on a folder of images, with settings that follow '
                                            'from the images and the device.', epilog=EXAMPLES)
    parser.add_argument('data', metavar='DATA', type=not_empty, help='folder of images, flat or nested')
    parser.add_argument('--out', metavar='RUN', type=not_empty,
                        help='run folder (default: output_dir/pretrain_<name of the data>); its config is RUN.yaml')
    parser.add_argument('--backbone', choices=sorted(BACKBONES), metavar='NAME',
                        help=f"one of {', '.join(sorted(BACKBONES))} (default: that of --init; else resnet50, on a CPU "
                             'resnet18)')
    parser.add_argument('--method', choices=METHODS, default='densecl', help='default: %(default)s')
    parser.add_argument('--init', metavar='FILE', type=not_empty,
                        help='start from these backbone weights (ImageNet-supervised, or of any method)')
    parser.add_argument('--val', metavar='LABELLED', type=not_empty,
                        help='labelled images: after each checkpoint a probe on them chooses best.pdparams (otherwise '
                             'an estimate without labels does)')
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


def run_pretrain(args: argparse.Namespace) -> int:
    """Do what the command line asks for; the exit code."""
    from .facts import facts_of
    setup_logger(rank=dist.rank())
    place = args.out or os.path.join('output_dir', 'pretrain_' + os.path.basename(os.path.abspath(args.data)))
    place = place.rstrip('/')
    config = place + '.yaml'
    if not args.plan:
        join(args.no_cuda)
        if args.resume:
            return train_plan(args, config, on_main(_former, config), ['--resume', 'auto'])
        on_main(_refuse_former, config, place, args.overwrite)
    facts = facts_of(args.data, bool(args.init), args.no_cuda)
    facts = facts if args.plan else agreed(facts)
    args.backbone, why = chosen_backbone(args, facts.device)
    facts = facts._replace(depth=BACKBONES[args.backbone][0])
    hours = args.hours or (_CPU_HOURS if facts.device == 'cpu' and not args.epochs else None)
    choices, cfg = planned(args, facts, hours, why=why)
    if not args.plan:
        on_main(check_place, place)
        if hours:
            code, seconds = measured_speed(apply_overrides(cfg, args.override), place, args.no_cuda)
            if code:
                return code
            choices, cfg = planned(args, facts, hours, seconds, why)
    cfg.update(output_dir=os.path.dirname(place) or '.')
    cfg = apply_overrides(cfg, args.override)
    validate(cfg, True)
    get_logger().info('%d images, short side %d px, %s, %d process(es). The plan, and why:\n%s', facts.images,
                      facts.side, facts.device, facts.processes, table(choices),
                      extra={'short': f'{facts.images} images. The plan, and why:\n{table(choices, COLUMNS)}'})
    if args.plan:
        return 0
    text = config_text(cfg, choices, ['passl', 'pretrain', *args.words])
    on_main(replace_text, config, text)
    get_logger().info('Written: %s', config)
    return train_plan(args, config, text, ['--overwrite'] * args.overwrite)


def _former(config):
    """The text of the config that --resume goes on with."""
    if not os.path.isfile(config):
        raise ConfigError(f"--resume goes on with the run that '{config}' describes, and there is no such file. "
                          'Start without --resume, or name the run with --out.')
    with open(config, encoding='utf-8') as f:
        return f.read()


def _refuse_former(config, place, overwrite):
    from ..engine.run_folder import results_in
    if os.path.exists(config) and not overwrite:
        raise ConfigError(f"'{config}' is there already. --resume goes on with it, --overwrite starts anew, --out RUN "
                          'takes another place.')
    if results_in(place) and not overwrite:
        raise ConfigError(f"'{place}' holds the results of another run. --overwrite moves them aside, --out RUN takes "
                          'another place.')


def check_place(place: str) -> None:
    """Make the folder above `place`, and write to both. Raises ConfigError where that cannot be done."""
    above = os.path.dirname(place) or '.'
    for folder in (above, place):
        try:
            if folder == above:
                os.makedirs(folder, exist_ok=True)
            if os.path.isdir(folder):
                with tempfile.NamedTemporaryFile(dir=folder, prefix='.passl-'):
                    pass
        except OSError as e:
            raise ConfigError(f"Nothing can be written to '{folder}': {e.strerror or e}. --out RUN names another "
                              'place, in a folder that is yours.') from None


def _can_make_regions():
    try:
        require_slic()
    except ConfigError:
        return False
    return True


def chosen_backbone(args: argparse.Namespace, device: str) -> tuple[str, str]:
    """(name, reason) of the backbone. Raises PasslError for an --init that holds none that is known."""
    if args.backbone:
        return args.backbone, '--backbone'
    if args.init:
        from ..transfer.probes.sources import find_sources
        start, = find_sources([args.init])
        return next(name for name, of in BACKBONES.items() if of == (start.depth, start.kind)), 'that of --init'
    if device == 'cpu':
        return 'resnet18', 'a CPU makes too few steps of ResNet-50 to learn much'
    return 'resnet50', 'that of the paper'


def planned(args: argparse.Namespace, facts: Facts, hours: Optional[float], seconds: Optional[float] = None,
            why: str = '--backbone') -> tuple[list[Choice], dict[str, Any]]:
    """(choices, config) of a command line.

    Args:
        seconds: that a step takes, if that is known. why: the reason of the backbone.
    """
    choices = [Choice('backbone', 'backbone', args.backbone, why)]
    choices += plan(facts, args.method, dense_loss(facts, _can_make_regions()), args.epochs, hours, seconds)
    choices += [Choice('-o', 'override', '', f'{text}, whatever stands above') for text in args.override]
    return choices, config_of(args, choices)


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
    return run_pretrain(build_pretrain_parser('passl pretrain').parse_args(words))
