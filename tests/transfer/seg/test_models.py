"""The backbone and the head: shapes, names, numbers of parameters, and what they compute."""

import re

import numpy as np
import paddle
import pytest

from passl.modeling import build_backbone
from passl.modules import kernels
from passl.modules.cpu import channels_last
from passl.transfer.paddleseg import library
from passl.utils.errors import CheckpointError, ConfigError
from passl.utils.weights.key_names import resnet_depth

library.load()
from paddleseg.cvlibs import manager  # noqa: E402

from passl.transfer.paddleseg.fcn import DilatedFCN, FCNHead  # noqa: E402
from passl.transfer.paddleseg.resnet import PLAIN, DilatedResNet  # noqa: E402
from passl.transfer.paddleseg.weights import load_backbone  # noqa: E402

paddle.set_device('cpu')


def image(size=64, n=1, seed=0):
    return paddle.to_tensor(np.random.RandomState(seed).randn(n, 3, size, size).astype('float32'))


def pair(depth, output_stride):
    """A dilated network and the one of pre-training with the same weights, with norms that change something."""
    paddle.seed(3)
    plain = build_backbone({'name': 'ResNet', 'depth': depth})
    rng = np.random.RandomState(1)
    for name, tensor in plain.state_dict().items():
        if name.endswith(('_mean', '_variance', 'bias')):
            tensor.set_value(rng.uniform(0.5, 1.5, tensor.shape).astype('float32'))
    dilated = DilatedResNet(depth, output_stride)
    dilated.set_state_dict(plain.state_dict())
    plain.eval(), dilated.eval()
    return plain, dilated


@pytest.mark.parametrize('depth, output_stride, size', [(18, 8, 64), (18, 16, 64), (18, 32, 64),
                                                        (50, 8, 64)])
