"""Schedules against their closed forms; lengths in epochs; wrong settings."""

import logging
import math
import warnings

import numpy as np
import pytest

from passl.solver import LRSCHEDULERS, build_lr_scheduler
from passl.utils.errors import ConfigError


def rates(cfg, steps, iters_per_epoch=1):
    scheduler = build_lr_scheduler(cfg, iters_per_epoch)
    out = []
    for _ in range(steps):
        out.append(scheduler.get_lr())
        assert scheduler() == out[-1]
        scheduler.step()
    return np.array(out)


def cosine(t, top, length, low=0.0):
    return low + (top - low) * (1 + math.cos(math.pi * min(t, length) / length)) / 2


@pytest.mark.parametrize('eta_min', [0.0, 0.01])
def test_cosine_stays_at_its_end(eta_min):
    cfg = {'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 2, 'eta_min': eta_min}
    got = rates(cfg, 30, iters_per_epoch=10)
    np.testing.assert_allclose(got, [cosine(t, 0.3, 20, eta_min) for t in range(30)], rtol=1e-12, atol=1e-15)
    assert got[0] == 0.3 and got[10] == pytest.approx((0.3 + eta_min) / 2)
    np.testing.assert_allclose(got[20:], eta_min, atol=1e-15)


def test_cosine_of_the_paper_per_iteration_and_per_epoch():
    cfg = {'name': 'CosineAnnealingDecay', 'learning_rate': 0.03, 'T_max': 200}
    per_iteration = build_lr_scheduler(cfg, 5004)
    assert per_iteration.T_max == 200 * 5004
    np.testing.assert_allclose(rates(cfg, 200), [0.03 * (1 + math.cos(math.pi * e / 200)) / 2 for e in range(200)])


def test_multi_step_milestones_are_epochs():
    cfg = {'name': 'MultiStepDecay', 'learning_rate': 30, 'milestones': [6, 8], 'gamma': 0.1}
    got = rates(cfg, 100, iters_per_epoch=10)
    np.testing.assert_allclose(got, [30.0] * 60 + [3.0] * 20 + [0.3] * 20, rtol=1e-9)
    np.testing.assert_allclose(rates(cfg, 10), [30.0] * 6 + [3.0] * 2 + [0.3] * 2, rtol=1e-9)


def test_fractions_of_an_epoch():
    got = rates({'name': 'MultiStepDecay', 'learning_rate': 1.0, 'milestones': [0.5, 1.25]}, 8, iters_per_epoch=4)
    np.testing.assert_allclose(got, [1.0] * 2 + [0.1] * 3 + [0.01] * 3)


def test_step_decay():
    got = rates({'name': 'StepDecay', 'learning_rate': 1.0, 'step_size': 2, 'gamma': 0.5}, 12, iters_per_epoch=2)
    np.testing.assert_allclose(got, [0.5 ** (t // 4) for t in range(12)])


def test_linear_warmup_of_a_cosine():
    cfg = {'name': 'LinearWarmup', 'warmup_steps': 2, 'start_lr': 0.01, 'end_lr': 0.2,
           'learning_rate': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.2, 'T_max': 4}}
    want = [0.01 + 0.19 * t / 6 for t in range(6)] + [cosine(t, 0.2, 12) for t in range(20)]
    np.testing.assert_allclose(rates(cfg, 26, iters_per_epoch=3), want, rtol=1e-9, atol=1e-12)
    del cfg['end_lr']                                                     # the nested schedule's first rate
    np.testing.assert_allclose(rates(cfg, 26, iters_per_epoch=3), want, rtol=1e-9, atol=1e-12)


def test_linear_warmup_of_a_rate():
    cfg = {'name': 'LinearWarmup', 'warmup_steps': 4, 'learning_rate': 0.4}
    np.testing.assert_allclose(rates(cfg, 7), [0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4], atol=1e-12)


def test_cosine_warmup_ends_at_t_max():
    cfg = {'name': 'CosineWarmup', 'learning_rate': 0.3, 'T_max': 10, 'warmup_steps': 2, 'eta_min': 0.001}
    got = rates(cfg, 60, iters_per_epoch=5)
    want = [0.3 * t / 10 for t in range(10)] + [cosine(t, 0.3, 40, 0.001) for t in range(50)]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert got[10] == pytest.approx(0.3) and got[50] == pytest.approx(0.001)


@pytest.mark.parametrize('cfg', [0.5, {'name': 'ConstantLR', 'learning_rate': 0.5}])
def test_constant(cfg):
    np.testing.assert_array_equal(rates(cfg, 20, iters_per_epoch=3), 0.5)


@pytest.mark.parametrize('cfg', [
    {'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 2},
    {'name': 'MultiStepDecay', 'learning_rate': 0.3, 'milestones': [1, 2]},
    {'name': 'CosineWarmup', 'learning_rate': 0.3, 'T_max': 4, 'warmup_steps': 1},
    {'name': 'LinearWarmup', 'warmup_steps': 1,
     'learning_rate': {'name': 'StepDecay', 'learning_rate': 0.3, 'step_size': 1}},
    0.1,
])
@pytest.mark.parametrize('at', [3, 13])
def test_state_goes_to_another_process(cfg, at):
    whole = rates(cfg, 30, iters_per_epoch=10)
    first, second = build_lr_scheduler(cfg, 10), build_lr_scheduler(cfg, 10)
    for _ in range(at):
        first.step()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        second.set_state_dict(first.state_dict())
    for t in range(at, 30):
        assert second() == pytest.approx(whole[t], abs=1e-15)
        second.step()


def nested(**inner):
    return {'name': 'LinearWarmup', 'warmup_steps': 2, 'start_lr': 0.0,
            'learning_rate': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.2, **inner}}


@pytest.mark.parametrize('ipe, epochs', [(1, 1), (1, 5), (3, 1), (3, 7), (10, 200)])
@pytest.mark.parametrize('unset', [{}, {'T_max': None}])
def test_an_unset_length_is_that_of_the_training(ipe, epochs, unset):
    cfg = {'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, **unset}
    assert build_lr_scheduler(cfg, ipe, length=ipe * epochs).T_max == ipe * epochs
    same = build_lr_scheduler({**cfg, 'T_max': epochs}, ipe, length=ipe * epochs)
    assert same.T_max == ipe * epochs


def test_an_unset_length_with_a_warm_up():
    cfg = {'name': 'CosineWarmup', 'learning_rate': 0.3, 'warmup_steps': 2}
    got = build_lr_scheduler(cfg, 5, length=50)
    for _ in range(50):
        got.step()
    assert got() == pytest.approx(0.0, abs=1e-15) and got.last_epoch == 50
    inner = build_lr_scheduler(nested(), 5, length=50).learning_rate
    assert inner.T_max == 40                    # it begins after the warm-up
    poly = {'name': 'PolynomialDecay', 'learning_rate': 0.3, 'end_lr': 0.0}
    assert build_lr_scheduler(poly, 5, length=50).decay_steps == 50
    with pytest.raises(ConfigError, match='T_max is not set'):
        build_lr_scheduler({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3})


@pytest.mark.parametrize('cfg, length, words', [
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 2}, 50,
     ["'lr_scheduler.T_max' is 2 epochs", 'runs for 5', '-o lr_scheduler.T_max=null', 'set it to 5']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 2, 'eta_min': 0.1}, 50, ['T_max']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 4.5}, 50, ['is 4.5 epochs', 'runs for 5']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 2}, 22, ['runs for 2.2']),
    ({'name': 'CosineWarmup', 'learning_rate': 0.3, 'T_max': 4, 'warmup_steps': 1}, 50, ['is 4 epochs']),
    (nested(T_max=2), 50, ["'lr_scheduler.learning_rate.T_max' is 2 epochs", 'runs for 3']),
    ({'name': 'PolynomialDecay', 'learning_rate': 0.3, 'decay_steps': 3}, 50, ["'lr_scheduler.decay_steps' is 3"]),
])
def test_a_schedule_that_ends_before_the_training_is_refused(cfg, length, words):
    with pytest.raises(ConfigError) as e:
        build_lr_scheduler(cfg, 10, length=length)
    for word in words:
        assert word in str(e.value)
    assert build_lr_scheduler(cfg, 10) is not None              # as long as nothing is known of the training


