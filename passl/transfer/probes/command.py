"""The command `passl evaluate`."""

import argparse
import functools
import os
import sys
import time
from typing import Optional

import cv2
from tqdm import tqdm

from ...datasets.labelled import build_segmentation, parse_options, usual_split
from ...datasets.labelled.checked import judge_masks
from ...engine.device import select_device
from ...engine.run_folder import RunFolder
from ...utils.distributed import dist
from ...utils.errors import ConfigError
from ...utils.files import replace_text
from ...utils.language import language
from ...utils.logger import get_logger
from ..reading import Reader, check_range
from . import report, worth
from .clas_data import KINDS, ClassificationSplit, build_classification, check_pair
from .features import Cache
from .jobs import Bench, check_labels, runs_of
from .options import CLASSIFICATION, DENSE
from .results import FILE, Results, key_of
from .seg_data import SegmentationSplit
from .sources import find_sources

CACHE = 'cache'


def _splits(args, kind, root):
    train, val = args.train_split or usual_split(kind, root, 'train'), args.val_split or usual_split(kind, root, 'val')
    if train == val:
        raise ConfigError(f"--train-split and --val-split are both '{train}': the figures would be those of images "
                          'that were learned by heart.')
    return train, val


def _check_flags(args, whole, dense):
    if args.seg_data and not dense:
        raise ConfigError('--seg-data is for linear-seg and knn-seg, and --tasks has neither.')
    if args.option and not dense:
        raise ConfigError('--option is for data sets with masks (linear-seg, knn-seg), and --tasks has neither task.')
    if args.seg_format and not args.seg_data:
        raise ConfigError('--seg-format belongs to --seg-data DIR; the layout of --data is --data-format.')
    if whole and dense and not args.seg_data and args.data_format == 'folder':
        raise ConfigError('--tasks asks for whole images and for masks, which lie in folders of different kinds: give '
                          'the class folders with --data and the masks with --seg-data.')
    if whole and args.data_format not in KINDS:
        raise ConfigError(f'--data-format {args.data_format} has masks only. The tasks on whole images take '
                          f"{' or '.join(KINDS)}; leave them out, or give the masks with --seg-data.")
    if dist.world_size() > 1:
        raise ConfigError('passl evaluate is one process. Start it without the launcher.')


def load_data(args: argparse.Namespace) -> tuple[Optional[list[ClassificationSplit]],
                                                 Optional[list[SegmentationSplit]]]:
    """((train, val) of whole images or None, (train, val) with masks or None)."""
    of_images, of_masks = bool(set(args.tasks) & set(CLASSIFICATION)), bool(set(args.tasks) & set(DENSE))
    _check_flags(args, of_images, of_masks)
    whole = dense = None
    reader = Reader(args.value_range)
    if of_images:
        whole = [build_classification(args.data_format, args.data, split, args.image_size, reader)
                 for split in _splits(args, args.data_format, args.data)]
        check_pair(whole[0], whole[1])
        for split in whole:
            check_labels(args.tasks, split)
    if of_masks:
        kind = (args.seg_format or args.data_format) if args.seg_data else args.data_format
        options = parse_options(args.option)
        root = args.seg_data or args.data
        sets = [build_segmentation(kind, root, split, **options) for split in _splits(args, kind, root)]
        for one in sets:
            one.read_in(args.value_range, reader.doubt)
        dense = [SegmentationSplit(d, args.image_size, title) for d, title in zip(sets, ('train', 'val'))]
        check_pair(dense[0], dense[1])
        judge_masks(dense[0].classes, dense[0].pixels, dense[1].pixels)
    return whole, dense


def evaluate(args: argparse.Namespace) -> int:
    """Measure all weights with all tasks; `args` as `build_evaluate_parser` gives them.

    Every figure is written to results.jsonl when it is there; figures whose weights, data and settings are the same
    are not measured again. The table is printed at the end and written after each backbone.

    Raises:
        PasslError: weights, data or flags that do not fit together.
    """
    log = get_logger()
    cv2.setNumThreads(0)        # images are read by threads of our own
    args = worth.complete(args)
    check_range(args.value_range)
    sources = find_sources(args.weights, args.names, args.depth)
    select_device(no_cuda=args.no_cuda)
    needed = [('--weights', path) for path in args.weights if path != args.init]
    needed += [('--init', args.init), ('--data', args.data), ('--seg-data', args.seg_data)]
    with RunFolder(args.output) as folder:
        folder.claim(args.overwrite, needed, goes_on=FILE, keep=[CACHE])
        folder.tell('running')
        _measure(args, sources)
        folder.tell('done', 0)
    log.info('Wrote %s', os.path.join(args.output, 'comparison.{txt,csv,json,png}'))
    return 0


def _measure(args, sources):
    """All runs of all sources; prints the table."""
    whole, dense = load_data(args)
    for kind, pair in (('whole images', whole), ('masks', dense)):
        if pair:
            get_logger().info('%s: %d for training, %d for the test, %d classes', kind, *map(len, pair),
                              len(pair[0].classes))
    cache = Cache(os.path.join(args.output, CACHE), args.cache_gb)
    labels = functools.lru_cache(None)(dense[0].labels) if dense else None
    measured, kept, runs = [], [], runs_of(args)
    judged = worth.first_column(args, [s.name for s in sources])
    settings = {k: v for k, v in vars(args).items() if k not in ('overwrite', 'output')}
    with Results(args.output) as results, \
            tqdm(total=len(sources) * len(runs), desc='evaluate', unit=' runs', disable=not sys.stderr.isatty(),
                 dynamic_ncols=True) as bar:
        for source in sources:
            bench = Bench(source, args, whole, dense, labels, cache)
            for run in runs:
                figures, outcomes = _figures(bench, run, results, args.worth)
                measured.append((source.name, run, figures))
                kept.append((source.name, run, outcomes))
                bar.update()
            rows = report.rows_of(measured)
            found = worth.judge(kept, judged) if judged and source is sources[-1] else None
            report.write(args.output, rows, sources, settings, found)
    sys.stdout.write('\n'.join(report.table(rows, [s.name for s in sources])) + '\n')
    if found:
        text = '\n'.join(worth.lines(found, language())) + '\n'
        replace_text(os.path.join(args.output, worth.FILE), text)
        sys.stdout.write('\n' + text)
    elif judged:
        get_logger().warning('--worth: one test image tells nothing; no sentence is written.')


def _figures(bench, run, results, with_outcomes):
    """(figures, outcomes or {}) of a run, from `results` if they are there."""
    facts = bench.facts(run)
    key = key_of(facts)
    done = results.get(key)
    outcomes = results.outcomes(key) if with_outcomes else {}
    if done is None or outcomes is None:
        start = time.perf_counter()
        figures = bench.measure(run)
        outcomes = bench.outcomes
        if with_outcomes:
            results.keep(key, outcomes)
        done = {'key': key, 'name': bench.source.name, 'figures': figures, **facts,
                'seconds': round(time.perf_counter() - start, 2)}
        results.add(done)
        setting = '' if run.setting is None else f' {run.setting}'
        get_logger().info('%s: %s%s, seed %d: %s', bench.source.name, run.task, setting, run.seed,
                          ', '.join(f'{k} {v:.4g}' for k, v in figures.items()))
    return done['figures'], outcomes
