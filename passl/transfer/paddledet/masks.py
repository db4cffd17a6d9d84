"""Run-length masks into polygons that cover exactly the same pixels."""

from typing import Any

import numpy as np

from ...datasets.labelled.rle import rle_mask


def outlines(segmentation: dict[str, Any]) -> tuple[list[list[float]], bool]:
    """Polygons around the pixels of a run-length mask of a file that CocoFile has read, and so checked.

    The outlines run along the edges of the pixels, not through their centres as OpenCV's, so that drawing them gives
    the mask again. Holes cannot be said with COCO's polygons, which are all filled.

    Returns:
        (list of flat lists [x0, y0, x1, y1, ...], whether holes were filled).
    """
    mask = rle_mask(segmentation['counts'], *segmentation['size'])
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if not len(rows):
        return [], False
    top, left = int(rows[0]), int(columns[0])       # only the part with the object, which is small
    loops = [[(x + left, y + top) for x, y in loop] for loop in _loops(mask[top:rows[-1] + 1, left:columns[-1] + 1])]
    outer = [loop for loop in loops if _area(loop) > 0]
    return [[float(v) for point in loop for v in point] for loop in outer], len(outer) < len(loops)


def _loops(mask):
    """Closed paths along the pixel edges, the mask on the right hand; only corners are kept.

    Where two pixels touch at a corner only, the path turns so that they stay apart.
    """
    padded = np.pad(mask, 1)
    after = {}          # start of an edge -> its ends
    inside = padded[1:-1, 1:-1]
    for (dy, dx), start, end in (((-1, 0), (0, 0), (1, 0)), ((0, 1), (1, 0), (1, 1)),
                                 ((1, 0), (1, 1), (0, 1)), ((0, -1), (0, 1), (0, 0))):
        neighbour = padded[1 + dy:padded.shape[0] - 1 + dy, 1 + dx:padded.shape[1] - 1 + dx]
        ys, xs = np.nonzero(inside & ~neighbour)
        for y, x in zip(ys.tolist(), xs.tolist()):
            after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while after:
        first = here = next(iter(after))
        path, way = [], None
        while True:
            ends = after[here]
            step = ends[0] if len(ends) == 1 or way is None else _right_turn(here, way, ends)
            ends.remove(step)
            if not ends:
                del after[here]
            direction = (step[0] - here[0], step[1] - here[1])
            if direction != way:
                path.append(here)
            here, way = step, direction
            if here == first:
                break
        loops.append(path)
    return loops


def _right_turn(here, way, ends):
    """Of two ways on, the one to the right (the image's y points down)."""
    right = (here[0] - way[1], here[1] + way[0])
    return right if right in ends else ends[0]


def _area(loop):
    """Signed area: positive where the mask is inside."""
    x, y = np.array(loop, dtype=float).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
