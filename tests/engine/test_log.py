"""Console lines, log.txt, log.jsonl, the progress bar and VisualDL."""

import glob
import math
import os
import re
import types

import pytest
import yaml

from passl.cli import train_main
from passl.hooks import HOOKS, Hook, timer_hook
from passl.hooks.log_hook import short_line
from passl.utils import logger
from passl.utils.weights.checkpoint import load_file

from .small import clas, densecl, moco, records, train

TRAIN_KEYS = ['mode', 'iteration', 'epoch', 'lr', 'loss', 'loss_global', 'loss_dense', 'acc1', 'acc5', 'acc1_dense',
              'acc5_dense', 'std', 'std_dense', 'rank', 'rank_dense', 'queue_fill', 'queue_age', 'time', 'data_time',
              'ips', 'memory_mb', 'eta_seconds']
VAL_KEYS = ['mode', 'iteration', 'epoch', 'acc1', 'acc5', 'num_samples', 'time']
STAMP = r'\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] INFO: '
ETA = r'(\d+ days?, )?\d+:\d\d:\d\d'
LINE = (STAMP + r'Epoch \[(\d+)/(\d+)\]\[(\d+)/(\d+)\]  lr: (\d\.\d{3}e[+-]\d\d), eta: ' + ETA + r', time: [\d.]+, '
        r'data_time: [\d.]+, ips: [\d.]+, memory: \d+M, loss [\d.]+ \([\d.]+\), ')


@pytest.fixture(scope='module')
def dense_run(data, tmp_path_factory):
    """Run folder of DenseCL: 3 epochs of 3 steps, logged every 2."""
    root = str(tmp_path_factory.mktemp('dense'))
    path = os.path.join(root, 'dense.yaml')
    with open(path, 'w') as f:
        yaml.safe_dump(densecl(data, output_dir=root, epochs=3, lr_scheduler={'T_max': 3},
                               log_config={'interval': 2}), f)
    assert train_main(['-c', path]) == 0
    return os.path.join(root, 'dense')


@pytest.fixture(scope='module')
def clas_run(data, tmp_path_factory):
    """Run folder of a classifier: 2 epochs of 3 steps, each followed by an evaluation."""
    root = str(tmp_path_factory.mktemp('clas'))
    path = os.path.join(root, 'clas.yaml')
    with open(path, 'w') as f:
        yaml.safe_dump(clas(data, output_dir=root), f)
    assert train_main(['-c', path, '--val-interval', '1']) == 0
    return os.path.join(root, 'clas')


def text_of(folder):
    with open(os.path.join(folder, 'log.txt')) as f:
        return f.read()


def test_log_steps_are_counted_from_one(dense_run):
    """Every second step of an epoch and its last one; the first step of an epoch belongs to that epoch."""
    assert [(r['epoch'], r['iteration']) for r in records(dense_run)] == [
        (1, 2), (1, 3), (2, 5), (2, 6), (3, 8), (3, 9)]


def test_training_record(dense_run):
    for r in records(dense_run):
        assert [k for k in TRAIN_KEYS if k not in r] == []
        assert r['mode'] == 'train' and all(isinstance(r[k], (int, float)) for k in TRAIN_KEYS[1:])
        assert r['loss'] == pytest.approx(0.5 * r['loss_global'] + 0.5 * r['loss_dense'], rel=1e-5)
        assert 0 <= r['acc1'] <= r['acc5'] <= 100 and 0 <= r['acc1_dense'] <= r['acc5_dense'] <= 100
        assert 0 < r['data_time'] < r['time'] and r['memory_mb'] > 50
        assert r['ips'] == pytest.approx(4 / r['time'], rel=1e-6)
        assert r['eta_seconds'] >= 0 and (r['eta_seconds'] == 0) == (r['iteration'] == 9)
        assert math.isfinite(r['loss_mean'])
    # 4 keys per step into a queue of 16
    assert [(r['queue_fill'], r['queue_age']) for r in records(dense_run)[:4]] == [(50, 1), (75, 2), (100, 3), (100, 3)]


