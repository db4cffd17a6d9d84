"""The command lines' flags. They carry PASSL's names; a mistyped one is an error that names the nearest."""

import argparse
import contextlib
import math
from typing import Any, Iterable, Optional

from .errors import suggest

DEFAULT_PREFIX = 'backbone'


class Parser(argparse.ArgumentParser):
    """ArgumentParser that takes no abbreviations and helps with unknown flags and stray words.

    As with argparse, a wrong command line prints the usage and the reason on stderr and
    ends with exit code 2 (SystemExit).
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('allow_abbrev', False)
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)
        self._relaxed: list[argparse.Action] = []

    def flags(self) -> list[str]:
        """All flags this parser knows, such as '--resume'."""
        return [flag for action in self._actions for flag in action.option_strings]

    def parse_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Any:
        # Required arguments are asked for after unknown flags are named: otherwise
        # `--confg-file x` would only hear that -c is missing.
        needed = [a for a in self._actions if a.required]
        with self._required(needed, False):
            namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._explain(unknown[0]))
        missing = [str('/'.join(a.option_strings) or a.metavar or a.dest) for a in needed
                   if getattr(namespace, a.dest, None) is None]
        if missing:
            self.error(f"{', '.join(missing)} is required. Run with --help for an example.")
        return namespace

    @contextlib.contextmanager
    def _required(self, actions, value):
        before = [a.required for a in actions]
        for action in actions:
            action.required = value
        self._relaxed = [] if value else actions
        try:
            yield
        finally:
            for action, required in zip(actions, before):
                action.required = required
            self._relaxed = actions if value else []

    def format_usage(self) -> str:
        with self._required(self._relaxed, True):       # show '-c FILE', not '[-c FILE]'
            return super().format_usage()

    def format_help(self) -> str:
        with self._required(self._relaxed, True):
            return super().format_help()

    def _explain(self, word):
        if word.startswith('-') and word != '-':
            return f"unknown flag '{word}'. {suggest(word.split('=')[0], self.flags())}"
        if '=' in word and '--override' in self.flags():
            return f"stray word '{word}'. Every override needs its own -o: -o {word}"
        return f"stray word '{word}': it belongs to no flag. Remove it, or put its flag in front."


def positive_int(text: str) -> int:
    """Argument type: an integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return value


def number(text: str) -> float:
    """Argument type: a finite number; a whole one stays whole."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return int(value) if value.is_integer() else value


def not_empty(text: str) -> str:
    """Argument type: text that is not empty (an unset shell variable gives an empty one)."""
    if not text.strip():
        raise argparse.ArgumentTypeError('the value is empty')
    return text


def override(text: str) -> str:
    """Argument type: `path=value`; the value is read by passl.utils.config."""
    if not text.partition('=')[0].strip() or '=' not in text:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form key.key=value, for example epochs=100")
    return text


TRAIN_EXAMPLES = """\
examples:
  pre-train on one device:
    %(prog)s -c configs/densecl/densecl_r50.yaml
  change settings (path of keys and list indices; the value is YAML):
    %(prog)s -c FILE -o epochs=100 -o dataloader.train.dataset.dataroot=data/train
  linear classifier on extracted weights, then evaluate it:
    %(prog)s -c configs/moco/moco_clas_r50.yaml --pretrained backbone.pdparams
    %(prog)s -c configs/moco/moco_clas_r50.yaml --load CKPT --evaluate-only
several processes: python -m paddle.distributed.launch [--gpus 0,1,...] tools/train.py -c FILE
"""


def build_train_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/train.py` and `passl train`.

    The namespace has: config_file, override (list of 'path=value'), resume, load, pretrained,
    evaluate_only, export, val_interval (int or None), no_cuda, overwrite, allow_changes,
    allow_imports. Flags that were not given are None, False or [].

    Args:
        prog: program name in the help, for example 'passl train'.
    """
    parser = Parser(prog=prog, description='Pre-train, train, evaluate or export the model of a config file.',
                    epilog=TRAIN_EXAMPLES)
    parser.add_argument('-c', '--config-file', metavar='FILE', required=True, type=not_empty,
                        help='YAML config (required)')
    parser.add_argument('-o', '--override', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='change one setting, for example -o optimizer.weight_decay=1e-4; repeatable')
    weights = parser.add_argument_group('weights')
    weights.add_argument('--resume', metavar='CKPT', type=not_empty,
                         help="continue a run from its checkpoint, exactly (on a GPU: the same state and random "
                              "numbers; the same bits with deterministic: true); 'auto': from the newest valid one in "
                              'the run folder, or from the start if there is none; wins over --load')
    weights.add_argument('--load', metavar='CKPT', type=not_empty,
                         help='start from the model weights of a checkpoint or state dict')
    weights.add_argument('--pretrained', metavar='WEIGHTS', type=not_empty,
                         help='backbone weights (sets model.backbone.pretrained)')
    job = parser.add_argument_group('job')
    kind = job.add_mutually_exclusive_group()
    kind.add_argument('--evaluate-only', action='store_true',
                      help='evaluate and exit; needs only dataloader.val of the config')
    kind.add_argument('--export', metavar='CKPT', type=not_empty,
                      help='write a static inference model of this checkpoint to save_inference_dir and exit')
    job.add_argument('--val-interval', metavar='N', type=positive_int, help='evaluate every N epochs')
    job.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    job.add_argument('--overwrite', action='store_true',
                     help='start anew in a run folder that already holds a run, which is moved aside; with --resume '
                          'FILE: move newer checkpoints aside')
    job.add_argument('--allow-changes', action='store_true',
                     help='resume although settings have changed that change the numbers of the run')
    job.add_argument('--allow-imports', action='store_true',
                     help='run the Python code that custom_imports of the config file names')
    return parser


