"""How far features are spread: the figure that shows a collapse."""

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
