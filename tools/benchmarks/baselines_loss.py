"""What the loss is compared with: the formulations that one writes first."""

import paddle
import paddle.nn.functional as F

from passl.modules.contrastive_loss import info_nce


def ours(query, key, queue, temperature):
    """The project's: in blocks, the gradient made with the value."""
    return info_nce(query, key, queue, temperature)[0]


def concat_cross_entropy(query, key, queue, temperature):
    """MoCo's listing: the positive in front of all negatives, cross-entropy with class 0. Makes M (K + 1) logits."""
    pos = (query * key).sum(axis=1, keepdim=True)
    neg = paddle.matmul(query, queue)
    logits = paddle.concat([pos, neg], axis=1) / temperature
    return F.cross_entropy(logits, paddle.zeros([query.shape[0]], dtype='int64'))


def log_sum_exp(query, key, queue, temperature):
    """The same without joining the positives. Makes M K logits."""
    pos = (query * key).sum(axis=1) / temperature
    neg = paddle.matmul(query, queue) / temperature
    return F.softplus(paddle.logsumexp(neg, axis=1) - pos, threshold=40).mean()


LOSSES = {'ours': ours, 'concat + cross-entropy': concat_cross_entropy, 'logsumexp, no concat': log_sum_exp}


def forward_backward(name, query, key, queue, temperature):
    """(loss, gradient of the query) of one of LOSSES."""
    query = query.detach()
    query.stop_gradient = False
    loss = LOSSES[name](query, key, queue, temperature)
    loss.backward()
    return loss, query.grad
