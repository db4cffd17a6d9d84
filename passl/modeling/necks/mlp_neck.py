"""Projections of the globally pooled feature."""

import paddle

from paddle import nn

from ...modules.init import constant_, kaiming_linear_
from ...utils.config.kinds import Count, Flag
from .builder import NECKS


class _PooledNeck(nn.Layer):
    def __init__(self, in_channels: Count, out_channels: Count, with_avg_pool: Flag) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.avgpool = nn.AdaptiveAvgPool2D((1, 1)) if with_avg_pool else None

    def pooled(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, H, W] -> [N, C] (a [N, C] input passes)."""
        if self.avgpool is not None and x.ndim == 4:
            x = self.avgpool(x)
        return x.flatten(1)

    def init_linear(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                kaiming_linear_(layer)
            elif isinstance(layer, nn.BatchNorm1D):
                assert layer.weight is not None and layer.bias is not None      # as the necks below make it
                constant_(layer.weight, 1.0)
                constant_(layer.bias, 0.0)


@NECKS.register()
class LinearNeck(_PooledNeck):
    """pool -> fc (MoCo v1).

    Args:
        in_channels, out_channels: widths.
        with_avg_pool: pool the map first.
    """

    def __init__(self, in_channels: Count, out_channels: Count, with_avg_pool: Flag = True) -> None:
        super().__init__(in_channels, out_channels, with_avg_pool)
        self.fc = nn.Linear(in_channels, out_channels)
        self.init_linear()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(self.pooled(x))                              # [N, out]


@NECKS.register()
class NonLinearNeckV1(_PooledNeck):
    """pool -> fc -> ReLU -> fc (MoCo v2, SimCLR).

    Args:
        in_channels, hid_channels, out_channels: widths.
        with_avg_pool: pool the map first.
    """

    with_norm = False

    def __init__(self, in_channels: Count, hid_channels: Count, out_channels: Count,
                 with_avg_pool: Flag = True) -> None:
        super().__init__(in_channels, out_channels, with_avg_pool)
        norm = [nn.BatchNorm1D(hid_channels)] if self.with_norm else []
        self.mlp = nn.Sequential(nn.Linear(in_channels, hid_channels), *norm, nn.ReLU(),
                                 nn.Linear(hid_channels, out_channels))
        self.init_linear()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.mlp(self.pooled(x))


@NECKS.register()
class NonLinearNeckV2(NonLinearNeckV1):
    """pool -> fc -> BN -> ReLU -> fc (BYOL). Arguments: see NonLinearNeckV1."""

    with_norm = True
