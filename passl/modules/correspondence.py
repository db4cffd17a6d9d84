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


def _lengths(x):
    """Euclidean length of the vectors x [N, C, L] -> [N, L]; at least 1e-12, as F.normalize has it."""
    return (x * x).sum(axis=1).sqrt().clip(min=1e-12)


def take_matched(dense_k: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """dense_k [N, D, Lk], index [N, Lq] -> the matched keys [N, Lq, D]."""
    by_place = dense_k.transpose([0, 2, 1])                            # [N, Lk, D]
    n, _, d = by_place.shape
    where = index.unsqueeze(2).expand([n, index.shape[1], d])
    return paddle.take_along_axis(by_place, where, axis=1)
