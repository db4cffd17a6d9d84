"""Hooks: order, calls and counts; schedules, checkpoints, evaluation and the warm-up of lambda."""

import math
import os

import numpy as np
import pytest
import yaml

from passl.cli import train_main
from passl.engine.builder import build_trainer
from passl.hooks import HOOKS, Hook, Priority, build_hook
from passl.utils.weights.checkpoint import load_file
from passl.utils.config import merge, with_defaults
from passl.utils.errors import ConfigError

from .small import clas, densecl, moco, records, refused_training, saved, train


# --------------------------------------------------------------------------------------------------------- order

def trainer_of(cfg, **kwargs):
    return build_trainer(with_defaults(cfg), **kwargs)


def test_named_priorities_give_the_order(data):
    """Whatever the order in the config."""
    cfg = densecl(data, custom_config=[{'name': 'EvaluateHook'}, {'name': 'LossLambdaWarmupHook', 'start_iters': 1}])
    cfg['dataloader']['val'] = clas(data)['dataloader']['val']
    names = [type(h).__name__ for h in trainer_of(cfg).hooks]
    assert names == ['HealthHook', 'LossLambdaWarmupHook', 'MomentumUpdateHook', 'OptimizerHook', 'IterTimerHook',
                     'LRSchedulerHook', 'LogHook', 'CollapseHook', 'ExpectedHook', 'BadImagesHook', 'VisualHook',
                     'EvaluateHook', 'CheckpointHook', 'BestHook']


def test_sorting_is_stable_and_a_config_may_change_a_priority(data):
    order = [3, 1, 7, 2, 9, 6, 4, 8]
    custom = [{'name': 'LossLambdaWarmupHook', 'start_iters': n} for n in order]
    custom[5]['priority'] = 5
    hooks = trainer_of(densecl(data, custom_config=custom, checkpoint={'priority': 61})).hooks
    warm_up = [h.start_iters for h in hooks if hasattr(h, 'start_iters')]
    assert warm_up == [6, 3, 1, 7, 2, 9, 4, 8]
    assert [type(h).__name__ for h in hooks[-2:]] == ['VisualHook', 'BestHook']
    assert [h.priority for h in hooks] == sorted(h.priority for h in hooks)


def test_a_class_that_is_no_hook_is_refused():
    @HOOKS.register()
    class NotAHook:
        pass

    with pytest.raises(ConfigError, match='custom_config.0.*NotAHook is no hook; derive it from passl.hooks.Hook'):
        build_hook({'name': 'NotAHook'}, 'custom_config.0')


POINTS = [p for p in vars(Hook) if not p.startswith('_') and p not in ('priority', 'reads', 'writes', 'wants_log')]


@HOOKS.register()
class Recorder(Hook):
    """Keeps (point, iteration, epoch) of every call."""

    priority = Priority.NORMAL
    calls = []

    def note(self, point, trainer):
        self.calls.append((point, trainer.iteration, trainer.epoch))


for _point in POINTS:
    setattr(Recorder, _point, lambda self, trainer, _point=_point: self.note(_point, trainer))


def recorded(cfg, capsys, *argv):
    """The calls of a run of `cfg`."""
    Recorder.calls = []
    train(merge(cfg, {'custom_config': [{'name': 'Recorder'}, *cfg.get('custom_config', [])]}), capsys, *argv)
    return Recorder.calls


def test_points_are_called_in_the_documented_order(data, out, capsys):
    assert len(POINTS) == 12        # run_abort is for errors
    cfg = clas(data, **out, optimizer_config={'accumulate_steps': 1}, custom_config=[{'name': 'EvaluateHook'}])
    calls = recorded(cfg, capsys)
    expected, done = [('run_begin', 0, 1)], 0
    for epoch in (1, 2):
        expected.append(('train_epoch_begin', done, epoch))
        for _ in range(3):
            expected += [('train_iter_begin', done, epoch), ('train_forward_end', done, epoch)]
            done += 1
            expected += [('train_iter_end', done, epoch), ('figures_read', done, epoch)]
        expected += [('train_epoch_end', done, epoch), ('val_begin', done, epoch), ('val_end', done, epoch)]
        expected.append(('checkpoint_saved', done, epoch))
    expected.append(('run_end', 6, 2))
    assert calls == expected


def test_points_with_accumulation_and_an_end_within_an_epoch(data, out, capsys):
    cfg = moco(data, **out, epochs=None, total_iters=3, optimizer_config={'accumulate_steps': 3},
               dataloader={'train': {'sampler': {'batch_size': 2}}})
    names = [c[0] for c in recorded(cfg, capsys)]       # 6 batches: 2 steps per epoch
    step = ['train_iter_begin'] + 3 * ['train_forward_end'] + ['train_iter_end', 'figures_read']
    assert names == (['run_begin', 'train_epoch_begin'] + 2 * step
                     + ['train_epoch_end', 'checkpoint_saved', 'train_epoch_begin'] + step
                     + ['run_end', 'checkpoint_saved'])


