"""The names of PaddleClas."""

import importlib.util
import os

import numpy as np
import pytest

from passl.transfer.weights.formats import convert
from passl.utils.weights.names import Arch
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.weights.key_names import RESNET_BLOCKS, describe, resnet_depth
from tests.transfer.nets import R18, V50, narrow_networks, state_of

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
    renamed, added = convert({k: v.numpy() for k, v in ours.state_dict().items()}, Arch(depth), 'paddleclas')
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
    with paddle.LazyGuard():            # names without numbers
        ours = getattr(paddle.vision.models, f'resnet{depth}')(num_classes=0, with_pool=False).state_dict()
        theirs = paddleclas_resnet(depth)[0].state_dict()
    assert resnet_depth(ours) == depth
    assert set(convert(ours, Arch(depth), 'paddleclas')[0]) == set(theirs)


def test_depth_is_told_from_the_names():
    assert describe(prefixed(resnet_names(50), 'encoder_q.0.')) == 'ResNet-50 (bottleneck blocks)'
    assert resnet_depth({'a': 1}) is None
    assert describe(prefixed(state_of(V50), 'backbone.')) == 'ResNet-50_vd (bottleneck blocks, deep stem)'


def run(capsys, *args):
    """The command line in this process: (exit code, what it prints)."""
    path = os.path.join(ROOT, 'tools', 'passl2ppclas', 'convert.py')
    spec = importlib.util.spec_from_file_location('convert_command', path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    try:
        code = command.main([str(a) for a in args])
    except SystemExit as e:         # argparse
        code = e.code
    return code, ''.join(capsys.readouterr())


def test_command_line(tmp_path, monkeypatch, capsys):
    narrow_networks(monkeypatch)
    state = state_of(R18)
    save_file({'epoch': 1, 'state_dict': prefixed(state, 'encoder_q.0.')}, tmp_path / 'epoch_1.pdparams')
    arguments = ('--type', 'res18', '--checkpoint', tmp_path / 'epoch_1.pdparams',
                 '--output', tmp_path / 'x.pdparams')
    code, said = run(capsys, *arguments)
    assert code == 0 and 'matched 100 of 100 tensors' in said, said
    back = load_file(tmp_path / 'x.pdparams')
    assert np.array_equal(back['blocks.6.short.bn._mean'], state['layer4.0.downsample.1._mean'])
    code, said = run(capsys, *arguments)
    assert code == 2 and 'exists already' in said
    code, said = run(capsys, '--type', 'res50', *arguments[2:], '--overwrite')
    assert code == 2 and '--type res18' in said
    assert run(capsys, '--type', 'res20', *arguments[2:])[0] == 2
