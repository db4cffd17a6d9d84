"""From arrays to a matplotlib figure. Needs no Paddle: a process of its own draws while the training goes on."""

from typing import Any, Optional

import numpy as np

from ..utils.misc import evenly
from . import numbers
from .canvas import pyplot

NEAREST = 5
RIGHT, WRONG = '#18d860', '#ff3b30'
_VIEW_COLOURS = ('#ffd60a', '#00c8ff')


def _panel(axes, image, title=''):
    axes.imshow(image, interpolation='nearest')
    axes.set(xticks=[], yticks=[], xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    for side in axes.spines.values():
        side.set_visible(False)
    if title:
        axes.set_title(title, fontsize=9)


def _grid(rows, columns, size, note, **options):
    """(figure, axes [rows, columns]) of panels of `size` = (width, height) inches, below a title and lines of note."""
    top = 0.38 + 0.145 * note
    width, height = columns * size[0], rows * size[1] + top
    figure, axes = pyplot().subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - top / height, wspace=0.03, hspace=0.04)
    return figure, axes


def _title(figure, text, note=''):
    """The title and, smaller below it, a note, at the top left."""
    height = figure.get_size_inches()[1]
    figure.text(0.008, 1 - 0.06 / height, text, fontsize=11, fontweight='bold', va='top')
    figure.text(0.008, 1 - 0.27 / height, note, fontsize=8.5, va='top',
                color='#333333')


def cell_centres(rows: int, columns: int, height: int, width: int) -> np.ndarray:
    """Pixel centres [rows * columns, 2] as (x, y) of a grid laid over an image."""
    y = (np.arange(rows) + 0.5) * height / rows - 0.5
    x = (np.arange(columns) + 0.5) * width / columns - 0.5
    return np.stack([np.tile(x, rows), np.repeat(y, columns)], axis=1)


