"""Initialisation as the authors' (PyTorch) models have it."""

import math
import paddle

from paddle import nn


def _set(param, initializer):
    initializer(param, param.block if hasattr(param, 'block') else None)


def normal_(param: paddle.Tensor, std: float, mean: float = 0.0) -> None:
    """Fill with N(mean, std^2)."""
    _set(param, nn.initializer.Normal(mean, std))


def uniform_(param: paddle.Tensor, bound: float) -> None:
    """Fill with U(-bound, bound)."""
    _set(param, nn.initializer.Uniform(-bound, bound))


def constant_(param: paddle.Tensor, value: float) -> None:
    """Fill with one value."""
    _set(param, nn.initializer.Constant(value))


def kaiming_linear_(layer: nn.Linear) -> None:
    """Linear layer: weight N(0, 2 / fan_in), bias 0. Paddle's weight is [in, out]."""
    normal_(layer.weight, math.sqrt(2.0 / layer.weight.shape[0]))
    if layer.bias is not None:
        constant_(layer.bias, 0.0)


def torch_default_conv_(layer: nn.Conv2D) -> None:
    """Convolution: weight and bias U(+-1 / sqrt(fan_in)), PyTorch's default."""
    fan_in = layer.weight.shape[1] * layer.weight.shape[2] * layer.weight.shape[3]
    uniform_(layer.weight, 1 / math.sqrt(fan_in))
    if layer.bias is not None:
        uniform_(layer.bias, 1 / math.sqrt(fan_in))


def init_resnet_(net: nn.Layer, zero_init_residual: bool = False) -> None:
    """Convolutions N(0, 2 / fan_out), BN weight 1 and bias 0 (He et al. 2015, torchvision)."""
    for layer in net.sublayers():
        if isinstance(layer, nn.Conv2D):
            out, _, kh, kw = layer.weight.shape
            normal_(layer.weight, math.sqrt(2.0 / (out * kh * kw)))
        elif isinstance(layer, nn.BatchNorm2D):
            assert layer.weight is not None and layer.bias is not None      # those of a ResNet have both
            constant_(layer.weight, 1.0)
            constant_(layer.bias, 0.0)
        elif isinstance(layer, nn.Linear):
            normal_(layer.weight, 0.01)
            constant_(layer.bias, 0.0)
    if zero_init_residual:
        for layer in net.sublayers():
            last = getattr(layer, 'bn3', getattr(layer, 'bn2', None))
            if last is not None and hasattr(layer, 'conv2'):
                constant_(last.weight, 0.0)
