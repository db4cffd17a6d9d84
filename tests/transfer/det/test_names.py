"""Names and features: PaddleDetection's real ResNet against ours."""

import numpy as np
import pytest

from passl.transfer.paddledet.shim import available
from passl.transfer.paddledet.weights import to_paddledet
from passl.utils.errors import CheckpointError
from passl.utils.weights.key_names import RESNET_BLOCKS

needs_ppdet = pytest.mark.skipif(not available(), reason='PaddleDetection is not installed')


def test_what_has_no_name():
    with pytest.raises(CheckpointError, match='no whole ResNet'):
        to_paddledet({'conv1.weight': np.zeros(1)})


def arrays(layer):
    return {k: v.numpy() for k, v in layer.state_dict().items()}


@pytest.fixture
def no_random_numbers():
    """Layers start at zero: drawing a hundred million weights only to look at their names takes a minute."""
    import paddle
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


@needs_ppdet
@pytest.mark.parametrize('depth', sorted(RESNET_BLOCKS))
def test_every_tensor_has_its_place(depth, no_random_numbers):
    from paddle.vision.models import resnet as vision

    from passl.transfer.paddledet.shim import import_ppdet
    import_ppdet()
    from ppdet.modeling.backbones.resnet import ResNet

    from passl.transfer.paddledet.modules import PlainResNet
    block = vision.BottleneckBlock if depth >= 50 else vision.BasicBlock
    ours = arrays(vision.ResNet(block, depth, num_classes=0, with_pool=False))
    renamed, added = to_paddledet(ours)
    theirs = {k: tuple(v.shape) for k, v in ResNet(depth).state_dict().items()}
    assert {k: v.shape for k, v in renamed.items()} == theirs
    assert len(renamed) - len(added) == len(ours) and bool(added) == (depth < 50)
    if depth in (18, 50):
        assert set(renamed) - set(added) == set(PlainResNet(depth).state_dict())


@needs_ppdet
@pytest.mark.parametrize('depth, name', [(18, 'PlainResNet'), (50, 'PlainResNet'), (18, 'ResNet')])
@pytest.mark.parametrize('training', [False, True])
def test_features_are_equal(depth, name, training, tmp_path):
    """The last stage's map; norms with statistics that are not 0 and 1, so that a wrong one is seen."""
    import paddle
    from passl.modeling import build_backbone
    from passl.transfer.paddledet.shim import import_ppdet
    import_ppdet()
    from ppdet.modeling.backbones.resnet import ResNet

    from passl.transfer.paddledet.modules import PlainResNet
    if name == 'ResNet' and training:
        pytest.skip("a norm in training is no identity, hence PlainResNet")
    paddle.seed(2)
    ours = build_backbone({'name': 'ResNet', 'depth': depth})
    rng = np.random.RandomState(0)
    for key, tensor in ours.state_dict().items():
        if key.endswith(('bn1.weight', 'bn2.weight', 'bn3.weight', 'bias', '_mean', '_variance')):
            low, high = (-0.1, 0.1) if key.endswith(('bias', '_mean')) else (0.5, 1.5)
            tensor.set_value(rng.uniform(low, high, tensor.shape).astype('float32'))
    kind = {'ResNet': ResNet, 'PlainResNet': PlainResNet}[name]
    theirs = kind(depth=depth, freeze_norm=False, freeze_at=-1)
    renamed, added = to_paddledet(arrays(ours))
    wanted = theirs.state_dict()
    for key, value in renamed.items():
        if key in wanted:
            wanted[key].set_value(value)
    assert set(wanted) <= set(renamed)
    x = paddle.to_tensor(rng.randn(2, 3, 64, 64).astype('float32'))
    for net in (ours, theirs):
        net.train() if training else net.eval()
    with paddle.no_grad():
        a, b = ours(x).numpy(), theirs({'image': x})[-1].numpy()
    assert a.shape == b.shape == (2, 512 if depth < 50 else 2048, 2, 2) and a.std() > 1e-3
    assert np.abs(a - b).max() < 2e-4 * np.abs(a).max()