EXTRACT_EXAMPLES = """\
examples:
  %(prog)s output/densecl_r50/latest.pdparams --output backbone.pdparams
  %(prog)s CKPT --output key.safetensors --prefix encoder_k.0 --remove_prefix
"""


def build_extract_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/extract_weight.py` and `passl extract-weight`.

    The namespace has: checkpoint, output, prefix, remove_prefix, overwrite.

    Args:
        prog: program name in the help, for example 'passl extract-weight'.
    """
    parser = Parser(prog=prog, description="Write a part of a checkpoint's weights, by default the backbone, "
                                           'to a file of its own.', epilog=EXTRACT_EXAMPLES)
    parser.add_argument('checkpoint', metavar='CKPT', type=not_empty,
                        help='checkpoint of a run (.pdparams, PASSL .pd, .pth, .safetensors)')
    parser.add_argument('--output', metavar='FILE', required=True, type=not_empty,
                        help='file to write: .pdparams or .safetensors')
    parser.add_argument('--prefix', metavar='PREFIX', default=DEFAULT_PREFIX, type=not_empty,
                        help="weights whose names start with 'PREFIX.' (default: %(default)s, the query "
                             "encoder's backbone; also encoder_k.0, ...)")
    parser.add_argument('--remove_prefix', '--remove-prefix', action='store_true',
                        help='write the names without the prefix')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing output file')
    return parser


CHECK_EXAMPLES = """\
examples:
  %(prog)s data/my_images
  %(prog)s data/train --val data/val --json report.json
  %(prog)s data/my_images --unlabelled --write-list good.txt --drop-duplicates
  %(prog)s data/my_masks --segmentation folder --split train
exit codes: 0 nothing that would disturb a training, 1 problems were found, 2 wrong usage, 130 interrupted
No image is ever changed or removed.
"""


def build_check_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/check_data.py` and `passl check-data`.

    The namespace has: paths, train, val (lists), root, labelled (True, False or None), recursive, workers (or
    None), size, value_range (or None), segmentation, detection, split, option, json, write_list, drop_duplicates,
    overwrite.

    Args:
        prog: program name in the help, for example 'passl check-data'.
    """
    parser = Parser(prog=prog, description='Look at every image of a folder or list: unreadable files, duplicates, '
                                           'overlap of train and val, labels, sizes.', epilog=CHECK_EXAMPLES)
    parser.add_argument('paths', metavar='PATH', nargs='*', type=not_empty, default=[],
                        help='folder of images, or text file with lines `name` or `name label`')
    parser.add_argument('--train', metavar='PATH', action='append', type=not_empty, default=[],
                        help='the same as PATH; repeatable')
    parser.add_argument('--val', metavar='PATH', action='append', type=not_empty, default=[],
                        help='images that must not be among the others; repeatable')
    parser.add_argument('--root', metavar='FOLDER', type=not_empty,
                        help="folder that the names in a list are relative to (default: the list's own)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument('--labelled', action='store_true', default=None, help='sub-folders are classes (default: if '
                      'there are two or more of them and no images beside them)')
    kind.add_argument('--unlabelled', action='store_false', dest='labelled', help='sub-folders are no classes')
    parser.add_argument('--flat', action='store_false', dest='recursive', help='leave out sub-folders')
    parser.add_argument('--workers', metavar='N', type=positive_int, help='processes (default: the usable cores)')
    parser.add_argument('--size', metavar='N', type=positive_int, default=224,
                        help='images with a shorter side are too small (default: %(default)s)')
    parser.add_argument('--value-range', metavar=('LOW', 'HIGH'), nargs=2, type=number,
                        help='the value_range of your config, for files of more than 8 bits (default: it is measured)')
    labels = parser.add_argument_group('labels (one PATH: the folder of the data set)')
    task = labels.add_mutually_exclusive_group()
    task.add_argument('--segmentation', metavar='KIND', type=not_empty,
                      help='count the masks of folder, list, voc, cityscapes, ade20k or coco, and name those of no use')
    task.add_argument('--detection', metavar='KIND', type=not_empty, help='the same for the boxes of voc or coco')
    labels.add_argument('--split', metavar='NAME', type=not_empty,
                        help='part of the data set, such as val (default: the training part; folder: all)')
    labels.add_argument('--option', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='option of the data set, such as masks=labels; repeatable')
    outputs = parser.add_argument_group('outputs (about the training images)')
    outputs.add_argument('--json', metavar='FILE', type=not_empty, help='the complete report')
    outputs.add_argument('--write-list', metavar='FILE', type=not_empty,
                         help='list of the good images, for the data set ImageList')
    outputs.add_argument('--drop-duplicates', action='store_true', help='only one of equal files in that list')
    outputs.add_argument('--overwrite', action='store_true', help='replace existing output files')
    return parser


ENV_EXAMPLES = """\
examples:
  %(prog)s                      for a bug report: paste what it prints
  %(prog)s --check              does everything work on this machine? Takes up to a minute.
  %(prog)s --check --no-cuda    the same on the CPU
exit codes: 0 everything that was checked works, 1 something does not, 2 wrong usage
Nothing is sent anywhere. Of the environment only variables that change a run are shown.
"""


def build_env_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/env.py` and `passl env`.

    The namespace has: check, no_cuda.

    Args:
        prog: program name in the help, for example 'passl env'.
    """
    parser = Parser(prog=prog, description='Versions, devices and settings of this machine and, with --check, whether '
                                           'trainings work on it.', epilog=ENV_EXAMPLES)
    parser.add_argument('--check', action='store_true',
                        help='also compute every part of a training on this device and compare it with what is right')
    parser.add_argument('--no-cuda', action='store_true', help='look at the CPU')
    return parser
