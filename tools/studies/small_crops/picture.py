"""The study's results as one picture."""

from passl.pictures.canvas import pyplot, save
from passl.pictures.curves import running_mean


def draw(cells, curves, title, path):
    """A dot for every pre-training with the interval of the probe, and how often the dense task was solved on the way.

    Args:
        cells: {name: [{'mean', 'half'} or None of each of its pre-trainings]}, the random start first.
        curves: {name: [[step, percent]]}.
        title: of the figures. path: PNG to write.
    """
    plt = pyplot()
    shown = [(n, [c for c in several if c]) for n, several in cells.items() if any(several)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.9 + 0.42 * max(6, len(shown))), constrained_layout=True)
    for place, (name, several) in enumerate(shown):
        for k, cell in enumerate(several):
            half, y = cell['half'] or 0, place + 0.28 * (k - (len(several) - 1) / 2)
            left.errorbar(cell['mean'], y, xerr=half, fmt='o', markersize=4, capsize=2,
                          color='#888888' if not place else '#1f4e9c')
            left.annotate(f"{cell['mean']:.1f}", (cell['mean'] + half, y), (4, 0), textcoords='offset points',
                          va='center', fontsize=7)
    left.axvline(max(cell['mean'] for cell in shown[0][1]), color='#888888', linewidth=1, linestyle=':')
    left.set(yticks=range(len(shown)), yticklabels=[n for n, _ in shown], xlabel=title)
    left.margins(x=0.12, y=0.1)
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
