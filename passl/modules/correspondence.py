"""Which location of the key view shows the same thing as a location of the query view (DenseCL, section 3.3)."""

import paddle


@paddle.no_grad()
def match(feat_q: paddle.Tensor, feat_k: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """For each query location the key location of highest cosine similarity. No gradient; many-to-one is allowed.

    Args:
        feat_q: Tensor [N, C, Lq], backbone features of the query view (any scale).
        feat_k: Tensor [N, C, Lk], backbone features of the key view.
    Returns:
        (index int64 [N, Lq] with values in 0 .. Lk - 1, similarity [N, Lq] in -1 .. 1).
    """
    with paddle.amp.auto_cast(enable=False):          # in half precision near locations would be equal
        feat_q, feat_k = (x.detach().astype('float32') for x in (feat_q, feat_k))
        # the lengths divide the few similarities and not the large maps
        dot = paddle.matmul(feat_q, feat_k, transpose_x=True)            # [N, Lq, Lk]
        similarity = dot / _lengths(feat_k).unsqueeze(1)
        index = similarity.argmax(axis=2)
        return index, similarity.max(axis=2) / _lengths(feat_q)


@paddle.no_grad()
def match_mutual(feat_q: paddle.Tensor, feat_k: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """As `match`, and which query locations are chosen back by the key location that they choose.

    Returns:
        (index int64 [N, Lq], mutual float32 [N, Lq] of ones and zeros).
    """
    index, _ = match(feat_q, feat_k)
    back, _ = match(feat_k, feat_q)                                    # [N, Lk]
    mutual = paddle.take_along_axis(back, index, axis=1) == paddle.arange(index.shape[1]).unsqueeze(0)
    return index, mutual.astype('float32')


@paddle.no_grad()
def cells_at(places: paddle.Tensor, rows: int, columns: int, radius: float) -> tuple[paddle.Tensor, paddle.Tensor]:
    """For each cell of the query view the key cell whose centre is nearest in the image. Both have rows x columns.

    On a regular grid that is the cell which the point lies in (outside of the crop: the nearest one along each axis).

    Args:
        places: float32 [N, 2, 6]: of query and key top, left, height, width of the crop, in fractions of the image,
            then flipped left-right and top-bottom (0 or 1).
        radius: in sides of the query's cells.
    Returns:
        (index int64 [N, L], valid float32 [N, L]): 1 where the query cell's centre lies inside the key's crop and the
        key cell's centre within `radius` of it.
    """
    with paddle.amp.auto_cast(enable=False):
        query, key = places.astype('float32').unbind(axis=1)           # [N, 6]
        index, off, valid = [], [], []
        for axis, cells in ((0, rows), (1, columns)):
            (start_q, size_q, flip_q), (start_k, size_k, flip_k) = (
                (p[:, axis:axis + 1], p[:, 2 + axis:3 + axis], p[:, 5 - axis:6 - axis]) for p in (query, key))
            centre = ((paddle.arange(cells, dtype='float32') + 0.5) / cells).unsqueeze(0)
            centre = start_q + size_q * _flipped(centre, flip_q)       # in the image, [N, cells]
            centre = _flipped((centre - start_k) / size_k, flip_k)     # in the key view
            valid.append((centre >= 0) & (centre <= 1))
            index.append((centre * cells).floor().clip(0, cells - 1))
            off.append((centre * cells - index[-1] - 0.5) * size_k / size_q)
        distance = off[0].square().unsqueeze(2) + off[1].square().unsqueeze(1)                   # [N, rows, columns]
        inside = valid[0].unsqueeze(2) & valid[1].unsqueeze(1) & (distance <= radius ** 2)
        index = index[0].unsqueeze(2) * columns + index[1].unsqueeze(1)
        return index.flatten(1).astype('int64'), inside.flatten(1).astype('float32')


def _flipped(x, flip):
    """Coordinates x in 0 .. 1 from the other end where `flip` is 1."""
    return x + flip * (1 - 2 * x)


def _lengths(x):
    """Euclidean length of the vectors x [N, C, L] -> [N, L]; at least 1e-12, as F.normalize has it."""
    return (x * x).sum(axis=1).sqrt().clip(min=1e-12)


def take_matched(dense_k: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """dense_k [N, D, Lk], index [N, Lq] -> the matched keys [N, Lq, D]."""
    by_place = dense_k.transpose([0, 2, 1])                            # [N, Lk, D]
    n, _, d = by_place.shape
    where = index.unsqueeze(2).expand([n, index.shape[1], d])
    return paddle.take_along_axis(by_place, where, axis=1)
