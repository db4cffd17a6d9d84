"""Curves as plain geometry: paths in a box of WIDTH x HEIGHT, and places of labels in percent, which the page draws.

The page stretches the box to the width of the screen and sets labels as text of its own, so that both stay sharp.
"""

import math
from typing import Any, Optional, Sequence

import numpy as np

from ..utils.misc import evenly
from ..utils.run_log import Records, running_mean, series

WIDTH, HEIGHT = 1000, 300
POINTS, COLUMNS = 500, 50   # of a curve and of a chart at most
_LABEL = 9.0                # percent of the height that a label needs
_MOST = 1e30                # numbers beyond it have no place in a chart
Words = tuple[str, str]     # English, Chinese

# what is drawn: `keys` of the log and their short names; `alone`: those that only the chart of a single run holds
LOSSES = {'loss_global': ('global', '全局'), 'loss_dense': ('dense', '稠密'), 'loss': ('total', '总和')}
FIGURES: list[dict[str, Any]] = [
    {'title': ('Loss', '损失'), 'keys': LOSSES, 'chance': True,
     'text': ('Falls while the network learns. Losses of runs with other settings are on other scales.',
              '网络学习时下降。不同设置的训练，损失的尺度不同。')},
    {'title': ('Own key found first (%)', '首选即自己的键（%）'), 'zero': True, 'alone': {'acc1_place'},
     'keys': {'acc1': ('global', '全局'), 'acc1_dense': ('dense', '稠密'), 'acc1_place': ('place', '位置')},
     'text': ('How often a query takes its own key for the best of all. A slow rise is good; near 100 % at once is a '
              'shortcut.',
              '查询把自己的键当作全部候选中最佳者的比例。缓慢上升是好事；一开始就接近 100 % 说明走了捷径。')},
    {'title': ('Spread of the features', '特征的分散程度'), 'zero': True,
     'keys': {'std': ('images', '图像'), 'std_dense': ('cells', '格子')},
     'text': ('1: features point evenly in all directions. 0: collapsed, the same vector for every image.',
              '1：特征均匀指向各个方向。0：已坍缩，所有图像得到同一向量。')},
    {'title': ('Effective rank', '有效秩'), 'zero': True,
     'keys': {'rank': ('images', '图像'), 'rank_dense': ('cells', '格子')},
     'text': ('How many directions the features use. 1 is a collapse.', '特征使用了多少个方向。1 表示坍缩。')},
    {'title': ('Matches that are true (%)', '正确的匹配（%）'), 'zero': True, 'alone': {'match_chance'},
     'keys': {'match_true': ('matched', '匹配'), 'match_chance': ('guessing', '猜测')},
     'text': ('Of the places that both views show: how often the most similar cell is the true one, or touches it.',
              '在两个视图都看到的位置中，最相似的格子就是真实位置或与之相邻的比例。')},
    {'title': ('Dense structure, without labels', '稠密结构（无需标签）'), 'of': 'quality',
     'alone': {'dse_inter', 'dse_intra', 'dse_dim'},
     'keys': {'dse': ('DSE', 'DSE'), 'dse_inter': ('between', '之间'), 'dse_intra': ('within', '之内'),
              'dse_dim': ('dims', '维数')},
     'text': ('An estimate of how good the dense features of each checkpoint are. Higher DSE is better.',
              '对每个检查点稠密特征好坏的估计。DSE 越高越好。')},
    {'title': ('Measured with labels', '用标签测得'), 'zero': True, 'of': 'quality',
     'keys': {'knn_top1': ('k-NN (%)', 'k-NN（%）'), 'miou': ('mIoU (%)', 'mIoU（%）')},
     'text': ('A probe of each checkpoint, as passl evaluate computes it.',
              '对每个检查点的探测，与 passl evaluate 的算法相同。')},
    {'title': ('Validation', '验证'), 'zero': True, 'of': 'val', 'text': (
        'Figures of the evaluations during the run.', '训练期间各次评估的指标。')},
    {'title': ('Learning rate', '学习率'), 'zero': True, 'raw': True, 'keys': {'lr': ('rate', '学习率')},
     'text': ('The schedule as it was run.', '实际执行的学习率策略。')},
    {'title': ('Images per second', '每秒图像数'), 'zero': True, 'keys': {'ips': ('images/s', '图像/秒')},
     'text': ('Of all processes together.', '所有进程合计。')}]
_CHANCE = (' It rises first, while the queue fills. The dashed line is the loss of guessing.',
           '队列填充时会先上升。虚线是猜测时的损失。')
