"""N steps == k steps, a new process, N - k steps: bit for bit, also in the middle of an epoch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from passl.cli import train_main
from passl.utils.weights.checkpoint import load_file
from tests.engine.small import assert_same_state
from tests.tiny import densecl_config, linear_config, write_config

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope='module')
def images(tmp_path_factory, make_images):
    root = tmp_path_factory.mktemp('images')
    make_images(root, 20, size=40)
    return root


class Stop(Exception):
    """Ends a run from inside, as a kill would."""


def run(tmp, name, cfg, *flags):
    assert train_main(['-c', write_config(cfg, tmp, name), '--allow-imports', *flags]) == 0
    return os.path.join(cfg['output_dir'], name)


def logged(folder, mode='train'):
    with open(os.path.join(folder, 'log.jsonl')) as f:
        return [r for r in map(json.loads, f) if r['mode'] == mode]


@pytest.mark.parametrize('more', [
    {},
    {'optimizer': {'name': 'AdamW', 'weight_decay': 0.01}},
    {'optimizer_config': {'name': 'OptimizerHook', 'accumulate_steps': 2}, 'batch_size': 2, 'workers': 1},
], ids=['momentum', 'adamw', 'accumulated'])
def test_resume_in_the_middle_of_an_epoch(tmp_path, images, more):
    """7 of 10 iterations (5 per epoch), then 3 in a run that starts from the file."""
    every = {'checkpoint': {'name': 'CheckpointHook', 'interval': 7, 'by_epoch': False}}
    whole = run(tmp_path, 'whole', densecl_config(images, tmp_path / 'out', **every, **more))
    # the second run stops at 7 without knowing that 10 would come (its schedule is as long)
    short = densecl_config(images, tmp_path / 'out', **every, **more)
    short.update(total_iters=7)
    short.pop('epochs')
    parts = run(tmp_path, 'parts', short)
    longer = dict(short, total_iters=10)
    assert run(tmp_path, 'parts', longer, '--resume', 'auto') == parts
    assert_same_state(os.path.join(whole, 'iter_10.pdparams'), os.path.join(parts, 'iter_10.pdparams'), 33)
    losses = [[r['loss'] for r in logged(d)] for d in (whole, parts)]
    assert len(losses[0]) == 10 and losses[0] == losses[1]
    assert [r['iteration'] for r in logged(parts)] == list(range(1, 11))
    assert [r['epoch'] for r in logged(parts)] == [1] * 5 + [2] * 5


def test_resume_in_a_new_process_at_the_end_of_an_epoch(tmp_path, images):
    """The parameters' automatic names of the second process differ: state is kept by structured names."""
    cfg = densecl_config(images, tmp_path / 'out', workers=1)
    whole = run(tmp_path, 'whole', cfg)
    parts = run(tmp_path, 'parts', dict(cfg, epochs=1))
    code = ('import sys, zlib, paddle\n'
            'paddle.nn.Sequential(*[paddle.nn.Conv2D(3, 8, 3) for _ in range(3)], paddle.nn.Linear(3, 4))\n'
            'from passl.cli import train_main; sys.exit(train_main(sys.argv[1:]))')
    # zlib first: Paddle 2.6 needs it so (passl does it for its users)
    done = subprocess.run([sys.executable, '-c', code, '-c', write_config(cfg, tmp_path, 'parts'), '--allow-imports',
                           '--resume', 'auto'], cwd=ROOT, env=dict(os.environ, PYTHONPATH=ROOT),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_state(os.path.join(whole, 'epoch_2.pdparams'), os.path.join(parts, 'epoch_2.pdparams'))


def test_killed_run_goes_on(tmp_path, images, monkeypatch):
    """A run that dies in epoch 2 continues from epoch 1's file and ends as one that never died."""
    from passl.hooks import LogHook
    cfg = densecl_config(images, tmp_path / 'out')
    whole = run(tmp_path, 'whole', cfg)
    write = LogHook._write

    def dies(self, trainer, values):
        if trainer.iteration == 8:
            raise Stop
        write(self, trainer, values)
    monkeypatch.setattr(LogHook, '_write', dies)
    with pytest.raises(Stop):
        train_main(['-c', write_config(cfg, tmp_path, 'parts'), '--allow-imports'])
    monkeypatch.undo()
    parts = run(tmp_path, 'parts', cfg, '--resume', 'auto')
    assert_same_state(os.path.join(whole, 'epoch_2.pdparams'), os.path.join(parts, 'epoch_2.pdparams'))


def test_finished_run_is_not_trained_on(tmp_path, images, capsys):
    cfg = densecl_config(images, tmp_path / 'out', epochs=1)
    folder = run(tmp_path, 'once', cfg)
    before = len(logged(folder))
    run(tmp_path, 'once', cfg, '--resume', 'auto')
    assert len(logged(folder)) == before == 5
    assert 'already has 5 of 5 iterations' in capsys.readouterr().out


def test_resume_auto_without_a_checkpoint_starts_anew(tmp_path, images):
    folder = run(tmp_path, 'fresh', densecl_config(images, tmp_path / 'out', epochs=1), '--resume', 'auto')
    assert [r['iteration'] for r in logged(folder)] == [1, 2, 3, 4, 5]


def test_resume_auto_passes_over_a_damaged_file(tmp_path, images, capsys):
    cfg = densecl_config(images, tmp_path / 'out')
    folder = run(tmp_path, 'damaged', cfg)
    newest = os.path.join(folder, 'epoch_2.pdparams')
    with open(newest, 'r+b') as f:
        f.truncate(os.path.getsize(newest) // 2)
    run(tmp_path, 'damaged', cfg, '--resume', 'auto')
    out = capsys.readouterr().out
    assert 'Damaged checkpoint' in out and 'epoch_2.pdparams' in out and '5 iterations (1 epochs) done' in out
    assert load_file(newest)['iteration'] == 10


def test_linear_evaluation_resumes(tmp_path, make_images):
    make_images(tmp_path / 'train', 6, classes=2)
    make_images(tmp_path / 'val', 3, classes=2)
    cfg = linear_config(tmp_path / 'train', tmp_path / 'val', tmp_path / 'out', epochs=2)
    whole = run(tmp_path, 'whole', cfg)
    parts = run(tmp_path, 'parts', dict(cfg, epochs=1))
    run(tmp_path, 'parts', cfg, '--resume', os.path.join(parts, 'latest.pdparams'))
    for name in ('acc1', 'acc5', 'num_samples'):
        assert [r[name] for r in logged(whole, 'val')] == [r[name] for r in logged(parts, 'val')]
    a, b = (load_file(os.path.join(d, 'epoch_2.pdparams'))['state_dict'] for d in (whole, parts))
    assert all(np.array_equal(a[k], b[k]) for k in a)
