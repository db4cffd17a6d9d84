"""Regions of an image (superpixels) on the cells of a view's grid."""

from typing import Sequence

import paddle
import paddle.nn.functional as F

_TINY = 1e-12               # a square length: the vector of a region without a cell stays 0, and its gradient finite


@paddle.no_grad()
def region_shares(regions: paddle.Tensor, most: int, grid: Sequence[int]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """How much of every cell, and of the whole view, each region covers.

    Args:
        regions: Tensor [N, h, w] of whole numbers from 0 to most - 1, the region that is seen at h x w places of a
            view; a place with a larger number belongs to none.
        most: R, the number of regions that an image has at most.
        grid: (rows, columns) of the cells.
    Returns:
        (float32 [N, R, L] shares of the cells, float32 [N, R] shares of the view), L = rows x columns.
    """
    _, height, width = regions.shape
    with paddle.amp.auto_cast(enable=False):
        belongs = F.one_hot(regions.astype('int32').clip(0, most).flatten(1), most + 1)     # [N, h w, R + 1]
        # the pooling as a matrix: that of [N, R, h, w] would take several times as long
        places = paddle.eye(height * width).reshape([1, -1, height, width])
        weights = F.adaptive_avg_pool2d(places, list(grid)).flatten(2).squeeze(0)         # [h w, L]
        cells = paddle.matmul(belongs, weights, transpose_x=True)                         # [N, R + 1, L]
        return cells[:, :most], belongs.mean(axis=1)[:, :most]


def pool_regions(shares: paddle.Tensor, dense: paddle.Tensor) -> paddle.Tensor:
    """Unit vectors of regions: means of the cells' vectors, weighted by `shares`.

    Args:
        shares: float32 [N, R, L];  dense: float32 [N, D, L].
    Returns:
        [N, R, D]; 0 for a region that covers no cell.
    """
    total = paddle.matmul(shares, dense, transpose_y=True)                                # [N, R, D]
    return total * (total.square().sum(axis=2, keepdim=True) + _TINY).rsqrt()
