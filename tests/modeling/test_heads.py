"""Heads: the classifier and the thin layers around the contrastive losses."""

import math

import numpy as np
import paddle
import pytest

from passl.modeling import build_head
from passl.modeling.heads import ClasHead, ContrastiveHead, SimCLRContrastiveHead
from passl.modules import contrastive_loss
from passl.modules.contrastive_loss import info_nce, nt_xent
from passl.modules.correspondence import match, take_matched
from passl.modules.ema import WeightAverage
from passl.modules.feature_queue import FeatureQueue
from passl.utils.errors import ConfigError

RNG = np.random.RandomState(0)


def unit(rows, dim=8):
    x = RNG.randn(rows, dim)
    return paddle.to_tensor((x / np.linalg.norm(x, axis=1, keepdims=True)).astype('float32'))


def test_clas_head_starts_small():
    paddle.seed(0)
    head = ClasHead(in_channels=512, num_classes=200)
    assert set(head.state_dict()) == {'fc_cls.weight', 'fc_cls.bias'}
    assert head.fc_cls.weight.numpy().std() == pytest.approx(0.01, rel=0.02)
    assert abs(head.fc_cls.weight.numpy().mean()) < 1e-4
    assert (head.fc_cls.bias.numpy() == 0).all()


def test_clas_head_values():
    head = ClasHead(with_avg_pool=True, in_channels=6, num_classes=3)
    x = RNG.randn(5, 6, 2, 3).astype('float32')
    logits = head(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(logits, x.mean((2, 3)) @ head.fc_cls.weight.numpy(), atol=1e-6)
    label = np.array([0, 1, 2, 1, 0])
    out = head.loss(paddle.to_tensor(logits), paddle.to_tensor(label))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(out['loss']) == pytest.approx(-np.log(p[np.arange(5), label]).mean(), rel=1e-5)
    assert float(out['acc1']) == pytest.approx(100 * (logits.argmax(1) == label).mean())
    assert float(out['acc5']) == 100                                  # three classes only
    column = head.loss(paddle.to_tensor(logits), paddle.to_tensor(label[:, None]))
    assert float(column['loss']) == pytest.approx(float(out['loss']))
    assert set(head.loss(paddle.to_tensor(logits), paddle.to_tensor(label), with_accuracy=False)) == {'loss'}


def test_contrastive_head():
    q, k, queue = unit(4), unit(4), unit(16).t()
    out = ContrastiveHead(temperature=0.3)(q, k, queue)
    assert set(out) == {'loss', 'acc1', 'acc5'}
    assert float(out['loss']) == pytest.approx(float(info_nce(q, k, queue, 0.3)[0]))
    assert set(ContrastiveHead(return_accuracy=False)(q, k, queue)) == {'loss'}
    assert set(ContrastiveHead()(q, k, queue, with_accuracy=False)) == {'loss'}
    perfect = ContrastiveHead(temperature=0.01)(q, q, unit(16).t())
    assert float(perfect['loss']) < 1e-4 and float(perfect['acc1']) == 100


def test_accuracy_of_the_contrastive_head():
    q, k, queue = unit(200), unit(200), unit(6).t()
    out = ContrastiveHead(temperature=0.3)(q, k, queue)
    above = (q.numpy() @ queue.numpy() >= (q.numpy() * k.numpy()).sum(1, keepdims=True)).sum(1)
    assert float(out['acc1']) == pytest.approx(100 * np.mean(above < 1))
    assert float(out['acc5']) == pytest.approx(100 * np.mean(above < 5))
    assert 0 < float(out['acc1']) < float(out['acc5']) < 100
    few = ContrastiveHead(temperature=0.3)(q, k, queue[:, :3])
    assert float(few['acc5']) == 100                                  # four candidates only


READS = ('numpy', 'item', 'tolist', '__float__', '__int__', '__bool__', '__index__', '__array__')


@pytest.fixture
def reads(monkeypatch):
    """List of the ways in which a tensor's numbers came to the host."""
    found = []
    for name in READS:
        if hasattr(paddle.Tensor, name):
            real = getattr(paddle.Tensor, name)
            monkeypatch.setattr(paddle.Tensor, name,
                                lambda *a, _real=real, _name=name, **kw: found.append(_name) or _real(*a, **kw))
    return found


@pytest.mark.parametrize('device', ['gpu', pytest.param('cpu', marks=pytest.mark.cpu_only('its shortcut'))])
def test_parts_of_a_step_read_nothing_from_the_device(device, reads, monkeypatch):
    if device == 'gpu':                                   # the path for numbers that are not in the host's memory
        monkeypatch.setattr(contrastive_loss, '_UNSHIFTED_FROM', math.inf)
    layer = paddle.nn.Linear(8, 8)
    twin = paddle.nn.Linear(8, 8)
    queue = FeatureQueue(paddle.nn.Layer(), 'queue', 8, 16)
    average, head = WeightAverage(layer, twin), ContrastiveHead(temperature=0.2)
    reads.clear()                                         # the first average of a process tries Paddle's fused call
    average.update(0.9)
    x = unit(6)
    index, _ = match(x.reshape([2, 8, 3]), x.reshape([2, 8, 3]))
    keys = take_matched(x.reshape([2, 8, 3]), index).reshape([-1, 8])
    out = head(layer(x), keys, queue.tensor, with_accuracy=False)
    out['loss'].backward()
    queue.push(keys)
    average.update(0.9)
    # on the CPU, where it is free, the loss looks once whether its sums fit; a read may count under several names
    assert (reads == []) if device == 'gpu' else (reads.count('__bool__') == 1)
    reads.clear()
    float(out['loss'])
    assert reads                                                        # the counter counts


def test_simclr_head():
    z1, z2 = unit(4), unit(4)
    out = SimCLRContrastiveHead(temperature=0.5)(z1, z2)
    assert float(out['loss']) == pytest.approx(float(nt_xent(z1, z2, z1, z2, 0, 0.5)[0]))
    assert float(SimCLRContrastiveHead(temperature=0.5)(z1, z1)['acc1']) == 100
    assert float(SimCLRContrastiveHead()(z1[:1], z2[:1])['loss']) == pytest.approx(0, abs=1e-6)   # no negatives
    assert math.isfinite(float(SimCLRContrastiveHead(temperature=1e-3)(z1, z2)['loss']))


@pytest.mark.parametrize('name', ['ContrastiveHead', 'SimCLRContrastiveHead'])
@pytest.mark.parametrize('temperature', [0, -0.2])
def test_wrong_temperature(name, temperature):
    with pytest.raises(ConfigError, match=f"'model.head.temperature' must be a number above 0, not {temperature}"):
        build_head({'name': name, 'temperature': temperature})


def test_a_wrong_name():
    with pytest.raises(ConfigError, match="'model.head.name'.*'ContrastiveHed'.*'ContrastiveHead'"):
        build_head({'name': 'ContrastiveHed'})