_NO_FIGURES = {'mode', 'iteration', 'epoch', 'health', 'num_samples', 'time', 'eta_seconds', 'loss_mean'}


def charts(runs: Sequence[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the charts that everybody reads, one of every further figure of the log) of runs with `name`, `log`, `chance`.

    One run: a chart holds all keys of a row of FIGURES. Several: a chart per key, in which each run is a line.
    """
    drawn: list[dict[str, Any]] = []
    done: set[str] = set()
    for row in FIGURES:
        source = row.get('of', 'train')
        keys = row.get('keys') or {k: (k, k) for k in _keys(runs, source)}
        if len(runs) > 1:
            keys = {k: name for k, name in keys.items() if k not in row.get('alone', ())}
        done.update(keys if source == 'train' else ())
        groups = [list(keys)] if len(runs) == 1 else [[k] for k in keys]
        if row['title'][0] == 'Loss' and not any('loss_dense' in r for run in runs for r in run.log['train']):
            groups = [['loss']]                         # the same curve twice
        for group in groups:
            chart = _chart(runs, row, source, {k: keys[k] for k in group})
            drawn += [chart] if chart else []
    rest = [_chart(runs, {'title': (k, k), 'text': ('', '')}, 'train', {k: (k, k)})
            for k in _keys(runs, 'train') if k not in done]
    return drawn, [c for c in rest if c]


def _keys(runs, source):
    """Names of the figures in the records, in the order of their first appearance."""
    return list(dict.fromkeys(k for run in runs for r in run.log[source] for k in r
                              if isinstance(k, str) and k not in _NO_FIGURES))


def _chart(runs: Sequence[Any], row: dict[str, Any], source: str, keys: dict[str, Words]) -> Optional[dict[str, Any]]:
    """Geometry of one chart; None if no run has a finite figure of it."""
    lines = []
    for number, run in enumerate(runs):
        for place, (key, name) in enumerate(keys.items()):
            line = _line(run.log[source], key, row.get('raw') or source != 'train')
            if line:
                several = len(runs) > 1
                lines.append({**line, 'colour': (number if several else place) % 8, 'key': key,
                              'name': (run.name, run.name) if several else name})
    if not lines:
        return None
    chances = sorted({run.chance for run in runs if run.chance}) if row.get('chance') and 'loss_dense' not in \
        (keys if len(keys) == 1 else ()) else []
    start = min(line['x'][0] for line in lines)
    end = max(line['x'][-1] for line in lines)
    values = np.concatenate([line['mean'] for line in lines] + [[c[1] for c in chances]])
    values = values[np.isfinite(values)]
    low, high = _range(float(values.min()), float(values.max()), row.get('zero', False))
    across, up = _scale(min(start, 0), end, WIDTH), _scale(low, high, HEIGHT)
    for line in lines:
        line['thin'] = None if row.get('raw') else path(line['x'], line['y'], across, up)
        line['thick'] = path(line['x'], line['mean'], across, up)
        line['dot'] = len(line['x']) == 1 and (across(line['x'][0]) / WIDTH * 100, _percent(line['mean'][0], low, high))
        line['last'] = _last(line['mean'])
        line['at'] = _percent(line['last'], low, high)
        line['text'] = short(line['last'])
    _apart(lines)
    title = row['title'] if len(keys) > 1 or len(runs) == 1 or len(row.get('keys', ())) == 1 else \
        tuple(map(''.join, zip(row['title'], (': ', '：'), next(iter(keys.values())))))
    text = tuple(a + b for a, b in zip(row['text'], _CHANCE)) if chances else row['text']
    return {'title': title, 'text': text, 'lines': lines, 'one': source == 'train' and len(lines) == 1,
            'columns': columns(lines, across),
            'x_ticks': [(across(t) / WIDTH * 100, steps(t)) for t in ticks(min(start, 0), end)],
            'y_ticks': [(_percent(t, low, high), short(t)) for t in ticks(low, high)],
            'guides': [(_percent(c, low, high), f'ln({k} + 1) = {c:.2f}') for k, c in chances]}


def columns(lines: Sequence[dict[str, Any]], across: Any) -> list[tuple[float, float, str]]:
    """(left, width, words) of stripes that cover a chart: each says a step and what the thick curves are there."""
    places = [np.asarray(line['x']) for line in lines]
    every = np.unique(np.concatenate(places))
    chosen = every[evenly(len(every), COLUMNS)]
    edges = [0, *map(across, (chosen[:-1] + chosen[1:]) / 2), WIDTH]
    told = []
    for step, left, right in zip(chosen, edges, edges[1:]):
        values = []
        for line, x in zip(lines, places):
            nearest = int(np.abs(x - step).argmin())
            if x[0] <= step <= x[-1] and math.isfinite(line['mean'][nearest]):
                name = ' '.join(dict.fromkeys(line['name'])) + ' ' if len(lines) > 1 else ''
                values.append(name + short(line['mean'][nearest]))
        told.append((left, right - left, f"{steps(step)}: {', '.join(values) or '–'}"))
    return told


def _line(records: Records, key: str, exact: bool) -> Optional[dict[str, Any]]:
    """x, y and running mean of a key; None without a finite value."""
    x, values = series(records, key)
    y = np.asarray(values, dtype=float)
    y[np.abs(y) > _MOST] = np.nan
    if not np.isfinite(y).any():
        return None
    return {'x': x, 'y': y, 'mean': y if exact else running_mean(y, window(len(y)))}


def window(number: int) -> int:
    """How many of a log's records a mean takes: a twentieth of a short log, towards a hundredth of a long one."""
    return max(1, min(number // 20, 20 + number // 100))


def thin(y: np.ndarray) -> np.ndarray:
    """Indices of at most POINTS values, rising: all, or the lowest and the highest of POINTS / 2 parts.

    So a spike is still seen, which taking every n-th would lose.
    """
    if len(y) <= POINTS:
        return np.arange(len(y))
    kept = []
    for part in np.array_split(np.arange(len(y)), POINTS // 2):
        values = y[part]
        good = part[np.isfinite(values)]
        kept += [good[np.argmin(y[good])], good[np.argmax(y[good])]] if len(good) else [part[0]]
    return np.unique(kept)


def path(x: Sequence[float], y: np.ndarray, across: Any, up: Any) -> str:
    """An SVG path through the finite ones of the points; what is not finite leaves a gap."""
    words, pen = [], 'M'
    for i in thin(y):
        if not math.isfinite(y[i]):
            pen = 'M'
            continue
        # far outside the box nothing is seen
        words.append(f'{pen}{across(x[i]):.1f} {HEIGHT - max(-HEIGHT, min(2 * HEIGHT, up(y[i]))):.1f}')
        pen = 'L'
    return ''.join(words)


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `number` of them: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def short(value: float) -> str:
    """A number with three figures that count: '6,750', '47.2', '0.973', '2.3e-07'."""
    if not math.isfinite(value):
        return '–'
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.001:
        return f'{value:.1e}'
    if size >= 100 or value == int(value):
        return f'{value:,.0f}'
    text = f'{value:.{2 if size < 10 else 1}f}' if size >= 1 else f'{value:.3f}'
    return text.rstrip('0').rstrip('.')


def steps(number: float) -> str:
    """A number of steps, short enough for an axis: '750', '7,500', '75k', '1.5M'."""
    size, letter = (1e6, 'M') if number >= 1e6 else (1e3, 'k') if number >= 1e4 else (1, '')
    return f'{number / size:,.2f}'.rstrip('0').rstrip('.') + letter


def band(records: Records, codes: Sequence[str], end: int) -> list[tuple[float, float, Optional[str]]]:
    """(start, width, code) in percent of `end` iterations: health over time; None: not judged."""
    parts: list[list[Any]] = []
    before = 0
    for record in records:
        code = record.get('health')
        code = code if isinstance(code, str) and code in codes else None
        if parts and parts[-1][2] == code:
            parts[-1][1] = record['iteration']
        else:
            parts.append([before, record['iteration'], code])
        before = record['iteration']
    return [(100 * a / end, 100 * (b - a) / end, code) for a, b, code in parts if end > 0]


def _scale(low, high, length):
    span = (high - low) or 1.0
    return lambda value: (value - low) / span * length


def _percent(value, low, high):
    """Distance from the top."""
    return 100 - _scale(low, high, 100)(value)


def _range(low, high, zero):
    """Limits of the vertical axis with some air."""
    if zero and low >= 0:
        return 0.0, (high or 1.0) * 1.08
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def _last(values):
    good = values[np.isfinite(values)]
    return float(good[-1])


def _apart(lines):
    """Move labels at the ends of lines until none covers another; the order stays."""
    ordered = sorted(lines, key=lambda line: line['at'])
    for upper, lower in zip(ordered, ordered[1:]):
        lower['at'] = max(lower['at'], upper['at'] + _LABEL)
    for below, line in enumerate(reversed(ordered)):
        line['at'] = min(line['at'], 98.0 - _LABEL * below)
