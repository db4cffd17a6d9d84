"""What the looked-at files amount to: a dict of plain values, the content of the JSON report."""

import collections
import os
from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np

from ..contents import masks_among
from ..values import KINDS, NARROW, natural_range
from .files import Files
from .look import FLAGS, FORMATS, OK, REASONS, flag

FORMAT = 'passl data check'
VERSION = 2         # 1 had similar images as well
_LARGEST_ASPECT = 8
_IMBALANCE = 10


class Part:
    """The images of one side, 'train' or 'val': all its PATHs behind each other.

    Attributes:
        role: 'train' or 'val'. files: list of Files. records, reasons: as look_at_all gives them.
        offset: number of its first image among those of all parts.
        labels: class numbers into `classes`, or None where a PATH has none.
        classes: sorted names of the classes of all its PATHs.
    """

    def __init__(self, role: str, files: Sequence[Files], records: np.ndarray, reasons: dict[int, str],
                 offset: int) -> None:
        self.role, self.files, self.records, self.reasons, self.offset = role, files, records, reasons, offset
        self.starts = np.cumsum([0] + [len(f.paths) for f in files])
        self.labels, self.classes = None, []
        if files and all(f.labels is not None for f in files):
            names = {name for f in files for name in f.classes}
            numbers = all(f.kind == 'list' for f in files)
            self.classes = sorted(names, key=int) if numbers else sorted(names)
            at = {name: i for i, name in enumerate(self.classes)}
            self.labels = np.concatenate([np.array([at[c] for c in f.classes], np.int32)[f.labels] for f in files])

    def __len__(self):
        return len(self.records)

    def path(self, number: Union[int, np.integer]) -> str:
        """Name of image `number` of this part."""
        which = int(np.searchsorted(self.starts, number, 'right')) - 1
        return self.files[which].paths[int(number) - int(self.starts[which])]


