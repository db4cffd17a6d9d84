"""How promising dense features are, told without labels: the dense representation structure estimator (DSE).

Dai et al., Exploring Structural Degradation in Dense Representations for Self-supervised Learning, NeurIPS 2025
(arXiv 2510.17299): DSE = M_inter - M_intra + M_dim. Cells are grouped by k-means; groups that lie apart (M_inter) and
are narrow (M_intra) can be told apart by a simple classifier, many used directions (M_dim) leave it room. The paper
weighs M_dim by a factor that is fitted over all checkpoints of a run; a run that lasts has none, so it is 1 here, as in
the authors' code, and the parts are given too.
"""

import numpy as np

_PER_IMAGE, _PER_GROUP, _GROUP = 3, 24, 8       # groups of an image's cells, of those of 8 images: the authors' numbers
_ROUNDS, _STILL = 50, 1e-4                      # of k-means, and the shift of its centres that ends it


def dense_structure(cells: np.ndarray, seed: int = 0) -> dict[str, float]:
    """DSE of the cells of some images; higher is better. NumPy in double precision, the same at every call.

    Args:
        cells: [images, cells, D], at least 2 images of 2 cells; they are brought to length 1.
        seed: of where k-means starts and of which cells are put together for M_dim.
    Returns:
        {'dse', 'dse_inter', 'dse_intra', 'dse_dim'}; 0 for all of them if every cell is the same, nan if one is no
        number.
    """
    x = np.asarray(cells, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=2, keepdims=True), 1e-12)
    rng = np.random.RandomState(seed)
    images, count, dim = x.shape
    unit = np.linalg.norm(x - x.mean(axis=(0, 1)), axis=2).mean()           # distances are told in units of this one
    if not unit >= 1e-9:
        return dict.fromkeys(('dse', 'dse_inter', 'dse_intra', 'dse_dim'), 0.0 if unit < 1e-9 else np.nan)
    of_images = [np.mean(_radii(image, _labels(image, _PER_IMAGE, rng)[0]) or [1.0]) for image in x]
    of_groups, apart = [], []
    for first in range(0, images, _GROUP):
        rows = x[first:first + _GROUP].reshape(-1, dim)
        labels, centres = _labels(rows, _PER_GROUP, rng)
        of_groups += _radii(rows, labels)
        others = _distances(rows, centres)
        others[np.arange(len(rows)), labels] = np.inf
        apart.append(others.min(axis=1).mean())
    inter = float(np.mean(apart) / unit)
    intra = float((np.mean(of_groups or [1.0]) + np.mean(of_images)) / 2 / unit)
    # one cell of every image: such rows are independent
    mixed = np.take_along_axis(x, np.argsort(rng.rand(images, count), axis=1)[:, :, None], axis=1)
    used = float(np.mean([_rank(mixed[:, c]) for c in range(count)]) / min(images, dim))
    return {'dse': inter - intra + used, 'dse_inter': inter, 'dse_intra': intra, 'dse_dim': used}


def _singular(rows):
    """Singular values of rows [n, D], from the smaller products."""
    products = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return np.sqrt(np.clip(np.linalg.eigvalsh(products), 0, None))


def _rank(rows):
    values = _singular(rows)
    share = values / max(values.sum(), 1e-300)
    return float(np.exp(-np.sum(share * np.log(np.maximum(share, 1e-300)))))


def _radii(rows, labels):
    """For each group of two or more: the sum of its centred singular values, over the root of max(n - 1, D)."""
    groups = [rows[labels == g] for g in np.unique(labels)]
    return [float(_singular(g - g.mean(axis=0)).sum() / np.sqrt(max(len(g) - 1, g.shape[1])))
            for g in groups if len(g) > 1]


def _distances(rows, centres):
    squares = (rows ** 2).sum(1)[:, None] + (centres ** 2).sum(1) - 2 * rows @ centres.T
    return np.sqrt(np.maximum(squares, 0))


def _labels(rows, k, rng):
    """(label of each row, centres [k, D]) of k-means, begun at rows that are drawn far from each other."""
    k = min(k, len(rows))
    centres = rows[[rng.randint(len(rows))]]
    for _ in range(k - 1):
        far = _distances(rows, centres).min(axis=1)
        far = np.where(far > 1e-7, far, 0)                  # a row that is a centre is at 0, but for rounding
        chosen = rng.choice(len(rows), p=far / far.sum()) if far.sum() else rng.randint(len(rows))
        centres = np.concatenate([centres, rows[[chosen]]])
    for _ in range(_ROUNDS):
        labels = _distances(rows, centres).argmin(axis=1)
        moved = np.stack([rows[labels == g].mean(axis=0) if (labels == g).any() else centres[g] for g in range(k)])
        shift, centres = np.linalg.norm(moved - centres), moved
        if shift < _STILL:
            break
    return labels, centres
