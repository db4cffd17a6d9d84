"""Optimizers against numpy; wrong settings."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modules.freeze import freeze_
from passl.solver import OPTIMIZERS, build_lr_scheduler, build_optimizer
from passl.utils.config import load_config
from passl.utils.errors import ConfigError, PasslError

RATE = 0.5


class Net(nn.Layer):
    """Three tensors whose gradients are set by hand."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.bn = nn.BatchNorm1D(3)
        rng = np.random.RandomState(0)
        for p in self.parameters():
            if not p.stop_gradient:
                p.set_value(rng.randn(*p.shape).astype('float32'))

    def trained(self):
        return {n: p for n, p in self.named_parameters() if not p.stop_gradient}

    def values(self):
        return {n: p.numpy().astype('float64') for n, p in self.trained().items()}


def gradients(step, scale=1.0):
    rng = np.random.RandomState(10 + step)
    return {n: scale * rng.randn(*p.shape) for n, p in Net().trained().items()}


def run(cfg, steps=2, scale=1.0, rate=RATE):
    """{name: value} after `steps` steps with the given gradients."""
    net = Net()
    optimizer = build_optimizer(cfg, build_lr_scheduler(rate), net)
    for step in range(steps):
        fixed = gradients(step, scale)
        sum((p * paddle.to_tensor(fixed[n].astype('float32'))).sum() for n, p in net.trained().items()).backward()
        optimizer.step()
        optimizer.clear_grad()
    return net.values()


def momentum(decay=None, mu=0.9, nesterov=False, clip=lambda g: g, steps=2, scale=1.0):
    w, v = Net().values(), {n: 0.0 for n in Net().values()}
    for step in range(steps):
        grads = clip(gradients(step, scale))
        for n in w:
            g = grads[n] + (decay(n) if decay else 0.0) * w[n]
            v[n] = mu * v[n] + g
            w[n] = w[n] - RATE * (g + mu * v[n] if nesterov else v[n])
    return w


def same(got, want, tolerance=1e-5):
    assert set(got) == set(want)
    for n in want:
        np.testing.assert_allclose(got[n], want[n], rtol=tolerance, atol=tolerance, err_msg=n)


@pytest.mark.parametrize('nesterov', [False, True])
def test_momentum(nesterov):
    got = run({'name': 'Momentum', 'momentum': 0.9, 'weight_decay': 0.1, 'use_nesterov': nesterov})
    same(got, momentum(lambda n: 0.1, nesterov=nesterov))


@pytest.mark.parametrize('cfg', [{'momentum': 0, 'weight_decay': 0}, {'momentum': 0, 'weight_decay': 1},
                                 {'momentum': 1}])
def test_whole_numbers_are_numbers(cfg):
    same(run({'name': 'Momentum', **cfg}), momentum(lambda n: cfg.get('weight_decay', 0), mu=cfg['momentum']))


@pytest.mark.parametrize('cfg', [
    {'name': 'Momentum', 'weight_decay': 0.1, 'exclude_from_weight_decay': ['bias', 'bn']},
    {'name': 'Momentum', 'use_nesterov': True, 'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1.0}},
    {'name': 'Adam', 'weight_decay': 0.1}])
def test_one_call_for_all_parameters_gives_the_same_numbers(cfg, monkeypatch):
    merged = []
    for name in ('merged_momentum_', 'merged_adam_'):
        call = getattr(paddle._C_ops, name)
        monkeypatch.setattr(paddle._C_ops, name, lambda *a, call=call: (merged.append(len(a[0])), call(*a))[1])
    same(run({**cfg, 'use_multi_tensor': True}, steps=3), run(cfg, steps=3), 1e-6)
    assert merged == [4] * 3                            # one call per step for all four tensors, and none without


def test_one_call_for_all_parameters_refuses_changing_ones():
    """Paddle would give fc.bias the gradient of fc.weight, or the like."""
    net = Net()
    optimizer = build_optimizer({'name': 'Momentum', 'use_multi_tensor': True}, build_lr_scheduler(RATE), net)
    for used, fails in ((net.bn, False), (net.bn, False), (net.fc, True)):
        (used.weight.sum() + used.bias.sum()).backward()
        if fails:
            with pytest.raises(PasslError, match='4 of 4 .*use_multi_tensor: false'):
                optimizer.step()
        else:
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)
    with pytest.raises(ConfigError, match="'optimizer.use_multi_tensor' must be true or false, not 'yes'"):
        build_optimizer({'name': 'Momentum', 'use_multi_tensor': 'yes'}, 0.1, net)


def test_sgd():
    same(run({'name': 'SGD', 'weight_decay': 0.1}), momentum(lambda n: 0.1, mu=0.0))


