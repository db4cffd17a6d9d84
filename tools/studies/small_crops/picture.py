"""The study's results as one picture."""

from passl.pictures.canvas import pyplot, save
from passl.pictures.curves import running_mean


def draw(cells, curves, title, path):
    """Figures with their intervals, and how often the dense task was solved along the way.

    Args:
        cells: {name: {'mean', 'half'} or None}, the random start first.
        curves: {name: [[step, percent]]}.
        title: of the figures. path: PNG to write.
    """
    plt = pyplot()
    shown = [(n, c) for n, c in cells.items() if c]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.9 + 0.32 * max(6, len(shown))), constrained_layout=True)
    for place, (name, cell) in enumerate(shown):
        left.errorbar(cell['mean'], place, xerr=cell['half'] or 0, fmt='o', capsize=3,
                      color='#888888' if not place else '#1f4e9c')
        left.annotate(f"{cell['mean']:.1f}", (cell['mean'], place), (0, 5), textcoords='offset points', ha='center',
                      fontsize=8)
    left.axvline(shown[0][1]['mean'], color='#888888', linewidth=1, linestyle=':')
    left.set(yticks=range(len(shown)), yticklabels=[n for n, _ in shown], xlabel=title)
    left.margins(y=0.12)
    left.invert_yaxis()
    for name, curve in curves.items():
        if curve:
            right.plot([n for n, _ in curve], running_mean([v for _, v in curve], 2), label=name, linewidth=1.5)
    right.set(xlabel='step', ylabel='dense top-1, percent', ylim=(0, 102))
    if right.lines:
        right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, path)
