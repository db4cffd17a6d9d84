"""ResNets in bfloat16 on a CPU: which processors, what is rounded and what is not, and what stays the same."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision.models import resnet as vision

from passl.modeling.backbones import ResNet_vd
from passl.modules.cpu import bfloat16, channels_last as cl, onednn, resnet as resnet_cpu
from tests.modeling.tiny import Narrow, narrow, outcome, residual_block, values, views
from tests.modules.test_channels_last import convolved, gradients, random

needs_units = pytest.mark.skipif(bool(bfloat16.why_not()), reason=bfloat16.why_not() or 'usable')
ROUNDING = 2**-8        # the largest relative error of a float32 that becomes a bfloat16


def rounded(array):
    """The nearest bfloat16s, in float64."""
    bits = np.asarray(array, 'float32').view('uint32')
    return ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000).view('float32').astype('float64')


def far(have, want):
    return float(np.linalg.norm(np.float64(have) - want) / np.linalg.norm(want))


# --- which processors ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('instructions, intel, amd', [
    (0xfef, '', ''), (0x1fef, '', ''), (0xe7, "AVX-512 BF16, with which bfloat16 is faster than float32 on AMD's", ''),
    (0x1ef, 'AVX-512 BF16', ''), *[(bits, 'no units', 'no units') for bits in (0x67, 0x27, 0x7, 0x0)]])
def test_which_processors(instructions, intel, amd):
    """oneDNN's `dnnl_cpu_isa_t`: AMX, AMX with float16, AVX-512 with bfloat16, with float16 too, VNNI, plain, AVX2."""
    for vendor, reason in (('GenuineIntel', intel), ('', intel), ('AuthenticAMD', amd)):
        found = bfloat16.why_not_on(instructions, vendor)
        assert reason in found and bool(found) == bool(reason)


@pytest.mark.skipif(bool(cl.why_not()), reason=cl.why_not() or 'usable')
def test_a_processor_that_is_kept_from_its_units(project_root, monkeypatch):
    program = 'from passl.modules.cpu import bfloat16 as b; import sys; sys.stdout.write(b.why_not())'
    out = subprocess.run([sys.executable, '-c', program], cwd=project_root, capture_output=True, text=True,
                         env={**os.environ, 'ONEDNN_MAX_CPU_ISA': 'AVX2'}, check=True).stdout
    assert out == 'it has no units for bfloat16 (AMX, or AVX-512 BF16 of AMD)'
    monkeypatch.setattr(cl, 'why_not', lambda: 'PASSL_ONEDNN is off')
    assert bfloat16.why_not.__wrapped__() == 'PASSL_ONEDNN is off'


@needs_units
def test_a_library_that_computes_something_else_is_not_used(monkeypatch):
    assert bfloat16._wrong() == ''
    forward = onednn.Convolution.forward
    monkeypatch.setattr(onednn.Convolution, 'forward', lambda self, x, w: forward(self, x, w * 1.1))
    assert 'its convolution in bfloat16 is off by' in bfloat16.why_not.__wrapped__()


# --- the layers ------------------------------------------------------------------------------------------------------

@needs_units
@pytest.mark.parametrize('n, c, o, size, k, stride, pad, dilation, swap', [
    (2, 3, 64, (19, 17), 7, 2, 3, 1, False), (3, 64, 32, (7, 7), 3, 1, 1, 1, False),
    (2, 16, 48, (7, 6), 1, 2, 0, 1, False), (2, 5, 7, (6, 7), 3, 1, 1, 1, False), (2, 32, 48, (3, 4), 3, 1, 1, 1, True),
    (3, 32, 64, (5, 6), 3, 2, 1, 1, True), (2, 16, 16, (4, 4), 3, 1, 0, 1, True),
    (2, 32, 48, (3, 4), 3, 1, 2, 2, False)])