def test_evaluate_only_calls_no_training_point(data, out, capsys):
    """Hooks of custom_config belong to the training."""
    assert recorded(clas(data, **out), capsys, '--evaluate-only') == []


# ------------------------------------------------------------------------------------------- the record of a step

@HOOKS.register()
class Counter(Hook):
    """Adds to the record, and wants the second step logged."""

    writes = 'steps',
    seen = []

    def wants_log(self, trainer):
        return trainer.iteration == 1

    def train_iter_end(self, trainer):
        if trainer.is_log_step:
            trainer.record.update(steps=trainer.iteration, half=trainer.iteration / 2)


@HOOKS.register()
class Reader(Hook):
    priority = Priority.COLLAPSE
    reads = 'steps', 'loss', 'time'

    def train_iter_end(self, trainer):
        Counter.seen.append((trainer.is_log_step, trainer.model.with_metrics, dict(trainer.record)))


def test_what_hooks_add_is_logged_and_what_they_read_is_there(data, out, capsys):
    Counter.seen = []
    cfg = moco(data, **out, epochs=None, total_iters=3, log_config={'interval': 3},
               custom_config=[{'name': 'Reader'}, {'name': 'Counter'}])
    folder, done = train(cfg, capsys)
    assert [step[:2] for step in Counter.seen] == [(False, False), (True, True), (True, True)]
    assert set(Counter.seen[0][2]) == {'mode', 'iteration', 'epoch', 'lr'}
    logged = records(folder)
    assert [(r['iteration'], r['steps'], r['half']) for r in logged] == [(2, 2, 1.0), (3, 3, 1.5)]
    assert logged == [record for is_log_step, _, record in Counter.seen if is_log_step]
    assert ', steps 3, half 1.5000' in done.out


@pytest.mark.parametrize('changes, said', [
    ({'log_config': {'priority': 10}}, r"LogHook \(priority 10\) reads '(data_)?time' of trainer.record, which "
                                       r'IterTimerHook \(priority 30\) writes after it. Give it a higher priority'),
    ({'custom_config': [{'name': 'Reader'}]}, "Reader .* reads 'steps' of trainer.record, which no hook writes")])
def test_a_hook_that_comes_before_what_it_reads_is_refused(data, changes, said):
    with pytest.raises(ConfigError, match=said):
        trainer_of(moco(data, **changes))


# ---------------------------------------------------------------------------------------------- learning rate

def cosine(t, length, peak=0.1, end=0.0):
    return end + (peak - end) * (1 + math.cos(math.pi * min(t, length) / length)) / 2


SCHEDULES = {
    'cosine': ({'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 4, 'eta_min': 0.02},
               lambda t, n: cosine(t, 4 * n, end=0.02)),
    'steps': ({'name': 'MultiStepDecay', 'learning_rate': 0.1, 'milestones': [1, 3], 'gamma': 0.1},
              lambda t, n: 0.1 * 0.1 ** ((t >= n) + (t >= 3 * n))),
    'warm-up': ({'name': 'CosineWarmup', 'learning_rate': 0.1, 'warmup_steps': 2, 'T_max': 4},
                lambda t, n: 0.1 * t / (2 * n) if t < 2 * n else cosine(t - 2 * n, 2 * n)),
    'nested': ({'name': 'LinearWarmup', 'warmup_steps': 1, 'start_lr': 0.01,
                'learning_rate': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.1, 'T_max': 3}},
               lambda t, n: 0.01 + 0.09 * t / n if t < n else cosine(t - n, 3 * n)),
    'constant': ({'name': 'ConstantLR', 'learning_rate': 0.1}, lambda t, n: 0.1),
}


@pytest.mark.parametrize('unit', ['iter', 'epoch'])
@pytest.mark.parametrize('name', SCHEDULES)
def test_logged_lr_is_the_closed_form(name, unit, data, out, capsys):
    """`lr` of log.jsonl is the rate that this very step used: t counts finished steps, or epochs."""
    schedule, closed_form = SCHEDULES[name]
    cfg = moco(data, **out, epochs=4, lr_config={'unit': unit})
    cfg['lr_scheduler'] = schedule
    folder, _ = train(cfg, capsys)
    logged = records(folder)
    assert len(logged) == 12
    for r in logged:
        t, n = (r['iteration'] - 1, 3) if unit == 'iter' else (r['epoch'] - 1, 1)
        assert r['lr'] == pytest.approx(closed_form(t, n), rel=1e-6, abs=1e-12), r


