"""Rows of plain words and figures on runs, for the tables of the page; names are in English and Chinese."""

import glob
import math
import os
from typing import Any, Optional, Sequence

from ..transfer.probes.report import JSON_FILE, cell_text, shown
from ..utils.errors import DataError
from ..utils.misc import format_eta
from ..utils.next_commands import NAMES, next_commands
from ..utils.run_log import series
from .charts import Words, short, window
from .run import Run, at, clean, read_json

Rows = list[tuple[Words, str]]
_LONGEST = 1e9               # seconds of a training that somebody waits for


def figures(run: Run) -> Rows:
    """(name in both languages, value) of where the run stands: where its curves end."""
    last = run.train[-window(len(run.train)):]
    wanted = {'loss_global': ('loss, global', '损失，全局'), 'loss_dense': ('loss, dense', '损失，稠密'),
              'acc1': ('key first (%)', '首选即键（%）'), 'acc1_dense': ('key first, dense (%)', '首选即键，稠密（%）'),
              'std': ('spread, images', '分散度，图像'), 'std_dense': ('spread, cells', '分散度，格子'),
              'match_true': ('true matches (%)', '正确匹配（%）'), 'ips': ('images/s', '图像/秒')}
    if not any('loss_global' in r for r in last):
        wanted = {'loss': ('loss', '损失'), **wanted}
    rows = []
    for key, name in wanted.items():
        values = [v for v in series(last, key)[1] if math.isfinite(v)]
        rows += [(name, short(sum(values) / len(values)))] if values else []
    return rows


def setting_rows(run: Run) -> Rows:
    """(name in both languages, value) of the settings in short."""
    c, sampler = run.config, ('dataloader', 'train', 'sampler')
    dataset = at(c, 'dataloader', 'train', 'dataset') or {}
    backbone, transforms = at(c, 'model', 'backbone'), at(dataset, 'transforms')
    transforms = transforms if isinstance(transforms, list) else []
    dense = [at(c, 'model', k, 'name') or at(c, 'model', k) for k in ('correspondence', 'negatives')]
    images, batch = run.data or (None, at(c, *sampler, 'batch_size'))
    network = [at(backbone, 'name'), at(backbone, 'depth')]
    rows = [(('Data', '数据'), at(dataset, 'dataroot') or at(dataset, 'list_file')), (('Images', '图像数'), images),
            (('Method', '方法'), at(c, 'model', 'name')),
            (('Dense pairs and negatives', '稠密配对与负样本'), ', '.join(str(d) for d in dense if d) or None),
            (('Backbone', '骨干网络'), '-'.join(str(n) for n in network if n is not None) or None),
            (('Started from', '起点'), at(backbone, 'pretrained')),
            (('Crop (px)', '裁剪（像素）'), next((at(t, 'size') for t in transforms if at(t, 'size')), None)),
            (('Batch', '批'), batch), (('Queue K', '队列 K'), at(c, 'model', 'K')),
            (('Momentum m', '动量 m'), at(c, 'model', 'm')),
            (('Learning rate', '学习率'), at(c, 'lr_scheduler', 'learning_rate')),
            (('Steps done', '已完成步数'), run.iterations), (('Steps planned', '计划步数'), at(c, 'total_iters')),
            (('Epochs planned', '计划轮数'), at(c, 'epochs')),
            (('Precision', '精度'), (at(c, 'AMP', 'dtype') or 'float16') if at(c, 'use_amp') else 'float32'),
            (('Seed', '随机种子'), at(c, 'seed'))]
    return [(name, _number(value)) for name, value in rows if value is not None]


def _number(value):
    return f'{value:,}' if type(value) is int and abs(value) < 2**63 else clean(value)[:300]


