"""The command `passl` and the entry points that tools/*.py share with it.

Exit codes: 0 done, 1 `check-data` or `env --check` has found problems, 2 something the user can mend (said on
stderr, without a traceback), 75 another process of the job was lost, 128 + N ended by signal N, after saving, where
there was something to save (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 and 140 SIGUSR1 and 2). Anything else is a fault
of the program and keeps its traceback.
"""

import os
import sys
from importlib import import_module
from typing import Any, Callable, NamedTuple, Optional, Sequence

from . import __version__
from .utils.errors import PasslError, suggest
from .utils.logger import setup_logger


class Command(NamedTuple):
    """A subcommand: its line in the help, and two functions as 'module:name' within this package."""
    help: str
    parser: str         # prog -> its parser; its module needs no Paddle
    run: str            # the parsed arguments -> exit code, or None; imported when they are right


COMMANDS = {
    'pretrain': Command('from a folder of images to a backbone; chooses the settings and says why',
                        'planning.command:build_pretrain_parser', 'planning.command:run_pretrain'),
    'train': Command('pre-train, train, evaluate or export the model of a config file',
                     'utils.options:build_train_parser', 'engine.run:train'),
    'extract-weight': Command('write the backbone of a checkpoint to a file of its own',
                              'utils.options:build_extract_parser', 'utils.weights.extract:run_extract'),
    'export': Command('write the backbone for another library, proven to compute the same there',
                      'transfer.weights.command:build_export_parser', 'transfer.weights.command:run_export'),
    'import': Command("take the backbone out of another library's weight file",
                      'transfer.weights.command:build_import_parser', 'transfer.weights.command:run_import'),
    'embed': Command('write the features of images, and draw nearest neighbours',
                     'transfer.embedding.command:build_embed_parser', 'transfer.embedding.command:run_embed'),
    'evaluate': Command('compare backbones by k-NN, linear, SVM, segmentation and fine-tuning',
                        'transfer.probes.options:build_evaluate_parser', 'transfer.probes.command:evaluate'),
    'transfer-seg': Command('fine-tune and use a segmentation model with PaddleSeg',
                            'transfer.paddleseg.options:build_seg_parser', 'transfer.paddleseg.run:run'),
    'transfer-det': Command('fine-tune and use a detector with PaddleDetection',
                            'transfer.paddledet.command:build_transfer_det_parser', 'transfer.paddledet.run:transfer'),
    'visualize': Command('draw what a network sees and what it has learned',
                         'pictures.options:build_visualize_parser', 'pictures.command:visualize'),
    'plot': Command('draw the loss curve of a run folder', 'pictures.options:build_plot_parser',
                    'pictures.curves:run_plot'),
    'report': Command('one page that says what runs were and whether they learned',
                      'report.page:build_report_parser', 'report.page:run_report'),
    'check-data': Command('look for broken, equal and mislabelled images',
                          'utils.options:build_check_parser', 'datasets.check:check_data'),
    'env': Command('tell versions and devices for a bug report; --check: does everything work here?',
                   'utils.options:build_env_parser', 'environment.command:env'),
}
USAGE = 'usage: passl COMMAND [flags]       passl COMMAND --help       passl --version\n\ncommands:\n' + ''.join(
    f'  {name:<16} {command.help}\n' for name, command in COMMANDS.items())


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


def entry(name: str) -> Callable[..., int]:
    """What the tool of a subcommand calls: (words of the command line, program's name in the help) -> exit code."""
    def run_command(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
        args = _function(COMMANDS[name].parser)(prog).parse_args(argv)

        def run():
            setup_logger()
            return _function(COMMANDS[name].run)(args)
        return guarded(run)
    return run_command


def _function(place):
    module, name = place.split(':')
    return getattr(import_module(f'{__package__}.{module}'), name)


train_main, pretrain_main, extract_main = entry('train'), entry('pretrain'), entry('extract-weight')
export_main, import_main, embed_main = entry('export'), entry('import'), entry('embed')
evaluate_main, visualize_main, plot_main = entry('evaluate'), entry('visualize'), entry('plot')
transfer_seg_main, transfer_det_main = entry('transfer-seg'), entry('transfer-det')
report_main, check_main, env_main = entry('report'), entry('check-data'), entry('env')


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
    return entry(argv[0])(argv[1:], prog=f'passl {argv[0]}')
