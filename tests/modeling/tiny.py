"""Models that are small enough for a test."""

import numpy as np
import paddle
from paddle import nn

from passl.modeling import build_model
from passl.modeling.backbones import BACKBONES, ResNet
from tests.engine.small import KEYS

DIM, K = 8, 32
NECKS = {'DenseCL': 'DenseCLNeck', 'MoCo': 'NonLinearNeckV1'}


@BACKBONES.register()
class Narrow(ResNet):
    """A ResNet with a quarter of the channels: [N, 3, H, W] -> [N, C, H / 32, W / 32], C = 128 or 512."""

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = 16
        return super()._make_layer(block, planes // 4, *args, **kwargs)

    def _vary(self):
        self.conv1, self.bn1 = nn.Conv2D(3, 16, 7, stride=2, padding=3, bias_attr=False), nn.BatchNorm2D(16)
        if self.num_classes:
            self.fc = nn.Linear(self.inplanes, self.num_classes)
        else:
            self.out_channels = self.inplanes


def small(name='DenseCL', neck=None, backbone=None, **model):
    """On a backbone of two convolutions, [N, 3, H, W] -> [N, 16, H / 8, W / 8]; dim 8, K 32; freshly seeded."""
    paddle.seed(0)
    built = build_model({
        'name': name, 'dim': DIM, 'K': K, 'm': 0.9, 'backbone': backbone or {'name': 'SmallNet'},
        'neck': {'name': NECKS[name], **KEYS, **(neck or {})},
        'head': {'name': 'ContrastiveHead', 'temperature': 0.2}, **model})
    built.train()
    return built


def contrast(name='DenseCL', neck=None, backbone=None, **model):
    """As `small`, on a ResNet-18."""
    return small(name, {'in_channels': 512, 'hid_channels': 16, **(neck or {})},
                 {'name': 'ResNet', 'depth': 18, **(backbone or {})}, **model)


def narrow(name='DenseCL', neck=None, backbone=None, **model):
    """As `small`, on a ResNet-18 with a quarter of the channels."""
    return contrast(name, {'in_channels': 128, **(neck or {})}, {'name': 'Narrow', **(backbone or {})}, **model)


def views(n=4, height=16, width=16, seed=0):
    """Two random views [n, 3, height, width]."""
    rng = np.random.RandomState(seed)
    return [paddle.to_tensor(rng.randn(n, 3, height, width).astype('float32')) for _ in range(2)]


def residual_block(kind, c, stride):
    """A block of 16 channels (times its expansion) from c, freshly seeded; all values before a ReLU are positive, so
    that none can flip."""
    paddle.seed(1)
    width = 16 * kind.expansion
    down = None if c == width and stride == 1 else nn.Sequential(
        nn.Conv2D(c, width, 1, stride=stride, bias_attr=False), nn.BatchNorm2D(width))
    layer = kind(c, 16, stride, down)
    for norm in layer.sublayers():
        if isinstance(norm, nn.BatchNorm2D):
            norm.weight.set_value(norm.weight * 0.1)
            norm.bias.set_value(norm.bias + 1)
    return layer


def outcome(layer, image, compute):
    """[y = compute(image), gradients of the image and of the layer's parameters] of a weighted sum of y, as arrays."""
    x = paddle.to_tensor(image, stop_gradient=False)
    y = compute(x)
    (y * paddle.cos(paddle.arange(y.size, dtype='float32')).reshape(y.shape)).sum().backward()
    found = [y.numpy(), x.grad.numpy()] + [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
    layer.clear_gradients()
    return found


def values(layer):
    """{name: array copied} of parameters and buffers."""
    return {n: p.numpy().copy() for n, p in layer.state_dict().items()}


def unit(x, axis):
    """x with vectors of length 1 along `axis`."""
    return x / np.linalg.norm(x, axis=axis, keepdims=True)