@pytest.mark.parametrize('cfg, length, words', [
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 7}, 50, ["T_max' is 7 epochs", '--resume']),
    (nested(T_max=5), 50, ["learning_rate.T_max' is 5 epochs", 'runs for 3']),
    ({'name': 'MultiStepDecay', 'learning_rate': 0.3, 'milestones': [2, 5, 120]}, 50,
     ["'lr_scheduler.milestones': 5, 120 lie behind", '(5 epochs)']),
    ({'name': 'StepDecay', 'learning_rate': 0.3, 'step_size': 30}, 50, ["'lr_scheduler.step_size' is 30 epochs"]),
    ({'name': 'LinearWarmup', 'learning_rate': 0.3, 'warmup_steps': 10}, 50, ["'lr_scheduler.warmup_steps' is 10"]),
    ({'name': 'CosineWarmup', 'learning_rate': 0.3, 'warmup_steps': 10}, 50, ["'lr_scheduler.warmup_steps' is 10"]),
    (dict(nested(), warmup_steps=9), 50, ["'lr_scheduler.warmup_steps' is 9 epochs"]),
])
def test_what_lies_behind_the_end_is_warned_of(cfg, length, words, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('passl'), 'propagate', True)
    schedule = build_lr_scheduler(cfg, 10, length=length)
    assert schedule() >= 0 and len(caplog.records) == 1, caplog.text
    for word in words:
        assert word in caplog.text