def test_every_sth_place_is_what_the_pre_trained_network_computes(depth, output_stride, size):
    """Holds only if every dilation is right, those of the first blocks of a stage too."""
    plain, dilated = pair(depth, output_stride)
    x = image(size)
    with paddle.no_grad():
        wanted, found = plain.stages(x), dilated(x)
    assert len(found) == 4
    for stride, want, got in zip((4, 8, 16, 32), wanted, found):
        step, want, got = max(1, stride // output_stride), want.numpy(), got.numpy()
        assert got.shape == (1, want.shape[1], step * want.shape[2], step * want.shape[3])
        assert np.abs(got[:, :, ::step, ::step] - want).max() < 1e-4 * np.abs(want).max()
        assert np.abs(want).max() > 0.1


@pytest.mark.skipif(bool(channels_last.why_not()), reason=channels_last.why_not() or 'usable')
def test_the_kernels_of_pre_training_compute_it(monkeypatch):
    net, x, found = DilatedResNet(18, 8), image(64, n=2), []
    for find in (kernels.find, lambda *_: None):
        monkeypatch.setattr(kernels, 'find', find)
        assert bool(kernels.find('resnet', net, x)) == (not found)
        net.clear_gradients()
        last = net(x)[-1]
        (last * last).mean().backward()
        found.append([last.numpy()] + [p.grad.numpy() for p in net.parameters() if not p.stop_gradient])
    for ours, paddles in zip(*found):
        assert np.abs(ours - paddles).max() < 1e-3 * np.abs(paddles).max()


@pytest.mark.parametrize('make', PLAIN, ids=lambda m: m.__name__)
def test_registered_with_the_names_of_pre_training(make):
    assert manager.BACKBONES[make.__name__] is make
    net = make(in_channels=3)
    depth, names = int(make.__name__[6:]), list(net.state_dict())
    assert resnet_depth(names) == depth
    small = 18 if depth < 50 else 50            # the greater ones only have more blocks
    expected = list(build_backbone({'name': 'ResNet', 'depth': small}).state_dict())
    if depth == small:
        assert names == expected

    def kinds(of):
        return {re.sub(r'(layer\d)\.[1-9]\d*\.', r'\1.n.', name) for name in of}
    assert kinds(names) == kinds(expected)
    assert net.feat_channels == [m.shape[1] for m in net(image(32))]


def test_wrong_backbone_settings():
    with pytest.raises(ConfigError, match='output_stride.*4'):
        DilatedResNet(18, output_stride=4)
    with pytest.raises(ConfigError, match='in_channels'):
        DilatedResNet(18, in_channels=4)


def test_head_of_the_protocol_has_the_parameters_of_the_protocol():
    """Two 3x3 x 512, one 3x3 on both, a classifier; auxiliary: one 3x3 x 256, a classifier."""
    def conv(a, b):
        return 9 * a * b + 4 * b            # with scale, shift, mean and variance of the norm

    def count(layer):
        return sum(int(np.prod(p.shape)) for p in layer.state_dict().values())
    assert count(FCNHead(2048, 512, 21)) == conv(2048, 512) + conv(512, 512) + conv(2560, 512) + 512 * 21 + 21
    aux = FCNHead(1024, 256, 21, num_convs=1, concat_input=False)
    assert count(aux) == conv(1024, 256) + 256 * 21 + 21


def test_head_computes_what_it_says():
    paddle.seed(0)
    head = FCNHead(6, 4, 3)
    head.eval()
    x = paddle.to_tensor(np.random.RandomState(0).randn(2, 6, 5, 7).astype('float32'))

    def part(layer, y):
        y = paddle.nn.functional.conv2d(y, layer._conv.weight, padding=1)
        return paddle.nn.functional.relu(y / (1 + 1e-5) ** 0.5)         # fresh norm: mean 0, variance 1
    y = part(head.convs[1], part(head.convs[0], x))
    y = part(head.join, paddle.concat([x, y], axis=1))
    weight = head.classify.weight.numpy()[:, :, 0, 0]
    want = np.einsum('kc,nchw->nkhw', weight, y.numpy())
    assert np.allclose(head(x).numpy(), want, atol=1e-5)


def test_model_gives_scores_of_the_image_size_and_the_auxiliary_ones_while_training():
    net = DilatedFCN(5, DilatedResNet(18, 8), channels=16, aux_channels=8)
    x = image(32, n=2)
    net.train()
    assert [list(s.shape) for s in net(x)] == [[2, 5, 32, 32]] * 2
    net.eval()
    scores = net(x)
    assert [list(s.shape) for s in scores] == [[2, 5, 32, 32]]
    maps = net.backbone(x)
    want = paddle.nn.functional.interpolate(net.head(maps[3]), [32, 32], mode='bilinear', align_corners=False)
    assert np.allclose(scores[0].numpy(), want.numpy(), atol=1e-5)
    assert net.aux_head.convs[0]._conv.weight.shape[1] == maps[2].shape[1]
    assert DilatedFCN(5, DilatedResNet(18, 8), aux_channels=0).aux_head is None


def test_all_backbone_weights_load_or_none(backbone18, tmp_path):
    net = DilatedResNet(18)
    record = load_backbone(net, backbone18)
    assert record['matched'] == record['total'] == len(net.state_dict()) and len(record['sha256']) == 64
    from passl.utils.weights.checkpoint import load_file, save_file
    state = load_file(backbone18)['state_dict']
    for name, tensor in net.state_dict().items():
        assert np.array_equal(tensor.numpy(), state[f'encoder_q.0.{name}']), name

    def refused(changes, *words):
        path = str(tmp_path / 'wrong.pdparams')
        save_file({**{k.replace('encoder_q.0.', ''): v for k, v in state.items()}, **changes}, path)
        fresh = DilatedResNet(18)
        before = {k: v.numpy() for k, v in fresh.state_dict().items()}
        with pytest.raises(CheckpointError) as e:
            load_backbone(fresh, path)
        assert all(w in str(e.value) for w in words), e.value
        assert all(np.array_equal(v.numpy(), before[k]) for k, v in fresh.state_dict().items())

    refused({'conv1.weight': np.zeros((64, 3, 3, 3), np.float32)}, 'conv1.weight', '[64, 3, 3, 3]')
    short = {k: v for k, v in state.items() if 'layer4' not in k}
    path = str(tmp_path / 'short.pdparams')
    save_file(short, path)
    with pytest.raises(CheckpointError, match='missing in the file: layer4.0.conv1.weight'):
        load_backbone(DilatedResNet(18), path)
    with pytest.raises(CheckpointError, match='ResNet-18.*ResNet-50'):
        load_backbone(DilatedResNet(50), backbone18)


def test_weights_of_the_deep_stem_are_refused_and_fit_their_own_backbone(tmp_path):
    from passl.utils.weights.checkpoint import save_file
    deep = manager.BACKBONES['ResNet18_vd'](output_stride=8)
    path = str(tmp_path / 'vd.pdparams')
    save_file({k: v.numpy() for k, v in deep.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match='deep stem'):
        load_backbone(DilatedResNet(18), path)
    record = load_backbone(manager.BACKBONES['ResNet18_vd'](output_stride=8), path)
    assert record['matched'] == record['total'] == len(deep.state_dict())
