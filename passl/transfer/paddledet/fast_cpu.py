"""Blocks of PaddleDetection's ResNet on channels-last CPU tensors, as `passl.modules.cpu.resnet` for ours.

A detector's time on a CPU is that of its convolutions. A training step of a small C4 model takes a fifth less with
these (docs/TRANSFER_DETECTION.md).
"""

from typing import TYPE_CHECKING

from ppdet.modeling.backbones.resnet import BasicBlock, BottleNeck

from ...modules.cpu import channels_last as cl

if TYPE_CHECKING:
    import paddle


def suits(net: 'paddle.nn.Layer', x: 'paddle.Tensor') -> bool:
    """True if `blocks` can stand for the blocks of `net` with the features x [N, C, H, W]; False on other devices."""
    return (cl.suits(x) and min(x.shape[1:]) > 0 and cl.ordinary(net)
            and all(type(layer) is not BasicBlock and type(layer) is not BottleNeck or not layer.std_senet
                    for layer in net.sublayers()))


def stem(layers: 'paddle.nn.Layer', x: 'paddle.Tensor') -> 'paddle.Tensor':
    """The 7x7 convolution with norm, ReLU and pooling: images [N, 3, H, W] -> [N, H/4, W/4, 64]."""
    part = layers.conv1
    x = cl.norm(part.norm, cl.conv(part.conv, cl.to_channels_last(x)), relu=True)
    return cl.max_pool(3, 2, 1, x)


def stage(layers: 'paddle.nn.Layer', x: 'paddle.Tensor') -> 'paddle.Tensor':
    """The blocks of one stage, [N, H, W, C] -> the same layout."""
    for block in layers.blocks:
        short = x if block.shortcut else _unit(block.short, x)
        x = _unit(block.branch2a, x, relu=True)
        if isinstance(block, BottleNeck):
            x = _unit(block.branch2b, x, relu=True)
        last = block.branch2c if isinstance(block, BottleNeck) else block.branch2b
        x = cl.norm(last.norm, cl.conv(last.conv, x), relu=True, add=short)
    return x


def _unit(part, x, relu=False):
    return cl.norm(part.norm, cl.conv(part.conv, x), relu=relu)


to_channels_last, from_channels_last = cl.to_channels_last, cl.from_channels_last