def test_every_step_and_the_mean_of_the_epoch(data, out, capsys):
    """The figure in brackets: over the epoch's steps so far, those without a log line included."""
    every, done = train(moco(data, **out), capsys, name='every')
    assert [(r['epoch'], r['iteration']) for r in records(every)] == [
        (1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    shown, written = ([line for line in text.splitlines() if 'Epoch [' in line] for text in (done.out, text_of(every)))
    assert shown == written and len(shown) == 6
    assert 'it/s' not in done.err           # no bar where there is no terminal
    rare, done = train(moco(data, **out, log_config={'interval': 3}), capsys, name='rare')
    losses = [r['loss'] for r in records(every)]
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [r['loss_mean'] for r in records(rare)] == pytest.approx(means, rel=1e-5)
    assert f'loss {losses[5]:.4f} ({means[1]:.4f})' in done.out


def test_console_line(dense_run):
    lines = [line for line in text_of(dense_run).splitlines() if 'Epoch [' in line]
    logged = records(dense_run)
    assert len(lines) == len(logged) == 6
    for line, r in zip(lines, logged):
        match = re.match(LINE, line)
        assert match, line
        assert [int(n) for n in match.groups()[:4]] == [r['epoch'], 3, r['iteration'] - 3 * (r['epoch'] - 1), 3]
        assert float(match.group(5)) == pytest.approx(r['lr'], rel=1e-3)
        for key in ('loss_global', 'loss_dense'):
            assert f'{key} {r[key]:.4f}' in line
        for key in ('acc1', 'acc5', 'acc1_dense', 'acc5_dense'):
            assert f'{key} {r[key]:.2f}' in line


def test_evaluation_line_and_record(clas_run):
    evaluations = records(clas_run, 'val')
    assert [(r['epoch'], r['iteration'], r['num_samples']) for r in evaluations] == [(1, 3, 9), (2, 6, 9)]
    for r in evaluations:
        assert sorted(r) == sorted(VAL_KEYS)
        assert r['acc5'] == 100.0                       # three classes
        line = f"Validate Epoch [{r['epoch']}] acc1 ({r['acc1']:.4f}), acc5 ({r['acc5']:.4f})"
        assert line in text_of(clas_run)
    logged = records(clas_run)
    assert {'loss', 'acc1', 'acc5'} <= set(logged[0]) and 'loss_global' not in logged[0]
    assert all(r['acc5'] == 100 for r in logged)


def test_evaluation_follows_the_last_line_of_its_epoch(clas_run):
    order = re.findall(r'INFO: (Epoch|Validate|Saved) ', text_of(clas_run))
    assert order == 2 * (3 * ['Epoch'] + ['Validate', 'Saved'])


def test_start_of_the_log(dense_run):
    text = text_of(dense_run)
    for part in ('Paddle ', 'Python ', 'Run folder: ', '12 images', '3 iterations per epoch, 9 in all',
                 f'chance is loss {math.log(17):.2f}', 'Done: '):
        assert part in text, part


def test_lines_by_iteration(data, out, capsys):
    cfg = moco(data, **out, epochs=None, total_iters=7, log_config={'by_epoch': False, 'interval': 4})
    folder, done = train(cfg, capsys)
    assert [r['iteration'] for r in records(folder)] == [4, 7]              # 3 and 6 end an epoch, 7 the run
    assert 'Iter [4/7]  lr: ' in done.out and 'Epoch [' not in done.out
    assert [r['epoch'] for r in records(folder)] == [2, 3]


@HOOKS.register()
class Slow(Hook):
    """By this clock every step takes 20 ms, and the first one, as warm-up does, 100."""

    clock = [0.0]

    def train_forward_end(self, trainer):
        self.clock[0] += 0.02 if trainer.iteration else 0.1


def test_times_and_eta(data, out, capsys, monkeypatch):
    monkeypatch.setattr(timer_hook, 'time', types.SimpleNamespace(perf_counter=lambda: Slow.clock[0]))
    cfg = moco(data, **out, epochs=4, log_config={'interval': 3}, custom_config=[{'name': 'Slow'}])
    folder, _ = train(cfg, capsys)
    logged = records(folder)
    # the mean since the last line, not the last step alone
    assert [r['time'] for r in logged] == pytest.approx([0.14 / 3, 0.02, 0.02, 0.02])
    # the mean of all steps, for those to come
    assert [r['eta_seconds'] for r in logged] == pytest.approx([9 * 0.14 / 3, 6 * 0.20 / 6, 3 * 0.26 / 9, 0])


def test_a_resumed_run_appends(data, out, capsys, monkeypatch):
    """Its estimate of the end counts this process's steps only, and never goes below zero."""
    monkeypatch.setattr(timer_hook, 'time', types.SimpleNamespace(perf_counter=lambda: Slow.clock[0]))
    folder, _ = train(moco(data, **out, epochs=1), capsys)
    before = text_of(folder)
    train(moco(data, **out, custom_config=[{'name': 'Slow'}]), capsys, '--resume', 'auto', '--allow-changes')
    assert text_of(folder).startswith(before) and 'Resumed from' in text_of(folder)[len(before):]
    resumed = records(folder)[3:]
    assert [(r['iteration'], r['eta_seconds']) for r in resumed] == [
        (4, pytest.approx(0.04)), (5, pytest.approx(0.02)), (6, 0)]


def test_progress_bar(data, out, capsys):
    """On stderr, where lines on stdout do not tear it."""
    _, done = train(moco(data, **out, log_config={'progress_bar': True}), capsys)
    assert 'train' in done.err and '6/6' in done.err
    assert done.out.count('Epoch [') == 6
    assert all(line.startswith('[') for line in done.out[:done.out.index('Done after')].splitlines())


def test_metrics_are_computed_on_log_steps_only(data, out, capsys):
    seen = []

    @HOOKS.register()
    class Watch(Hook):
        def train_iter_end(self, trainer):
            seen.append('acc1' in trainer.outputs)

    cfg = moco(data, **out, log_config={'interval': 2}, custom_config=[{'name': 'Watch'}])
    folder, _ = train(cfg, capsys)
    assert seen == [False, True, True] * 2
    assert load_file(os.path.join(folder, 'latest.pdparams'))['iteration'] == 6


# ---------------------------------------------------------------------------------------------------- VisualDL

def scalars(folder, tag):
    """[(step, value)] of a tag in the run's VisualDL files."""
    from visualdl import LogReader
    files = glob.glob(os.path.join(folder, 'vdl', '*vdlrecords*'))
    assert len(files) == 1
    return [(d.id, d.value) for d in LogReader(file_path=files[0]).get_data('scalar', tag)]


def test_visualdl_scalars(dense_run, clas_run):
    logged = records(dense_run)
    for key in ('loss', 'loss_global', 'loss_dense', 'lr', 'acc1', 'acc5_dense', 'ips', 'epoch'):
        found = scalars(dense_run, f'train/{key}')
        assert [step for step, _ in found] == [r['iteration'] for r in logged]
        assert [v for _, v in found] == pytest.approx([r[key] for r in logged], rel=1e-5)
    evaluations = records(clas_run, 'val')
    assert scalars(clas_run, 'val/acc1') == [(r['epoch'], pytest.approx(r['acc1'], rel=1e-5)) for r in evaluations]


def test_without_visualdl_a_run_goes_on(data, out, capsys, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'visualdl', None)
    folder, done = train(moco(data, **out, epochs=1), capsys)
    assert 'No VisualDL scalars' in done.out and len(records(folder)) == 3
    assert not os.path.exists(os.path.join(folder, 'vdl'))


def test_without_a_schedule_the_optimizer_names_the_rate(data, out, capsys):
    """What the message about a missing lr_scheduler offers as the way out."""
    cfg = moco(data, **out, epochs=1, optimizer={'learning_rate': 0.02})
    del cfg['lr_scheduler']
    folder, _ = train(cfg, capsys)
    assert {r['lr'] for r in records(folder)} == {0.02}


# ---------------------------------------------------------------------------------------------------- a terminal

FULL = dict(mode='train', iteration=120, epoch=2, lr=0.01, loss=7.41234, loss_mean=7.5, eta_seconds=912.4, acc1=12.4,
            match_true=34.2, match_chance=6.1, std=0.712, time=0.413, health='healthy')


@pytest.mark.parametrize('change, columns, want', [
    ({}, 120, 'step  120/2400  loss 7.412  0:15:12 left  true matches 34% (chance 6%)  acc1 12%  std 0.71  0.41 s/step'
              '  healthy'),
    ({}, 91, 'step  120/2400  loss 7.412  0:15:12 left  true matches 34% (chance 6%)  acc1 12%  std 0.71'),
    ({'match_true': None, 'acc1': None, 'health': None}, 91,
     'step  120/2400  loss 7.412  0:15:12 left  std 0.71  0.41 s/step'),
    ({'loss': 123456.0}, 40, 'step  120/2400  loss 123456.000  healthy')])
def test_short_line(change, columns, want):
    line = short_line({**FULL, **change}, 2400, columns)
    assert line == want and len(line) <= columns


def test_a_terminal_gets_short_lines_and_the_files_all(data, out, capsys, monkeypatch):
    monkeypatch.setattr(logger, 'on_terminal', lambda: True)
    folder, done = train(densecl(data, **out), capsys)
    lines = [line for line in done.out.splitlines() if re.match(r'\d\d:\d\d:\d\d step [1-6]/6  loss \d', line)]
    assert len(lines) == 6
    assert max(map(len, lines)) <= 100
    full = [line for line in text_of(folder).splitlines() if 'Epoch [' in line]
    assert len(full) == 6 and all(re.match(LINE, line) for line in full) and 'Epoch [' not in done.out
    assert [k for k in TRAIN_KEYS if k not in records(folder)[0]] == []
