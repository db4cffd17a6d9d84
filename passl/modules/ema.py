"""Exponential moving average of one network's weights in another (MoCo, section 3.2)."""

import paddle


def trainable_pairs(source, target):
    """[(parameter of `source`, parameter of `target`)] for every parameter that trains in `source`.

    Paddle keeps BN's running statistics among the parameters (as not trainable): they are left
    out, because the target network measures its own.
    """
    theirs = dict(target.named_parameters())
    return [(p, theirs[name]) for name, p in source.named_parameters() if not p.stop_gradient]


@paddle.no_grad()
def ema_update_(pairs, m):
    """k <- m k + (1 - m) q, in place, for every (q, k) of `pairs`.

    Args:
        pairs: list of (query parameter, key parameter) of equal shape.
        m: momentum, 0 .. 1.
    """
    for q, k in pairs:
        k.scale_(m)
        k.add_((q if q.dtype == k.dtype else q.astype(k.dtype)) * (1.0 - m))