@HOOKS.register()
class Moved(Hook):
    """How far one parameter moved in each step, and what moved it."""

    steps = []

    def train_iter_begin(self, trainer):
        self.before = trainer.model.head.fc_cls.bias.numpy()

    def train_iter_end(self, trainer):
        self.steps.append((trainer.lr, self.before - trainer.model.head.fc_cls.bias.numpy()))


def test_logged_lr_is_the_one_the_optimizer_used(data, out, capsys):
    """SGD at lr 0 must not move, and the second epoch moves by a tenth per gradient."""
    cfg = clas(data, **out, lr_config={'unit': 'epoch'}, custom_config=[{'name': 'Moved'}])
    cfg['optimizer'] = {'name': 'SGD'}
    cfg['lr_scheduler'] = {'name': 'LinearWarmup', 'learning_rate': 0.1, 'warmup_steps': 1, 'start_lr': 0.0}
    Moved.steps = []
    folder, _ = train(cfg, capsys)
    assert [r['lr'] for r in records(folder)] == [lr for lr, _ in Moved.steps] == [0, 0, 0, 0.1, 0.1, 0.1]
    assert all(not np.any(delta) for lr, delta in Moved.steps if lr == 0)
    assert all(np.abs(delta).max() > 1e-4 for lr, delta in Moved.steps if lr > 0)


# -------------------------------------------------------------------------------------------------- lambda

def test_loss_lambda_warm_up(data, out, capsys):
    cfg = densecl(data, **out, model={'loss_lambda': 0.25},
                  custom_config=[{'name': 'LossLambdaWarmupHook', 'start_iters': 2}])
    folder, _ = train(cfg, capsys)
    for r in records(folder):
        weight = 0.0 if r['iteration'] <= 2 else 0.25
        assert r['loss'] == pytest.approx((1 - weight) * r['loss_global'] + weight * r['loss_dense'], rel=1e-5)
        assert abs(r['loss_global'] - r['loss_dense']) > 1e-3       # otherwise this shows nothing


def test_loss_lambda_is_put_back(data):
    trainer = trainer_of(densecl(data, custom_config=[{'name': 'LossLambdaWarmupHook', 'start_iters': 100}]))
    trainer.call('run_begin')
    trainer.call('train_iter_begin')
    assert trainer.model.loss_lambda == 0
    hook, = [h for h in trainer.hooks if hasattr(h, 'start_iters')]
    hook.run_end(trainer)
    assert trainer.model.loss_lambda == 0.5


# ------------------------------------------------------------------------------------------------ checkpoints

def test_every_epoch_by_default_and_latest(data, out, capsys):
    folder, done = train(moco(data, **out), capsys)
    assert saved(folder) == ['epoch_1.pdparams', 'epoch_2.pdparams']
    latest = os.path.join(folder, 'latest.pdparams')
    assert os.path.realpath(latest) == os.path.realpath(os.path.join(folder, 'epoch_2.pdparams'))
    assert os.readlink(latest) == 'epoch_2.pdparams'            # the folder may be moved
    state = load_file(latest)
    assert (state['epoch'], state['iteration']) == (2, 6)
    assert {'state_dict', 'optimizer', 'lr_scheduler', 'scaler', 'seed', 'config', 'format', 'version'} <= set(state)
    assert done.out.count('Saved ') == 2


def test_end_within_an_epoch_is_saved_by_iteration(data, out, capsys):
    folder, _ = train(moco(data, **out, epochs=None, total_iters=5), capsys)
    assert saved(folder) == ['epoch_1.pdparams', 'iter_5.pdparams']
    assert (load_file(os.path.join(folder, 'latest.pdparams'))['iteration']) == 5


def test_other_folder_and_no_optimizer(data, out, tmp_path, capsys):
    other = tmp_path / 'elsewhere'
    folder, _ = train(moco(data, **out, checkpoint={'out_dir': str(other), 'save_optimizer': False}), capsys)
    assert saved(folder) == [] and saved(other) == ['epoch_1.pdparams', 'epoch_2.pdparams']
    state = load_file(other / 'latest.pdparams')
    assert 'optimizer' not in state and 'queue' in state['state_dict']


def test_resume_auto_looks_where_checkpoints_are(data, out, tmp_path, capsys):
    cfg = moco(data, **out, checkpoint={'out_dir': str(tmp_path / 'elsewhere')})
    folder, _ = train(cfg, capsys, '-o', 'epochs=1')
    _, done = train(cfg, capsys, '--resume', 'auto')
    assert 'Resumed from' in done.out and not os.path.exists(folder + '.bak-1')
    assert [r['iteration'] for r in records(folder)] == [1, 2, 3, 4, 5, 6]
    refused_training(cfg, capsys, [f"'checkpoint.out_dir' is '{tmp_path}/elsewhere'", 'of another run', '-o'],
                     name='new')