def test_excluded_from_weight_decay():
    got = run({'name': 'Momentum', 'weight_decay': 0.1, 'exclude_from_weight_decay': ['bias', 'bn']})
    same(got, momentum(lambda n: 0.1 if n == 'fc.weight' else 0.0))
    same(run({'name': 'SGD', 'weight_decay': 0.1, 'exclude_from_weight_decay': ['fc.']}),
         momentum(lambda n: 0.1 if 'bn' in n else 0.0, mu=0.0))
    same(run({'name': 'Momentum', 'weight_decay': 0.1, 'exclude_from_weight_decay': ['fc', 'bn']}), momentum())


def adamw(decayed, decay, b1=0.9, b2=0.999, eps=1e-8):
    w = Net().values()
    m, v = {n: 0.0 for n in w}, {n: 0.0 for n in w}
    for t in (1, 2):
        for n, g in gradients(t - 1).items():
            m[n], v[n] = b1 * m[n] + (1 - b1) * g, b2 * v[n] + (1 - b2) * g * g
            w[n] = w[n] * (1 - RATE * (decay if decayed(n) else 0.0))
            w[n] = w[n] - RATE * (m[n] / (1 - b1**t)) / (np.sqrt(v[n] / (1 - b2**t)) + eps)
    return w


def test_adamw_decays_what_is_not_excluded():
    same(run({'name': 'AdamW', 'weight_decay': 0.1}), adamw(lambda n: True, 0.1), 1e-4)
    same(run({'name': 'AdamW', 'weight_decay': 0.1, 'exclude_from_weight_decay': ['bias', 'bn']}),
         adamw(lambda n: n == 'fc.weight', 0.1), 1e-4)


def global_norm(limit):
    def clip(grads):
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return {n: g * limit / max(norm, limit) for n, g in grads.items()}
    return clip


