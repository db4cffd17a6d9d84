"""InfoNCE against a queue, and NT-Xent within a batch, as pure functions."""

import paddle
import paddle.nn.functional as F


def info_nce(query, key, queue, temperature):
    """Contrastive loss of M queries, each with one positive key and K shared negatives.

    mean over i of -log( exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum_j exp(q_i.n_j / T)) )

    Args:
        query: Tensor [M, D], L2-normalised rows; has the gradient.
        key: Tensor [M, D], L2-normalised rows.
        queue: Tensor [D, K], L2-normalised columns.
        temperature: T > 0.
    Returns:
        (loss 0-D, pos [M], neg [M, K]): the mean loss and the logits, divided by T.
    """
    with paddle.amp.auto_cast(enable=False):
        query, key, queue = (t.astype('float32') for t in (query, key, queue))
        pos = (query * key).sum(axis=1) / temperature                  # [M]
        neg = paddle.matmul(query, queue) / temperature                # [M, K]
        loss = F.softplus(paddle.logsumexp(neg, axis=1) - pos, threshold=40).mean()
    return loss, pos, neg


@paddle.no_grad()
def ranking_accuracy(pos, neg, topk=(1, 5)):
    """Share (in percent) of rows whose positive logit is among the k largest; k is clamped to 1 + K.

    An equal negative counts as larger: a network that gives one vector for everything scores 0, not 100.

    Args:
        pos: Tensor [M];  neg: Tensor [M, K].
    Returns:
        list of 0-D Tensors, one per k.
    """
    above = (neg >= pos.unsqueeze(1)).astype('int32').sum(axis=1)
    return [(above < min(k, 1 + neg.shape[1])).astype('float32').mean() * 100.0 for k in topk]


def nt_xent(z1, z2, all1, all2, rank, temperature):
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
        loss = F.softplus(paddle.logsumexp(neg, axis=1) - pos, threshold=40).mean()
    return loss, pos, neg