def test_state_holds_the_finished_step(data, out, capsys):
    """The checkpoint comes after queue, schedule and optimizer of the step it is named after."""
    folder, _ = train(moco(data, **out, checkpoint={'by_epoch': False, 'interval': 1}), capsys)
    for i in range(1, 7):
        state = load_file(os.path.join(folder, f'iter_{i}.pdparams'))
        assert state['iteration'] == i and state['lr_scheduler']['last_epoch'] == i
        assert int(np.asarray(state['state_dict']['queue_ptr']).reshape(-1)[0]) == 4 * i % 16
        assert state['epoch'] == i // 3


# -------------------------------------------------------------------------------------------------- evaluation

@pytest.mark.parametrize('custom, argv, expected', [
    ([{'name': 'EvaluateHook'}], [], [1, 2, 3, 4, 5]),
    ([{'name': 'EvaluateHook', 'interval': 2}], [], [2, 4, 5]),
    ([{'name': 'EvaluateHook', 'init_eval': True, 'interval': 9}], [], [0, 5]),
    ([], ['--val-interval', '3'], [3, 5]),
    ([{'name': 'EvaluateHook', 'interval': 1}], ['--val-interval', '4'], [4, 5]),
    ([], [], []),
])
def test_when_a_run_evaluates(data, out, capsys, custom, argv, expected):
    cfg = clas(data, **out, epochs=5, custom_config=custom, dataloader={'train': {'sampler': {'batch_size': 12}}})
    folder, done = train(cfg, capsys, *argv)
    assert [r['epoch'] for r in records(folder, 'val')] == expected
    assert done.out.count('Validate Epoch [') == len(expected)


def test_eval_kargs(data, out, capsys):
    cfg = clas(data, **out, epochs=1, custom_config=[{'name': 'EvaluateHook', 'eval_kargs': {'topk': [1, 2]}}])
    folder, _ = train(cfg, capsys)
    assert {k for k in records(folder, 'val')[0] if k.startswith('acc')} == {'acc1', 'acc2'}


def test_evaluation_does_not_change_the_training(data, out, capsys):
    """Weights after a run that evaluates equal those of one that does not."""
    with_val, _ = train(clas(data, **out), capsys, '--val-interval', '1', name='with_val')
    without, _ = train(clas(data, **out), capsys, name='without')
    a, b = (load_file(os.path.join(f, 'latest.pdparams'))['state_dict'] for f in (with_val, without))
    assert set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_evaluation_twice_gives_the_same_and_restores_train_mode(data):
    trainer = trainer_of(clas(data), with_val=True)
    trainer.model.train()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert trainer.model.training and trainer.model.backbone.bn1.training
    first.pop('time'), second.pop('time')
    assert first == second


def test_resolved_config_is_in_the_run_folder(data, out, capsys):
    folder, _ = train(moco(data, **out), capsys, '-o', 'seed=7')
    path = os.path.join(folder, 'config.yaml')
    with open(path) as f:
        resolved = yaml.safe_load(f)
    assert resolved['seed'] == 7 and resolved['checkpoint' if 'checkpoint' in resolved else 'log_config']
    again = out['output_dir'] + '2'
    assert train_main(['-c', path, '-o', f'output_dir={again}']) == 0       # it runs as it is
    first, second = (load_file(os.path.join(f, 'latest.pdparams'))['state_dict']
                     for f in (folder, os.path.join(again, 'config')))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_building_does_not_change_the_config(data):
    cfg = with_defaults(densecl(data, custom_config=[{'name': 'LossLambdaWarmupHook', 'start_iters': 1}], AMP={
        'scale_loss': 8, 'auto_cast': {'level': 'O1'}}))
    before = yaml.safe_dump(cfg)
    build_trainer(cfg)
    assert yaml.safe_dump(cfg) == before


def test_an_error_calls_run_abort_instead_of_run_end(data, out, capsys, monkeypatch):
    from passl.utils.errors import DataError

    def note(self, point, trainer):
        self.calls.append((point, trainer.iteration, trainer.epoch))
        if point == 'train_forward_end' and trainer.iteration == 1:
            raise DataError('made to fail')
    monkeypatch.setattr(Recorder, 'note', note)
    Recorder.calls = []
    cfg = merge(moco(data, **out), {'custom_config': [{'name': 'Recorder'}]})
    refused_training(cfg, capsys, ['made to fail'])
    points = [c[0] for c in Recorder.calls]
    assert points[-1] == 'run_abort' and points.count('run_abort') == 1 and 'run_end' not in points
