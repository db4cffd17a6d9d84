"""DenseCL's two projections: one of the pooled feature, one of every location (DenseCL, section 3.2)."""

from typing import Annotated, Optional, Sequence, Union

import paddle
import paddle.nn.functional as F
from paddle import nn

from ...modules.init import kaiming_linear_, torch_default_conv_
from ...utils.config.kinds import Check, Count, is_whole
from .builder import NECKS

Grid = Annotated[Union[int, Sequence[int]], Check('a number of cells S of 1 or more, or [S_h, S_w]', lambda v: all(
    is_whole(s) and s >= 1 for s in (v if isinstance(v, (list, tuple)) and len(v) == 2 else [v])))]


@NECKS.register()
class DenseCLNeck(nn.Layer):
    """Global projection and dense projection in parallel; no BN.

    Args:
        in_channels: channels of the backbone's map.
        hid_channels: hidden width of both projections.
        out_channels: D, the dimension that the losses live in.
        num_grid: S or [S_h, S_w]: pool the map to that many cells first; None keeps the map as it is.

    `forward(x [N, C, H, W])` -> (global [N, D], dense [N, D, L], pooled [N, D]) with L = H W or S_h S_w;
    `pooled` is the mean of `dense` over locations. Nothing is normalised. Of `mlp2` the parameters are used
    (hooks of its layers are not called).
    """

    def __init__(self, in_channels: Count, hid_channels: Count, out_channels: Count,
                 num_grid: Optional[Grid] = None) -> None:
        super().__init__()
        if isinstance(num_grid, int):
            num_grid = [num_grid, num_grid]
        self.num_grid = None if num_grid is None else list(num_grid)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.avgpool = nn.AdaptiveAvgPool2D((1, 1))
        self.pool = nn.AdaptiveAvgPool2D(self.num_grid) if self.num_grid is not None else None
        linears = nn.Linear(in_channels, hid_channels), nn.Linear(hid_channels, out_channels)
        convs = nn.Conv2D(in_channels, hid_channels, 1), nn.Conv2D(hid_channels, out_channels, 1)
        self.mlp = nn.Sequential(linears[0], nn.ReLU(), linears[1])
        self.mlp2 = nn.Sequential(convs[0], nn.ReLU(), convs[1])
        for linear in linears:
            kaiming_linear_(linear)
        for conv in convs:
            torch_default_conv_(conv)

    def to_grid(self, x: paddle.Tensor) -> paddle.Tensor:
        """The map that `dense` is made of and that correspondences are searched in."""
        return x if self.pool is None else self.pool(x)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        whole = self.mlp(self.avgpool(x).flatten(1))                 # [N, D]
        cells = self.to_grid(x).transpose([0, 2, 3, 1])               # [N, S_h, S_w, C]
        n, rows, columns, c = cells.shape
        # a 1x1 convolution is a matrix product: one over the cells of all samples, not one per sample
        hidden = F.relu(_product(cells.reshape([n * rows * columns, c]), self.mlp2[0]))
        dense = _product(hidden, self.mlp2[2]).reshape([n, rows * columns, -1])
        return whole, dense.transpose([0, 2, 1]), dense.mean(1)


def _product(x, conv):
    """What the 1x1 convolution `conv` makes of every row of x [M, C]."""
    out = paddle.matmul(x, conv.weight.flatten(1), transpose_y=True)
    # in half precision, too: what the exchange sends stays half as large
    return out + (conv.bias if conv.bias.dtype == out.dtype else conv.bias.astype(out.dtype))
