"""How good correspondences are, told without labels: where the views lie in their image is known."""

from typing import Any, Optional

import paddle

from .contrastive_loss import weighted_mean
from .correspondence import cells_at, match_mutual

_FAR = 1e9              # as a radius: every cell of the overlap counts
_TRIVIAL = 0.9          # of the cells touch the true one, in the mean: any match would count as true
_IMAGES = 64            # are compared with each other: a table of 64 x 49 x 49 x 64 has 37 MiB


def _near(a, b, columns):
    """1.0 where cells `a` and `b` (numbers of the grid) touch or are the same."""
    rows_apart = (a // columns - b // columns).abs()
    return ((rows_apart <= 1) & ((a % columns - b % columns).abs() <= 1)).astype('float32')


def chance_of(rows: int, columns: int) -> float:
    """Share of a grid's cells that touch a cell or are it, in the mean over all cells: 1 for 2 x 2, 0.60 for 3 x 3."""
    def axis(n):
        return (3 * n - 2) / n ** 2
    return axis(rows) * axis(columns)


@paddle.no_grad()
def match_metrics(map_q: paddle.Tensor, map_k: paddle.Tensor, dense_q: paddle.Tensor, dense_k: paddle.Tensor,
                  grid: tuple[int, int], places: Optional[paddle.Tensor] = None) -> dict[str, Any]:
    """Figures of a batch, 0-D Tensors in percent.

    Args:
        map_q, map_k: the backbone's features of query and key view [N, C, L], L = rows x columns.
        dense_q, dense_k: projections of the cells, unit vectors [N, D, L].
        grid: (rows, columns).
        places: float32 [N, 2, 6], see `cells_at`; None: what needs them is left out.
    Returns:
        {'match_mutual': query cells whose most similar key cell chooses them too,
         'match_keys': key cells that are chosen by any query cell,
         'acc1_place': query cells whose key is more similar to them than the keys of the other images (64 at most) at
            the same place of the grid. Where `acc1_dense` is high and this is near chance, 100 / N, place alone tells
            the keys apart;
         'match_true': of the query cells that the key view shows too, those whose most similar key cell is the true one
            or touches it,
         'match_chance': what guessing would give there}; both are left out of a grid so small (2 x 2) that guessing
         gives 90 or more
    """
    with paddle.amp.auto_cast(enable=False):
        map_q, map_k, dense_q, dense_k = (x.astype('float32') for x in (map_q, map_k, dense_q, dense_k))
        n, _, cells = map_q.shape
        index, mutual = match_mutual(map_q, map_k)                                         # [N, L]
        used: Any = paddle.nn.functional.one_hot(index, cells).max(axis=1)                 # [N, L]
        out = {'match_mutual': 100.0 * mutual.mean(), 'match_keys': 100.0 * used.mean()}
        # similarity of every query cell to the keys of all images (of the first M) at the place of its own key
        m = min(n, _IMAGES)
        by_place = dense_k[:m].transpose([2, 0, 1])                                        # [L, M, D]
        sims: Any = paddle.einsum('ndl,pmd->nlpm', dense_q[:m], by_place)                  # [M, L, L, M]
        at = index[:m].unsqueeze(2).unsqueeze(3).expand([m, cells, 1, m])
        sims = paddle.take_along_axis(sims, at, axis=2).squeeze(2)                         # [M, L, M]
        own = paddle.eye(m).unsqueeze(1)                                                   # [M, 1, M]
        others = (sims - 1e4 * own).max(axis=2)
        out['acc1_place'] = 100.0 * ((sims * own).sum(axis=2) > others).astype('float32').mean()
        rows, columns = grid
        if places is not None and chance_of(rows, columns) < _TRIVIAL:
            true, inside = cells_at(places, rows, columns, _FAR)
            out['match_true'] = 100.0 * weighted_mean(_near(index, true, columns), inside)
            every = paddle.arange(cells).reshape([1, 1, cells])
            out['match_chance'] = 100.0 * weighted_mean(_near(every, true.unsqueeze(2), columns).mean(axis=2), inside)
        return out
