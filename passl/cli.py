"""The command `passl` and the entry points that tools/*.py share with it.

Exit codes: 0 done, 1 `check-data` or `env --check` has found problems, 2 something the user can mend (said on
stderr, without a traceback), 75 another process of the job was lost, 128 + N ended by signal N, after saving, where
there was something to save (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 and 140 SIGUSR1 and 2). Anything else is a fault
of the program and keeps its traceback.
"""

import os
import sys
from typing import Any, Callable, Optional, Sequence

from . import __version__
from .utils.errors import PasslError, suggest
from .utils.logger import setup_logger
from .utils.options import (Parser, build_check_parser, build_env_parser, build_extract_parser, build_train_parser,
                            not_empty)

USAGE = """\
usage: passl COMMAND [flags]       passl COMMAND --help       passl --version

commands:
  pretrain         from a folder of images to a backbone; chooses the settings and says why
  train            pre-train, train, evaluate or export the model of a config file
  extract-weight   write the backbone of a checkpoint to a file of its own
  export           write the backbone for another library, proven to compute the same there
  import           take the backbone out of another library's weight file
  embed            write the features of images, and draw nearest neighbours
  evaluate         compare backbones by k-NN, linear, SVM, segmentation and fine-tuning
  transfer-seg     fine-tune and use a segmentation model with PaddleSeg
  transfer-det     fine-tune and use a detector with PaddleDetection
  visualize        draw what a network sees and what it has learned
  plot             draw the loss curve of a run folder
  report           one page that says what runs were and whether they learned
  check-data       look for broken, equal and mislabelled images
  env              tell versions and devices for a bug report; --check: does everything work here?
"""


def guarded(function: Callable[..., Optional[int]], *args: Any, **kwargs: Any) -> int:
    """Call `function` and turn the user's errors and Ctrl-C into exit codes.

    Returns:
        The function's integer result (None counts as 0), the code of a PasslError (2 if the user can mend it, 75 if
        another process was lost), 130 after Ctrl-C.
    """
    open_streams()
    try:
        return function(*args, **kwargs) or 0
    except PasslError as e:
        _say(f'error: {e}\n')
        return e.exit_code
    except KeyboardInterrupt:
        _say('\ninterrupted\n')
        return 130
    finally:
        _say('')


def open_streams() -> None:
    """Put /dev/null where a standard stream is closed (`2>&-`): the next file that is opened would get its number."""
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)          # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, 'w' if number else 'r', closefd=False))


def _say(text: str) -> None:
    """Write to stderr after all that stdout holds back; a stream that nobody reads any more is no error."""
    for stream, words in ((sys.stdout, ''), (sys.stderr, text)):
        try:
            stream.write(words)
            stream.flush()
        except (OSError, ValueError):       # at its end Python would try again, and change the exit code to 120
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError):   # no stream of the system
                pass


def build_plot_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/plot_log.py` and `passl plot`; the namespace has: run, output."""
    parser = Parser(prog=prog, description='Draw loss, accuracy and learning rate of a run as a PNG.')
    parser.add_argument('run', metavar='RUN', type=not_empty, help='run folder, or its log.jsonl')
    parser.add_argument('--output', metavar='PNG', type=not_empty,
                        help='file to write (default: loss.png in the run folder)')
    return parser


def train_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/train.py` and `passl train`."""
    args = build_train_parser(prog).parse_args(argv)

    def run():
        from .engine.run import train
        return train(args)
    return guarded(run)


def pretrain_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/pretrain.py` and `passl pretrain`."""
    from .planning.command import build_pretrain_parser, run_pretrain
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(run_pretrain, build_pretrain_parser(prog).parse_args(words), words)


