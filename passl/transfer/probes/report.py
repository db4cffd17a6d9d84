"""The comparison: one row per figure, one column per backbone, as text, CSV and JSON. Needs no Paddle."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Optional

from ...utils.files import replace_text
from .metrics import summary

if TYPE_CHECKING:
    from .jobs import Run
    from .sources import Source

TABLE, CSV, JSON_FILE, PICTURE = 'comparison.txt', 'comparison.csv', 'comparison.json', 'comparison.png'
INTERVALS = {'lowshot': 'sd', 'knn': 'none', 'svm': 'none'}         # others: t95
_LABELS = {'miou': 'mIoU', 'map': 'mAP', 'top1': 'top-1'}


def rows_of(measured: Iterable[tuple[str, 'Run', dict[str, float]]]) -> list[dict[str, Any]]:
    """Rows from [(source name, Run, figures)], in the order of the first appearance.

    Returns:
        list of {'task', 'setting', 'figure', 'label', 'cells': {source name: {'values', 'mean', 'half', 'kind'}}}, of
        all figures; `half` is None where there is no interval.
    """
    rows: dict[tuple[str, Optional[float], str], dict[str, Any]] = {}
    for name, run, figures in measured:
        for figure, value in figures.items():
            row = rows.setdefault((run.task, run.setting, figure), {
                'task': run.task, 'setting': run.setting, 'figure': figure,
                'label': label(run.task, run.setting, figure), 'cells': {}})
            row['cells'].setdefault(name, {'values': []})['values'].append(value)
    for row in rows.values():
        for cell in row['cells'].values():
            kind = INTERVALS.get(row['task'], 't95')
            cell['mean'], cell['half'] = summary(cell['values'], kind)
            cell['kind'] = kind if cell['half'] is not None else 'none'
    return list(rows.values())


def label(task: str, setting: Optional[float], figure: str) -> str:
    """'linear-seg mIoU, 10 % labels' and the like."""
    name, _, k = figure.partition('_k')
    text = f'{task} {_LABELS.get(name, figure)}' + (f', k {k}' if k else '')
    if setting is None:
        return text
    return f'{text}, {setting} per class' if task == 'lowshot' else f'{text}, {setting:g} % labels'


def shown(row: dict[str, Any]) -> bool:
    """Whether a row is for the table and the picture; the others (settings, further figures) are in CSV and JSON."""
    return row['figure'].partition('_k')[0] in _LABELS and not (row['task'] in ('svm', 'lowshot')
                                                                and row['figure'] == 'top1')


def cell_text(cell: Optional[dict[str, Any]]) -> str:
    """'12.34 ± 0.42', '12.34', or '-' for what is not measured yet."""
    if cell is None:
        return '-'
    return f"{cell['mean']:.2f}" + ('' if cell['half'] is None else f" ± {cell['half']:.2f}")


def width(text: str) -> int:
    """Columns of a terminal that a text takes: names may be Chinese."""
    return sum(2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in text)


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The text of the comparison, a list of lines."""
    lines = [['percent'] + list(names)]
    lines += [[r['label']] + [cell_text(r['cells'].get(n)) for n in names] for r in rows if shown(r)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for line in lines:
        gaps = [' ' * (w - width(word)) for w, word in zip(widths, line)]
        out.append(line[0] + gaps[0] + ''.join('  ' + gap + word for gap, word in zip(gaps[1:], line[1:])))
    out.insert(1, '-' * max(map(width, out)))
    return out + notes(rows)


def notes(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What the figures after ± are."""
    kinds: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        for cell in row['cells'].values():
            if shown(row) and cell['kind'] != 'none':
                kinds.setdefault((cell['kind'], len(cell['values'])), set()).add(row['task'])
    text = {'t95': '95 % t interval of the mean of {} seeds', 'sd': 'standard deviation of {} draws'}
    return [f'± {text[kind].replace("{}", str(n))}: {", ".join(sorted(tasks))}'
            for (kind, n), tasks in sorted(kinds.items(), reverse=True)]


def csv_text(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> str:
    """Long form, one line per figure and backbone; all values in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(['task', 'setting', 'figure', 'weights', 'mean', 'interval', 'half_width', 'runs', 'values'])
    for r in rows:
        for name in names:
            cell = r['cells'].get(name)
            if cell:
                writer.writerow([r['task'], '' if r['setting'] is None else r['setting'], r['figure'], name,
                                 repr(cell['mean']), cell['kind'], '' if cell['half'] is None else repr(cell['half']),
                                 len(cell['values']), ' '.join(map(repr, cell['values']))])
    return out.getvalue()


def write(folder: str, rows: Sequence[dict[str, Any]], sources: Sequence['Source'], settings: dict[str, Any],
          worth: Optional[Sequence[dict[str, Any]]] = None) -> None:
    """Write the comparison as comparison.{txt,csv,json,png} in a results folder.

    Args:
        sources: the Sources; settings: {flag: value} for the JSON file.
        worth: comparisons of `worth.judge`, for the JSON file.
    """
    from ...pictures.curves import plot_comparison
    names = [s.name for s in sources]
    whole = {'settings': settings, 'rows': rows,
             'weights': [{'name': s.name, 'file': s.path, 'network': s.kind, 'depth': s.depth, 'backbone': s.digest}
                         for s in sources]}
    if worth is not None:
        whole['worth'] = list(worth)
    texts = {TABLE: '\n'.join(table(rows, names)) + '\n', CSV: csv_text(rows, names),
             JSON_FILE: json.dumps(whole, indent=1, ensure_ascii=False) + '\n'}
    for name, text in texts.items():
        replace_text(os.path.join(folder, name), text)
    drawn = [r for r in rows if shown(r)]
    if drawn:
        plot_comparison([(r['label'], [r['cells'].get(n) for n in names]) for r in drawn], names,
                        os.path.join(folder, PICTURE))
