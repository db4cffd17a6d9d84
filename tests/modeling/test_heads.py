"""Heads: the classifier and the thin layers around the contrastive losses."""

import math

import numpy as np
import paddle
import pytest

from passl.modeling import HEADS, build_head
from passl.modeling.heads import ClasHead, ContrastiveHead, SimCLRContrastiveHead
from passl.modules.contrastive_loss import info_nce, nt_xent
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
    with pytest.raises(ConfigError, match=f"'model.head.temperature' is {temperature}.*above 0"):
        build_head({'name': name, 'temperature': temperature})


def test_names():
    assert set(HEADS.names()) >= {'ContrastiveHead', 'SimCLRContrastiveHead', 'ClasHead'}
    with pytest.raises(ConfigError, match="'model.head.name'.*'ContrastiveHed'.*'ContrastiveHead'"):
        build_head({'name': 'ContrastiveHed'})
