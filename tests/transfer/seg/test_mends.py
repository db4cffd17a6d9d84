"""PaddleSeg's loss, metric and loading after they were mended."""

import pickle
import sys

import numpy as np
import paddle
import pytest

from passl.transfer.paddleseg import library, mends
from passl.utils.errors import CheckpointError

library.load()
from paddleseg import utils  # noqa: E402
from paddleseg.cvlibs import manager  # noqa: E402

paddle.set_device('cpu')
RNG = np.random.RandomState(0)
SCORES = RNG.randn(2, 4, 5, 6).astype('float32')
LABELS = RNG.randint(0, 4, (2, 5, 6))
LABELS[0, :2] = 255


def per_pixel():
    """Cross-entropy of each pixel, 0 where ignored, in float64."""
    z = SCORES.astype('float64')
    z = z - np.log(np.exp(z).sum(1, keepdims=True))
    at = np.where(LABELS == 255, 0, LABELS)
    return np.where(LABELS == 255, 0, -np.take_along_axis(z, at[:, None], 1)[:, 0])


def loss_of(**settings):
    layer = manager.LOSSES['CrossEntropyLoss'](**settings)
    return float(layer(paddle.to_tensor(SCORES), paddle.to_tensor(LABELS)))


def test_loss_is_the_mean_over_labelled_pixels():
    valid = LABELS != 255
    assert valid.sum() == 48
    assert loss_of() == pytest.approx(per_pixel()[valid].mean(), rel=1e-5)


def test_loss_over_all_pixels_as_in_mmsegmentation():
    assert loss_of(avg_non_ignore=False) == pytest.approx(per_pixel().mean(), rel=1e-5)


def test_loss_with_class_weights():
    weight = np.array([0.5, 1, 2, 4])
    of_pixel = np.where(LABELS == 255, 0, weight[np.where(LABELS == 255, 0, LABELS)])
    assert loss_of(weight=weight.tolist()) == pytest.approx((per_pixel() * of_pixel).sum() / of_pixel.sum(), rel=1e-5)


def test_loss_of_the_hardest_pixels():
    hardest = np.sort(per_pixel().reshape(-1))[-15:]
    assert loss_of(top_k_percent_pixels=0.25) == pytest.approx(hardest.mean(), rel=1e-5)


def test_loss_without_a_labelled_pixel_is_zero_and_has_gradients():
    x = paddle.to_tensor(SCORES)
    x.stop_gradient = False
    loss = manager.LOSSES['CrossEntropyLoss']()(x, paddle.to_tensor(np.full_like(LABELS, 255)))
    loss.backward()
    assert float(loss) == 0 and not np.abs(x.grad.numpy()).any()


def test_gradient_is_softmax_minus_one_hot_over_the_labelled_pixels():
    x = paddle.to_tensor(SCORES)
    x.stop_gradient = False
    manager.LOSSES['CrossEntropyLoss']()(x, paddle.to_tensor(LABELS)).backward()
    p = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    want = (p - (np.arange(4)[None, :, None, None] == LABELS[:, None])) * (LABELS != 255)[:, None] / 48
    assert np.allclose(x.grad.numpy(), want, atol=1e-6)


def test_trainer_gets_losses_that_it_can_index():
    train = sys.modules['paddleseg.core.train']
    losses = {'types': [manager.LOSSES['CrossEntropyLoss'](), manager.LOSSES['DiceLoss']()], 'coef': [1, 0.4]}
    scores = paddle.to_tensor(SCORES)
    found = train.loss_computation([scores, scores], paddle.to_tensor(LABELS), None, losses)
    assert [list(v.shape) for v in found] == [[1], [1]]
    assert float(found[0][0]) == pytest.approx(loss_of(), rel=1e-6)


