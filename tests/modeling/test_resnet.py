"""The backbone: names and sizes as torchvision's, initial values, frozen stages."""

import copy
import math

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision.models import resnet as vision

from passl.modeling import build_backbone
from passl.modeling.backbones import ResNet
from passl.modules import kernels
from passl.modules.contrastive_loss import info_nce
from passl.modules.cpu import channels_last, onednn, resnet as resnet_cpu
from passl.utils.errors import ConfigError
from tests.utils.test_weights import resnet_names

from .tiny import Narrow, outcome, residual_block

needs_onednn = pytest.mark.skipif(bool(channels_last.why_not()), reason=channels_last.why_not() or 'usable')


def parameter_count(net):
    return sum(int(np.prod(p.shape)) for n, p in net.named_parameters() if not n.endswith(('._mean', '._variance')))


@pytest.mark.parametrize('depth, parameters, tensors', [(18, 11176512, 100), (50, 23508032, 265), (101, 42500160, 520)])
def test_names_and_sizes(depth, parameters, tensors):
    net = ResNet(depth)
    assert set(net.state_dict()) == set(resnet_names(depth))
    assert len(net.state_dict()) == tensors
    assert parameter_count(net) == parameters
    assert net.out_channels == (512 if depth == 18 else 2048)


def test_with_a_classifier():
    net = ResNet(18, num_classes=7, with_pool=True)
    assert set(net.state_dict()) == {*resnet_names(18), 'fc.weight', 'fc.bias'}
    assert net(paddle.randn([2, 3, 32, 32])).shape == [2, 7]


def test_stride_is_32():
    net, pooled = Narrow(18), Narrow(18, with_pool=True)
    for height, width in ((64, 64), (32, 96)):
        assert net(paddle.randn([2, 3, height, width])).shape == [2, 128, height // 32, width // 32]
        assert pooled(paddle.randn([2, 3, height, width])).shape == [2, 128, 1, 1]


def test_initial_values():
    paddle.seed(0)
    net = ResNet(18)
    for name, p in net.named_parameters():
        value = p.numpy()
        if value.ndim == 4:
            std = math.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))
            assert value.std() == pytest.approx(std, rel=0.05), name
            assert abs(value.mean()) < 0.05 * std, name
        else:
            assert (value == (1 if name.endswith(('weight', '_variance')) else 0)).all(), name


@pytest.mark.parametrize('depth, last', [(18, 'bn2'), (50, 'bn3')])
def test_zero_init_residual(depth, last):
    for name, p in Narrow(depth, zero_init_residual=True).named_parameters():
        if name.endswith(('bn1.weight', 'bn2.weight', 'bn3.weight')):
            assert (p.numpy() == (0 if name.startswith('layer') and f'.{last}.' in name else 1)).all(), name


@pytest.mark.parametrize('frozen', [-1, 0, 2, 4])
def test_frozen_stages_do_not_move(frozen):
    paddle.seed(0)
    net = Narrow(18, frozen_stages=frozen)
    net.train()
    before = {n: p.numpy().copy() for n, p in net.named_parameters()}
    x = paddle.randn([4, 3, 32, 32])
    out = net(x)
    if not out.stop_gradient:
        (out ** 2).mean().backward()
    parts = ['conv1', 'bn1'] if frozen >= 0 else []
    parts += [f'layer{s}' for s in range(1, frozen + 1)]
    for name, p in net.named_parameters():
        if name.split('.')[0] in parts:
            assert p.stop_gradient and p.grad is None, name
            np.testing.assert_array_equal(p.numpy(), before[name], err_msg=name)
        elif name.endswith(('_mean', '_variance')):
            assert np.abs(p.numpy() - before[name]).max() > 0, name
        else:
            assert not p.stop_gradient and p.grad is not None, name
    assert out.stop_gradient == (frozen == 4)


