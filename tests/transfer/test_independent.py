"""The numpy network that is built from names: against loops, against Paddle, and that it sees mistakes."""

import functools

import numpy as np
import paddle
import pytest

from passl.transfer.weights import independent
from passl.transfer.weights.exporting import backbone
from passl.transfer.weights.independent import Network
from passl.utils.weights.names import CONVENTIONS, check_exists, first_short, table
from passl.transfer.weights.proof import TOLERANCE, images, source_maps
from passl.utils.errors import CheckpointError

from .nets import R18, R50, R101, V18, V50, narrow_networks, state_of

ALL = [R18, R50, R101, V18, V50]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    narrow_networks(monkeypatch)


RNG = np.random.default_rng(0)


def padded(x, k):
    return np.pad(x, [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)])


@pytest.mark.parametrize('k, stride', [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution_by_its_definition(k, stride):
    x, w = RNG.standard_normal((2, 3, 8, 9)), RNG.standard_normal((4, 3, k, k))
    got, p = independent._convolution(x, w, stride), padded(x, k)
    assert got.shape == (2, 4, -(-8 // stride), -(-9 // stride))
    for n, c, i, j in np.ndindex(got.shape):
        window = p[n, :, i * stride:i * stride + k, j * stride:j * stride + k]
        assert got[n, c, i, j] == pytest.approx((window * w[c]).sum())


def test_pooling_by_its_definition():
    x = RNG.standard_normal((1, 2, 5, 7)) - 10      # all negative: the padding must not win
    most, mean = independent._max_pool(x), independent._average_2x2(x)
    assert most.shape == (1, 2, 3, 4) and mean.shape == (1, 2, 3, 4)
    for c, i, j in np.ndindex(2, 3, 4):
        assert most[0, c, i, j] == x[0, c, max(2 * i - 1, 0):2 * i + 2, max(2 * j - 1, 0):2 * j + 2].max()
        assert mean[0, c, i, j] == pytest.approx(x[0, c, 2 * i:2 * i + 2, 2 * j:2 * j + 2].mean())


@functools.lru_cache(None)
def made(arch):
    """(state, maps of our model)."""
    state = state_of(arch)
    return state, source_maps(backbone(arch, state, 'x'))


def renamed(state, arch, library):
    names = table(arch, library)
    return {**{names[k]: v for k, v in state.items()}, **first_short(arch, library)}


def far(found, wanted):
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, wanted)]


@pytest.mark.parametrize('arch, library', [(a, lib) for a in ALL for lib in CONVENTIONS
                                           if not (a.vd and lib in ('torchvision', 'detectron2', 'lightly'))
                                           and not (a == V18 and lib in ('timm', 'mmseg'))
                                           # the names of two libraries depend on the depth
                                           and (a != R101 or lib in ('passl', 'paddleclas', 'paddledet'))],
                         ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_convention_computes_what_our_model_does(arch, library):
    check_exists(arch, library)
    state, maps = made(arch)
    found = Network(renamed(state, arch, library), library).maps(images())
    assert [m.shape for m in found] == [m.shape for m in maps]
    assert max(far(found, maps)) < 1e-5


def test_our_model_is_paddles():
    """One step outside: paddle.vision's own class, not our subclass of it."""
    state = state_of(R18)
    net = paddle.vision.models.resnet18(num_classes=0, with_pool=False)
    net.set_state_dict(state)
    net.eval()
    x = images()[:1]
    got = Network(state, 'passl').maps(x)[-1]
    with paddle.no_grad():
        assert far([got], [net(paddle.to_tensor(x)).numpy()])[0] < 1e-5


def swap(state, a, b):
    state[a], state[b] = state[b], state[a]


def transpose(state, name):
    state[name] = np.ascontiguousarray(state[name].transpose(1, 0, 2, 3))


@pytest.mark.parametrize('spoil, stage', [
    (lambda s: transpose(s, 'layer1.0.conv1.weight'), 0),           # 8 x 8: the shape does not tell
    (lambda s: transpose(s, 'layer4.2.conv2.weight'), 3),
    (lambda s: swap(s, 'layer3.4.bn1._mean', 'layer3.4.bn1.bias'), 2),
    (lambda s: swap(s, 'layer4.1.conv1.weight', 'layer4.2.conv1.weight'), 3),
    (lambda s: swap(s, 'layer2.1.bn3.weight', 'layer2.1.bn3._variance'), 1),
    (lambda s: s.update({'conv1.weight': s['conv1.weight'][:, ::-1]}), 0),          # BGR
    (lambda s: s.update({'layer4.2.bn3.bias': s['layer4.2.bn3.bias'][::-1]}), 3)])
def test_mistakes_show(spoil, stage):
    state, maps = made(R50)
    state = dict(state)
    spoil(state)
    differences = far(Network(state, 'passl').maps(images()), maps)
    assert min(differences[stage:]) > 10 * TOLERANCE, differences
    assert max(differences[:stage], default=0) < TOLERANCE


@pytest.mark.parametrize('library', ['torchvision', 'detectron2', 'paddleclas', 'paddledet', 'passl'])
def test_what_makes_no_network_is_refused(library):
    whole = renamed(state_of(R18), R18, library)
    for name in (n for n in whole if n.endswith('weight')):
        part = {k: v for k, v in whole.items() if k != name}
        with pytest.raises(CheckpointError, match='no whole ResNet|do not fit'):
            Network(part, library).maps(images()[:1, :, :9, :9])
    with pytest.raises(CheckpointError, match=r'Left over \(1\): layer1.0.conv0.weigth'):
        Network({**whole, 'layer1.0.conv0.weigth': np.ones(1)}, library)
