"""The study's results as JSON, as a table in Markdown and as a picture."""

import json
import statistics

from passl.transfer.probes.metrics import summary
from passl.utils.files import replace_text

from . import picture

_FIGURES = {'linear-seg': 'miou', 'knn-seg': 'miou', 'linear': 'top1'}


def figure(figures, name, column):
    """{'mean', 'half', 'values'} of a run in a column (probe, task, percent of the labels); None if not measured."""
    probe, task, setting = column
    for row in figures.get(probe, ()):
        if (row['task'], row['setting'], row['figure']) == (task, setting, _FIGURES[task]):
            return row['cells'].get(name)
    return None


def cell(found):
    """'12.3 ± 0.4', '12.3' or '-'."""
    if found is None:
        return '-'
    return f"{found['mean']:.1f}" + ('' if found.get('half') is None else f" ± {found['half']:.1f}")


def title(column):
    probe, task, setting = column
    return f'{probe} {task}' + ('' if setting is None else f' {setting:g} %')


def over_seeds(cells):
    """Mean of the means of several pre-trainings, and the half width of their own 95 % t interval."""
    cells = [c for c in cells if c is not None]
    if len(cells) < 2:
        return cells[0] if cells else None
    mean, half = summary([c['mean'] for c in cells])
    return {'mean': mean, 'half': half, 'values': [c['mean'] for c in cells]}


def near(records, step, key):
    """Mean of `key` over the log steps from 25 steps before `step` on; None if the run has no such figure."""
    values = [r[key] for r in records if key in r and step - 25 < r['iteration'] <= step]
    return statistics.mean(values) if values else None


def minutes(records):
    """What the training took by its log, without starting and saving."""
    steps = [r['iteration'] for r in records]
    return sum(r['time'] * (n - before) for r, n, before in zip(records, steps, [0, *steps])) / 60


def facts_of(study, run):
    """What results.json holds of a run."""
    note, records, figures = study.note(run.name), study.log(run), study.figures()
    return {'arm': run.arm, 'seed': run.seed, 'steps': run.steps, 'settings': note['settings'],
            'minutes': minutes(records), 'true_matches': note['true_matches'],
            'acc1_dense': {s: near(records, s, 'acc1_dense') for s in [*study.study['dense_at'], run.steps]},
            'curve': {k: [[r['iteration'], r[k]] for r in records if k in r]
                      for k in ('loss_global', 'loss_dense', 'acc1', 'acc1_dense', 'pairs')},
            'figures': {title(c): figure(figures, run.name, c) for c in study.study['columns']}}


def by_arm(runs):
    """{arm: [names of its runs]}, in the order of `runs`."""
    arms = {}
    for name in runs:
        arms.setdefault(name.rpartition('_s')[0], []).append(name)
    return arms


def grouped(runs):
    """{row: [what is known of its runs]}: the pre-trainings of an arm together. Two stand each by itself: the interval
    of their mean is 13 of its standard errors wide, and says nothing."""
    rows = {}
    for arm, names in by_arm(runs).items():
        rows.update({n: [n] for n in names} if len(names) == 2 else {arm: names})
    return {row: [runs[n] for n in names] for row, names in rows.items()}


def write(study, json_file, markdown, png):
    """Write the three files from what is measured so far."""
    columns, figures = study.study['columns'], study.figures()
    start = {'true_matches': study.note('random')['true_matches'],
             'figures': {title(c): over_seeds([figure(figures, name, c) for name in study.starts]) for c in columns}}
    runs = {run.name: facts_of(study, run) for run in study.runs}
    replace_text(json_file, json.dumps({'random': start, 'runs': runs}, indent=1) + '\n')
    lines = [['run', 'seeds', *map(title, columns), 'true matches (same place)', 'dense top-1', 'minutes'],
             ['random', str(len(study.starts)), *(cell(c) for c in start['figures'].values()), _matches(start, study),
              '-', '-']]
    groups = grouped(runs)
    for name, several in groups.items():
        first = several[0]
        dense = [v for v in first['acc1_dense'].values() if v is not None]
        lines.append([name, str(len(several)),
                      *(cell(over_seeds([f['figures'][title(c)] for f in several])) for c in columns),
                      _matches(first, study), ' / '.join(f'{v:.0f}' for v in dense) or '-',
                      f"{statistics.mean(f['minutes'] for f in several):.0f}"])
    lines.insert(1, ['---'] * len(lines[0]))
    first = title(columns[0])
    cells = {'random start': [figure(figures, name, columns[0]) for name in study.starts]}
    arms = by_arm(runs)
    cells.update({arm: [runs[n]['figures'][first] for n in names] for arm, names in arms.items()})
    curves = {arm: runs[names[0]]['curve']['acc1_dense'] for arm, names in arms.items()}
    picture.draw(cells, curves, f'{first}, percent', png)
    replace_text(markdown, '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n\n' + _words(study))


def _matches(facts, study):
    shares = facts['true_matches'].items()
    return ', '.join(f'{step}: {true:.0f} ({same:.0f})' for step, (true, _, same) in shares) or '-'


def _words(study):
    chance = study.note('random')['true_matches']['0'][1]
    steps = ', '.join(map(str, study.study['dense_at']))
    return ('± is the 95 % t interval: of the probe over its seeds in a row of one pre-training, else over '
            'pre-trainings. True matches: step and percent of arg-max matches within 1.5 cells of the true place '
            f'(chance {chance:.0f} at 112 px), and of those with the same cell of the other view. '
            f'Dense top-1: at the steps {steps} and the last.\n')
