"""N steps == k steps, a new process, N - k steps: bit for bit, also in the middle of an epoch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from passl.cli import train_main
from passl.hooks import LogHook
from passl.utils.weights.checkpoint import load_file
from tests.conftest import ROOT
from tests.engine.small import assert_same_state, records
from tests.tiny import densecl_config, linear_config, write_config


@pytest.fixture(scope='module')
def images(tmp_path_factory, make_images):
    root = tmp_path_factory.mktemp('images')
    make_images(root, 12, size=40)
    return root


def run(tmp, name, cfg, *flags):
    assert train_main(['-c', write_config(cfg, tmp, name), '--allow-imports', *flags]) == 0
    return os.path.join(cfg['output_dir'], name)


@pytest.fixture(scope='module')
def whole(images, tmp_path_factory):
    """Run folder of a run that nobody disturbs: 2 epochs of 3 steps."""
    tmp = tmp_path_factory.mktemp('whole')
    return run(tmp, 'whole', densecl_config(images, tmp / 'out'))


def assert_same_run(*folders):
    assert_same_state(*(os.path.join(d, 'latest.pdparams') for d in folders), at_least=33)
    a, b = ([(r['iteration'], r['epoch'], r['loss']) for r in records(d)] for d in folders)
    assert a == b and [r[:2] for r in a] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


@pytest.mark.parametrize('more', [
    {},
    {'optimizer': {'name': 'AdamW', 'weight_decay': 0.01}},
    {'optimizer_config': {'name': 'OptimizerHook', 'accumulate_steps': 2}, 'batch_size': 2, 'workers': 1},
], ids=['momentum', 'adamw', 'accumulated'])
def test_resume_in_the_middle_of_an_epoch(tmp_path, images, whole, more):
    """4 of 6 iterations, then 2 in a run that starts from the file."""
    cfg = densecl_config(images, tmp_path / 'out', **more)
    if more:
        whole = run(tmp_path, 'whole', cfg)
    # the second run stops at 4 without knowing that 6 would come (its schedule is as long)
    short = dict(cfg, total_iters=4)
    short.pop('epochs')
    parts = run(tmp_path, 'parts', short)
    assert run(tmp_path, 'parts', dict(short, total_iters=6), '--resume', 'auto') == parts
    assert_same_run(whole, parts)


def test_resume_in_a_new_process_at_the_end_of_an_epoch(tmp_path, images, whole):
    """The parameters' automatic names of the second process differ: state is kept by structured names."""
    cfg = densecl_config(images, tmp_path / 'out')
    parts = run(tmp_path, 'parts', dict(cfg, epochs=1))
    code = ('import sys, zlib, paddle\n'
            'paddle.nn.Sequential(*[paddle.nn.Conv2D(3, 8, 3) for _ in range(3)], paddle.nn.Linear(3, 4))\n'
            'from passl.cli import train_main; sys.exit(train_main(sys.argv[1:]))')
    # zlib first: Paddle 2.6 needs it so (passl does it for its users)
    done = subprocess.run([sys.executable, '-c', code, '-c', write_config(cfg, tmp_path, 'parts'), '--allow-imports',
                           '--resume', 'auto'], cwd=ROOT, env=dict(os.environ, PYTHONPATH=ROOT),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, parts)


def test_killed_run_goes_on(tmp_path, images, whole, monkeypatch):
    """A run that dies in epoch 2 continues from epoch 1's file and ends as one that never died."""
    class Stop(Exception):
        """Ends a run from inside, as a kill would."""

    write = LogHook._write

    def dies(self, trainer, values):
        if trainer.iteration == 5:
            raise Stop
        write(self, trainer, values)
    cfg = densecl_config(images, tmp_path / 'out')
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(LogHook, '_write', dies)
        train_main(['-c', write_config(cfg, tmp_path, 'parts'), '--allow-imports'])
    parts = run(tmp_path, 'parts', cfg, '--resume', 'auto')
    assert_same_state(os.path.join(whole, 'epoch_2.pdparams'), os.path.join(parts, 'epoch_2.pdparams'))


def test_auto_starts_anew_where_there_is_nothing_and_trains_on_nothing_that_is_finished(tmp_path, images, capsys):
    cfg = densecl_config(images, tmp_path / 'out', epochs=1)
    folder = run(tmp_path, 'once', cfg, '--resume', 'auto')
    assert [r['iteration'] for r in records(folder)] == [1, 2, 3]
    assert 'starting anew' in capsys.readouterr().out
    run(tmp_path, 'once', cfg, '--resume', 'auto')
    assert len(records(folder)) == 3
    assert 'Nothing to do: the run already has 3 of 3 iterations' in capsys.readouterr().out


def test_linear_evaluation_resumes(tmp_path, make_images):
    make_images(tmp_path / 'train', 6, classes=2)
    make_images(tmp_path / 'val', 3, classes=2)
    cfg = linear_config(tmp_path / 'train', tmp_path / 'val', tmp_path / 'out', epochs=2)
    whole = run(tmp_path, 'whole', cfg)
    parts = run(tmp_path, 'parts', dict(cfg, epochs=1))
    run(tmp_path, 'parts', cfg, '--resume', os.path.join(parts, 'latest.pdparams'))
    for name in ('acc1', 'acc5', 'num_samples'):
        assert [r[name] for r in records(whole, 'val')] == [r[name] for r in records(parts, 'val')]
    a, b = (load_file(os.path.join(d, 'epoch_2.pdparams'))['state_dict'] for d in (whole, parts))
    assert all(np.array_equal(a[k], b[k]) for k in a)
