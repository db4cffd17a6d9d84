"""Supervised classification, SimCLR, and the tables of names."""

import numpy as np
import paddle
import pytest

from passl.modeling import build_model
from passl.modules.contrastive_loss import nt_xent
from passl.solver import build_lr_scheduler, build_optimizer
from passl.utils.config import load_config
from passl.utils.errors import ConfigError

from .tiny import unit, values, views


def classifier(frozen_stages=4, **head):
    paddle.seed(0)
    model = build_model({'name': 'Classification',
                         'backbone': {'name': 'Narrow', 'depth': 18, 'frozen_stages': frozen_stages},
                         'head': {'name': 'ClasHead', 'with_avg_pool': True, 'in_channels': 128, 'num_classes': 3,
                                  **head}})
    model.train()
    return model


LABEL = paddle.to_tensor([0, 2, 1, 0], dtype='int64')


def test_linear_evaluation_moves_the_classifier_only():
    model = classifier()
    before = values(model)
    optimizer = build_optimizer({'name': 'Momentum', 'weight_decay': 0}, build_lr_scheduler(30), model)
    x = views(4, 32, 32)[0]
    features = model(x, mode='extract').numpy().mean((2, 3)).astype('float64')
    out = model(x, LABEL)
    out['loss'].backward()
    optimizer.step()
    logits = features @ before['head.fc_cls.weight']
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert float(out['loss']) == pytest.approx(-np.log(p[np.arange(4), LABEL.numpy()]).mean(), rel=1e-4)
    slope = features.T @ (p - np.eye(3)[LABEL.numpy()]) / 4
    for name, now in values(model).items():
        if name == 'head.fc_cls.weight':
            np.testing.assert_allclose(now, before[name] - 30 * slope, rtol=1e-3, atol=1e-3)
        elif name != 'head.fc_cls.bias':
            np.testing.assert_array_equal(now, before[name], err_msg=name)


def test_fine_tuning_moves_everything():
    model = classifier(frozen_stages=-1)
    before = values(model)
    model(views(4, 32, 32)[0], LABEL)['loss'].backward()
    assert all(p.stop_gradient or p.grad is not None for p in model.parameters())
    assert np.abs(values(model)['backbone.bn1._mean'] - before['backbone.bn1._mean']).max() > 0


def test_test_mode_gives_logits():
    model = classifier(frozen_stages=-1)
    model.eval()
    x = views(4, 32, 32)[0]
    logits = model(x, mode='test')
    assert logits.shape == [4, 3]
    np.testing.assert_allclose(model(x, LABEL, mode='test').numpy(), logits.numpy())
    np.testing.assert_allclose(model(x[:1], mode='test').numpy(), logits.numpy()[:1], atol=1e-5)
    pooled = model.backbone(x).numpy().mean((2, 3))
    np.testing.assert_allclose(logits.numpy(), pooled @ model.head.fc_cls.weight.numpy(), atol=1e-4)


def test_accuracies_with_fewer_than_five_classes():
    model = classifier()
    out = model(views(4, 32, 32)[0], LABEL)
    assert set(out) == {'loss', 'acc1', 'acc5'} and float(out['acc5']) == 100
    model.with_metrics = False
    assert set(model(views(4, 32, 32)[0], LABEL)) == {'loss'}


def test_names_in_the_state_dict():
    state = set(classifier().state_dict())
    assert {'head.fc_cls.weight', 'head.fc_cls.bias', 'backbone.conv1.weight'} <= state and len(state) == 102
    assert classifier().supervised


def test_batch_without_labels():
    with pytest.raises(ConfigError, match="return_label: true"):
        classifier()(views(2, 32, 32)[0])


def test_channels_must_fit():
    with pytest.raises(ConfigError, match="'model.head.in_channels' is 2048.*Narrow gives 128.*"
                                          'model.head.in_channels=128'):
        classifier(in_channels=2048)


