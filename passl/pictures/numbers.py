"""From features to what a picture shows: matches, colours, neighbours, places. NumPy alone."""

import numpy as np

from ..utils.errors import ConfigError

_EPS = 1e-12


def unit(x: np.ndarray) -> np.ndarray:
    """x / its length along the last axis, in float32; zeros stay."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(_EPS))


def mutual_matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell of the first view the most similar one of the second, by cosine.

    Args:
        first, second: [cells, channels] of either view.
    Returns:
        (index int [cells], similarity float32 [cells], mutual bool [cells]: the match chooses back).
    """
    similarity = unit(first) @ unit(second).T
    index, back = similarity.argmax(1), similarity.argmax(0)
    return index, similarity.max(1), back[index] == np.arange(len(index))


def hits(index: np.ndarray, true: np.ndarray, columns: int, within: int = 1) -> np.ndarray:
    """bool: which of the cells `index` lie at most `within` rows and columns from those of `true`."""
    rows_off = np.abs(index // columns - true // columns)
    columns_off = np.abs(index % columns - true % columns)
    return np.maximum(rows_off, columns_off) <= within


def chance(true: np.ndarray, rows: int, columns: int, within: int = 1) -> float:
    """Mean share of all cells that `hits` accepts for these true cells; nan without any."""
    if not len(true):
        return float('nan')
    every = np.arange(rows * columns)
    return float(np.mean([hits(every, np.full_like(every, t), columns, within).mean() for t in true]))


def spread_out(score: np.ndarray, allowed: np.ndarray, columns: int, apart: int, most: int = 16) -> np.ndarray:
    """Allowed cells of a grid, the highest score first, each at least `apart` rows or columns from those before it.

    Args:
        score, allowed: [rows * columns].
    Returns:
        at most `most` cells, in the order in which they were chosen.
    """
    chosen: list[int] = []
    for cell in np.argsort(-np.asarray(score), kind='stable'):
        if len(chosen) == most:
            break
        if allowed[cell] and not hits(np.array(chosen, int), np.array(cell), columns, apart - 1).any():
            chosen.append(int(cell))
    return np.array(chosen, dtype=int)


def principal(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Principal components of rows.

    Args:
        x: [rows, channels].
        count: components; fewer channels or rows than that leave the last ones zero.
    Returns:
        (projections of the centred rows [rows, count], components [count, channels] whose entry of largest size is
        positive, their share of the variance). Computed in float64.
    """
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    covariance = x.T @ x
    values, vectors = np.linalg.eigh(covariance)                        # rising
    kept = vectors[:, ::-1][:, :count].T
    values = np.maximum(values[::-1], 0)
    total = float(values.sum())
    if total <= _EPS:
        return np.zeros((len(x), count)), np.zeros((count, x.shape[1])), 0.0
    components = np.zeros((count, x.shape[1]))
    components[:len(kept)] = kept * np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(1)])[:, None]
    return x @ components.T, components, float(values[:count].sum() / total)


def pca_rgb(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Colours of cells: the first three principal components of the unit vectors of all cells of all images together.

    Args:
        maps: [images, rows, columns, channels].
    Returns:
        (float [images, rows, columns, 3] in 0..1: each component from its 1st to its 99th percentile, share of the
        variance that the three hold).
    """
    shape = maps.shape[:3]
    projected, _, share = principal(unit(maps).reshape(-1, maps.shape[3]), 3)
    low, high = np.percentile(projected, [1, 99], axis=0)
    scaled = (projected - low) / np.maximum(high - low, _EPS)
    return np.clip(np.where(high - low > _EPS, scaled, 0.5), 0, 1).reshape(*shape, 3), share


def nearest_cells(maps: np.ndarray, image: int, cell: int, count: int) -> list[tuple[int, int, float]]:
    """The cells of other images that are most like a cell, by cosine: the best one of each image, best first.

    Args:
        maps: [images, cells, channels].
    Returns:
        [(image, cell, similarity)], `count` of them or one per other image.
    """
    similarity = unit(maps) @ unit(maps[image, cell])                    # [images, cells]
    best = similarity.max(1)
    best[image] = -np.inf
    order = np.argsort(-best, kind='stable')[:min(count, len(maps) - 1)]
    return [(int(i), int(similarity[i].argmax()), float(best[i])) for i in order]


def nearest_images(pooled: np.ndarray, image: int, count: int) -> list[tuple[int, float]]:
    """The other images whose pooled features [images, channels] are most like those of `image`, by cosine."""
    similarity = unit(pooled) @ unit(pooled[image])
    similarity[image] = -np.inf
    order = np.argsort(-similarity, kind='stable')[:min(count, len(pooled) - 1)]
    return [(int(i), float(similarity[i])) for i in order]


def plane(pooled: np.ndarray, method: str = 'pca', seed: int = 0) -> np.ndarray:
    """Places of images on a plane, [images, 2], from the unit vectors of their pooled features [images, channels].

    Args:
        method: 'pca'; 'tsne' and 'umap' need scikit-learn and umap-learn.
    Raises:
        ConfigError: what the method needs is not installed.
    """
    x = unit(pooled)
    if method == 'pca':
        return principal(x, 2)[0]
    try:
        if method == 'tsne':
            from sklearn.manifold import TSNE
            made = TSNE(2, perplexity=max(1.0, min(30.0, (len(x) - 1) / 3)), init='random', random_state=seed)
        else:
            from umap import UMAP
            made = UMAP(n_neighbors=max(2, min(15, len(x) - 1)), random_state=seed)
    except ImportError as e:
        raise ConfigError(f"--embedding {method} needs {'scikit-learn' if method == 'tsne' else 'umap-learn'}: {e}. "
                          "Install it with: pip install -e '.[embedding]' (in the clone), or leave --embedding out: "
                          'pca needs nothing.') from None
    return np.asarray(made.fit_transform(x), np.float64)