def test_convolution(n, c, o, size, k, stride, pad, dilation, swap):
    """Of rounded operands all sums are float32: only tensors that are bfloat16 are rounded once more."""
    layer = nn.Conv2D(c, o, k, stride=stride, padding=pad, dilation=dilation, bias_attr=False)
    layer.weight.set_value(random(o, c, k, k))
    kernel = onednn.convolution((n, c, *size), (o, c, k, k), (stride, stride), (pad, pad), paddle.bfloat16,
                                (dilation, dilation))
    assert kernel.swap == swap
    inner = paddle.to_tensor(random(n, c, *size), stop_gradient=False)
    y = cl.conv(layer, cl.to_channels_last(inner, paddle.bfloat16))
    assert y.dtype == paddle.bfloat16
    y = cl.from_channels_last(y)
    dy = random(*y.shape)
    (y * paddle.to_tensor(dy)).sum().backward()
    x, w, dy = rounded(inner.numpy()), rounded(layer.weight.numpy()), rounded(dy)
    dx, dw = gradients(x, w, dy, stride, pad, dilation)
    np.testing.assert_allclose(y.numpy(), convolved(x, w, (stride, stride), (pad, pad), dilation), rtol=ROUNDING,
                               atol=1e-4)
    np.testing.assert_allclose(inner.grad.numpy(), dx, rtol=ROUNDING, atol=1e-4)
    assert layer.weight.grad.dtype == paddle.float32
    np.testing.assert_allclose(layer.weight.grad.numpy(), dw, rtol=1e-5, atol=2e-4)


@needs_units
@pytest.mark.parametrize('relu', [False, True])
def test_batch_norm(relu):
    """Statistics, their running means and the gradients of scale and shift are float32."""
    layer = nn.BatchNorm2D(16, momentum=0.8)
    layer.weight.set_value(random(16) + 2)
    layer.bias.set_value(random(16))
    x, dy = random(3, 16, 7, 7) * 3 + 2, random(3, 16, 7, 7) + 0.1
    image = paddle.to_tensor(x, stop_gradient=False)
    y = cl.from_channels_last(cl.norm(layer, cl.to_channels_last(image, paddle.bfloat16), relu))
    (y * paddle.to_tensor(dy)).sum().backward()
    x, dy, axes, shape = rounded(x), rounded(dy), (0, 2, 3), (1, -1, 1, 1)
    gamma, beta = (p.numpy().astype('float64').reshape(shape) for p in (layer.weight, layer.bias))
    mean, var = x.mean(axes), x.var(axes)
    scale = (1 / np.sqrt(var + 1e-5)).reshape(shape)
    unit = (x - mean.reshape(shape)) * scale
    want = gamma * unit + beta
    if relu:
        dy, want = dy * (want > 0), np.maximum(want, 0)
    dgamma, dbeta = (dy * unit).sum(axes), dy.sum(axes)
    dx = gamma * scale * (dy - dbeta.reshape(shape) / 147 - unit * dgamma.reshape(shape) / 147)
    np.testing.assert_allclose(layer._mean.numpy(), 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer._variance.numpy(), 0.8 + 0.2 * var, rtol=1e-5)
    np.testing.assert_allclose(y.numpy(), want, rtol=ROUNDING, atol=1e-5)
    np.testing.assert_allclose(image.grad.numpy(), dx, rtol=ROUNDING, atol=1e-5)
    np.testing.assert_allclose(layer.weight.grad.numpy(), dgamma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.bias.grad.numpy(), dbeta, rtol=1e-4, atol=1e-4)


@needs_units
@pytest.mark.parametrize('kind, c, stride', [(vision.BasicBlock, 16, 1), (vision.BottleneckBlock, 16, 2)])
def test_blocks_are_near_float32(kind, c, stride):
    """In norm: the roundings of the values are independent of each other."""
    layer = residual_block(kind, c, stride)
    image, found = random(8, c, 14, 14), []
    for dtype in (paddle.float32, paddle.bfloat16):
        found.append(outcome(layer, image, lambda x: resnet_cpu.end(resnet_cpu.block(
            layer, cl.to_channels_last(x, dtype)))))
    assert far(found[1][0], found[0][0]) < 2 * ROUNDING
    # Gradients: what batch norm takes away from them makes their rounding larger, measured 0.04; a wrong one is off by
    # 1. Those of vectors are sums that nearly cancel: test_batch_norm.
    maps = [(want, have) for want, have in zip(*found) if want.ndim == 4][1:]
    assert len(maps) >= 3 and all(far(have, want) < 0.08 for want, have in maps)