@pytest.mark.parametrize('build', [lambda: classifier(), lambda: simclr()])
def test_raw_images(build):
    """uint8 [N, H, W, 3], normalised on the device, in every mode."""
    raw = [paddle.to_tensor(np.random.RandomState(i).randint(0, 256, (4, 32, 48, 3)).astype('uint8')) for i in (0, 1)]
    normalise = lambda x: (x.astype('float32').transpose([0, 3, 1, 2]) - 120.0) / 60.0   # noqa: E731
    results = []
    for images in (raw, [normalise(x) for x in raw]):
        model = build()
        model.input_transform = normalise
        out = [model(images[0], LABEL if model.supervised else images[1])['loss']]
        model.eval()
        results.append(out + [model(images[0], mode=m) for m in (['test'] if model.supervised else []) + ['extract']])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def simclr(cfg=None, **backbone):
    paddle.seed(0)
    cfg = cfg or {'name': 'SimCLR', 'neck': {'name': 'NonLinearNeckV1'},
                  'head': {'name': 'SimCLRContrastiveHead', 'temperature': 0.5}}
    cfg = {**cfg, 'backbone': {'name': 'Narrow', 'depth': 18, **backbone},
           'neck': {**cfg['neck'], 'in_channels': 128, 'hid_channels': 16, 'out_channels': 8}}
    model = build_model(cfg)
    model.train()
    return model


def test_simclr_by_hand():
    model = simclr()
    v1, v2 = views(4, 32, 32)
    z = unit(model.encoder(paddle.concat([v1, v2])).numpy(), 1)               # one batch of 8 for BN
    z1, z2 = paddle.to_tensor(z[:4]), paddle.to_tensor(z[4:])
    want = float(nt_xent(z1, z2, z1, z2, 0, 0.5)[0])
    got = model(v1, v2)
    assert float(got['loss']) == pytest.approx(want, rel=1e-4)
    assert float(model(v2, v1)['loss']) == pytest.approx(want, rel=1e-4)      # symmetric
    assert all(n.startswith(('encoder.0.', 'encoder.1.mlp.')) for n in model.state_dict())


def test_the_shipped_simclr_config_trains_two_steps(project_root):
    cfg = load_config(f'{project_root}/configs/simclr/simclr_r50.yaml')
    model = simclr(cfg['model'])
    scheduler = build_lr_scheduler({**cfg['lr_scheduler'], 'start_lr': 0.1}, 1, length=100)
    optimizer = build_optimizer({**cfg['optimizer'], 'exclude_from_weight_decay': ['bn', 'bias'],
                                 'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1.0}}, scheduler, model)
    start = model.encoder[0].layer1[0].conv1.weight.numpy()
    ratio = cfg['optimizer'].get('lars_coeff', 0.001) * 0.1
    for step in range(2):
        loss = model(*views(4, 32, 32))['loss']
        assert np.isfinite(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        if step == 0:                  # LARS: the first step is rate x coefficient x |w|, whatever the gradient
            moved = np.linalg.norm(model.encoder[0].layer1[0].conv1.weight.numpy() - start)
            assert moved == pytest.approx(ratio * np.linalg.norm(start), rel=1e-3)
        scheduler.step()


@pytest.mark.parametrize('cfg, words', [
    ({'name': 'DenseCl'}, ["'model.name'", "'DenseCl'", "'DenseCL'"]),
    ({}, ["'model'", 'name', 'DenseCL']),
    ('DenseCL', ["'model'", 'mapping']),
    ({'name': 'Classification', 'backbone': {'name': 'ResNt', 'depth': 18}}, ["'model.backbone.name'", "'ResNet'"]),
    ({'name': 'Classification', 'backbone': {'name': 'Narrow', 'depth': 18}}, ["'model'", 'head']),
])
def test_wrong_model(cfg, words):
    with pytest.raises(ConfigError) as e:
        build_model(cfg)
    for word in words:
        assert word in str(e.value)