def extract_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/extract_weight.py` and `passl extract-weight`."""
    args = build_extract_parser(prog).parse_args(argv)

    def run():
        from .utils.weights.extract import extract_weight
        setup_logger()          # it logs its one sentence itself
        extract_weight(args.checkpoint, args.output, prefix=args.prefix, remove_prefix=args.remove_prefix,
                       overwrite=args.overwrite)
    return guarded(run)


def export_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/export_weights.py` and `passl export`."""
    from .transfer.weights.command import build_export_parser, run_export
    return guarded(run_export, build_export_parser(prog).parse_args(argv))


def import_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/import_weights.py` and `passl import`."""
    from .transfer.weights.command import build_import_parser, run_import
    return guarded(run_import, build_import_parser(prog).parse_args(argv))


def plot_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/plot_log.py` and `passl plot`."""
    args = build_plot_parser(prog).parse_args(argv)
    log = os.path.join(args.run, 'log.jsonl') if os.path.isdir(args.run) else args.run
    output = args.output or os.path.join(os.path.dirname(log), 'loss.png')

    def run():
        from .pictures.curves import plot_loss
        plot_loss(log, output)
        setup_logger().info('Wrote %s', output)
    return guarded(run)


def report_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/report.py` and `passl report`."""
    from .report.page import build_report_parser, default_output, write_report
    args = build_report_parser(prog).parse_args(argv)

    def run():
        setup_logger()
        write_report(args.runs, args.output or default_output(args.runs), args.evaluation)
    return guarded(run)


def check_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/check_data.py` and `passl check-data`; exit code 1: problems were found."""
    args = build_check_parser(prog).parse_args(argv)

    def run():
        from .datasets.check import check_data
        setup_logger()
        return check_data(args)
    return guarded(run)


def env_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/env.py` and `passl env`; exit code 1: --check has found something that does not work."""
    from .environment.command import env
    return guarded(env, build_env_parser(prog).parse_args(argv))


def evaluate_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/evaluate.py` and `passl evaluate`."""
    from .transfer.probes.options import build_evaluate_parser
    args = build_evaluate_parser(prog).parse_args(argv)

    def run():
        from .transfer.probes.command import evaluate
        setup_logger()
        return evaluate(args)
    return guarded(run)


def embed_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/embed.py` and `passl embed`."""
    from .transfer.embedding.command import build_embed_parser, run_embed
    return guarded(run_embed, build_embed_parser(prog).parse_args(argv))


def transfer_seg_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/transfer_seg.py` and `passl transfer-seg`."""
    from .transfer.paddleseg.options import build_seg_parser
    args = build_seg_parser(prog).parse_args(argv)

    def run():
        from .transfer.paddleseg.run import run as run_seg
        return run_seg(args)
    return guarded(run)


def transfer_det_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/transfer_det.py` and `passl transfer-det`."""
    from .transfer.paddledet.command import parse_transfer_det
    args = parse_transfer_det(argv, prog)

    def run():
        from .transfer.paddledet.run import transfer
        return transfer(args)
    return guarded(run)


def visualize_main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """`tools/visualize.py` and `passl visualize`."""
    from .pictures.options import build_visualize_parser
    args = build_visualize_parser(prog).parse_args(argv)

    def run():
        from .pictures.command import visualize
        setup_logger()
        return visualize(args)
    return guarded(run)


COMMANDS = {'pretrain': pretrain_main, 'train': train_main, 'extract-weight': extract_main, 'export': export_main,
            'import': import_main, 'embed': embed_main, 'evaluate': evaluate_main,
            'transfer-seg': transfer_seg_main, 'transfer-det': transfer_det_main, 'visualize': visualize_main,
            'plot': plot_main, 'report': report_main, 'check-data': check_main, 'env': env_main}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """`passl` and `python -m passl`.

    Args:
        argv: words after the program's name; default: those of this process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ('-h', '--help'):
        (sys.stdout if argv else sys.stderr).write(USAGE)
        return 0 if argv else 2
    if argv[0] in ('-V', '--version'):
        sys.stdout.write(f'passl {__version__}\n')
        return 0
    if argv[0] not in COMMANDS:
        sys.stderr.write(f"{USAGE}\nerror: unknown command '{argv[0]}'. {suggest(argv[0], COMMANDS)}\n")
        return 2
    return COMMANDS[argv[0]](argv[1:], prog=f'passl {argv[0]}')
