"""What the libraries call the tensors."""

import pytest

from passl.modeling import build_backbone
from passl.utils.weights.names import (ARCHS, CONVENTIONS, Arch, check_complete, check_exists, first_short,
                                          nearest_arch, shapes, table)
from passl.utils.errors import CheckpointError

from .nets import R18, R50, V18, V50, narrow_networks, state_of

# written down from the libraries' sources
EXAMPLES = [
    ('torchvision', R50, 'layer3.5.bn2._variance', 'layer3.5.bn2.running_var'),
    ('torchvision', R50, 'layer4.0.downsample.1._mean', 'layer4.0.downsample.1.running_mean'),
    ('torchvision', R50, 'conv1.weight', 'conv1.weight'),
    ('detectron2', R50, 'conv1.weight', 'stem.conv1.weight'),
    ('detectron2', R50, 'bn1._mean', 'stem.conv1.norm.running_mean'),
    ('detectron2', R50, 'layer1.2.conv3.weight', 'res2.2.conv3.weight'),
    ('detectron2', R50, 'layer4.0.bn1.bias', 'res5.0.conv1.norm.bias'),
    ('detectron2', R18, 'layer2.0.downsample.0.weight', 'res3.0.shortcut.weight'),
    ('detectron2', R18, 'layer2.0.downsample.1._variance', 'res3.0.shortcut.norm.running_var'),
    ('paddleclas', R50, 'conv1.weight', 'stem.0.conv.weight'),
    ('paddleclas', R50, 'bn1._mean', 'stem.0.bn._mean'),
    ('paddleclas', R50, 'layer2.0.bn3.bias', 'blocks.3.conv2.bn.bias'),
    ('paddleclas', R50, 'layer3.5.conv2.weight', 'blocks.12.conv1.conv.weight'),
    ('paddleclas', Arch(101), 'layer4.0.downsample.1.weight', 'blocks.30.short.bn.weight'),
    ('paddleclas', Arch(152), 'layer4.2.conv3.weight', 'blocks.49.conv2.conv.weight'),
    ('paddleclas', R18, 'layer4.1.conv2.weight', 'blocks.7.conv1.conv.weight'),
    ('paddleclas', V50, 'conv1.3.weight', 'stem.1.conv.weight'),
    ('paddleclas', V50, 'bn1.weight', 'stem.2.bn.weight'),
    ('paddledet', R50, 'conv1.weight', 'conv1.conv1.conv.weight'),
    ('paddledet', R50, 'bn1.bias', 'conv1.conv1.norm.bias'),
    ('paddledet', R50, 'layer1.0.conv1.weight', 'res2.res2a.branch2a.conv.weight'),
    ('paddledet', R50, 'layer3.5.bn2._mean', 'res4.res4f.branch2b.norm._mean'),
    ('paddledet', R50, 'layer2.0.downsample.1.weight', 'res3.res3a.short.norm.weight'),
    ('paddledet', Arch(101), 'layer3.22.conv3.weight', 'res4.res4b22.branch2c.conv.weight'),
    ('paddledet', Arch(101), 'layer3.0.conv3.weight', 'res4.res4a.branch2c.conv.weight'),
    ('paddledet', Arch(152), 'layer2.7.conv1.weight', 'res3.res3h.branch2a.conv.weight'),
    ('paddledet', V50, 'conv1.0.weight', 'conv1.conv1_1.conv.weight'),
    ('paddledet', V50, 'layer1.0.downsample.1.weight', 'res2.res2a.short.conv.weight'),
    ('paddledet', V50, 'layer2.0.downsample.1.weight', 'res3.res3a.short.conv.conv.weight'),
    ('paddleseg', R50, 'layer1.0.bn1._mean', 'layer1.0.bn1._mean'),
    ('paddleseg', V50, 'conv1.0.weight', 'conv1_1._conv.weight'),
    ('paddleseg', V50, 'bn1._variance', 'conv1_3._batch_norm._variance'),
    ('paddleseg', V50, 'layer3.5.conv2.weight', 'bb_2_5.conv1._conv.weight'),
    ('paddleseg', V18, 'layer1.0.downsample.2.bias', 'bb_0_0.short._batch_norm.bias'),
    ('timm', V50, 'conv1.6.weight', 'conv1.6.weight'),
    ('timm', V50, 'layer2.0.downsample.2._mean', 'layer2.0.downsample.2.running_mean'),
    ('mmseg', V50, 'conv1.6.weight', 'stem.6.weight'),
    ('mmseg', V50, 'bn1.weight', 'stem.7.weight'),
    ('mmseg', V50, 'layer1.0.downsample.1.weight', 'layer1.0.downsample.0.weight'),
    ('mmseg', V50, 'layer2.0.downsample.1.weight', 'layer2.0.downsample.1.weight'),
    ('lightly', R18, 'conv1.weight', '0.weight'),
    ('lightly', R18, 'bn1.bias', '1.bias'),
    ('lightly', R18, 'layer4.1.bn2._mean', '7.1.bn2.running_mean'),
]


