"""Layers of oneDNN against float64 sums written out in numpy, and against Paddle's layers."""

import copy
import gc

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules.cpu import channels_last as cl, onednn

pytestmark = pytest.mark.skipif(bool(cl.why_not()), reason=cl.why_not() or 'usable')


def random(*shape):
    return np.random.RandomState(sum(shape)).randn(*shape).astype('float32')


def convolved(x, w, stride, pad, dilation=1):
    """[N, C, H, W] with [O, C, k_h, k_w], by the definition, in float64."""
    x = np.pad(x.astype('float64'), ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    rows, columns = ((x.shape[2 + i] - dilation * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    out = np.zeros((x.shape[0], w.shape[0], rows, columns))
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            part = x[:, :, i * dilation:i * dilation + stride[0] * rows:stride[0],
                     j * dilation:j * dilation + stride[1] * columns:stride[1]]
            out += np.einsum('ncab,oc->noab', part[:, :, :rows, :columns], w[:, :, i, j].astype('float64'))
    return out


def gradients(x, w, dy, stride, pad, dilation=1):
    """(dx, dw) of sum(dy * conv(x, w)), which is linear in both, by the definition, in float64; square windows."""
    k, padding = dilation * (w.shape[2] - 1) + 1, ((0, 0), (0, 0), (pad, pad), (pad, pad))
    source = np.pad(x.astype('float64'), padding)
    dx, dw = np.zeros_like(source), np.zeros(w.shape)
    for a in range(dy.shape[2]):
        for b in range(dy.shape[3]):
            window = np.s_[:, :, a * stride:a * stride + k:dilation, b * stride:b * stride + k:dilation]
            dx[window] += np.einsum('no,ocij->ncij', dy[:, :, a, b], w)
            dw += np.einsum('no,ncij->ocij', dy[:, :, a, b], source[window])
    return dx[:, :, pad:pad + x.shape[2], pad:pad + x.shape[3]], dw


SHAPES = [(2, 3, 8, (9, 7), 7, 2, 3, 1), (3, 16, 32, (7, 7), 3, 1, 1, 1), (2, 32, 16, (5, 9), 3, 2, 1, 1),
          (1, 16, 16, (1, 1), 3, 1, 1, 1), (2, 16, 48, (7, 5), 1, 1, 0, 1), (2, 16, 48, (7, 6), 1, 2, 0, 1),
          (2, 5, 7, (4, 6), 3, 1, 1, 1), (2, 16, 32, (7, 9), 3, 1, 2, 2), (1, 16, 8, (9, 8), 3, 2, 4, 4),
          (2, 3, 5, (6, 11), 3, 1, 0, 2)]


@pytest.mark.parametrize('n, c, o, size, k, stride, pad, dilation', SHAPES)
def test_convolution(n, c, o, size, k, stride, pad, dilation):
    layer = nn.Conv2D(c, o, k, stride=stride, padding=pad, dilation=dilation, bias_attr=False)
    x, w = random(n, c, *size), random(o, c, k, k)
    layer.weight.set_value(w)
    inner = paddle.to_tensor(x, stop_gradient=False)
    y = cl.from_channels_last(cl.conv(layer, cl.to_channels_last(inner)))
    np.testing.assert_allclose(y.numpy(), convolved(x, w, (stride, stride), (pad, pad), dilation), atol=1e-4)
    dy = random(*y.shape)
    (y * paddle.to_tensor(dy)).sum().backward()
    dx, dw = gradients(x, w, dy, stride, pad, dilation)
    np.testing.assert_allclose(inner.grad.numpy(), dx, atol=1e-4)
    np.testing.assert_allclose(layer.weight.grad.numpy(), dw, atol=2e-4)


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('relu, add', [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize('shape', [(3, 16, 7, 7), (1, 32, 5, 9), (4, 6, 2, 1)])
def test_batch_norm(shape, relu, add, train):
    c = shape[1]
    layer = nn.BatchNorm2D(c, momentum=0.8)
    layer.weight.set_value(random(c) + 2)
    layer.bias.set_value(random(c))
    layer._mean.set_value(random(c))
    layer._variance.set_value(np.abs(random(c)) + 0.5)
    layer.train() if train else layer.eval()
    other = copy.deepcopy(layer)
    x, extra, dy = random(*shape), random(*shape[::-1]).reshape(shape), random(*shape) + 0.1

    def run(net, compute):
        a, b = (paddle.to_tensor(v, stop_gradient=False) for v in (x, extra))
        y = compute(a, b)
        (y * paddle.to_tensor(dy)).sum().backward()
        return [y, a.grad, net.weight.grad, net.bias.grad, net._mean, net._variance] + ([b.grad] if add else [])

    def plain(a, b):
        y = other(a) + b if add else other(a)
        return nn.functional.relu(y) if relu else y

    got = run(layer, lambda a, b: cl.from_channels_last(cl.norm(
        layer, cl.to_channels_last(a), relu, cl.to_channels_last(b) if add else None)))
    for i, (have, want) in enumerate(zip(got, run(other, plain))):
        np.testing.assert_allclose(have.numpy(), want.numpy(), rtol=1e-4, atol=1e-4, err_msg=i)


def test_max_pool():
    x = random(2, 16, 9, 12)
    results = []
    for compute in (lambda a: nn.functional.max_pool2d(a, 3, 2, 1),
                    lambda a: cl.from_channels_last(cl.max_pool(3, 2, 1, cl.to_channels_last(a)))):
        a = paddle.to_tensor(x, stop_gradient=False)
        y = compute(a)
        (y * y).sum().backward()
        results.append((y.numpy(), a.grad.numpy()))
    for want, have in zip(*results):
        np.testing.assert_array_equal(have, want)


def test_a_view_is_read_as_it_looks():
    layer = nn.Conv2D(3, 4, 1, bias_attr=False)
    x = paddle.to_tensor(random(2, 5, 4, 3))
    turned = x.transpose([0, 2, 1, 3])
    np.testing.assert_array_equal(cl.conv(layer, turned).numpy(),
                                  cl.conv(layer, paddle.to_tensor(turned.numpy())).numpy())


def test_no_gradient_where_none_is_wanted(monkeypatch):
    """Of images no gradient is computed, of frozen weights neither, and nothing is kept without a graph."""
    asked = []
    for name in ('grad_x', 'grad_w'):
        plain = getattr(onednn.Convolution, name)
        monkeypatch.setattr(onednn.Convolution, name,
                            lambda *a, name=name, plain=plain: asked.append(name) or plain(*a))
    first, second = nn.Conv2D(3, 4, 1, bias_attr=False), nn.Conv2D(4, 4, 1, bias_attr=False)
    second.weight.stop_gradient = True
    x = paddle.to_tensor(random(2, 4, 4, 3))
    cl.conv(second, cl.conv(first, x)).sum().backward()
    assert asked == ['grad_x', 'grad_w']                      # second, then first
    assert first.weight.grad is not None and second.weight.grad is None
    with paddle.no_grad():
        assert cl.conv(first, x).stop_gradient


@pytest.mark.cpu_only('memory of the host')
def test_what_is_kept_for_backward_goes():
    """After backward although the loss lives, and without backward as soon as the result goes."""
    conv, norm = nn.Conv2D(16, 16, 3, padding=1, bias_attr=False), nn.BatchNorm2D(16)
    x = paddle.to_tensor(random(8, 32, 32, 16))
    held = host_memory

    def forward():
        return cl.norm(norm, cl.conv(conv, x), relu=True, add=x).sum()

    forward().backward()
    gc.disable()
    try:
        start = held()
        loss = forward()
        assert held() - start > 2 * x.size * 4 - 1
        loss.backward()
        assert held() - start < x.size * 4 / 2
        forward()
        assert held() - start < x.size * 4 / 2
    finally:
        gc.enable()


def host_memory():
    """Bytes that Paddle's allocator holds."""
    return paddle.base.core.host_memory_stat_current_value('Allocated', 0)


@pytest.mark.parametrize('change', [
    lambda net: net[0].register_forward_post_hook(lambda *a: None),
    lambda net: net[1].register_forward_pre_hook(lambda *a: None),
    lambda net: setattr(net[0], '_groups', 2),
    lambda net: setattr(net[0], '_padding_mode', 'reflect'),
    lambda net: setattr(net[1], '_use_global_stats', True),
])
def test_what_is_not_ordinary_is_left_to_paddle(change):
    net = nn.Sequential(nn.Conv2D(4, 4, 3, padding=1, bias_attr=False), nn.BatchNorm2D(4))
    assert cl.ordinary(net)
    change(net)
    assert not cl.ordinary(net)
    assert not cl.ordinary(nn.Sequential(nn.Conv2D(4, 4, 3)))                # with bias
    assert not cl.ordinary(nn.Sequential(nn.Conv2D(4, 4, 3, padding='SAME', bias_attr=False)))


@pytest.mark.cpu_only('kernels of oneDNN')
def test_what_suits():
    x = paddle.zeros([2, 3, 8, 8])
    assert cl.suits(x)
    assert not cl.suits(x.astype('float64')) and not cl.suits(x[0])


def test_the_switch(monkeypatch):
    monkeypatch.setenv('PASSL_ONEDNN', '0')
    assert cl.why_not.__wrapped__() == 'PASSL_ONEDNN is off'


def test_a_library_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(onednn.Convolution, 'forward', lambda self, x, w: paddle.zeros(self.out))
    assert 'differs' in cl.why_not.__wrapped__()


def test_a_missing_library_is_a_reason(monkeypatch):
    def missing():
        raise OSError('libdnnl.so.3: no such file')
    monkeypatch.setattr(onednn, 'library', missing)
    assert 'no such file' in cl.why_not.__wrapped__()
