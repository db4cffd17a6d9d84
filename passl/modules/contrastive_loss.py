"""InfoNCE against a queue, and NT-Xent within a batch, as pure functions."""

from typing import Any, Optional, Sequence

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from . import kernels

# Logits of one block. On a CPU what is in its cache counts: between 2**18 and 2**23 the time of 1568 x 65536 is flat,
# and with 2**21 (8 MiB) the logits of a small batch of global vectors need no cut of the queue. On a GPU each block is
# a handful of kernels: 2**23 (32 MiB) is an estimate at which their launches no longer matter; not measured.
CPU_BLOCK, GPU_BLOCK = 2**21, 2**23
_ALIGN, _NARROWEST = 64, 256          # columns: multiples of a vector, and enough of them for the matrix product
# exp() of unit vectors' logits can be summed as it is from this temperature on: |logit| <= 64, and
# sums between these bounds have lost nothing to overflow or underflow
_UNSHIFTED_FROM, _SMALLEST_SUM, _LARGEST_SUM = 1 / 64, 1e-25, 1e36
_HIDDEN = -1e4                        # as a logit
_TIE = 1e-6                           # dot products of unit vectors that differ by rounding only


def blocks(rows: int, columns: int, on_cpu: bool = True) -> list[tuple[int, int]]:
    """Cuts `columns` negatives into ranges, so that a block of [rows, range] logits has the size that suits the device.

    Returns:
        list of (start, end), nearly equal in length; a range has at least 256 columns (if there are as many).
    """
    wanted = max(_NARROWEST, (CPU_BLOCK if on_cpu else GPU_BLOCK) // max(1, rows))
    count = -(-columns // wanted)
    width = -(-columns // count)
    width = min(columns, -(-width // _ALIGN) * _ALIGN)
    return [(at, min(at + width, columns)) for at in range(0, columns, width)]


def _as_float32(x):
    return x if x.dtype == paddle.float32 else x.astype('float32')


def _scan(scaled, queue, cut, shifted, with_gradient, mark):
    """One pass over the queue: (shift [M, 1] or 0, sum [M, 1], weighted [M, D] or None, rank [M, 1] or None).

    With w_ij = exp(s_ij - shift_i), s = scaled @ queue: sum = sum_j w_ij, weighted = sum_j w_ij n_j. `shift` is the
    running maximum of the row (what is summed already is rescaled when it grows), or 0. rank counts s_ij >= mark_i.
    """
    shift, total, weighted, rank = 0.0, None, None, None
    for start, end in cut:
        columns = _as_float32(queue if end - start == queue.shape[1] else queue[:, start:end])      # [D, c]
        ones = paddle.ones([end - start, 1])          # a product with ones sums rows several times faster than sum()
        s = paddle.matmul(scaled, columns)                                                          # [M, c]
        if mark is not None:
            count = paddle.matmul((s >= mark).astype('float32'), ones)
            rank = count if rank is None else rank + count
        if shifted:
            top = s.max(axis=1, keepdim=True)
            if total is not None:
                top = paddle.maximum(shift, top)
                fade = paddle.exp(shift - top)
                total = total * fade
                weighted = weighted * fade if with_gradient else None
            s, shift = s.subtract_(top), top
        (kernels.find('exp_', s) or paddle.Tensor.exp_)(s)
        part = paddle.matmul(s, ones)
        total = part if total is None else total.add_(part)
        if with_gradient:
            part = paddle.matmul(s, columns, transpose_y=True)                                      # [M, D]
            weighted = part if weighted is None else weighted.add_(part)
        del s, part
    return shift, total, weighted, rank


@paddle.no_grad()
def log_sum_exp(query: paddle.Tensor, queue: paddle.Tensor, temperature: float, with_gradient: bool = True,
                mark: Optional[paddle.Tensor] = None, hide: Optional[paddle.Tensor] = None,
                ) -> tuple[paddle.Tensor, Optional[paddle.Tensor], Optional[paddle.Tensor]]:
    """log sum_j exp(q_i.n_j / T) over all columns n_j of the queue, without the [M, K] matrix of logits.

    Blocks of columns are used up one by one (see `blocks`). The gradient with respect to the query, the
    softmax-weighted mean of the negatives divided by T, needs nothing from above: it is made in the same pass.

    Args:
        query: float32 [M, D];  queue: [D, K], any floating type;  temperature: T > 0.
        with_gradient: also make the gradient (one more matrix product).
        mark: [M] or None. Given: also count the logits that are not below it.
        hide: None, or ([M, H], [H, K]) of zeros and ones: a column that has a one where the row has a one is left out.
    Returns:
        (value [M], gradient [M, D] or None, count int64 [M] or None). Of a row without any column the value is about
        -1e4.
    """
    on_cpu, dim = query.place.is_cpu_place(), query.shape[1]
    cut = blocks(query.shape[0], queue.shape[1], on_cpu)
    scaled = query / temperature
    if hide is not None:            # H more dimensions of the product: no mask of the size of a block
        scaled, queue = paddle.concat([scaled, hide[0] * _HIDDEN], axis=1), paddle.concat([queue, hide[1]], axis=0)
    mark = None if mark is None else mark.unsqueeze(1)
    total = None
    if on_cpu and temperature >= _UNSHIFTED_FROM:
        # Saves two of four passes over the logits, and is right for every input because the sums are looked at. That
        # is free only where the numbers lie in the host's own memory: on a GPU it would wait for the device.
        shift, total, weighted, rank = _scan(scaled, queue, cut, False, with_gradient, mark)
        if not bool(((total > _SMALLEST_SUM) & (total < _LARGEST_SUM)).all()):
            total = None
    if total is None:
        shift, total, weighted, rank = _scan(scaled, queue, cut, True, with_gradient, mark)
    value = (total.log() + shift).squeeze(1)
    gradient = weighted[:, :dim] / (total * temperature) if with_gradient else None
    return value, gradient, None if rank is None else rank.squeeze(1).astype('int64')


class _KnownGradient(PyLayer):
    """`value` [M] as a function of `query` [M, D], whose gradient [M, D] row by row is known. Saves that alone."""

    @staticmethod
    def forward(ctx: Any, query: paddle.Tensor, value: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: paddle.Tensor) -> tuple[paddle.Tensor, None, None]:    # type: ignore[override]
        gradient, = ctx.saved_tensor()
        return upstream.unsqueeze(1) * gradient, None, None


def _mean_loss(lse, pos, weight=None):
    """mean of -log(exp(pos) / (exp(pos) + exp(lse))): the positives are never joined to the negatives."""
    return weighted_mean(F.softplus(lse - pos, threshold=40), weight)


def weighted_mean(x: paddle.Tensor, weight: Optional[paddle.Tensor] = None) -> paddle.Tensor:
    """Mean of x [M] over the rows whose weight [M] is 1; 0 where no row has that. Without weights the mean."""
    return x.mean() if weight is None else (x * weight).sum() / weight.sum().clip(min=1)


def info_nce(query: paddle.Tensor, key: paddle.Tensor, queue: paddle.Tensor, temperature: float,
             with_rank: bool = False, weight: Optional[paddle.Tensor] = None,
             hide: Optional[paddle.Tensor] = None) -> tuple[paddle.Tensor, Optional[paddle.Tensor]]:
    """Contrastive loss of M queries, each with one positive key and K shared negatives.

    mean over i of -log( exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum_j exp(q_i.n_j / T)) )

    Computed in float32 and in blocks of negatives: no [M, K] matrix is made, and [M, D] is kept for backward. Only the
    query gets a gradient (of first order). Rows of any length are right; unit rows are fastest.

    Args:
        query: Tensor [M, D], L2-normalised rows; has the gradient.
        key: Tensor [M, D], L2-normalised rows.
        queue: Tensor [D, K], L2-normalised columns.
        temperature: T > 0.
        with_rank: also give the rank of the positives, for `ranking_accuracy`.
        weight: [M] of ones and zeros, or None: the mean is over the rows that have a one (0 if none has).
        hide: which negatives are left out for which rows, as in `log_sum_exp`; None: nothing is.
    Returns:
        (loss 0-D, rank int64 [M] or None): the mean loss; how many negatives are at least as similar as the positive
        (what differs by rounding only is equal).
    """
    with paddle.amp.auto_cast(enable=False):
        query, key, queue = _as_float32(query), _as_float32(key.detach()), queue.detach()
        pos = (query * key).sum(axis=1) / temperature                  # [M]
        mark = None
        if with_rank:
            with paddle.no_grad():
                mark = pos - _TIE / temperature * query.norm(axis=1) * key.norm(axis=1)
        needs_gradient = paddle.is_grad_enabled() and not query.stop_gradient
        lse, gradient, rank = log_sum_exp(query.detach(), queue, temperature, needs_gradient, mark, hide)
        if needs_gradient:
            lse = _KnownGradient.apply(query, lse, gradient)
        return _mean_loss(lse, pos, weight), rank


@paddle.no_grad()
def rank_among(pos: paddle.Tensor, neg: paddle.Tensor) -> paddle.Tensor:
    """How many entries of each row of `neg` [M, K] are not below `pos` [M] -> int64 [M]."""
    return (neg >= pos.unsqueeze(1)).astype('int64').sum(axis=1)


@paddle.no_grad()
def ranking_accuracy(rank: paddle.Tensor, negatives: int, topk: Sequence[int] = (1, 5),
                     weight: Optional[paddle.Tensor] = None) -> list[paddle.Tensor]:
    """Share (in percent) of rows whose positive is among the k most similar; k is clamped to 1 + K.

    An equal negative counts as larger: a network that gives one vector for everything scores 0, not 100.

    Args:
        rank: int64 [M], number of negatives that are at least as similar as the positive.
        negatives: K.
        weight: [M] of ones and zeros, or None: the share is of the rows that have a one.
    Returns:
        list of 0-D Tensors, one per k.
    """
    return [weighted_mean((rank < min(k, 1 + negatives)).astype('float32'), weight) * 100.0 for k in topk]


def nt_xent(z1: paddle.Tensor, z2: paddle.Tensor, all1: paddle.Tensor, all2: paddle.Tensor, rank: int,
            temperature: float) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """NT-Xent (SimCLR, equation 1) of this process's 2N views against everybody's.

    Args:
        z1, z2: Tensors [N, D], L2-normalised projections of the two views on this process.
        all1, all2: Tensors [W * N, D], the same of all W processes, in rank order.
        rank: index of this process.
        temperature: T > 0.
    Returns:
        (loss 0-D, pos [2N], neg [2N, 2WN]): own and positive entries of `neg` are masked (-1e9).
    """
    with paddle.amp.auto_cast(enable=False):
        z1, z2, all1, all2 = (t.astype('float32') for t in (z1, z2, all1, all2))
        n, total = z1.shape[0], all1.shape[0]
        own = paddle.arange(rank * n, (rank + 1) * n)
        is_own = F.one_hot(own, total)                                   # [N, W*N]
        hide = -1e9 * is_own                                             # exp -> 0: own sample is no negative
        s11 = paddle.matmul(z1, all1, transpose_y=True) / temperature + hide
        s22 = paddle.matmul(z2, all2, transpose_y=True) / temperature + hide
        s12 = paddle.matmul(z1, all2, transpose_y=True) / temperature
        s21 = paddle.matmul(z2, all1, transpose_y=True) / temperature
        pos = paddle.concat([(s12 * is_own).sum(axis=1), (s21 * is_own).sum(axis=1)])
        neg = paddle.concat([paddle.concat([s11, s12 + hide], axis=1),
                             paddle.concat([s22, s21 + hide], axis=1)])
        loss = _mean_loss(paddle.logsumexp(neg, axis=1), pos)
    return loss, pos, neg