def views(originals: np.ndarray, boxes: np.ndarray, first: np.ndarray, second: np.ndarray, title: str,
          note: str = '') -> Any:
    """Contact sheet: each original with the two crops drawn in, and beside it the views as the network sees them.

    Args:
        originals: uint8 [N, H, W, 3]; boxes: [N, 2, 4] left, top, width, height of both crops in its pixels, or [0].
        first, second: uint8 [N, h, w, 3], the views; without a second one [0].
    """
    each = 3 if len(second) else 2
    across = 2 if len(originals) > 3 else 1
    rows = -(-len(originals) // across)
    figure, axes = _grid(rows, across * each, (1.32, 1.32), 1 + note.count('\n'))
    for ax in axes.flat:
        ax.axis('off')
    for n, original in enumerate(originals):
        row = axes[n // across][n % across * each:][:each]
        _panel(row[0], original)
        for k, box in enumerate(boxes[n] if len(boxes) else ()):
            row[0].add_patch(pyplot().Rectangle(box[:2], box[2], box[3], fill=False, linewidth=2,
                                                edgecolor=_VIEW_COLOURS[k]))
        for k, view in enumerate((first, second)[:each - 1]):
            _panel(row[1 + k], view[n])
            row[1 + k].add_patch(pyplot().Rectangle((0, 0), 1, 1, transform=row[1 + k].transAxes, fill=False,
                                                    linewidth=4, edgecolor=_VIEW_COLOURS[k]))
        for ax in row:
            ax.axis('on')
    _title(figure, title, note)
    return figure


def matches(first: np.ndarray, second: np.ndarray, features: np.ndarray, true: np.ndarray, valid: np.ndarray,
            title: str, note: str = '', start: Optional[float] = None) -> Any:
    """Pairs of views with the cells that the network takes for the same thing: right ones green, wrong ones red.

    Args:
        first, second: uint8 [N, H, W, 3], the two views of N images.
        features: [N, 2, rows, columns, channels].
        true, valid: [N, rows * columns]: the cell of the second view that shows the same place as each of the first,
            and whether the second view shows it at all.
        title: '{}' in it becomes the share of right matches and what chance would give.
        start: share of right matches of a network that has not learned, for the title.
    """
    count, _, rows, columns, _ = features.shape
    across = 2 if count > 1 else 1
    figure, axes = _grid(-(-count // across), 2 * across, (2.1, 2.1), 3 + note.count('\n'))
    for ax in axes.flat:
        ax.axis('off')
    points = cell_centres(rows, columns, *first.shape[1:3])
    drawn_right = drawn = 0
    for n in range(count):
        pair = axes[n // across][n % across * 2:][:2]
        for ax, image in zip(pair, (first[n], second[n])):
            _panel(ax, image)
        found = chosen_matches(features[n], valid[n])
        good = numbers.hits(found[1], true[n][found[0]], columns)
        _join(figure, pair, points, found, true[n], good)
        drawn, drawn_right = drawn + len(good), drawn_right + int(good.sum())
    share, by_chance = share_right(features, true, valid)
    words = f'{share:.0%} right, chance {by_chance:.0%}' + ('' if start is None else f', before training {start:.0%}')
    _title(figure, title.replace('{}', words), note + f'\nThe % are of all cells that both views show. Drawn are those '
           'that choose each other, the most similar first, none beside another:\n'
           f'{drawn_right} of {drawn} right (green: within one cell of the true place; red: wrong, the ring shows the '
           'true place).')
    return figure


def chosen_matches(features: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cells of the first view, their matches) that are drawn, of features [2, rows, columns, channels]."""
    _, rows, columns, channels = features.shape
    flat = np.asarray(features, np.float32).reshape(2, rows * columns, channels)
    index, similarity, mutual = numbers.mutual_matches(flat[0], flat[1])
    cells = numbers.spread_out(similarity, mutual & (valid > 0), columns, max(1, -(-min(rows, columns) // 5)))
    return cells, index[cells]


def share_right(features: np.ndarray, true: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """(share of the matches of all cells in the overlap within one cell of the true place, what chance gives)."""
    _, _, rows, columns, channels = features.shape
    good, by_chance = [], []
    for pair, t, v in zip(np.asarray(features, np.float32), true, valid > 0):
        index, _, _ = numbers.mutual_matches(*pair.reshape(2, rows * columns, channels))
        good.append(numbers.hits(index, t, columns)[v])
        by_chance += [numbers.chance(t[v], rows, columns)] * int(v.sum())
    every = np.concatenate(good)
    return (float(every.mean()), float(np.mean(by_chance))) if len(every) else (float('nan'), float('nan'))


def _join(figure, pair, points, found, true, good):
    """Draw matches as lines between two panels."""
    from matplotlib.patches import ConnectionPatch
    for a, b, right in zip(*found, good):
        colour = RIGHT if right else WRONG
        figure.add_artist(ConnectionPatch(points[a], points[b], 'data', 'data', axesA=pair[0], axesB=pair[1],
                                          color=colour, linewidth=1.3, alpha=0.85))
        for ax, at in zip(pair, (points[a], points[b])):
            ax.plot(*at, 'o', color=colour, markersize=5.5, markeredgecolor='black', markeredgewidth=0.8)
        if not right:
            pair[1].plot(*points[true[a]], 'o', color='none', markersize=8, markeredgecolor=WRONG, markeredgewidth=1.5)


def maps(images: np.ndarray, stages: dict[str, np.ndarray], title: str, note: str = '') -> Any:
    """Images, and beside each its cells coloured by their first three principal components, one column per stage.

    Args:
        images: uint8 [N, H, W, 3]. stages: {name: features [N, rows, columns, channels]}.
    """
    side = 1.32 if len(images) > 4 else 1.6
    figure, axes = _grid(len(images), 1 + len(stages), (side, side), 4 + note.count('\n'))
    for n, image in enumerate(images):
        _panel(axes[n][0], image)
    for k, (name, features) in enumerate(stages.items(), 1):
        rgb, share = numbers.pca_rgb(features)
        for n, image in enumerate(images):
            axes[n][k].imshow(rgb[n], interpolation='bicubic' if rgb.shape[1] < 60 else 'bilinear',
                              extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5))
            axes[n][k].axis('off')
        axes[0][k].set_title(f'{name}: {rgb.shape[1]} x {rgb.shape[2]}, {share:.0%}', fontsize=9, pad=3)
    _title(figure, title, note + '\nLike colours: like features. Each stage has its own colours, the same in all '
           'images: its first three\nprincipal components, which hold the % above it of what differs between cells.')
    return figure


def neighbours(images: np.ndarray, features: np.ndarray, title: str, note: str = '',
               labels: Optional[np.ndarray] = None, start: Optional[np.ndarray] = None, queries: int = 6,
               count: int = NEAREST) -> Any:
    """For the central cell of some images the most similar cells of others, and for the image the nearest images.

    Args:
        images: uint8 [N, H, W, 3]; features: [N, rows, columns, channels].
        labels: [N] class numbers: the title then says how many of the nearest images of all images share the class.
        start: features of a network that has not learned, for the title.
    """
    number, rows, columns, channels = features.shape
    cells = np.asarray(features, np.float32).reshape(number, rows * columns, channels)
    pooled, centre = _pooled(features), (rows // 2) * columns + columns // 2
    count = min(count, number - 1)
    asked = evenly(number, queries)
    figure, axes = _grid(len(asked), 2 * count + 1, (0.92, 0.92), 2 + note.count('\n') + (labels is not None))
    for row, query in zip(axes, asked):
        _panel(row[0], images[query])
        _mark(row[0], centre, columns, images.shape[1] / rows, images.shape[2] / columns)
        for ax, (image, cell, _) in zip(row[1:], numbers.nearest_cells(cells, int(query), centre, count)):
            _panel(ax, _around(images[image], cell, rows, columns))
        for ax, (image, _) in zip(row[1 + count:], numbers.nearest_images(pooled, int(query), count)):
            _panel(ax, images[image])
            if labels is not None:
                ax.add_patch(pyplot().Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, linewidth=3,
                                                edgecolor=RIGHT if labels[image] == labels[query] else WRONG))
    axes[0][1].set_title('places most like the marked one', fontsize=9, loc='left', pad=3)
    axes[0][1 + count].set_title('images most like the whole image', fontsize=9, loc='left', pad=3)
    if labels is not None:
        share, by_chance = same_class(pooled, labels, count)
        title += f' {share:.0%} of the nearest images have the same class, chance {by_chance:.0%}'
        if start is not None:
            title += f', before training {same_class(_pooled(start), labels, count)[0]:.0%}'
        note += '\nGreen frame: the same class. Red: another.'
    _title(figure, title, note)
    return figure


def same_class(pooled: np.ndarray, labels: np.ndarray, count: int) -> tuple[float, float]:
    """(share of the `count` nearest images of each image that have its class, what chance gives)."""
    labels = np.asarray(labels)
    same = [labels[i] == labels[q] for q in range(len(labels)) for i, _ in numbers.nearest_images(pooled, q, count)]
    by_chance = np.mean([(labels == own).sum() - 1 for own in labels]) / max(1, len(labels) - 1)
    return float(np.mean(same)), float(by_chance)


def _pooled(features):
    """[N, rows, columns, channels] -> the mean over the cells [N, channels]."""
    return np.asarray(features, np.float32).mean((1, 2))


def _mark(axes, cell, columns, height, width):
    axes.add_patch(pyplot().Rectangle((cell % columns * width, cell // columns * height), width, height, fill=False,
                                      edgecolor=_VIEW_COLOURS[0], linewidth=2))


def _around(image, cell, rows, columns, reach=2):
    """The part of an image `reach` cells around a cell, at the border moved inwards."""
    height, width = image.shape[0] / rows, image.shape[1] / columns
    size = min(2 * reach + 1, rows, columns)
    top = min(max(cell // columns - size // 2, 0), rows - size)
    left = min(max(cell % columns - size // 2, 0), columns - size)
    return image[round(top * height):round((top + size) * height), round(left * width):round((left + size) * width)]


def embedding(images: np.ndarray, places: np.ndarray, title: str, note: str = '') -> Any:
    """Thumbnails at their places on a plane.

    Args:
        images: uint8 [N, h, w, 3], small. places: [N, 2]; the first image that asks for a spot gets it.
    """
    figure = pyplot().figure(figsize=(7.6, 7.6))
    axes = figure.add_axes((0.005, 0.005, 0.99, 0.91))
    low, high = places.min(0), places.max(0)
    at = (places - low) / np.maximum(high - low, 1e-12)
    size = 0.075
    taken: list[int] = []
    for n in range(len(images)):
        if all(np.abs(at[n] - at[m]).max() > 0.8 * size for m in taken):
            taken.append(n)
            x, y = at[n] * (1 - size)
            axes.imshow(images[n], extent=(x, x + size, y, y + size), interpolation='bilinear')
    for x, y in at * (1 - size) + size / 2:
        axes.plot(x, y, '.', color='#999999', markersize=2, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    _title(figure, title, note + f'{len(taken)} of {len(images)} images are drawn; dots are those that another covers.')
    return figure


def schedule(rates: np.ndarray, title: str, iters_per_epoch: int) -> Any:
    """The learning rate of every step of a run; the upper axis counts epochs."""
    figure, axes = pyplot().subplots(figsize=(7.6, 3), constrained_layout=True)
    axes.plot(np.arange(1, len(rates) + 1), rates, color='#1f4e9c', linewidth=1.8)
    axes.set(xlabel='iteration', ylabel='learning rate', ylim=(0, None))
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    upper = axes.secondary_xaxis('top', functions=(lambda x: x / iters_per_epoch, lambda x: x * iters_per_epoch))
    upper.set_xlabel('epoch')
    axes.set_title(title, fontsize=11, fontweight='bold', loc='left')
    return figure
