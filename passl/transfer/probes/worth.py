"""`--worth`: were the weights worth their training? A sentence per pair of columns, with what could be seen at all."""

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ...utils.errors import ConfigError
from .options import DENSE
from .paired import WORTHWHILE, compare
from .report import label
from .sources import RANDOM, default_name

if TYPE_CHECKING:
    from .jobs import Run

FILE = 'worth.txt'
START = 'start'
JUDGED = {'linear': 'top1', 'knn': 'top1_k20', 'finetune': 'top1', 'linear-seg': 'miou', 'knn-seg': 'miou'}

_WORDS = {      # patterns of the % operator
    'en': {
        'helps': 'helps', 'worse': 'does not help: worse', 'open': 'cannot be told with so few labelled test images',
        'useless': f'does not help: less than {WORTHWHILE:g} point better',
        'pair': '%(label)s: %(ours)s instead of %(theirs)s: %(verdict)s. %(difference)+.1f points, 95 %% interval '
                '%(low)+.1f to %(high)+.1f.',
        'power': '  With %(images)d test images%(with_seeds)s a difference below %(smallest).1f points is missed here '
                 'more often than once in five.',
        'seeds': ' and %d seeds', 'more seeds': ' More --seeds would tell more.',
        'more images': ' More test images would tell more.',
        'end': 'Paired over the test images%s. Taken for granted: the test images are independent of each other '
               '(no two of one scene), the labelled training images are given, each file is one training: another run '
               'of it may differ. Each sentence says "helps" without reason about once in 40 at most.',
        'end seeds': ' and the seeds'},
    'zh': {
        'helps': '有帮助', 'worse': '没有帮助：更差', 'open': '带标签的测试图像太少，无法判断',
        'useless': f'没有帮助：提高不到 {WORTHWHILE:g} 个百分点',
        'pair': '%(label)s：用 %(ours)s 代替 %(theirs)s：%(verdict)s。%(difference)+.1f 个百分点，'
                '95 %% 区间 %(low)+.1f 到 %(high)+.1f。',
        'power': '  用 %(images)d 张测试图像%(with_seeds)s，'
                 '这里低于 %(smallest).1f 个百分点的差别五次中有一次以上看不出来。',
        'seeds': '和 %d 个种子', 'more seeds': '增加 --seeds 可以看得更清楚。',
        'more images': '增加测试图像可以看得更清楚。',
        'end': '在测试图像%s上成对比较。前提：测试图像相互独立（没有两张来自同一场景），带标签的训练图像是给定的，'
               '每个文件是一次训练：再训练一次可能不同。每句话无故说“有帮助”的机会大约不超过四十分之一。',
        'end seeds': '和种子'}}


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with what --worth chooses: its columns, and tasks and shares where none are given.

    Raises:
        ConfigError: no task, or none that is judged.
    """
    args = argparse.Namespace(**vars(args))
    if not args.worth:
        if args.tasks is None:
            raise ConfigError('Say with --tasks what is measured, such as --tasks knn,linear, or ask --worth, which '
                              'chooses.')
        if args.init:
            raise ConfigError('--init belongs to --worth.')
    elif args.tasks is None:
        folders = args.data_format == 'folder' and not os.path.isdir(os.path.join(args.data, 'images'))
        args.tasks = ['knn', 'linear'] if folders else ['knn-seg', 'linear-seg']
    elif not set(args.tasks) & set(JUDGED):
        raise ConfigError(f"--worth judges {', '.join(JUDGED)}; --tasks has none of them.")
    args.labels_at = args.labels_at or ([100] if args.worth else [1, 5, 10, 100])
    if args.worth:
        mine = [path for path in args.weights if path != RANDOM]
        if not mine or args.names and len(args.names) != len(mine):
            raise ConfigError('--worth compares the first of --weights with the random start, which needs no mention, '
                              'and with the other files: give at least one file, and with --names a name for each.')
        args.weights = [RANDOM] + [args.init] * bool(args.init) + mine
        names = [RANDOM] + [START] * bool(args.init) + (args.names or [])
        for path in args.weights[len(names):]:
            names.append(default_name(path, names))
        args.names = names
    return args


def judge(kept: Iterable[tuple[str, 'Run', dict[str, np.ndarray]]], ours: str) -> list[dict[str, Any]]:
    """All comparisons of the column `ours` with the others.

    Args:
        kept: [(name of the column, Run, outcomes)], of each column the same runs.

    Returns:
        list of {'task', 'setting', 'figure', 'weights', 'against', 'verdict', 'difference', 'low', 'high', 'smallest',
        'seeds_matter', 'images', 'seeds'}; see `paired.Comparison`.
    """
    rows: dict[tuple, dict[str, list[np.ndarray]]] = {}
    for name, run, outcomes in kept:
        figure = JUDGED.get(run.task, '')
        if run.task == 'knn' and figure not in outcomes:        # fewer training images than that
            figure = next(iter(outcomes))
        if figure in outcomes and len(outcomes[figure]) > 1:
            rows.setdefault((run.task, run.setting, figure), {}).setdefault(name, []).append(outcomes[figure])
    found = []
    for (task, setting, figure), columns in rows.items():
        for name, values in columns.items():
            if name != ours:
                result = compare(np.stack(columns[ours]), np.stack(values))
                found.append({'task': task, 'setting': setting, 'figure': figure, 'weights': ours, 'against': name,
                              'verdict': result.verdict, **result._asdict()})
    return found


def lines(found: Sequence[dict[str, Any]], language: str) -> list[str]:
    """The sentences; nothing if nothing was judged."""
    if not found:
        return []
    words, out = _WORDS[language], []
    for row in found:
        more = words['more seeds' if row['seeds_matter'] else 'more images'] if row['verdict'] == 'open' else ''
        setting = row['setting'] if row['task'] in (*DENSE, 'finetune') else None
        facts = {**row, 'label': label(row['task'], setting, row['figure']), 'ours': row['weights'],
                 'theirs': row['against'], 'verdict': words[row['verdict']],
                 'with_seeds': words['seeds'] % row['seeds'] if row['seeds'] > 1 else ''}
        out += [words['pair'] % facts, words['power'] % facts + more]
    several = any(row['seeds'] > 1 for row in found)
    return out + [words['end'] % (words['end seeds'] if several else '')]


def first_column(args: argparse.Namespace, names: Sequence[str]) -> Optional[str]:
    """The name of the column that is judged: of the first of the user's weights."""
    return names[1 + bool(args.init)] if args.worth else None
