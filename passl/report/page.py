"""The page: what the runs tell, set into page.html. One file, in two languages, that loads nothing from anywhere."""

import argparse
import base64
import hashlib
import os
import re
import time
from typing import Any, Optional, Sequence

import jinja2

from .. import __version__
from ..utils.errors import ConfigError
from ..utils.files import replace_text
from ..utils.logger import get_logger
from ..utils.options import Parser, not_empty
from .charts import HEIGHT, WIDTH, band, charts
from .facts import differing, environment, evaluations, figures, next_rows, setting_rows, stages
from .run import CODES, Run, clean, judged, pictures, read_runs

MARK = '<!-- written by passl report -->'
MOST_RUNS = 8               # more curves in one chart cannot be told apart
_PICTURES = 4_500_000       # characters of all pictures together
_SHOWN = 60                 # differing settings
TEMPLATES = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                               loader=jinja2.FileSystemLoader(os.path.dirname(__file__)))
EXAMPLES = """\
examples:
  %(prog)s output_dir/densecl_r50
  %(prog)s runs/a runs/b --output compared.html --evaluation output_dir/dense
"""


def build_report_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/report.py` and `passl report`; the namespace has: runs, output, evaluation."""
    parser = Parser(prog=prog, description='Write what runs were, whether they learned and what to do with them as one '
                                           'HTML file, in English and Chinese.', epilog=EXAMPLES)
    parser.add_argument('runs', metavar='RUN', nargs='+', type=not_empty,
                        help=f'run folder, or its log.jsonl; several (at most {MOST_RUNS}) are compared')
    parser.add_argument('--output', metavar='HTML', type=not_empty,
                        help='file to write (default: report.html in the run folder; of several runs: in the folder '
                             'that holds them all)')
    parser.add_argument('--evaluation', metavar='DIR', action='append', default=[], type=not_empty,
                        help='show the results that `passl evaluate --output DIR` has written; repeatable (those in '
                             'the run folders are found)')
    return parser


def run_report(args: argparse.Namespace) -> None:
    """Carry out `passl report`."""
    write_report(args.runs, args.output or default_output(args.runs), args.evaluation)


def default_output(runs: Sequence[str]) -> str:
    """report.html in the run folder, or in the nearest folder that holds all runs."""
    folders = [run if os.path.isdir(run) else os.path.dirname(run) or '.' for run in runs]
    folder = folders[0] if len(folders) == 1 else os.path.commonpath([os.path.abspath(f) for f in folders])
    return os.path.join(folder, 'report.html')


def write_report(runs: Sequence[str], output: str, evaluations: Sequence[str] = ()) -> None:
    """Write the report of one run, or of several side by side. Nothing but the file is changed.

    Args:
        runs: run folders, or log.jsonl files.
        output: the HTML file. A former report there is replaced.
        evaluations: folders of `passl evaluate --output`, beside those in the run folders.

    Raises:
        DataError: a folder holds no run, or no evaluation.
        ConfigError: more than MOST_RUNS runs; `output` is a file of somebody else, or cannot be written.
    """
    if len(runs) > MOST_RUNS:
        raise ConfigError(f'{len(runs)} runs are given; a report shows {MOST_RUNS} at most, as more curves in one '
                          'chart cannot be told apart. Give fewer.')
    _check_free(output)
    text = render(read_runs(runs), evaluations)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
        replace_text(output, text)
    except OSError as e:
        raise ConfigError(f"'{output}' cannot be written: {e.strerror or e}. Choose another file with --output.") from e
    get_logger().info('Wrote %s (%.1f MB)', output, len(text.encode()) / 1e6)


def _check_free(output):
    """Refuse to replace what is not a former report."""
    if not os.path.lexists(output):
        return
    head = ''
    if os.path.isfile(output):
        with open(output, encoding='utf-8', errors='replace') as f:
            head = f.read(300)
    if MARK not in head:
        raise ConfigError(f"'{output}' is there and is not a report of ours; it is left alone. Choose another file "
                          'with --output.')


def render(runs: Sequence[Run], folders: Sequence[str] = ()) -> str:
    """The page of the runs as HTML. `folders`: of evaluations."""
    drawn, rest = charts(runs)
    end = max(run.iterations for run in runs)
    rows = differing(runs)
    context: dict[str, Any] = {
        'mark': MARK, 'version': __version__, 'made': time.strftime('%Y-%m-%d %H:%M'), 'codes': CODES,
        'charts': drawn, 'rest': rest, 'width': WIDTH, 'height': HEIGHT, 'end': end,
        'rows': rows[:_SHOWN], 'more_rows': max(0, len(rows) - _SHOWN), 'evaluations': evaluations(runs, folders),
        'runs': [{'name': run.name, 'verdict': judged(run), 'figures': figures(run), 'settings': setting_rows(run),
                  'facts': environment(run), 'band': band(run.train, list(CODES), end), 'pictures': shots,
                  'stages': stages(run), 'next': next_rows(run), 'config': run.config_text,
                  'warnings': run.warnings, 'state': clean(run.status.get('state', ''))}
                 for run, shots in zip(runs, _fitting(runs))]}
    text = TEMPLATES.get_template('page.html').render(context)
    # a browser runs this one script and no other, whatever a log or a config may hold
    script = re.search('<script>(.*?)</script>', text, re.S)
    digest = base64.b64encode(hashlib.sha256(script[1].encode() if script else b'').digest()).decode()
    return text.replace('sha256-SCRIPT', f'sha256-{digest}', 1)


def _fitting(runs):
    """The pictures of every run: as many of a kind as keep the file small."""
    for per_kind in (3, 2, 1):
        found = [pictures(run, per_kind) for run in runs]
        if sum(len(data) for rows in found for row in rows for _, data in row['shots']) <= _PICTURES:
            break
    return found
