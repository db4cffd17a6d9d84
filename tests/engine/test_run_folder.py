"""One run at a time in a folder, one configuration, one course of training; and all processes on one checkpoint."""

import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from passl.cli import train_main
from passl.engine import checkpoint, run_folder
from passl.engine.builder import build_schedule
from passl.engine.changes import check_changes, differences
from passl.engine.checkpoint import checkpoints, newest
from passl.utils.weights.checkpoint import load_file, read_note, save_file
from passl.utils.config import merge, with_defaults
from passl.utils.errors import CheckpointError, ConfigError
from tests.utils.test_files import HOLD, ROOT

from .small import moco, records, refused_training, saved, train, write_config


@pytest.fixture(scope='module')
def ran(data, tmp_path_factory):
    """ran(epochs): run folder of `moco` after so many epochs. Not to be changed."""
    @functools.lru_cache(None)
    def run(epochs):
        cfg = moco(data, output_dir=str(tmp_path_factory.mktemp('ran')), epochs=epochs)
        assert train_main(['-c', write_config(cfg)]) == 0
        return os.path.join(cfg['output_dir'], 'small')
    return run


@pytest.fixture
def copy(ran, out):
    """copy(epochs): `ran(epochs)` as the run folder of this test."""
    return lambda epochs: shutil.copytree(ran(epochs), os.path.join(out['output_dir'], 'small'), symlinks=True)


def test_two_runs_with_one_folder_of_checkpoints_are_refused(data, out, tmp_path, capsys, occupied):
    pid = occupied(str(tmp_path / 'ckpts'))
    refused_training(moco(data, **out, checkpoint={'out_dir': str(tmp_path / 'ckpts')}), capsys,
                     [f'in use by another run (process {pid}', 'checkpoint.out_dir=DIR'])


def test_the_lock_ends_with_the_run(data, out, capsys):
    for flags in ([], ['--overwrite'], ['--resume', 'auto']):
        train(moco(data, **out, epochs=1), capsys, *flags)
    folder = os.path.join(out['output_dir'], 'small')
    refused_training(moco(data, **out, epochs=2, optimizer={'name': 'Nonsense'}), capsys, ['Nonsense'], '--overwrite')
    code = HOLD.replace('time.sleep(60)', '')
    done = subprocess.run([sys.executable, '-c', code, os.path.join(folder, '.lock')], cwd=ROOT, capture_output=True)
    assert done.stdout == b'held\n', done.stderr


def test_leftovers_of_killed_saves_go(data, out, capsys):
    folder, _ = train(moco(data, **out, epochs=1), capsys)
    for name in ('.epoch_7.pdparams.123.tmp', '.mine.pdparams.123.tmp'):
        open(os.path.join(folder, name), 'w').close()
    train(moco(data, **out), capsys, '--resume', 'auto')
    assert [n for n in os.listdir(folder) if n.endswith('.tmp')] == ['.mine.pdparams.123.tmp']


# ----------------------------------------------------------------------------------------- another configuration

@pytest.mark.parametrize('change, shown', [
    ({'model': {'m': 0.5}}, 'model.m: (absent) -> 0.5'), ({'seed': 9}, 'seed: 3 -> 9'),
    ({'optimizer': {'weight_decay': 0.1}}, 'optimizer.weight_decay: 0.0001 -> 0.1'),
    ({'lr_scheduler': {'T_max': 4}}, 'lr_scheduler.T_max: 2 -> 4'),
    ({'dataloader': {'train': {'sampler': {'batch_size': 2}}}}, 'dataloader.train.sampler.batch_size: 4 -> 2'),
    ({'optimizer_config': {'name': 'OptimizerHook', 'accumulate_steps': 3}}, 'optimizer_config'),
    ({'use_amp': True}, 'use_amp: False -> True'),
])
def test_changed_numbers_are_refused_unless_allowed(data, out, capsys, copy, change, shown):
    cfg, folder = moco(data, **out), copy(1)
    with open(os.path.join(folder, 'config.yaml')) as f:
        before = f.read()
    refused_training(merge(cfg, change), capsys, [shown, 'epoch_1.pdparams', '--allow-changes', 'output_dir=DIR'],
                     '--resume', 'auto')
    with open(os.path.join(folder, 'config.yaml')) as f:
        assert f.read() == before
    assert 'config-1.yaml' not in os.listdir(folder)
    _, done = train(merge(cfg, change), capsys, '--resume', 'auto', '--allow-changes')
    assert f'Config differs from the resumed run: {shown}' in done.out
    with open(os.path.join(folder, 'config-1.yaml')) as f:
        assert f.read() == before


@pytest.mark.parametrize('change', [
    {'log_config': {'interval': 7}}, {'checkpoint': {'name': 'CheckpointHook', 'max_keep_ckpts': 9}},
    {'checkpoint': {'name': 'CheckpointHook'}},
    {'dataloader': {'train': {'loader': {'num_workers': 1}}}}, {'image_shape': [3, 64, 64]}])
