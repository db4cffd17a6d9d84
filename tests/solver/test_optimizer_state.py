"""Optimizer state goes to another process, in which Paddle has numbered its parameters differently."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.solver import build_lr_scheduler, build_optimizer
from passl.solver.optimizer import load_optimizer_state, optimizer_state
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError

COSINE = {'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 20}
CASES = {
    'Momentum': {'name': 'Momentum', 'weight_decay': 1e-3},
    'Nesterov without decay of biases': {'name': 'Momentum', 'weight_decay': 1e-3, 'use_nesterov': True,
                                         'exclude_from_weight_decay': ['bias']},
    'Momentum in one call': {'name': 'Momentum', 'weight_decay': 1e-3, 'use_multi_tensor': True,
                             'exclude_from_weight_decay': ['bias']},
    'Adam in one call': {'name': 'Adam', 'weight_decay': 1e-3, 'use_multi_tensor': True},
    'AdamW': {'name': 'AdamW', 'weight_decay': 0.1},
    'LARS': {'name': 'LarsMomentumOptimizer', 'lars_weight_decay': 1e-3},
    'SGD': {'name': 'SGD'},
}


def net():
    return nn.Sequential(nn.Conv2D(2, 3, 3), nn.BatchNorm2D(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 12),
                         nn.Linear(12, 12), nn.Linear(12, 2))


def train(model, optimizer, scheduler, steps):
    for step in steps:
        x = paddle.to_tensor(np.random.RandomState(step).randn(4, 2, 4, 4).astype('float32'))
        (model(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()


def built(cfg, model=None):
    model, scheduler = model or net(), build_lr_scheduler(COSINE)
    return model, build_optimizer(cfg, scheduler, model), scheduler


@pytest.mark.parametrize('case', CASES)
def test_goes_on_bit_for_bit_under_other_automatic_names(case, tmp_path):
    cfg = CASES[case]
    model, optimizer, scheduler = built(cfg)
    start = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    train(model, optimizer, scheduler, range(6))

    first, optimizer, scheduler = built(cfg)
    first.set_state_dict(start)
    train(first, optimizer, scheduler, range(3))
    save_file({'model': {k: v.numpy() for k, v in first.state_dict().items()},
               'optimizer': optimizer_state(optimizer, first), 'lr': scheduler.state_dict()}, str(tmp_path / 'x'))

    saved = load_file(str(tmp_path / 'x'))
    for _ in range(3):                                          # shifts the automatic names
        nn.Linear(12, 12), nn.Conv2D(2, 3, 3)
    second, optimizer, scheduler = built(cfg)
    assert {p.name for p in second.parameters()}.isdisjoint(p.name for p in first.parameters())
    second.set_state_dict(saved['model'])
    load_optimizer_state(optimizer, second, saved['optimizer'])
    scheduler.set_state_dict(saved['lr'])
    train(second, optimizer, scheduler, range(3, 6))

    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_without_the_state_the_continuation_differs():
    """Guards the test above: these steps do depend on the optimizer's state."""
    model, optimizer, scheduler = built(CASES['Momentum'])
    start = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    train(model, optimizer, scheduler, range(4))
    other, optimizer, scheduler = built(CASES['Momentum'])
    other.set_state_dict(start)
    train(other, optimizer, scheduler, range(2))
    again = build_optimizer(CASES['Momentum'], scheduler, other)
    train(other, again, scheduler, range(2, 4))
    assert np.abs(other[6].weight.numpy() - model[6].weight.numpy()).max() > 1e-4


def test_is_keyed_by_the_names_of_the_state_dict():
    model, optimizer, scheduler = built(CASES['Momentum'])
    train(model, optimizer, scheduler, range(2))
    state = optimizer_state(optimizer, model)
    assert set(state['slots']) == {n for n, p in model.named_parameters() if not p.stop_gradient}
    velocity = state['slots']['4.weight']
    assert len(velocity) == 1 and next(iter(velocity.values())).shape == (12, 12)


def test_a_parameter_without_gradient_is_no_obstacle():
    class Unused(nn.Layer):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x.flatten(1)[:, :2])

    model, optimizer, scheduler = built(CASES['Momentum'], Unused())
    train(model, optimizer, scheduler, range(2))
    state = optimizer_state(optimizer, model)
    twin, optimizer, scheduler = built(CASES['Momentum'], Unused())
    load_optimizer_state(optimizer, twin, state)
    train(twin, optimizer, scheduler, range(1))


def test_state_of_another_model_or_optimizer_is_refused():
    model, optimizer, scheduler = built(CASES['Momentum'])
    train(model, optimizer, scheduler, range(1))
    state = optimizer_state(optimizer, model)
    larger, optimizer, _ = built(CASES['Momentum'], nn.Sequential(*net(), nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match='7.bias.*--load'):
        load_optimizer_state(optimizer, larger, state)
    smaller, optimizer, _ = built(CASES['Momentum'], net()[:5])
    with pytest.raises(CheckpointError, match='4 unknown'):
        load_optimizer_state(optimizer, smaller, state)
    _, optimizer, _ = built(CASES['AdamW'], model)
    with pytest.raises(CheckpointError, match='Momentum.*AdamW.*--load'):
        load_optimizer_state(optimizer, model, state)


def test_state_before_the_first_step():
    model, optimizer, scheduler = built(CASES['Momentum'])
    state = optimizer_state(optimizer, model)
    load_optimizer_state(optimizer, model, state)
    train(model, optimizer, scheduler, range(1))


def test_loading_leaves_the_schedule_alone():
    model, optimizer, scheduler = built(CASES['Momentum'])
    train(model, optimizer, scheduler, range(2))
    state = optimizer_state(optimizer, model)
    twin, optimizer, scheduler = built(CASES['Momentum'])
    load_optimizer_state(optimizer, twin, state)
    assert scheduler.last_epoch == 0 and scheduler() == pytest.approx(0.1)


def half(name, dtype):
    """(model, optimizer) as under AMP O2, after what the first `step` does before its kernel: the CPU has none."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model.to(dtype=dtype)
    optimizer = build_optimizer({'name': name, 'multi_precision': True}, build_lr_scheduler(COSINE), model)
    return model, optimizer


def begin_step(optimizer):
    optimizer.helper = optimizer.helper or paddle.base.layer_helper.LayerHelper('optimizer')
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, optimizer._parameter_list)


def values_of(state):
    return {**{f'{n} {s}': v for n, slots in state['slots'].items() for s, v in slots.items()},
            **state['master_weights']}


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@pytest.mark.parametrize('name', ['Momentum', 'Adam', 'AdamW'])
def test_half_precision_weights_and_their_float32_copies_go_on(name, dtype):
    """Paddle names such a slot after the copy, whose name has a number of its own."""
    model, optimizer = half(name, dtype)
    begin_step(optimizer)
    state = optimizer_state(optimizer, model)
    rng = np.random.RandomState(0)
    for part in (*state['slots'].values(), state['master_weights']):
        part.update({k: rng.rand(*v.shape).astype(v.dtype) for k, v in part.items()})
    assert set(state['master_weights']) == set(state['slots']) == {'0.weight', '0.bias', '1.weight', '1.bias'}
    slot = {'Momentum': 'fp32_master_0_velocity_0'}.get(name, 'fp32_master_0_moment1_0')
    assert slot in state['slots']['1.weight']

    model, optimizer = half(name, dtype)
    load_optimizer_state(optimizer, model, state)
    begin_step(optimizer)           # Paddle looks its slots up here
    again = optimizer_state(optimizer, model)
    want, got = values_of(state), values_of(again)
    assert want.keys() == got.keys() and len(want) >= 8
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)
