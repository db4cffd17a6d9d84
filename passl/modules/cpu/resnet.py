"""The parts of our ResNets (`passl.modeling.backbones`), computed on channels-last CPU tensors [N, H, W, C]."""

from typing import Any
import paddle
import functools
from types import SimpleNamespace
from paddle import nn
from paddle.vision.models import resnet as vision

from . import channels_last as cl


def suits(net: nn.Layer, x: paddle.Tensor) -> bool:
    """True if `stem` and `block` can stand for the parts of `net` with the images x [N, 3, H, W].

    False on other devices, while a static graph is traced, and when sublayers were replaced or have hooks.
    """
    return (cl.suits(x) and min(x.shape[2:]) > 0 and cl.ordinary(net)
            and all(type(b) in (vision.BasicBlock, vision.BottleneckBlock)
                    for s in range(1, 5) for b in getattr(net, f'layer{s}')))


def stem(net: nn.Layer, x: paddle.Tensor, dtype: Any = paddle.float32) -> paddle.Tensor:
    """Images [N, 3, H, W] -> [N, H/4, W/4, 64] of this type, which the blocks keep."""
    x = cl.to_channels_last(x, dtype)
    if isinstance(net.conv1, nn.Sequential):        # deep: three convolutions, the first two with norm and ReLU
        parts: list[Any] = [part for part in net.conv1 if not isinstance(part, nn.ReLU)]
        *inner, last = parts
        for conv, norm in zip(inner[::2], inner[1::2]):
            x = cl.norm(norm, cl.conv(conv, x), relu=True)
    else:
        last = net.conv1
    return cl.max_pool(3, 2, 1, cl.norm(net.bn1, cl.conv(last, x), relu=True))


def block(layer: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """A residual block of [N, H, W, C]."""
    basic = isinstance(layer, vision.BasicBlock)
    inner, x = cl.fork(x)
    out = cl.norm(layer.bn1, cl.conv(layer.conv1, inner), relu=True)
    if layer.downsample is not None:
        *pool, conv, norm = layer.downsample
        for part in pool:       # ResNet_vd: average pooling, or the identity
            x = cl.avg_pool(part, x) if isinstance(part, nn.AvgPool2D) else x
        x = cl.norm(norm, cl.conv(conv, x))
    if basic:
        return cl.norm(layer.bn2, cl.conv(layer.conv2, out), relu=True, add=x)
    out = cl.norm(layer.bn2, cl.conv(layer.conv2, out), relu=True)
    return cl.norm(layer.bn3, cl.conv(layer.conv3, out), relu=True, add=x)


def end(x: paddle.Tensor) -> paddle.Tensor:
    """Back to [N, C, H, W] in float32."""
    return cl.from_channels_last(x)


half = SimpleNamespace(stem=functools.partial(stem, dtype=paddle.bfloat16), block=block, end=end)