def test_a_frozen_backbone_is_in_eval_mode_while_training():
    net = Narrow(18, frozen_stages=4)
    net.train()
    x = paddle.randn([4, 3, 32, 32])
    alone, together = net(x[:1]).numpy(), net(x).numpy()
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-4)        # other samples do not matter
    net.eval()
    np.testing.assert_allclose(net(x).numpy(), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('cfg, words', [
    ({'depth': 20}, ["'model.backbone.depth'", '20', '18, 34, 50']),
    ({'depth': 18, 'frozen_stages': 5}, ["'model.backbone.frozen_stages'", '5', '-1']),
    ({'depth': 18, 'frozen_stage': 4}, ["'model.backbone.frozen_stage'", "'frozen_stages'"]),
    ({'depth': 18, 'num_classes': 10}, ["'model.backbone.num_classes'", '10', 'with_pool: true']),
    ({}, ['model.backbone', 'depth']),
])
def test_wrong_settings(cfg, words):
    with pytest.raises(ConfigError) as e:
        build_backbone({'name': 'ResNet', **cfg})
    for word in words:
        assert word in str(e.value)


@pytest.mark.parametrize('recompute', [False, [0, 2]])
def test_stages_are_those_of_the_layers_and_none_is_computed_beyond_the_last(recompute):
    net, x = Narrow(18, frozen_stages=1, recompute=recompute), paddle.randn([2, 3, 40, 64])
    net.eval()
    maps, by_hand, seen = net.stages(x), [], []
    y = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for stage in range(1, 5):
        y = getattr(net, f'layer{stage}')(y)
        by_hand.append(y.numpy())
    assert [m.shape for m in by_hand] == [(2, 16, 10, 16), (2, 32, 5, 8), (2, 64, 3, 4), (2, 128, 2, 2)]
    for have, want in zip(maps, by_hand):
        assert far(have.numpy(), want) < 1e-4
    net.train()
    for stage in (3, 4):
        getattr(net, f'layer{stage}').register_forward_post_hook(lambda *_, s=stage: seen.append(s))
    assert [m.shape[1] for m in net.stages(x, [1, 3])] == [16, 64] and seen == [3]
    assert not net.layer1.training and net.layer2.training


def trained(depth, frozen, fast, monkeypatch, shape, train=True):
    """Output, gradients and state after one pass, by `resnet_cpu` or by Paddle's layers."""
    with monkeypatch.context() as m:
        if not fast:
            m.setattr(resnet_cpu, 'suits', lambda net, x: False)
        paddle.seed(3)
        net = Narrow(depth, frozen_stages=frozen)
        net.train() if train else net.eval()
        x = paddle.to_tensor(np.random.RandomState(0).randn(*shape).astype('float32'))
        assert resnet_cpu.suits(net, x) == fast
        y = net(x)
        y.square().mean().backward()
        state = {n: p.numpy() for n, p in net.state_dict().items()}
        return y, {n: p.grad.numpy() for n, p in net.named_parameters() if p.grad is not None}, state


def far(have, want):
    return np.abs(have - want).max() / (np.abs(want).max() + 1e-6)


@pytest.mark.cpu_only('kernels of oneDNN')
@needs_onednn
@pytest.mark.parametrize('depth, frozen, shape, train', [
    (18, -1, (2, 3, 97, 75), True), (50, -1, (2, 3, 71, 97), False), (18, 2, (1, 3, 64, 96), True),
    (18, -1, (3, 3, 33, 64), False)])
def test_both_ways_to_compute_agree(depth, frozen, shape, train, monkeypatch):
    (y, grads, state), (y_, grads_, state_) = (trained(depth, frozen, fast, monkeypatch, shape, train)
                                               for fast in (True, False))
    assert list(y.shape) == list(y_.shape) and far(y.numpy(), y_.numpy()) < 1e-3
    assert set(grads) == set(grads_) and set(state) == set(state_)
    # one ReLU at zero that rounds to the other side changes a gradient visibly: the median is that of the rounding
    assert np.median([far(grads[n], grads_[n]) for n in grads]) < 5e-3
    for n in state:
        assert far(state[n], state_[n]) < 1e-3, n


@needs_onednn
@pytest.mark.parametrize('kind, c, stride', [(vision.BasicBlock, 16, 1), (vision.BasicBlock, 16, 2),
                                             (vision.BottleneckBlock, 64, 1), (vision.BottleneckBlock, 16, 2)])
def test_blocks_agree(kind, c, stride):
    layer = residual_block(kind, c, stride)
    image = np.random.RandomState(5).rand(3, c, 7, 9).astype('float32')
    found = []
    for compute in (layer, lambda x: resnet_cpu.end(resnet_cpu.block(layer, channels_last.to_channels_last(x)))):
        found.append(outcome(layer, image, compute))
    assert len(found[0]) == len(found[1]) > 6
    for want, have in zip(*found):          # some sums are zero but for rounding
        assert np.abs(have - want).max() < 1e-3 * max(1, np.abs(want).max())


@pytest.mark.cpu_only('kernels of oneDNN')
@needs_onednn
def test_backbone_and_loss_take_the_kernels_that_are_registered(monkeypatch):
    called = []
    for kernel, method in ((onednn.Convolution, 'forward'), (onednn.Exp, 'forward_')):
        monkeypatch.setattr(kernel, method, lambda *a, m=getattr(kernel, method): called.append(m) or m(*a))
    net, x, q = Narrow(18), paddle.randn([1, 3, 32, 32]), paddle.ones([2, 4]) / 2
    net.eval()
    results = []
    for choosers in (kernels._choosers, {}):
        monkeypatch.setattr(kernels, '_choosers', choosers)
        results.append((net(x).numpy(), float(info_nce(q, q, paddle.ones([4, 6]) / 4, 0.2)[0])))
        assert len(called) == 21, choosers                 # 20 convolutions and an exp; then none more
    assert far(results[0][0], results[1][0]) < 1e-3 and results[0][1] == pytest.approx(results[1][1], rel=1e-6)


@needs_onednn
def test_hooks_and_replaced_layers_are_heeded():
    net, x = Narrow(18), paddle.randn([1, 3, 32, 32])
    assert resnet_cpu.suits(net, x)
    seen = []
    handle = net.layer3[0].conv1.register_forward_post_hook(lambda *a: seen.append(1))
    net(x)
    assert seen == [1]
    handle.remove()
    assert resnet_cpu.suits(copy.deepcopy(net), x)
    net.layer2[0].bn1 = nn.InstanceNorm2D(32)
    assert not resnet_cpu.suits(net, x)
