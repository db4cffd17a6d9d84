"""Models that are small enough for a test."""

import numpy as np
import paddle
from paddle import nn

from passl.modeling import build_model

DIM, K = 8, 32
NECKS = {'DenseCL': 'DenseCLNeck', 'MoCo': 'NonLinearNeckV1'}


def contrast(name='DenseCL', neck=None, backbone=None, **model):
    """ResNet-18 with a narrow neck, dim 8, K 32; freshly seeded."""
    paddle.seed(0)
    built = build_model({
        'name': name, 'dim': DIM, 'K': K, 'm': 0.9,
        'backbone': {'name': 'ResNet', 'depth': 18, **(backbone or {})},
        'neck': {'name': NECKS[name], 'in_channels': 512, 'hid_channels': 16, 'out_channels': DIM, **(neck or {})},
        'head': {'name': 'ContrastiveHead', 'temperature': 0.2}, **model})
    built.train()
    return built


def views(n=4, height=64, width=64, seed=0):
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
