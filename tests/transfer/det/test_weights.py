"""Weights go in whole or not at all, and what a training moves is what the protocol says."""

import glob
import os

import numpy as np
import pytest

from passl.transfer.paddledet.shim import available
from passl.transfer.paddledet.weights import to_paddledet
from passl.utils.weights.checkpoint import save_file
from passl.utils.errors import CheckpointError
from tests.conftest import ROOT

CONFIGS = sorted(glob.glob(os.path.join(ROOT, 'configs', 'transfer', 'det', '*.yml')))
C4 = os.path.join(ROOT, 'configs', 'transfer', 'det', 'faster_rcnn_r50_c4_voc07+12.yml')
FPN = os.path.join(ROOT, 'configs', 'transfer', 'det', 'faster_rcnn_r18_fpn_custom.yml')
pytestmark = pytest.mark.skipif(not available(), reason='PaddleDetection is not installed')


def detector(path, *overrides):
    """The model of a config file."""
    from passl.transfer.paddledet.shim import import_ppdet
    import_ppdet()
    from ppdet.core.workspace import create

    from passl.transfer.paddledet.config import activate, check_config, read_config
    cfg = read_config(path, overrides)
    check_config(cfg)
    ours = ('iterations', 'total_batch', 'voc', 'masks')
    parts = {k: v for k, v in cfg.items() if 'Dataset' not in k and k not in ours}
    return create(activate(dict(parts, num_classes=2)).architecture)


def r18_c4(*more):
    return detector(C4, 'PlainResNet.depth=18', 'Res5NormHead.depth=18', *more)


@pytest.fixture(scope='module')
def backbone():
    """{name: array} of a ResNet-18 of ours."""
    import paddle
    from passl.modeling import build_backbone
    paddle.seed(5)
    return {k: v.numpy() for k, v in build_backbone({'name': 'ResNet', 'depth': 18}).state_dict().items()}


@pytest.mark.parametrize('form', ['ours', 'checkpoint', 'safetensors', 'theirs', 'theirs with prefix'])
def test_all_of_the_backbone_is_loaded(form, backbone, tmp_path):
    from passl.transfer.paddledet.weights import backbone_of, load_backbone
    path = str(tmp_path / ('w.safetensors' if form == 'safetensors' else 'w.pdparams'))
    theirs = to_paddledet(backbone)[0]
    save_file({'ours': backbone, 'safetensors': backbone, 'theirs': theirs,
               'theirs with prefix': {'backbone.' + k: v for k, v in theirs.items()},
               'checkpoint': {'state_dict': dict({'encoder_q.0.' + k: v for k, v in backbone.items()},
                                                 queue=np.zeros((2, 4), np.float32))}}[form], path)
    for model in (detector(FPN), r18_c4()):
        report = load_backbone(model, path)
        assert report.complete and len(report.matched) == len(backbone) == 100 and not report.unexpected
        for name, tensor in backbone_of(model).items():
            assert np.array_equal(tensor.numpy(), theirs[name]), name
    # the last stage of a C4 model is in its head
    assert np.array_equal(model.bbox_head.head.res5.state_dict()['res5b.branch2b.conv.weight'].numpy(),
                          backbone['layer4.1.conv2.weight'])


def refuse(backbone, path, model, message):
    from passl.transfer.paddledet.weights import backbone_of, load_backbone
    save_file(backbone, path)
    before = {k: v.numpy() for k, v in backbone_of(model).items()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(model, path)
    assert all(np.array_equal(before[k], v.numpy()) for k, v in backbone_of(model).items())


def test_wrong_files_are_refused_and_change_nothing(backbone, tmp_path):
    from passl.modeling import build_backbone
    model, path = detector(FPN), str(tmp_path / 'w.pdparams')
    deeper = {k: v.numpy() for k, v in build_backbone({'name': 'ResNet', 'depth': 34}).state_dict().items()}
    refuse(deeper, path, model, 'no place for|does not fit')
    refuse({k: v for k, v in to_paddledet(backbone)[0].items() if 'res4b.branch2a.conv' not in k}, path, model,
           'matched 99 of 100')
    refuse(dict(to_paddledet(backbone)[0], extra=np.zeros(3, np.float32)), path, model, 'no place for: extra')
    wrong = dict(backbone, **{'conv1.weight': np.zeros((64, 3, 3, 3), np.float32)})
    refuse(wrong, path, model, 'matched 99 of 100')
    refuse({'head.weight': np.zeros((3, 3), np.float32)}, path, model, 'backbone')
    # a shortcut that does something belongs to another network
    renamed = to_paddledet(backbone)[0]
    other = renamed['res2.res2a.short.conv.weight'] * 2
    refuse(dict(renamed, **{'res2.res2a.short.conv.weight': other}), path, model, 'no place for 5|5 backbone tensors')


@pytest.mark.parametrize('path', CONFIGS, ids=os.path.basename)
def test_nothing_is_frozen_and_norms_are_trained(path):
    from passl.transfer.paddledet.weights import trained_flags
    flags = trained_flags(detector(path))
    assert all(trained == total > 0 for trained, total in flags.values()), flags
    depth = 50 if 'r50' in path else 18
    assert flags['convolutions'] == [53, 53] if depth == 50 else [20, 20]
    assert flags['norms'] == [106, 106] if depth == 50 else [40, 40]


def test_flags_see_what_is_frozen():
    from passl.transfer.paddledet.weights import trained_flags
    stem = trained_flags(detector(FPN, 'PlainResNet.freeze_at=0'))
    assert stem['convolutions'] == [15, 20]          # the stem and the four of res2
    norms = trained_flags(r18_c4('PlainResNet.freeze_norm=true', 'Res5NormHead.freeze_norm=true'))
    assert norms['norms'] == [0, 40] and norms['norm_statistics'] == [0, 20] and norms['convolutions'] == [20, 20]


@pytest.mark.parametrize('part', ['PlainResNet', 'Res5NormHead'])
def test_channels_last_equals_paddles_own_layers(part, monkeypatch):
    """Maps, gradients and running statistics of a training step."""
    import paddle
    from passl.transfer.paddledet import fast_cpu, modules
    from passl.transfer.paddledet.shim import import_ppdet
    import_ppdet()
    rng, found = np.random.RandomState(0), []
    channels, size = {'PlainResNet': (3, 64), 'Res5NormHead': (256, 14)}[part]
    x = rng.randn(3, channels, size, size).astype('float32')
    own = fast_cpu.suits
    for suits in (own, lambda net, image: False):
        paddle.seed(1)
        net = vars(modules)[part](depth=18)
        monkeypatch.setattr(fast_cpu, 'suits', suits)
        image = paddle.to_tensor(x, stop_gradient=part == 'PlainResNet')
        if suits is own:
            assert suits(net, image)
        maps = net({'image': image}) if part == 'PlainResNet' else [net(image)]
        paddle.add_n([(m * paddle.cos(m)).mean() for m in maps]).backward()
        found.append([m.numpy() for m in maps] + [p.grad.numpy() for p in net.parameters() if p.grad is not None]
                     + [p.numpy() for k, p in net.state_dict().items() if k.endswith(('_mean', '_variance'))])
    assert len(found[0]) == len(found[1]) > 20
    for a, b in zip(*found):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-3 * max(np.abs(b).max(), 1e-4)