@pytest.mark.parametrize('scale', [0.01, 5.0])
@pytest.mark.parametrize('exclude', [None, ['bias', 'bn']])
def test_gradients_are_clipped_by_one_norm_of_all(scale, exclude):
    got = run({'name': 'Momentum', 'weight_decay': 0.1, 'exclude_from_weight_decay': exclude,
               'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1.0}}, scale=scale)
    same(got, momentum(lambda n: 0.0 if exclude and n != 'fc.weight' else 0.1, clip=global_norm(1.0), scale=scale))


def test_clip_by_value():
    got = run({'name': 'SGD', 'grad_clip': {'name': 'ClipGradByValue', 'max': 0.3}})
    same(got, momentum(mu=0.0, clip=lambda grads: {n: np.clip(g, -0.3, 0.3) for n, g in grads.items()}))


def lars(coeff, decay, mu=0.9, clip=lambda g: g, scaled=lambda n: n == 'fc.weight', scale=1.0):
    w, v = Net().values(), {n: 0.0 for n in Net().values()}
    for step in range(2):
        for n, g in clip(gradients(step, scale)).items():
            if scaled(n):
                g = g + decay * w[n]
                g = g * coeff * np.linalg.norm(w[n]) / np.linalg.norm(g)
            v[n] = mu * v[n] + g
            w[n] = w[n] - RATE * v[n]
    return w


LARS = {'name': 'LarsMomentumOptimizer', 'momentum': 0.9, 'lars_coeff': 0.02, 'lars_weight_decay': 0.1}


@pytest.mark.parametrize('exclude', [None, ['bias', 'bn']])
def test_lars(exclude):
    same(run({**LARS, 'exclude_from_weight_decay': exclude}), lars(0.02, 0.1))


def test_lars_leaves_excluded_weights_to_momentum():
    same(run({**LARS, 'exclude_from_weight_decay': ['fc.weight']}), momentum())


def test_lars_clips_before_it_scales():
    got = run({**LARS, 'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1.0}}, scale=5.0)
    same(got, lars(0.02, 0.1, clip=global_norm(1.0), scale=5.0))
    assert np.abs(lars(0.02, 0.1, scale=5.0)['bn.bias'] - got['bn.bias']).max() > 0.5


def test_lars_with_zero_weights_or_gradients_is_finite():
    net = Net()
    net.fc.weight.set_value(np.zeros([4, 3], 'float32'))
    optimizer = build_optimizer(LARS, build_lr_scheduler(1.0), net)
    (net.fc.weight.sum() + 0.0 * net.bn.weight.sum()).backward()
    optimizer.step()
    np.testing.assert_allclose(net.fc.weight.numpy(), -1, rtol=1e-6)             # ratio 1 without a norm
    assert all(np.isfinite(v).all() for v in net.values().values())


def test_the_shipped_simclr_schedule_trains_two_steps(project_root):
    cfg = load_config(f'{project_root}/configs/simclr/simclr_r50.yaml')
    scheduler = build_lr_scheduler(cfg['lr_scheduler'], iters_per_epoch=1, length=100)
    net = Net()
    before = net.values()
    optimizer = build_optimizer({**cfg['optimizer'], 'exclude_from_weight_decay': ['bias', 'bn'],
                                 'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 10.0}}, scheduler, net)
    moved = []
    for _ in range(2):
        (net.fc(paddle.ones([2, 4]))**2).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
        moved.append(np.abs(net.values()['fc.weight'] - before['fc.weight']).max())
    assert moved[0] == 0                                                        # rate 0 at the start of the warm-up
    norm = np.linalg.norm(before['fc.weight'])
    step = np.linalg.norm(net.values()['fc.weight'] - before['fc.weight'])
    coeff = cfg['optimizer'].get('lars_coeff', 0.001)
    # velocity: mu x (first gradient) + the same gradient again, each of norm coeff |w|
    assert step == pytest.approx(0.03 * (1 + cfg['optimizer']['momentum']) * coeff * norm, rel=1e-3)


def test_names():
    assert set(OPTIMIZERS.names()) >= {'Momentum', 'SGD', 'Adam', 'AdamW', 'RMSProp', 'LarsMomentumOptimizer'}


def test_only_what_trains_is_given_to_the_optimizer():
    net = Net()
    freeze_(net.fc)
    before = net.fc.weight.numpy()
    optimizer = build_optimizer({'name': 'Momentum', 'weight_decay': 0.5}, 0.1, net)
    assert {p.name for p in optimizer._parameter_list} == {net.bn.weight.name, net.bn.bias.name}
    net.bn(net.fc(paddle.randn([4, 4]))).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(net.fc.weight.numpy(), before)


@pytest.mark.parametrize('cfg, words', [
    ({'name': 'Momentun'}, ["'optimizer.name'", "'Momentun'", "'Momentum'"]),
    ({'name': 'Momentum', 'momentumm': 0.9}, ["'optimizer.momentumm'", "'momentum'"]),
    ({'name': 'Momentum', 'weight_decay': 'x'}, ["'optimizer.weight_decay'", "'x'", 'number']),
    ({'name': 'Momentum', 'momentum': 'a'}, ["'optimizer.momentum'", "'a'", 'number']),
    ({'name': 'Momentum', 'momentum': True}, ["'optimizer.momentum'", 'number']),
    ({'name': 'Adam', 'beta1': 2}, ['optimizer', 'beta1']),
    ({'name': 'SGD', 'learning_rate': 0.1}, ["'optimizer.learning_rate'", 'lr_scheduler.learning_rate']),
    ({'name': 'SGD', 'parameters': []}, ["'optimizer.parameters'"]),
    ({'name': 'SGD', 'exclude_from_weight_decay': ['.w_1']}, ["'.w_1'", 'fc.weight']),
    ({'name': 'SGD', 'exclude_from_weight_decay': 'bias'}, ["'bias'", 'list']),
    ({'name': 'SGD', 'grad_clip': {'name': 'ClipGradByGlobalNrm'}},
     ["'optimizer.grad_clip.name'", "'ClipGradByGlobalNorm'"]),
    ({'name': 'SGD', 'grad_clip': 1.0}, ["'optimizer.grad_clip'", '1.0', 'ClipGradByGlobalNorm']),
    ({'name': 'SGD', 'grad_clip': {'name': 'ClipGradByNorm', 'clip_nrm': 1}},
     ["'optimizer.grad_clip.clip_nrm'", "'clip_norm'"]),
    ({'name': 'SGD', 'grad_clip': {'name': 'ClipGradByNorm'}}, ["'optimizer.grad_clip'", 'clip_norm']),
    ({'name': 'SGD', 'grad_clip': {'name': 'ClipGradByNorm', 'clip_norm': 'x'}}, ["'optimizer.grad_clip'", 'x']),
    ('SGD', ["'optimizer'", "'SGD'", 'name']),
    ({'name': 'Momentum', 'weight_decay': -1e-4}, ["'optimizer.weight_decay' must be", "not -0.0001", '0 or more']),
    ({'name': 'Momentum', 'momentum': 1.5}, ["'optimizer.momentum' must be", "not 1.5", 'from 0 to 1']),
    ({'name': 'LarsMomentumOptimizer', 'lars_weight_decay': -1}, ["'optimizer.lars_weight_decay'", '0 or more']),
])
def test_wrong_settings(cfg, words):
    with pytest.raises(ConfigError) as e:
        optimizer = build_optimizer(cfg, 0.1, Net())
        optimizer.step()
    for word in words:
        assert word in str(e.value)


def test_nothing_to_train():
    net = Net()
    freeze_(net)
    with pytest.raises(ConfigError, match='Nothing to train.*frozen_stages'):
        build_optimizer({'name': 'SGD'}, 0.1, net)


def test_the_config_is_not_changed():
    cfg = {'name': 'Momentum', 'momentum': 0, 'exclude_from_weight_decay': ['bias'],
           'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1}}
    kept = {**cfg, 'grad_clip': dict(cfg['grad_clip'])}
    build_optimizer(cfg, 0.1, Net())
    assert cfg == kept