@needs_units
def test_max_pool_rounds_nothing():
    x = rounded(random(2, 16, 9, 12)).astype('float32')
    results = []
    for dtype in (paddle.float32, paddle.bfloat16):
        a = paddle.to_tensor(x, stop_gradient=False)
        y = cl.from_channels_last(cl.max_pool(3, 2, 1, cl.to_channels_last(a, dtype)))
        (y * paddle.to_tensor(rounded(random(*y.shape)).astype('float32'))).sum().backward()
        results.append((y.numpy(), a.grad.numpy()))
    np.testing.assert_array_equal(results[1][0], results[0][0])
    np.testing.assert_allclose(results[1][1], results[0][1], atol=8 * ROUNDING)     # up to four windows add up to 8


@needs_units
def test_casts_and_sums_of_gradients_are_rounded_to_the_nearest():
    x, dy, dz = random(3, 5, 7, 2), random(3, 2, 5, 7), random(3, 2, 7, 5).transpose(0, 1, 3, 2)
    image = paddle.to_tensor(x.transpose(0, 3, 1, 2), stop_gradient=False)
    inner, outer = (cl.from_channels_last(part) for part in cl.fork(cl.to_channels_last(image, paddle.bfloat16)))
    for part in inner, outer:
        np.testing.assert_array_equal(part.numpy(), rounded(x).transpose(0, 3, 1, 2))
    (inner * paddle.to_tensor(dy) + outer * paddle.to_tensor(dz)).sum().backward()
    np.testing.assert_array_equal(image.grad.numpy(), rounded(rounded(dy) + rounded(dz)))


# --- networks --------------------------------------------------------------------------------------------------------

def network(kind, half, **settings):
    """(map, {name: gradient}, state) of a forward and backward pass."""
    paddle.seed(0)
    net, x = kind(18, **settings), views(8, 64, 64)[0]
    if half:
        with bfloat16.used():
            y = net(x)
    else:
        y = net(x)
    y.square().mean().backward()
    return y, {n: p.grad.numpy() for n, p in net.named_parameters() if p.grad is not None}, values(net)


@needs_units
@pytest.mark.parametrize('kind', [Narrow, ResNet_vd])
def test_a_network_in_bfloat16(kind):
    (y, grads, state), (y_, grads_, state_) = (network(kind, half) for half in (True, False))
    assert y.dtype == paddle.float32 and 1e-3 < far(y.numpy(), y_.numpy()) < 0.08
    assert grads.keys() == grads_.keys() and state.keys() == state_.keys()
    assert all(v.dtype == 'float32' for v in [*grads.values(), *state.values()])
    statistics = [name for name in state if name.endswith(('_mean', '_variance'))]
    assert len(statistics) >= 40
    for name in statistics:
        assert far(state[name], state_[name]) < 0.02, name


@needs_units
def test_it_is_on_where_it_is_asked_for_and_the_same_again():
    same = network(Narrow, True)
    for other in (network(Narrow, True), network(Narrow, True, recompute=True)):      # recompute: outside of `used`
        np.testing.assert_array_equal(other[0].numpy(), same[0].numpy())
        for one, two in zip(other[1:], same[1:]):
            for name in one:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert not bfloat16.is_on()


@needs_units
def test_both_branches_but_not_the_losses(monkeypatch):
    """Query and key encoder compute in bfloat16; what they give, and the loss, is float32 and near float32's."""
    seen, conv = [], cl.conv
    monkeypatch.setattr(cl, 'conv', lambda layer, x: seen.append(x.dtype) or conv(layer, x))
    losses = []
    for half in (False, True):
        model = narrow()
        if half:
            with bfloat16.used():
                out = model(*views(4, 64, 64))
        else:
            out = model(*views(4, 64, 64))
        assert all(v.dtype == paddle.float32 for k, v in out.items() if 'loss' in k)
        losses.append(float(out['loss']))
    assert seen == [paddle.float32] * 40 + [paddle.bfloat16] * 40       # 20 convolutions of each encoder
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.cpu_only('kernels of oneDNN')
def test_a_network_that_does_not_take_part_is_named(monkeypatch, caplog):
    bfloat16.tell_unsuited.cache_clear()
    net, x = Narrow(18), paddle.randn([1, 3, 32, 32])
    net.layer3[0].conv1.register_forward_post_hook(lambda *a: None)
    with bfloat16.used(), paddle.no_grad():
        assert net(x).dtype == net(x).dtype == paddle.float32
    assert caplog.text.count('this ResNet computes in float32, because it has hooks') == 1