def environment(run: Run) -> Rows:
    """(name in both languages, value) of where and how the run ran."""
    latest = run.train[-1] if run.train else {}
    seconds, before = 0.0, 0
    for step, value in zip(*series(run.train, 'time')):
        seconds, before = seconds + value * (step - before), step
    known = 0 < seconds < _LONGEST
    memory = series(run.train, 'memory_mb')[1]
    rows = [(('Folder', '文件夹'), run.folder),
            (('State', '状态'), run.status.get('state')), (('Message', '消息'), run.status.get('message') or None),
            (('Last change', '最后更新'), run.status.get('time')),
            (('Epochs begun', '已开始的轮数'), latest.get('epoch')),
            (('Training time', '训练用时'), format_eta(seconds) if known else None),
            (('Memory, peak (MiB)', '内存峰值（MiB）'), f'{max(memory):,.0f}' if memory else None)]
    rows += [(('Software and device', '软件与设备'), head) for head in run.head[-3:]]
    return [(name, clean(value)[:500]) for name, value in rows if value is not None]


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, value in each run) of the settings that are not the same in all runs; '–' where a run has none."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = list(dict.fromkeys(k for settings in flat for k in settings if not k.startswith('output_dir')))
    rows = [(key, [settings.get(key, '–') for settings in flat]) for key in keys]
    return [row for row in rows if len(set(row[1])) > 1]


def _flat(value, front=''):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items or isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        yield clean(front), clean(value)[:200]
        return
    for key, inner in items:
        yield from _flat(inner, f'{front}.{key}' if front else str(key))


def evaluation(folder: str) -> Optional[dict[str, Any]]:
    """{'folder', 'names', 'rows': [(label, [(text, bar)])], 'notes'} of what `passl evaluate --output` wrote.

    None if the folder holds no comparison, or a damaged one.
    """
    content = read_json(folder, JSON_FILE)
    try:
        names = [w['name'] for w in content['weights']]
        every = [r for r in content['rows'] if isinstance(r['figure'], str) and shown(r)]
        rows = [(clean(r['label']), _with_bars([r['cells'].get(name) for name in names])) for r in every]
        kinds: dict[Any, set[str]] = {}
        for r in every:
            for cell in r['cells'].values():
                kinds.setdefault((cell['kind'], len(cell['values'])), set()).add(clean(r['task']))
        notes = [(kind, number, ', '.join(sorted(tasks))) for (kind, number), tasks in kinds.items()
                 if kind in ('t95', 'sd')]
        data = at(content, 'settings', 'data')
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None
    return {'folder': clean(folder), 'names': [clean(n) for n in names], 'rows': rows, 'notes': notes,
            'data': clean(data) if data else None}


def _with_bars(cells):
    """[(text, length of its bar in percent of the row's longest)]"""
    means = [float(c['mean']) if c else 0.0 for c in cells]
    most = max([m for m in means if 0 < m < math.inf], default=1.0)
    return [(cell_text(c), 100 * m / most if 0 < m <= most else 0.0) for c, m in zip(cells, means)]


def evaluations(runs: Sequence[Run], given: Sequence[str]) -> list[dict[str, Any]]:
    """Of the folders given, and of those found in the run folders.

    Raises:
        DataError: a folder given that holds no comparison.
    """
    for folder in given:
        if evaluation(folder) is None:
            raise DataError(f"'{folder}' holds no {JSON_FILE} that can be read. Give the folder that "
                            '`passl evaluate ... --output DIR` has written.')
    inside = [os.path.dirname(p) for run in runs for depth in ('', '*', os.path.join('*', '*'))
              for p in sorted(glob.glob(os.path.join(glob.escape(run.folder), depth, JSON_FILE)))]
    folders = {os.path.realpath(f): f for f in [*given, *inside]}.values()
    return [e for e in map(evaluation, folders) if e]


def stages(run: Run) -> list[tuple[str, float]]:
    """(stage, relative change) of summary.json."""
    moved = run.summary.get('stages')
    return [(clean(k), float(v)) for k, v in moved.items() if type(v) in (int, float) and 0 <= v < 1e9] \
        if isinstance(moved, dict) else []


def next_rows(run: Run) -> Rows:
    """(what for, command) as the run ended with; of one that has not ended, with its names filled in."""
    told = run.summary.get('next')
    if not isinstance(told, dict):
        alone, backbone = os.path.join(run.folder, 'backbone.pdparams'), at(run.config, 'model', 'backbone')
        found = os.path.isfile(alone)
        told = next_commands(run.folder, alone if found else os.path.join(run.folder, 'latest.pdparams'), None,
                             backbone if isinstance(backbone, dict) else {}, extracted=found)
    return [(NAMES[key], clean(told[key])) for key in NAMES if isinstance(told.get(key), str)]