def test_other_changes_are_told_and_allowed(data, out, capsys, copy, change):
    folder, (key,) = copy(1), change
    _, done = train(merge(moco(data, **out), change), capsys, '--resume', 'auto')
    assert f'Config differs from the resumed run: {key}' in done.out
    assert os.path.exists(os.path.join(folder, 'config-1.yaml'))


COSINE, STEPS = 'CosineAnnealingDecay', 'MultiStepDecay'


def rates_of(cfg, unit):
    """The rates of a run that had these settings from the beginning."""
    schedule, steps, _ = build_schedule(with_defaults(cfg), 3, unit)
    found = []
    for step in range(1, steps + 1):
        found.append(schedule())
        if unit == 'iter' or step % 3 == 0:
            schedule.step()
    return found


@pytest.mark.parametrize('first, changes', [
    ({'learning_rate': 0.1, 'T_max': 4}, [
        {'learning_rate': 0.3, 'T_max': 4}, {'learning_rate': 0.1, 'eta_min': 0.05, 'T_max': 4},
        {'learning_rate': 0.1, 'T_max': 5}, {'name': STEPS, 'learning_rate': 0.2, 'milestones': [1, 3]},
        {'name': 'LinearWarmup', 'warmup_steps': 1, 'learning_rate': {'name': COSINE, 'learning_rate': 0.3}}]),
    ({'learning_rate': 0.1, 'T_max': None}, [{'learning_rate': 0.1, 'T_max': None}]),       # longer
    ({'learning_rate': 0.1, 'T_max': 2}, [{'learning_rate': 0.1, 'T_max': 4}]),             # the same, in numbers
    ({'name': STEPS, 'learning_rate': 0.2, 'milestones': [3]}, [{'learning_rate': 0.1}]),
    ({'name': 'LinearWarmup', 'warmup_steps': 3, 'learning_rate': 0.4},
     [{'name': 'LinearWarmup', 'warmup_steps': 1, 'learning_rate': 0.4}])])
@pytest.mark.parametrize('unit', ['iter', 'epoch'])
def test_the_rate_after_a_change_is_that_of_the_settings_of_now(data, out, capsys, first, changes, unit):
    """From the first step on."""
    def config(epochs, schedule):
        cfg = moco(data, **out, epochs=epochs, lr_config={'unit': unit})
        return {**cfg, 'lr_scheduler': {'name': COSINE, **schedule}}

    started, _ = train(config(2, first), capsys)
    for i, now in enumerate(changes):
        folder = shutil.copytree(started, os.path.join(out['output_dir'], f'now{i}'), symlinks=True)
        _, done = train(config(4, now), capsys, '--resume', 'auto', '--allow-changes', name=f'now{i}')
        rates = [r['lr'] for r in records(folder)]
        assert rates[6:] == pytest.approx(rates_of(config(4, now), unit)[6:], abs=1e-12) and len(rates) == 12, now
        assert f'after iteration 6 it goes on with {rates[6]:.4g} (with the former ones: ' in done.out


def test_a_longer_run_needs_no_word_but_another_length_does(data, out, capsys):
    cfg = {**moco(data, **out), 'lr_scheduler': {'name': COSINE, 'learning_rate': 0.1}}
    folder, _ = train(cfg, capsys)
    train(cfg, capsys, '--resume', 'auto', '-o', 'epochs=3')
    train(cfg, capsys, '--resume', 'auto', '-o', 'epochs=4', '-o', 'lr_scheduler.T_max=4')      # says the same
    refused_training(cfg, capsys, ['lr_scheduler.T_max: 4 -> 6', '--allow-changes'], '--resume', 'auto', '-o',
                     'epochs=5', '-o', 'lr_scheduler.T_max=6')
    refused_training(cfg, capsys, ["'lr_scheduler.T_max' is 2 epochs", 'runs for 5'], '--resume', 'auto', '-o',
                     'epochs=5', '-o', 'lr_scheduler.T_max=2')
    assert [r['epoch'] for r in records(folder)][-1] == 4


def test_a_foreign_config_in_the_folder_is_kept_and_the_same_one_leaves_no_copy(data, out, capsys):
    folder = os.path.join(out['output_dir'], 'small')
    os.makedirs(folder)
    with open(os.path.join(folder, 'config.yaml'), 'w') as f:
        f.write('mine: 1\n')
    train(moco(data, **out, epochs=1), capsys)
    with open(os.path.join(folder, 'config-1.yaml')) as f:
        assert f.read() == 'mine: 1\n'
    _, done = train(moco(data, **out, epochs=1), capsys, '--resume', 'auto')
    assert 'differs' not in done.out and 'config-2.yaml' not in os.listdir(folder)


def test_a_checkpoint_elsewhere_may_have_another_config(data, out, ran, capsys):
    _, done = train(moco(data, **out, model={'m': 0.5}), capsys, '--resume', os.path.join(ran(1), 'epoch_1.pdparams'))
    assert 'Config differs from the resumed run: model.m' in done.out


