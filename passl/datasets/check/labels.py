"""The part of `passl check-data` that looks at masks and boxes."""

import argparse
import sys
import time
from typing import Callable

from tqdm import tqdm

from ...utils.errors import ConfigError
from ..labelled import build_detection, build_segmentation, parse_options
from ..labelled.checked import fault_of_masks
from ..labelled.statistics import detection_statistics, segmentation_statistics
from .outputs import check_output, write_json
from .report import _sample, shown

_SHOWN_CLASSES = 20


def _check_flags(args):
    for key, given in _of_images(args).items():
        if given:
            raise ConfigError(f"--{key.replace('_', '-')} belongs to the check of images, not to that of labels.")
    if len(args.paths) != 1:
        raise ConfigError(f'The check of labels needs one PATH, the folder of the data set, not {len(args.paths)}.')
    check_output(args.json, args.overwrite, '--json')


def _of_images(args):
    """{flag of the check of images: whether it was given}."""
    return {'train': args.train, 'val': args.val, 'root': args.root, 'labelled': args.labelled is not None,
            'write_list': args.write_list, 'drop_duplicates': args.drop_duplicates}


def _table(report):
    """Lines on the classes, the most frequent first."""
    pixels = report['task'] == 'segmentation'
    classes = sorted(report['classes'], key=lambda c: -c['pixels' if pixels else 'objects'])
    lines = [f"  {'pixels' if pixels else 'objects':>9}  images  class"]
    for c in classes[:_SHOWN_CLASSES]:
        first = f"{100 * c['share']:7.2f} %" if pixels else f"{c['objects']:9d}"
        lines.append(f"  {first}  {c['images']:6d}  {shown(c['name'])}")
    if len(classes) > _SHOWN_CLASSES:
        lines.append(f'  ... {len(classes) - _SHOWN_CLASSES} more')
    return lines


def _text(report):
    number, bad = report['images'], report['unusable']
    what = f"{number} images, {len(report['classes'])} classes"
    if report['task'] == 'segmentation':
        lines = [f"{what}; {100 * report['ignored']:.2f} % of the pixels are ignored."]
    else:
        lines = [f"{what}; {sum(c['objects'] for c in report['classes'])} objects, "
                 f"{report['empty']} images without any."]
    lines += _table(report)
    if bad:
        lines += [f'{len(bad)} of {number} images cannot be used with their labels. Mend or remove them.',
                  *_sample([f"{b['id']}: {b['reason']}" for b in bad])]
    if report.get('bad_boxes'):
        found = report['bad_boxes']
        lines += [f'{len(found)} boxes have no area or lie outside their image; training leaves them out. Mend them.',
                  *_sample([b['reason'] for b in found])]
    if report.get('cut') or report.get('tiny'):
        lines.append(f"note: {report['cut']} boxes reach beyond their image and are cut, {report['tiny']} are smaller "
                     'than a pixel.')
    if report['turned']:
        lines.append(f"note: {report['turned']} images carry an EXIF tag that turns them. The labels must belong to "
                     'the turned image; for those of the pixels as they are stored use exif=False.')
    if report.get('nothing_to_learn'):
        lines.append(report['nothing_to_learn'])
    if report['absent']:
        count = len(report['absent'])
        lines += [f"note: {count} class{'es are' if count > 1 else ' is'} in no image.", *_sample(report['absent'])]
    lines.append(f"Problems: {', '.join(report['problems'])}." if report['problems'] else 'No problems.')
    return lines


def check_labels(args: argparse.Namespace, workers: int) -> int:
    """Run the check of labels; `args` as `build_check_parser` gives them, with `segmentation` or `detection`.

    Returns:
        0 if all labels can be used, 1 if some cannot.

    Raises:
        PasslError: another layout, unknown options, or an output that may not be written.
    """
    _check_flags(args)
    task, kind = ('segmentation', args.segmentation) if args.segmentation else ('detection', args.detection)
    jobs: dict[str, tuple[Callable, Callable]] = {
        'segmentation': (build_segmentation, segmentation_statistics),
        'detection': (build_detection, detection_statistics)}
    build, look = jobs[task]
    dataset = build(kind, args.paths[0], args.split, **parse_options(args.option))
    start = time.monotonic()
    with tqdm(total=len(dataset), desc='check', unit=' images', disable=not sys.stderr.isatty(), dynamic_ncols=True,
              leave=False) as bar:
        found = look(dataset, workers, bar.update)
    seconds = time.monotonic() - start
    report = {'format': 'passl label check', 'version': 1, 'task': task, 'kind': kind, 'root': str(args.paths[0]),
              'split': dataset.split, **found}
    del report['remembered']
    if task == 'segmentation':
        pixels = report.pop('pixels')
        report['nothing_to_learn'] = fault_of_masks(dataset.classes, pixels) if pixels.any() else ''
    report['problems'] = [key for key in ('unusable', 'bad_boxes', 'nothing_to_learn') if report.get(key)]
    lines = _text(report)
    lines.append(f'{len(dataset)} images in {seconds:.1f} s ({len(dataset) / max(seconds, 1e-9):.0f} images/s).')
    if args.json:
        write_json(args.json, report, args.overwrite)
        lines.append(f'The complete report is in {args.json}.')
    sys.stdout.write('\n'.join(lines) + '\n')
    return 1 if report['problems'] else 0