@pytest.mark.parametrize('library, arch, ours, theirs', EXAMPLES)
def test_single_names(library, arch, ours, theirs):
    assert table(arch, library)[ours] == theirs


@pytest.mark.parametrize('arch', ARCHS, ids=lambda a: a.name)
def test_tables_are_one_to_one(arch):
    count = {18: 100, 34: 180, 50: 265, 101: 520, 152: 775}[arch.depth] + arch.vd * (15 if arch.depth < 50 else 10)
    for library in CONVENTIONS:
        if arch.vd and library in ('torchvision', 'detectron2', 'lightly'):
            continue
        names = table(arch, library)
        assert list(names) == list(shapes(arch))
        assert len(set(names.values())) == len(names) == count
        assert nearest_arch(names.values(), library, 'x') == arch


@pytest.mark.parametrize('name, depth', [('ResNet', 18), ('ResNet', 50), ('ResNet', 101), ('ResNet_vd', 18),
                                         ('ResNet_vd', 34), ('ResNet_vd', 50)])
def test_our_models_have_these_tensors(name, depth, monkeypatch):
    narrow_networks(monkeypatch)        # an eighth of each number of channels tells them apart as well
    net = build_backbone({'name': name, 'depth': depth})
    wanted = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert shapes(Arch(depth, name.endswith('vd'))) == wanted


def test_networks_that_a_library_has_not():
    for arch, library in ((V50, 'torchvision'), (V50, 'detectron2'), (V18, 'timm'), (V18, 'mmseg')):
        with pytest.raises(CheckpointError, match=f"{arch.name} has no counterpart for '{library}'"):
            check_exists(arch, library)
    for library in ('paddleseg', 'paddleclas', 'paddledet', 'passl'):
        check_exists(V18, library)
    assert not first_short(V18, 'paddleclas') and not first_short(R50, 'paddleclas')
    assert set(first_short(R18, 'paddledet')) == {f'res2.res2a.short.{n}' for n in (
        'conv.weight', 'norm.weight', 'norm.bias', 'norm._mean', 'norm._variance')}


def test_what_differs_is_listed():
    state = state_of(R18)
    value = state.pop('layer4.1.conv2.weight')
    state['layer4.1.conv9.weight'] = value
    state['layer2.0.bn1.bias'] = state['layer2.0.bn1.bias'][:100]
    arch = nearest_arch(state, 'passl', "'f'")
    assert arch == R18
    with pytest.raises(CheckpointError) as e:
        check_complete(state, arch, "'f'")
    for part in ("'f' does not hold exactly the backbone of a ResNet-18 (stem: 7x7): 98 of 100 tensors match",
                 'missing (1): layer4.1.conv2.weight', 'left over (1): layer4.1.conv9.weight',
                 'another shape (1): layer2.0.bn1.bias [100] in place of [128]'):
        assert part in str(e.value)
    with pytest.raises(CheckpointError, match='holds no ResNet-18, 34'):
        nearest_arch(['a', 'b', 'conv1.weight'], 'passl', 'x')
