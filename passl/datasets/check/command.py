"""The command `passl check-data`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from ...utils.config.kinds import Range, mistake
from ...utils.errors import ConfigError
from ...utils.paddle_env import usable_cores
from ..path_list import PathList
from .files import find_files
from .findings import Part, findings
from .labels import check_labels
from .look import look_at_all
from .outputs import check_output, write_json, write_list
from .report import text_report


def _check_outputs(args):
    if args.drop_duplicates and not args.write_list:
        raise ConfigError('--drop-duplicates belongs to --write-list FILE.')
    check_output(args.json, args.overwrite, '--json')
    check_output(args.write_list, args.overwrite, '--write-list')
    if args.json and args.write_list and os.path.realpath(args.json) == os.path.realpath(args.write_list):
        raise ConfigError('--json and --write-list need files of their own.')


def _sources(args):
    """[(role, [Files])], train first."""
    train = list(args.paths) + list(args.train)
    if not train:
        raise ConfigError('No images are named. Give a PATH: a folder, or a text file that lists images.')
    return [(role, [find_files(p, args.root, args.labelled, args.recursive) for p in paths])
            for role, paths in (('train', train), ('val', args.val)) if paths]


def _look(sources, workers):
    show = sys.stderr.isatty()
    parts, offset = [], 0
    total = sum(len(f.paths) for _, files in sources for f in files)
    with tqdm(total=total, desc='check', unit=' images', disable=not show, dynamic_ncols=True, leave=False) as bar:
        for role, files in sources:
            paths = _Chained([f.paths for f in files])
            records, reasons = look_at_all(paths, workers, bar.update)
            parts.append(Part(role, files, records, reasons, offset))
            offset += len(paths)
    return parts


class _Chained(Sequence):
    """Some PathLists as one sequence."""

    def __init__(self, lists: Sequence[PathList]) -> None:
        self._lists = lists

    def __len__(self):
        return sum(map(len, self._lists))

    def __getitem__(self, index):
        for paths in self._lists:
            if index < len(paths):
                return paths[index]
            index -= len(paths)
        raise IndexError(index)


def check_data(args: argparse.Namespace) -> int:
    """Run the check; `args` as `build_check_parser` gives them.

    Returns:
        0 if nothing would disturb a training, 1 if something would.

    Raises:
        PasslError: no images, or an output that may not be written.
    """
    if args.segmentation or args.detection:
        return check_labels(args, args.workers or usable_cores())
    if args.split or args.option:
        raise ConfigError('--split and --option belong to --segmentation KIND or --detection KIND.')
    _check_outputs(args)
    wrong = '' if args.value_range is None else mistake(Range, args.value_range)
    if wrong:
        raise ConfigError(f'--value-range {wrong}')
    sources = _sources(args)
    start = time.monotonic()
    parts = _look(sources, args.workers or usable_cores())
    seconds = time.monotonic() - start
    report, images = findings(parts, args.size, args.value_range)
    lines = text_report(report)
    lines.append(f'{len(images.records)} images in {seconds:.1f} s '
                 f'({len(images.records) / max(seconds, 1e-9):.0f} images/s).')
    train = parts[0]
    if args.json:
        write_json(args.json, report, args.overwrite)
        lines.append(f'The complete report is in {args.json}.')
    if args.write_list:
        number, root, odd = write_list(args.write_list, images, train, args.drop_duplicates, args.overwrite)
        lines.append(f'{args.write_list} lists {number} good images. Use it with\n'
                     f'  dataset: {{name: ImageList, dataroot: {root}, list_file: {os.path.abspath(args.write_list)}}}')
        if odd:
            lines.append(f'  {odd} good images have names that no list can hold (line breaks, spaces at an end, no '
                         'UTF-8) and are left out.')
    sys.stdout.write('\n'.join(lines) + '\n')
    return 1 if report['problems'] else 0