@pytest.mark.parametrize('cfg, length', [
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.3, 'T_max': 3.33}, 34),            # rounded by a step
    ({'name': 'PolynomialDecay', 'learning_rate': 0.3, 'decay_steps': 1, 'cycle': True}, 50),
    ({'name': 'MultiStepDecay', 'learning_rate': 0.3, 'milestones': [2, 4]}, 50),
    ({'name': 'StepDecay', 'learning_rate': 0.3, 'step_size': 2}, 50), (0.1, 50),
    ({'name': 'CosineWarmup', 'learning_rate': 0.3, 'warmup_steps': 1}, 20), (nested(), 50)])
def test_what_fits_is_not_spoken_of(cfg, length, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('passl'), 'propagate', True)
    build_lr_scheduler(cfg, 10, length=length)
    assert not caplog.records


@pytest.mark.parametrize('key', ['T_max', 'warmup_steps'])
@pytest.mark.parametrize('value', [0, -1, 1e-9, 1e300, math.inf, -math.inf, math.nan, '5', 'null', '', [], [5], {},
                                   True, 10**30])
def test_odd_lengths(key, value):
    """A schedule, or one message."""
    try:
        build_lr_scheduler({'name': 'CosineWarmup', 'learning_rate': 0.3, 'warmup_steps': 1, key: value}, 10, length=50)
    except ConfigError as e:
        assert 'lr_scheduler' in str(e)


def test_names():
    assert set(LRSCHEDULERS.names()) >= {'CosineAnnealingDecay', 'MultiStepDecay', 'LinearWarmup', 'CosineWarmup',
                                         'ConstantLR', 'StepDecay', 'PolynomialDecay', 'ExponentialDecay'}


@pytest.mark.parametrize('cfg, words', [
    ({'name': 'CosineAnealingDecay', 'learning_rate': 0.1, 'T_max': 3},
     ["'lr_scheduler.name'", "'CosineAnnealingDecay'"]),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 't_max': 3}, ["'lr_scheduler.t_max'", "'T_max'"]),
    ({'name': 'CosineAnnealingDecay', 'T_max': 3}, ['learning_rate', 'lr_scheduler']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 'long'},
     ["'lr_scheduler.T_max'", "'long'", 'epochs']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 0}, ['T_max', '0']),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 'fast', 'T_max': 3},
     ["'lr_scheduler.learning_rate' must be a number of 0 or more, not 'fast'"]),
    ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 3, 'eta_min': 'low'},
     ["'lr_scheduler.eta_min'", "'low'"]),
    ({'name': 'MultiStepDecay', 'learning_rate': 0.1, 'milestones': [8, 6]}, ['lr_scheduler', 'milestones']),
    ({'name': 'MultiStepDecay', 'learning_rate': 0.1, 'milestones': 6}, ['lr_scheduler', 'milestones']),
    ({'name': 'MultiStepDecay', 'learning_rate': 0.1, 'milestones': ['a']}, ["'lr_scheduler.milestones'"]),
    ({'name': 'LinearWarmup', 'learning_rate': 0.1, 'warmup_steps': 2, 'start_lr': 0.2}, ['start_lr', '0.2']),
    ({'name': 'CosineWarmup', 'learning_rate': 0.1, 'warmup_steps': 5, 'T_max': 5}, ['T_max', 'warmup_steps']),
    ('fast', ["'lr_scheduler'", "'fast'", 'learning_rate']),
    (True, ["'lr_scheduler'", 'True']),
])
def test_wrong_settings(cfg, words):
    with pytest.raises(ConfigError) as e:
        build_lr_scheduler(cfg)
    for word in words:
        assert word in str(e.value)


def test_the_config_is_not_changed():
    cfg = {'name': 'LinearWarmup', 'warmup_steps': 2,
           'learning_rate': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.2, 'T_max': 4}}
    kept = {**cfg, 'learning_rate': dict(cfg['learning_rate'])}
    build_lr_scheduler(cfg, 7)
    assert cfg == kept
