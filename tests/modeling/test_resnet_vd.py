"""ResNet_vd: values against numpy, training, and its place in the methods. PaddleSeg's own: tests/transfer."""

import numpy as np
import paddle
import pytest

from passl.modeling import build_backbone, build_model
from passl.modeling.backbones import ResNet_vd
from passl.modules.cpu import resnet as resnet_cpu
from passl.transfer.weights.independent import Network
from passl.utils.weights.checkpoint import save_file
from passl.utils.errors import CheckpointError, ConfigError
from tests.modeling.tiny import contrast, views
from tests.transfer.nets import V18, narrow_networks, state_of

from .test_resnet import needs_onednn


@pytest.fixture
def narrow(monkeypatch):
    """With an eighth of the channels."""
    narrow_networks(monkeypatch)


def trained(fast, monkeypatch, size=(2, 3, 35, 61)):
    """Output, gradients, state after a training step's passes, by `resnet_cpu` or by Paddle's layers."""
    with monkeypatch.context() as m:
        if not fast:
            m.setattr(resnet_cpu, 'suits', lambda net, x: False)
        net = ResNet_vd(18)
        net.set_state_dict(state_of(V18))
        net.train()
        y = net(paddle.to_tensor(np.random.RandomState(0).randn(*size).astype('float32')))
        y.square().mean().backward()
        return [y.numpy()], {n: p.grad.numpy() for n, p in net.named_parameters() if p.grad is not None}, net


def test_forward_by_numpy(narrow):
    net = ResNet_vd(18, pretrained=None)
    net.set_state_dict(state_of(V18))
    net.eval()
    x = np.random.RandomState(1).randn(2, 3, 45, 70).astype('float32')
    wanted = Network(state_of(V18), 'passl').maps(x)[-1]
    with paddle.no_grad():
        got = net(paddle.to_tensor(x)).numpy()
    assert got.shape == (2, 64, 2, 3) and np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.cpu_only('kernels of oneDNN')
@needs_onednn
def test_both_ways_to_compute_agree(narrow, monkeypatch):
    (y, grads, net), (y_, grads_, net_) = trained(True, monkeypatch), trained(False, monkeypatch)
    assert resnet_cpu.suits(net, paddle.zeros([1, 3, 32, 32]))
    assert np.abs(y[0] - y_[0]).max() < 1e-3 * np.abs(y_[0]).max()
    assert set(grads) == set(grads_) and len(grads) == 69
    far = [np.abs(grads[n] - grads_[n]).max() / (np.abs(grads_[n]).max() + 1e-6) for n in grads]
    assert np.median(far) < 5e-3
    for name, value in net.state_dict().items():
        assert np.allclose(value.numpy(), net_.state_dict()[name].numpy(), rtol=1e-3, atol=1e-4), name


def test_sizes():
    net = ResNet_vd(50, with_pool=True)
    assert net.out_channels == 2048 and len(net.state_dict()) == 275
    assert net(paddle.randn([2, 3, 32, 32])).shape == [2, 2048, 1, 1]
    for stage, (block, pooled) in enumerate([(64, False), (256, True), (512, True), (1024, True)], 1):
        pool, conv, _ = getattr(net, f'layer{stage}')[0].downsample
        assert isinstance(pool, paddle.nn.AvgPool2D) == pooled
        assert conv.weight.shape[1] == block and conv._stride == [1, 1]


def test_frozen_stages(narrow):
    net = ResNet_vd(18, frozen_stages=1)
    net.train()
    before = {n: p.numpy().copy() for n, p in net.named_parameters()}
    net(paddle.randn([2, 3, 64, 64])).mean().backward()
    for name, p in net.named_parameters():
        fixed = name.startswith(('conv1.', 'bn1.', 'layer1.'))
        if name.endswith(('_mean', '_variance')):
            assert np.array_equal(p.numpy(), before[name]) == fixed, name
        else:
            assert (p.grad is None) == fixed, name


def test_pretrained_and_files_of_the_other_stem(narrow, tmp_path):
    save_file({'encoder_q.0.' + k: v for k, v in state_of(V18).items()}, tmp_path / 'vd.pdparams')
    net = build_backbone({'name': 'ResNet_vd', 'depth': 18, 'pretrained': str(tmp_path / 'vd.pdparams')})
    assert all(np.array_equal(v.numpy(), state_of(V18)[k]) for k, v in net.state_dict().items())
    save_file(state_of(V18), tmp_path / 'bare.pdparams')
    with pytest.raises(CheckpointError, match=r'holds ResNet-18_vd \(basic blocks, deep stem\) weights, the model is a '
                                              r'ResNet-18 \(basic'):
        build_backbone({'name': 'ResNet', 'depth': 18, 'pretrained': str(tmp_path / 'bare.pdparams')})
    with pytest.raises(ConfigError, match="'model.backbone.depth' must be one of .*, not 20"):
        build_backbone({'name': 'ResNet_vd', 'depth': 20})


def test_densecl_and_linear_evaluation_work_on_it():
    model = contrast(backbone={'name': 'ResNet_vd'})
    assert model.backbone.out_channels == 512
    loss = model(*views(2, 32, 32), mode='train')['loss']
    loss.backward()
    assert np.isfinite(float(loss)) and model.backbone.conv1[0].weight.grad is not None
    assert 'encoder_k.0.conv1.0.weight' in model.state_dict()
    clas = build_model({'name': 'Classification', 'backbone': {'name': 'ResNet_vd', 'depth': 18, 'frozen_stages': 4},
                        'head': {'name': 'ClasHead', 'with_avg_pool': True, 'in_channels': 512, 'num_classes': 3}})
    clas.train()
    clas(views(2, 32, 32)[0], paddle.to_tensor([0, 2]), mode='train')['loss'].backward()
    assert [n for n, p in clas.named_parameters() if p.grad is not None] == ['head.fc_cls.weight', 'head.fc_cls.bias']
