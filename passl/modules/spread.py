"""How far features are spread, and over how many directions: the figures that show a collapse."""

import math

import paddle


def spread(features: paddle.Tensor) -> paddle.Tensor:
    """Mean over dimensions of the standard deviation over rows, times sqrt(D).

    1 for unit vectors that point evenly in all directions, 0 if all are the same (the figure by which Chen & He, CVPR
    2021, tell a collapse). Few rows give less than many. Nothing is read from the device.

    Args:
        features: Tensor [n, D] with unit rows, n >= 2.
    Returns:
        float32, 0-D, without gradient.
    """
    with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
        x = features.detach().astype('float32')
        x = x - x.mean(axis=0, keepdim=True)
        return x.square().mean(axis=0).sqrt().mean() * math.sqrt(x.shape[1])


def effective_rank(features: paddle.Tensor) -> paddle.Tensor:
    """exp of the entropy of the singular values over their sum (Roy & Vetterli, EUSIPCO 2007; RankMe, ICML 2023).

    How many directions features use: 1 if all lie on one line, min(n, D) if all directions are used alike. Few rows
    give less than many. The values come from the [D, D] products, in double precision: no decomposition of the n rows.
    Nothing is read from the device.

    Args:
        features: Tensor [n, D], not all 0.
    Returns:
        float32, 0-D, without gradient.
    """
    with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
        x = features.detach().astype('float64')
        # a decomposition refuses nan and inf, which others tell in words
        products = paddle.nan_to_num(x.t().matmul(x), posinf=0.0, neginf=0.0)
        values = paddle.linalg.eigvalsh(products).clip(min=0).sqrt()
        share = values / values.sum().clip(min=1e-30)
        return (-(share * (share + 1e-30).log()).sum()).exp().astype('float32')