class Images:
    """All parts behind each other: arrays over all images, and their names."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.records = np.concatenate([p.records for p in parts])
        self.ok = self.records['state'] == OK
        self.is_val = np.repeat([p.role == 'val' for p in parts], [len(p) for p in parts])
        # class names, not numbers, are the same on both sides
        names = sorted({c for p in parts for c in p.classes})
        at = {name: i for i, name in enumerate(names)}
        self.classes = names
        self.labels = np.concatenate([
            np.full(len(p), -1, np.int32) if p.labels is None else
            np.array([at[c] for c in p.classes], np.int32)[p.labels] for p in parts])
        self._exact()

    def path(self, number: int) -> str:
        part = next(p for p in reversed(self.parts) if number >= p.offset)
        return part.path(number - part.offset)

    def _exact(self):
        """`content`: the number of the first image with the same bytes, or itself; unreadable ones are alone."""
        self.content = np.arange(len(self.records))
        good = np.flatnonzero(self.ok)
        if len(good):
            digests = np.ascontiguousarray(self.records['digest'][good]).view('<u8').reshape(-1, 2)
            order = np.lexsort((good, digests[:, 1], digests[:, 0]))
            same = (digests[order][1:] == digests[order][:-1]).all(1)
            first = np.flatnonzero(np.r_[True, ~same])
            self.content[good[order]] = np.repeat(good[order[first]], np.diff(np.r_[first, len(order)]))


def _groups(labels):
    """Lists of two or more indices with equal labels, in the order of their first members."""
    order = np.argsort(labels, kind='stable')
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((g for g in parts if len(g) > 1), key=lambda g: int(g[0]))


def _unreadable(part):
    """[{file, reason, detail}] of one part, in its order."""
    return [{'file': part.path(i), 'reason': REASONS[part.records[i]['state']], 'detail': part.reasons.get(int(i), '')}
            for i in np.flatnonzero(part.records['state'] != OK)]


def _distribution(values):
    if not len(values):
        return None
    return {'smallest': int(values.min()), 'median': int(np.median(values)), 'largest': int(values.max())}


def _sizes(part, size):
    """Widths, heights, short sides; names of the smallest and largest, too small and very long images."""
    good = np.flatnonzero(part.records['state'] == OK)
    width, height = (part.records[k][good].astype(np.int64) for k in ('width', 'height'))
    short, long = np.minimum(width, height), np.maximum(width, height)
    small, stretched = good[short < size], good[long > _LARGEST_ASPECT * np.maximum(short, 1)]
    found = {'width': _distribution(width), 'height': _distribution(height), 'short_side': _distribution(short),
             'too_small': {'below': size, 'number': len(small), 'files': [part.path(i) for i in small]},
             'extreme_aspect': {'above': _LARGEST_ASPECT, 'number': len(stretched),
                                'files': [part.path(i) for i in stretched]}}
    if len(good):
        for key, at in (('smallest_file', np.argmin(width * height)), ('largest_file', np.argmax(width * height))):
            found[key] = {'file': part.path(good[at]), 'width': int(width[at]), 'height': int(height[at])}
    return found


def _plain(number):
    """A number as one would write it: whole without a point, others with six digits."""
    return int(number) if float(number).is_integer() else float(f'{number:.6g}')


def _values(part, value_range):
    """What the files of more than 8 bits hold; None if there are none.

    `measured` is the range over all of them; `narrow` are those that use less than 5 % of `value_range` or, without
    one, of that; `cut` is the number of those that reach beyond it.
    """
    deep = np.flatnonzero((part.records['state'] == OK) & ~np.isnan(part.records['values'][:, 0]))
    if not len(deep):
        return None
    kinds = np.bincount(part.records['depth'][deep], minlength=len(KINDS))
    lowest, highest, low, high = part.records['values'][deep].T
    measured = [_plain(low.min()), _plain(high.max())] if low.min() < high.max() else None
    bottom, top = value_range or measured or (0, 0)
    used = np.minimum(high, top) - np.maximum(low, bottom)
    narrow = deep[(used < NARROW * (top - bottom)) & (lowest < highest)]
    return {'kinds': {name: int(n) for name, n in zip(KINDS, kinds) if n}, 'lowest': _plain(lowest.min()),
            'highest': _plain(highest.max()), 'measured': measured, 'value_range': value_range and list(value_range),
            'cut': int(np.count_nonzero((low < bottom) | (high > top))) if value_range else 0,
            'narrow': [part.path(i) for i in narrow]}


def _wrong_range(values):
    """Whether a training without `value_range` would refuse such files, or see a part of their shades only.

    None if there are no such files, or the range is given.
    """
    if values is None or values['value_range'] or not values['measured']:
        return None
    ranges = [natural_range(kind) for kind in values['kinds']]
    low, high = values['measured']
    return any(r is None or high - low < (r[1] - r[0]) / 2 for r in ranges)


def _labels(part):
    if part.labels is None:
        return None
    counts = np.bincount(part.labels, minlength=len(part.classes))
    per_class = {name: int(n) for name, n in zip(part.classes, counts)}
    filled = counts[counts > 0]
    return {'images_per_class': per_class, 'empty': [c for c, n in per_class.items() if not n],
            'imbalance': round(float(filled.max() / filled.min()), 2) if len(filled) else None}


def _summary(part, size, value_range):
    records = part.records
    good = records[records['state'] == OK]
    flagged = {name: np.flatnonzero((records['state'] == OK) & (records['flags'] & flag(name) > 0)) for name in FLAGS}
    values = _values(part, value_range)
    left_out = [f.left_out for f in part.files]
    kinds = sum((x.kinds for x in left_out), collections.Counter())
    systems = sum((x.systems for x in left_out), collections.Counter())
    return {
        'paths': [{'path': f.name, 'read_as': f.kind, 'root': f.root, 'images': len(f.paths)} for f in part.files],
        'images': len(records), 'readable': len(good), 'bytes': int(records['bytes'].sum()),
        'unreadable': _unreadable(part),
        'folders_not_listed': [{'folder': d, 'reason': r} for f in part.files for d, r in f.unlistable],
        'formats': {name: int(n) for name, n in zip(FORMATS, np.bincount(good['format'], minlength=len(FORMATS))) if n},
        'modes': {name: len(flagged[name]) for name in FLAGS if name not in ('wrong ending', 'blank', 'narrow')},
        'wrong_ending': [{'file': part.path(i), 'format': FORMATS[records[i]['format']]}
                         for i in flagged['wrong ending']],
        'blank': [part.path(i) for i in flagged['blank']],
        'values': values,
        'narrow': sorted([part.path(i) for i in flagged['narrow']] + (values['narrow'] if values else [])),
        'sizes': _sizes(part, size), 'labels': _labels(part),
        'left_out': {'by_ending': dict(sorted(kinds.items(), key=lambda kv: (-kv[1], kv[0]))),
                     'systems': dict(sorted(systems.items())), 'hidden': sum(x.hidden for x in left_out),
                     'examples': [n for x in left_out for n in x.examples],
                     'words': [x.words() for x in left_out if x.words()],
                     'pictures': [x.unread_pictures() for x in left_out if x.unread_pictures()]},
        'masks': [words for words in (masks_among(f.paths, [f.root]) for f in part.files if f.labels is None) if words],
        'looks_like_splits': any(f.splits and f.kind == 'folder' for f in part.files)}


def _conflicts(images, groups):
    """Those of `groups` with more than one class."""
    found = []
    for group in groups:
        labels = images.labels[group]
        if len(set(labels[labels >= 0].tolist())) > 1:
            found.append([{'file': images.path(int(i)), 'class': images.classes[labels[k]] if labels[k] >= 0 else None}
                          for k, i in enumerate(group)])
    return found


def _duplicates(images):
    """The parts of the report on equal files, on overlap and on images with two labels."""
    groups = _groups(images.content)
    in_train = {int(images.content[i]): int(i) for i in np.flatnonzero(images.ok & ~images.is_val)[::-1]}
    copies = [(int(i), in_train[int(images.content[i])]) for i in np.flatnonzero(images.ok & images.is_val)
              if int(images.content[i]) in in_train]
    return {
        'exact_duplicates': {'groups': [[images.path(int(i)) for i in g] for g in groups],
                             'superfluous': sum(len(g) - 1 for g in groups)},
        'overlap': {'exact': [{'val': images.path(v), 'train': images.path(t)} for v, t in copies]}
        if images.is_val.any() else None,
        'two_labels': {'exact': _conflicts(images, groups)}}


def _class_difference(parts):
    sides = {role: [p for p in parts if p.role == role and p.labels is not None] for role in ('train', 'val')}
    if not sides['train'] or not sides['val']:
        return None
    train, val = (sides[role][0].classes for role in ('train', 'val'))
    return {'only_in_train': [c for c in train if c not in set(val)],
            'only_in_val': [c for c in val if c not in set(train)]}


def _problems(report):
    """Names of the findings that would disturb a training, most important first."""
    parts = [report[role] for role in ('train', 'val') if report[role]]
    overlap, classes = report['overlap'], report['class_difference']
    labels = [p['labels'] for p in parts if p['labels']]
    tests = [('folders_not_listed', any(p['folders_not_listed'] for p in parts)),
             ('unreadable', any(p['unreadable'] for p in parts)),
             ('overlap', overlap and overlap['exact']),
             ('two_labels', report['two_labels']['exact']),
             ('class_difference', classes and (classes['only_in_train'] or classes['only_in_val'])),
             ('empty_classes', any(x['empty'] for x in labels)),
             ('looks_like_splits', any(p['looks_like_splits'] for p in parts)),
             ('masks', any(p['masks'] for p in parts)),
             ('value_range', any(_wrong_range(p['values']) for p in parts)),
             ('narrow', any(p['narrow'] for p in parts)),
             ('blank', any(p['blank'] for p in parts))]
    return [name for name, found in tests if found]


def _notes(report):
    """Names of the findings that are worth a look."""
    parts = [report[role] for role in ('train', 'val') if report[role]]
    tests = [('exact_duplicates', report['exact_duplicates']['groups']),
             ('imbalance', any(p['labels'] and (p['labels']['imbalance'] or 0) > _IMBALANCE for p in parts)),
             ('too_small', any(p['sizes']['too_small']['number'] for p in parts)),
             ('extreme_aspect', any(p['sizes']['extreme_aspect']['number'] for p in parts)),
             ('wrong_ending', any(p['wrong_ending'] for p in parts)),
             ('deep', any(_wrong_range(p['values']) is False for p in parts)),
             ('cut', any(p['values'] and p['values']['cut'] for p in parts)),
             ('left_out', any(p['left_out']['words'] for p in parts))]
    return [name for name, found in tests if found]


def findings(parts: Sequence[Part], size: int,
             value_range: Optional[Sequence[float]] = None) -> tuple[dict[str, Any], Images]:
    """The whole report.

    Args:
        parts: list of Part, train first.
        size: images with a shorter side count as too small.
        value_range: the setting of the data set, if it has one.

    Returns:
        (report as docs/CHECK_DATA.md lists it, Images)
    """
    images = Images(parts)
    report = {'format': FORMAT, 'version': VERSION, 'folder': os.getcwd(), 'train': None, 'val': None}
    report.update({p.role: _summary(p, size, value_range) for p in parts})
    report.update(_duplicates(images), class_difference=_class_difference(parts))
    report['problems'], report['notes'] = _problems(report), _notes(report)
    return report, images
