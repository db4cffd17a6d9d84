"""How many arg-max matches of a backbone lie where the two views show the same place."""

import numpy as np

RADIUS = 1.5        # cells of the key view


def true_places(places, rows, columns):
    """Where the centres of the query's cells lie in the key view.

    Args:
        places: [N, 2, 6]: of query and key top, left, height, width of the crop in fractions of the image, then
            mirrored left-right and top-bottom (0 or 1).
    Returns:
        (float [N, L, 2] row and column in cells of the key view, bool [N, L] inside that view), L = rows x columns.
    """
    at = []
    for axis, cells in ((0, rows), (1, columns)):
        start, size, flip = places[..., axis], places[..., 2 + axis], places[..., 5 - axis]       # [N, 2]
        centre = np.broadcast_to((np.arange(cells) + 0.5) / cells, (len(places), cells))
        for view, back in ((0, False), (1, True)):
            s, z, f = (x[:, view:view + 1] for x in (start, size, flip))
            centre = (centre - s) / z if back else np.where(f > 0, 1 - centre, centre) * z + s
        centre = np.where(flip[:, 1:] > 0, 1 - centre, centre)
        at.append(centre * cells)
    y, x = np.broadcast_arrays(at[0][:, :, None], at[1][:, None, :])
    inside = (y >= 0) & (y <= rows) & (x >= 0) & (x <= columns)
    return np.stack([y, x], -1).reshape(len(places), -1, 2), inside.reshape(len(places), -1)


def true_match_share(index, places, rows, columns, radius=RADIUS):
    """(share of matches within `radius` cells of the true place, the same of a random match, share of matches with the
    cell at the same place of the key view, wherever the views lie in the image), in percent.

    Only query cells whose centre lies in the key view count.

    Args:
        index: whole numbers [N, L], the key cell that each query cell is matched with.
        places: see `true_places`.
    """
    true, inside = true_places(np.asarray(places, np.float64), rows, columns)
    cells = np.stack(np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing='ij'), -1).reshape(-1, 2)
    near = np.linalg.norm(true[:, :, None] - cells, axis=-1) <= radius                  # [N, Lq, Lk]
    hit = np.take_along_axis(near, np.asarray(index)[:, :, None], 2)[..., 0]
    same = np.asarray(index) == np.arange(rows * columns)
    return tuple(100 * float(what[inside].mean()) for what in (hit, near, same))


def measure(weights, dataset, batch=32):
    """`true_match_share` of a backbone on two views of every image.

    Args:
        weights: file, or 'random'.
        dataset: as the training's; it must carry ('places',). The views are those of the seed 0.
    """
    import paddle

    from passl.datasets.sampler import SampleKey
    from passl.modules.correspondence import match
    from passl.transfer.probes.sources import find_sources
    net = find_sources([weights], depth=18 if weights == 'random' else None)[0].build()
    indices, places, grid = [], [], None
    for start in range(0, len(dataset), batch):
        one, two, where = zip(*(dataset[SampleKey(i, 0)] for i in range(start, min(start + batch, len(dataset)))))
        with paddle.no_grad():
            maps = [net(paddle.to_tensor(np.stack(views))) for views in (one, two)]
        grid = tuple(maps[0].shape[2:])
        indices.append(match(*(m.flatten(2) for m in maps))[0].numpy())
        places.append(np.stack(where))
    return true_match_share(np.concatenate(indices), np.concatenate(places), *grid)