def test_differences():
    a = {'a': 1, 'b': {'c': [1, 2], 'd': 0}, 'e': {}}
    assert differences(a, {'a': 1, 'b': {'c': [1, 3], 'd': 0}, 'f': 2}) == [
        ('b.c', [1, 2], [1, 3]), ('e', {}, '(absent)'), ('f', '(absent)', 2)]
    check_changes({'model': {'name': 'MoCo', 'x': (1, 2)}}, {'model': {'name': 'MoCo', 'x': [1, 2]}, 'seed': 0},
                  True, 'f')
    with pytest.raises(ConfigError, match='and 5 more'):
        check_changes({'model': {'name': 'M', **{f'x{i}': 0 for i in range(15)}}},
                      {'model': {'name': 'M', **{f'x{i}': 1 for i in range(15)}}}, True, 'f')


# ---------------------------------------------------------------------------------------------- which checkpoint

def test_an_older_checkpoint_is_not_continued_under_newer_ones(data, out, copy, capsys):
    cfg, folder = moco(data, **out, epochs=4), copy(4)
    old = os.path.join(folder, 'epoch_2.pdparams')
    refused_training(cfg, capsys, ["newer checkpoints than '" + old, 'epoch_4.pdparams, epoch_3.pdparams',
                                   '--resume auto', '--overwrite'], '--resume', old)
    assert len(saved(folder)) == 4
    train(cfg, capsys, '--resume', old, '--overwrite', '-o', 'epochs=3')
    assert saved(folder) == ['epoch_1.pdparams', 'epoch_2.pdparams', 'epoch_3.pdparams']
    assert saved(os.path.join(folder, 'superseded-1')) == ['epoch_3.pdparams', 'epoch_4.pdparams']
    _, done = train(cfg, capsys, '--resume', 'auto')
    assert '9 iterations (3 epochs) done, 3 to go' in done.out


def test_newest_is_by_iteration_whatever_the_times_are(data, out, capsys):
    """As after a copy that does not keep them."""
    folder, _ = train(moco(data, **out, epochs=3, checkpoint={'every_minutes': 1e-9}), capsys)
    names = ['epoch_3', 'iter_8', 'iter_7', 'epoch_2', 'iter_5', 'iter_4', 'epoch_1', 'iter_2', 'iter_1']
    save_file({'mine': np.zeros(1, 'f4')}, os.path.join(folder, 'epoch_99.pdparams'))
    for i, name in enumerate(names):
        os.utime(os.path.join(folder, f'{name}.pdparams'), (1000 + i, 1000 + i))
    assert checkpoints(folder) == [f'{n}.pdparams' for n in names] + ['epoch_99.pdparams']
    path, content = newest(folder)
    assert (path, content['iteration']) == (os.path.join(folder, 'epoch_3.pdparams'), 9)


def test_processes_that_read_other_files_are_refused(ran, monkeypatch):
    """Machines that do not share the run folder."""
    a, b = (os.path.join(ran(4), f'epoch_{i}.pdparams') for i in (1, 2))
    marks = [checkpoint.fingerprint(p) for p in (a, b)]
    for others, message in (([(None, marks[0]), (None, marks[1])], 'Processes 0 and 1 read different files'),
                            ([(None, marks[0]), (None, marks[0]), ('no file', '')], 'Process 2: no file')):
        monkeypatch.setattr(checkpoint.dist, 'gather_objects', lambda mine, others=others: others)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_on_all(a)
    monkeypatch.undo()
    assert checkpoint.load_on_all(a)['iteration'] == 3
    with pytest.raises(CheckpointError, match='^There is no file'):
        checkpoint.load_on_all(a + 'x')


@pytest.mark.parametrize('flag', ['auto', 'epoch_1.pdparams'])
def test_a_checkpoint_is_read_once(data, out, copy, capsys, monkeypatch, flag):
    folder, real, seen = copy(1), load_file, []
    for module in (checkpoint, run_folder):
        monkeypatch.setattr(module, 'load_file', lambda path: seen.append(os.path.basename(path)) or real(path))
    _, done = train(moco(data, **out), capsys, '--resume', flag if flag == 'auto' else f'{folder}/{flag}')
    assert '3 iterations (1 epochs) done, 3 to go' in done.out
    assert seen == ['epoch_1.pdparams']


def test_several_damaged_files_are_passed_over(data, out, copy, capsys):
    cfg, folder = moco(data, **out, epochs=4), copy(4)
    before = [r['loss'] for r in records(folder)]
    for i, damage in ((4, lambda f: f.truncate(0)), (3, lambda f: (f.seek(3000), f.write(b'damaged'))),
                      (2, lambda f: f.truncate(5000))):
        with open(os.path.join(folder, f'epoch_{i}.pdparams'), 'r+b') as f:
            damage(f)
    _, done = train(cfg, capsys, '--resume', 'auto')
    assert done.out.count('Damaged checkpoint left aside') == 3 and '3 iterations (1 epochs) done, 9 to go' in done.out
    assert [r['loss'] for r in records(folder)] == before + before[3:]
    assert read_note(os.path.join(folder, 'epoch_4.pdparams'))['iteration'] == 12
    assert load_file(os.path.join(folder, 'epoch_4.pdparams'))['iteration'] == 12