@pytest.mark.parametrize('channel', [False, True])
def test_areas_are_counted_right(channel):
    pred = RNG.randint(0, 4, LABELS.shape)
    labels = LABELS.copy()
    labels[1, 0, 0] = 7             # a value that is no class: wrong wherever it is predicted
    shape = (2, 1, 5, 6) if channel else (2, 5, 6)
    areas = utils.metrics.calculate_area(paddle.to_tensor(pred.reshape(shape).astype('int32')),
                                         paddle.to_tensor(labels.reshape(shape)), 4)
    want = np.zeros((3, 4), int)
    for p, t in zip(pred.reshape(-1), labels.reshape(-1)):
        if t == 255:
            continue
        want[1, p] += 1
        if t < 4:
            want[2, t] += 1
            want[0, t] += p == t
    assert np.array_equal([a.numpy() for a in areas], want)
    assert all(str(a.dtype).endswith('int64') for a in areas)
    iou, mean = utils.metrics.mean_iou(*areas)
    assert mean == pytest.approx((want[0] / (want[1] + want[2] - want[0])).mean())
    assert np.allclose(iou, want[0] / (want[1] + want[2] - want[0]))


def test_areas_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match='6 pixels.*4'):
        mends.calculate_area(paddle.zeros([1, 2, 3], 'int64'), paddle.zeros([1, 2, 2], 'int64'), 2)


class Evil:
    def __reduce__(self):
        return exec, ("open('/tmp/passl_seg_was_here', 'w')",)


def test_nothing_loads_pickles_the_unsafe_way(tmp_path):
    import os
    evil = tmp_path / 'evil.pdparams'
    evil.write_bytes(pickle.dumps({'weight': Evil()}))
    layer = paddle.nn.Linear(2, 2)
    for load in (utils.load_entire_model, utils.load_pretrained_model, utils.utils.load_entire_model,
                 utils.utils.load_pretrained_model):
        with pytest.raises(CheckpointError, match='Refusing'):
            load(layer, str(evil))
    os.makedirs(tmp_path / 'iter_3')
    (tmp_path / 'iter_3/model.pdparams').write_bytes(evil.read_bytes())
    with pytest.raises(CheckpointError, match='Refusing'):
        sys.modules['paddleseg.core.train'].resume(layer, None, str(tmp_path / 'iter_3'))
    assert not os.path.exists('/tmp/passl_seg_was_here')


def test_whole_models_load_completely_or_not_at_all(tmp_path):
    layer, path = paddle.nn.Linear(2, 3), str(tmp_path / 'm.pdparams')
    paddle.save(layer.state_dict(), path)
    other = paddle.nn.Linear(2, 3)
    mends.load_model(other, path)
    assert np.array_equal(other.weight.numpy(), layer.weight.numpy())
    with pytest.raises(CheckpointError, match='another shape: weight'):
        mends.load_model(paddle.nn.Linear(2, 4), path)
    with pytest.raises(CheckpointError, match='Nothing is downloaded'):
        mends.load_model(other, 'https://example.com/model.pdparams')
    mends.load_model(other, None)


def test_resume_brings_back_the_optimizer_and_tells_the_step(tmp_path):
    def build():
        paddle.utils.unique_name.switch()
        paddle.seed(1)
        layer = paddle.nn.Linear(2, 2)
        return layer, paddle.optimizer.Momentum(0.1, 0.9, parameters=layer.parameters())

    def step(layer, optimizer):
        (layer(paddle.ones([1, 2])) ** 2).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    layer, optimizer = build()
    step(layer, optimizer)
    folder = tmp_path / 'iter_7'
    folder.mkdir()
    paddle.save(layer.state_dict(), str(folder / 'model.pdparams'))
    paddle.save(optimizer.state_dict(), str(folder / 'model.pdopt'))
    step(layer, optimizer)
    again, second = build()
    assert mends.resume(again, second, str(folder) + '/') == 7
    step(again, second)
    assert np.array_equal(again.weight.numpy(), layer.weight.numpy())
    paddle.save({'LR_Scheduler': {'last_epoch': 1}}, str(folder / 'model.pdopt'))
    with pytest.raises(CheckpointError, match='no state for 2'):
        mends.resume(again, second, str(folder))
    with pytest.raises(CheckpointError, match='iter_N'):
        mends.resume(again, second, str(tmp_path))
