"""Backbones as PaddleSeg's configs build them, with files that `passl export` wrote. Needs PaddleSeg."""

import numpy as np
import paddle
import pytest

from passl.transfer.paddleseg.resnet import DilatedResNet
from passl.transfer.paddleseg.weights import load_backbone
from passl.transfer.weights.exporting import backbone, export_weights
from passl.utils.weights.names import table
from passl.transfer.weights.proof import images, source_maps

from .. import nets
from ..nets import R18, V18, save_checkpoint, state_of


@pytest.fixture
def narrow_networks(request, monkeypatch):
    """In the place of the folder's fixture: PaddleSeg has its own network whole."""
    whole = request.node.originalname == 'test_its_configs_take_our_weights'
    (nets.small_images if whole else nets.narrow_networks)(monkeypatch)


def test_its_configs_take_our_weights(tmp_path):
    from paddleseg.cvlibs import manager
    import paddleseg.models  # noqa: F401  registers the backbones
    path = str(tmp_path / 'vd.pdparams')
    made = export_weights(save_checkpoint(tmp_path / 'c.pdparams', V18), 'paddleseg', path, proof='library')
    assert made['proof']['by'].startswith('library: paddleseg') and made['proof']['max_relative_deviation'] < 1e-5
    # type: ResNet18_vd with its default output_stride 8: dilated, the same tensors
    net = manager.BACKBONES['ResNet18_vd'](pretrained=path)
    net.eval()
    state, names = net.state_dict(), table(V18, 'paddleseg')
    assert set(state) == set(names.values()) and len(state) == 115
    assert all(np.array_equal(state[names[k]].numpy(), v) for k, v in state_of(V18).items())
    with paddle.no_grad():
        theirs = [m.numpy() for m in net(paddle.to_tensor(images()))]
    ours = source_maps(backbone(V18, state_of(V18), 'x'))
    for a, b in zip(theirs[:2], ours[:2]):      # the first two stages are not dilated
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()
    assert theirs[3].shape[2:] == theirs[1].shape[2:]


@pytest.mark.parametrize('encoder', ['q', 'k'])
def test_the_plain_resnet_takes_them(tmp_path, encoder):
    path = str(tmp_path / 'plain.pdparams')
    export_weights(save_checkpoint(tmp_path / 'c.pdparams', R18), 'paddleseg', path, encoder)
    net = DilatedResNet(18, output_stride=32)
    record = load_backbone(net, path)
    assert (record['matched'], record['total']) == (100, 100)
    net.eval()
    with paddle.no_grad():
        theirs = [m.numpy() for m in net(paddle.to_tensor(images()))]
    ours = source_maps(backbone(R18, state_of(R18, seed='qk'.index(encoder)), 'x'))
    for a, b in zip(theirs, ours):
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()
