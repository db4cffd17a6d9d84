"""The parts of a paddle.vision ResNet, computed on channels-last CPU tensors [N, H, W, C]."""

from paddle.vision.models import resnet as vision

from ...modules import channels_last as cl


def suits(net, x):
    """True if `stem` and `block` can stand for the parts of `net` with the images x [N, 3, H, W].

    False on other devices, while a static graph is traced, and when sublayers were replaced or have hooks.
    """
    return (cl.suits(x) and min(x.shape[2:]) > 0 and cl.ordinary(net)
            and all(type(b) in (vision.BasicBlock, vision.BottleneckBlock)
                    for s in range(1, 5) for b in getattr(net, f'layer{s}')))


def stem(net, x):
    """Images [N, 3, H, W] -> [N, H/4, W/4, 64]."""
    x = cl.norm(net.bn1, cl.conv(net.conv1, cl.to_channels_last(x)), relu=True)
    return cl.max_pool(3, 2, 1, x)


def block(layer, x):
    """A residual block of [N, H, W, C]."""
    out = cl.norm(layer.bn1, cl.conv(layer.conv1, x), relu=True)
    if layer.downsample is not None:
        x = cl.norm(layer.downsample[1], cl.conv(layer.downsample[0], x))
    if isinstance(layer, vision.BasicBlock):
        return cl.norm(layer.bn2, cl.conv(layer.conv2, out), relu=True, add=x)
    out = cl.norm(layer.bn2, cl.conv(layer.conv2, out), relu=True)
    return cl.norm(layer.bn3, cl.conv(layer.conv3, out), relu=True, add=x)


def end(x):
    """Back to [N, C, H, W]."""
    return cl.from_channels_last(x)
