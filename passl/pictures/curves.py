"""Curves of a run, and bars of a comparison."""

import argparse
import os
from typing import Any, Optional, Sequence

from ..utils.logger import get_logger
from ..utils.run_log import chance_of, read_config_text, read_log, running_mean, series
from .canvas import pyplot, save

LOSSES = (('loss', 'loss', '#1f4e9c'), ('loss_global', 'global', '#d98032'), ('loss_dense', 'dense', '#3a9455'))
ACCURACIES = (('acc1', 'global', '#d98032'), ('acc1_dense', 'dense', '#3a9455'))


def _draw(axes, records, keys, window):
    """Draw each of `keys` thinly and its running mean thickly; returns how many had values."""
    drawn = 0
    for key, label, colour in keys:
        steps, values = series(records, key)
        if values:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, running_mean(values, window), color=colour, linewidth=2, label=label)
            drawn += 1
    return drawn


def run_plot(args: argparse.Namespace) -> None:
    """Carry out `passl plot`."""
    log = os.path.join(args.run, 'log.jsonl') if os.path.isdir(args.run) else args.run
    output = args.output or os.path.join(os.path.dirname(log), 'loss.png')
    plot_loss(log, output)
    get_logger().info('Wrote %s', output)


def plot_loss(jsonl_path: str, out_png: str) -> None:
    """Draw loss, training and validation accuracy and learning rate of a log.jsonl.

    The dashed line is the loss of guessing, ln(K + 1), when config.yaml beside the log has K.

    Raises:
        DataError: no such log, or it holds no training step and no evaluation.
    """
    log = read_log(jsonl_path)
    train, val = log['train'], log['val']
    run_dir = os.path.dirname(os.path.abspath(jsonl_path))
    window = max(1, len(train) // 20)
    plt = pyplot()
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 9), sharex=True, constrained_layout=True,
                                                 gridspec_kw={'height_ratios': [3, 2, 1]})
    figure.suptitle(os.path.basename(run_dir))
    _draw(top, train, LOSSES, window)
    chance = chance_of(read_config_text(run_dir)[1])
    if chance:
        top.axhline(chance[1], color='grey', linestyle='--', linewidth=1,
                    label=f'guessing: ln({chance[0]} + 1) = {chance[1]:.2f}')
    top.set_ylabel('loss')
    single = ACCURACIES if any('acc1_dense' in r for r in train) else (('acc1', 'training', '#d98032'),)
    drawn = _draw(middle, train, single, window)
    steps, values = series(val, 'acc1')
    if values:
        middle.plot(steps, values, color='#8e3a80', marker='o', linewidth=1.5, label='validation')
    middle.set_ylabel('top-1 accuracy, %')
    bottom.plot(*series(train, 'lr'), color='#444444')
    bottom.set_ylabel('learning rate')
    bottom.set_xlabel('iteration')
    for axes, has_legend in ((top, train), (middle, drawn or values), (bottom, False)):
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        if has_legend:
            axes.legend(loc='best', fontsize=9)
    save(figure, out_png)


def plot_comparison(rows: Sequence[tuple[str, Sequence[Optional[dict[str, Any]]]]], names: Sequence[str],
                    out_png: str) -> None:
    """Draw grouped bars with intervals: a group per row, a bar per name, rows of one scale beside each other.

    Args:
        rows: [(label, cells)]; a cell is {'mean', 'half'} or None, one per name. `half` None: no interval.
        names: of the bars.
        out_png: file to write.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 1.2 + (0.26 * len(names) + 0.22) * len(rows)), constrained_layout=True)
    height = 0.8 / len(names)
    colours = plt.get_cmap('tab10')
    for k, name in enumerate(names):
        places = [(i - 0.4 + (k + 0.5) * height, cell) for i, (_, cells) in enumerate(rows)
                  for cell in [cells[k]] if cell]
        means = [c['mean'] for _, c in places]
        axes.barh([p for p, _ in places], means, height, color=colours(k % 10), label=name)
        bars = [(p, c) for p, c in places if c['half'] is not None]
        axes.errorbar([c['mean'] for _, c in bars], [p for p, _ in bars], xerr=[c['half'] for _, c in bars], fmt='none',
                      ecolor='#222222', capsize=2.5, linewidth=1)
        for place, cell in places:
            axes.annotate(f"{cell['mean']:.1f}", (cell['mean'] + (cell['half'] or 0), place), (3, 0),
                          textcoords='offset points', va='center', fontsize=8)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([text for text, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel('percent')
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.01)
    axes.grid(axis='x', alpha=0.3)
    axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncol=min(4, len(names)), fontsize=9)
    save(figure, out_png)
