"""Regions of an image (superpixels) on the cells of a view's grid."""

import paddle
import paddle.nn.functional as F

_TINY = 1e-12               # a square length: the vector of a region without a cell stays 0, and its gradient finite


@paddle.no_grad()
def region_shares(regions, most, grid):
    """How much of every cell, and of the whole view, each region covers.

    Args:
        regions: Tensor [N, h, w] of whole numbers from 0 to most - 1, the region that is seen at h x w places of a
            view; a place with another number belongs to none.
        most: R, the number of regions that an image has at most.
        grid: (rows, columns) of the cells.
    Returns:
        (float32 [N, R, L] shares of the cells, float32 [N, R] shares of the view), L = rows x columns.
    """
    number = paddle.arange(most, dtype='int32').reshape([1, most, 1, 1])
    belongs = (regions.astype('int32').unsqueeze(1) == number).astype('float32')           # [N, R, h, w]
    return F.adaptive_avg_pool2d(belongs, list(grid)).flatten(2), belongs.mean(axis=[2, 3])


def pool_regions(shares, dense):
    """Unit vectors of regions: means of the cells' vectors, weighted by `shares`.

    Args:
        shares: float32 [N, R, L];  dense: float32 [N, D, L].
    Returns:
        [N, R, D]; 0 for a region that covers no cell.
    """
    total = paddle.matmul(shares, dense, transpose_y=True)                                # [N, R, D]
    return total * (total.square().sum(axis=2, keepdim=True) + _TINY).rsqrt()
