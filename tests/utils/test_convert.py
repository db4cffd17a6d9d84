"""The names of PaddleClas."""

import os
import subprocess
import sys

import numpy as np
import pytest

from passl.utils.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError
from passl.utils.key_names import RESNET_BLOCKS, describe, paddleclas_name, resnet_depth, to_paddleclas

from .test_weights import prefixed, resnet_names

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def paddleclas_resnet(depth):
    """A ResNet with PaddleClas's structure and names (plain stem), written anew for this test.

    Every first block of a stage has a shortcut convolution, also in the basic-block networks.
    """
    paddle = pytest.importorskip('paddle')
    nn = paddle.nn

    class ConvBN(nn.Layer):
        def __init__(self, c_in, c_out, kernel, stride=1):
            super().__init__()
            self.conv = nn.Conv2D(c_in, c_out, kernel, stride, kernel // 2, bias_attr=False)
            self.bn = nn.BatchNorm2D(c_out)

        def forward(self, x):
            return self.bn(self.conv(x))

    class Block(nn.Layer):
        def __init__(self, c_in, width, stride, first):
            super().__init__()
            bottleneck = depth >= 50
            c_out = width * 4 if bottleneck else width
            if bottleneck:
                parts = [(c_in, width, 1, 1), (width, width, 3, stride), (width, c_out, 1, 1)]
            else:
                parts = [(c_in, width, 3, stride), (width, width, 3, 1)]
            for i, part in enumerate(parts):
                setattr(self, f'conv{i}', ConvBN(*part))
            self.parts = len(parts)
            if first:
                self.short = ConvBN(c_in, c_out, 1, stride)
            self.first = first

        def forward(self, x):
            y = x
            for i in range(self.parts):
                y = getattr(self, f'conv{i}')(y)
                y = nn.functional.relu(y) if i < self.parts - 1 else y
            return nn.functional.relu(y + (self.short(x) if self.first else x))

    blocks, c_in = [], 64
    for stage, n in enumerate(RESNET_BLOCKS[depth]):
        for i in range(n):
            width = 64 * 2**stage
            blocks.append(Block(c_in, width, 2 if i == 0 and stage else 1, i == 0))
            c_in = width * 4 if depth >= 50 else width
    net = nn.Layer()
    net.stem = nn.Sequential(ConvBN(3, 64, 7, 2))
    net.blocks = nn.Sequential(*blocks)

    def forward(x):
        x = nn.functional.max_pool2d(nn.functional.relu(net.stem(x)), 3, 2, 1)
        return net.blocks(x)
    return net, forward


@pytest.mark.parametrize('depth', [18, 50])
def test_same_features(depth):
    """The converted weights compute in PaddleClas's structure what they compute here."""
    paddle = pytest.importorskip('paddle')
    paddle.seed(0)
    ours = getattr(paddle.vision.models, f'resnet{depth}')(num_classes=0, with_pool=False)
    rng = np.random.default_rng(0)
    for name, value in ours.state_dict().items():
        if 'bn' in name or 'downsample.1' in name:
            value.set_value(rng.uniform(0.5, 1.5, value.shape).astype(np.float32))
    renamed, added = to_paddleclas({k: v.numpy() for k, v in ours.state_dict().items()}, depth)
    theirs, forward = paddleclas_resnet(depth)
    shapes = [{k: list(v.shape) for k, v in s.items()} for s in (theirs.state_dict(), renamed)]
    assert shapes[0] == shapes[1]
    theirs.set_state_dict(renamed)
    ours.eval()
    theirs.eval()
    x = paddle.to_tensor(rng.standard_normal((2, 3, 64, 64)).astype(np.float32))
    with paddle.no_grad():
        a, b = ours(x).numpy(), forward(x).numpy()
    assert np.abs(a).max() > 0
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    assert len(added) == (5 if depth == 18 else 0)


@pytest.mark.parametrize('depth', sorted(RESNET_BLOCKS))
def test_all_depths_have_paddleclas_names(depth):
    paddle = pytest.importorskip('paddle')
    ours = getattr(paddle.vision.models, f'resnet{depth}')(num_classes=0, with_pool=False).state_dict()
    assert resnet_depth(ours) == depth
    renamed, _ = to_paddleclas(ours, depth)
    theirs, _ = paddleclas_resnet(depth)
    assert set(renamed) == set(theirs.state_dict())


@pytest.mark.parametrize('name, depth, want', [
    ('conv1.weight', 50, 'stem.0.conv.weight'), ('bn1._mean', 50, 'stem.0.bn._mean'),
    ('layer1.0.conv1.weight', 50, 'blocks.0.conv0.conv.weight'),
    ('layer2.0.bn3.bias', 50, 'blocks.3.conv2.bn.bias'),
    ('layer3.5.conv2.weight', 50, 'blocks.12.conv1.conv.weight'),
    ('layer4.2.bn1._variance', 50, 'blocks.15.conv0.bn._variance'),
    ('layer4.0.downsample.0.weight', 50, 'blocks.13.short.conv.weight'),
    ('layer4.0.downsample.1.weight', 101, 'blocks.30.short.bn.weight'),
    ('layer4.2.conv3.weight', 152, 'blocks.49.conv2.conv.weight'),
    ('layer4.1.conv2.weight', 18, 'blocks.7.conv1.conv.weight')])
def test_single_names(name, depth, want):
    assert paddleclas_name(name, depth) == want


@pytest.mark.parametrize('name', ['fc.weight', 'layer5.0.conv1.weight', 'layer1.3.conv1.weight', 'queue'])
def test_names_that_have_none(name):
    with pytest.raises(CheckpointError, match='no name in PaddleClas'):
        paddleclas_name(name, 50)


def test_depth_is_told_from_the_names():
    assert describe(prefixed(resnet_names(50), 'encoder_q.0.')) == 'ResNet-50 (bottleneck blocks)'
    assert resnet_depth({'a': 1}) is None
    with pytest.raises(CheckpointError, match='type that fits: --type res50'):
        to_paddleclas(resnet_names(50), 101)
    with pytest.raises(CheckpointError, match='no whole ResNet'):
        to_paddleclas({'conv1.weight': np.ones(1)}, 50)


def run(*args):
    script = os.path.join(ROOT, 'tools', 'passl2ppclas', 'convert.py')
    return subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True)


def test_command_line(tmp_path):
    state = resnet_names(50)
    save_file({'epoch': 1, 'state_dict': prefixed(state, 'encoder_q.0.')}, tmp_path / 'epoch_1.pdparams')
    arguments = ('--type', 'res50', '--checkpoint', tmp_path / 'epoch_1.pdparams',
                 '--output', tmp_path / 'x.pdparams')
    done = run(*arguments)
    assert done.returncode == 0 and 'Wrote 265 tensors' in done.stdout, done.stderr
    back = load_file(tmp_path / 'x.pdparams')
    assert np.array_equal(back['blocks.13.short.bn._mean'], state['layer4.0.downsample.1._mean'])
    again = run(*arguments)
    assert again.returncode == 2 and 'exists already' in again.stderr and 'Traceback' not in again.stderr
    assert run(*arguments, '--overwrite').returncode == 0
    wrong = run('--type', 'res18', *arguments[2:], '--overwrite')
    assert wrong.returncode == 2 and '--type res50' in wrong.stderr
    assert run('--type', 'res20', *arguments[2:]).returncode == 2
