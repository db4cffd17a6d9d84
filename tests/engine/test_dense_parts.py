"""Whole runs with parts of the dense loss that are not the paper's."""

import os

import numpy as np
import paddle
import pytest

from passl.datasets.builder import DATASETS
from passl.datasets.folder import UnlabelledFolder
from passl.engine.builder import ask_for, build_trainer
from passl.utils.config import load_config, with_defaults
from passl.utils.errors import ConfigError
from tests.carrying import CarryingFolder, carried

from .small import assert_same_state, dense_parts, records, refused_training, train, write_config

VARIANTS = {'regions': ('Regions', 'batch'), 'geometric': ({'name': 'Geometric', 'radius': 0.9}, 'cells'),
            'mutual': ('MutualNearest', {'name': 'Cells', 'per_image': 2})}


def trainer_of(data, variant, **changes):
    cfg = dense_parts(data, *VARIANTS[variant], **changes)
    return build_trainer(with_defaults({k: v for k, v in cfg.items() if v is not None}))


@pytest.mark.parametrize('variant', VARIANTS)
def test_resume_is_exact(data, out, capsys, variant):
    """4 of 6 steps, then 2 in a run that starts from the file: the draws of cells go on, too."""
    cfg = dense_parts(data, *VARIANTS[variant], **out)
    whole, _ = train(cfg, capsys, '--allow-imports', name='whole')
    short = dict(cfg, total_iters=4, checkpoint={'interval': 4, 'by_epoch': False})
    short.pop('epochs')
    train(short, capsys, '--allow-imports', name='parts')
    parts, _ = train(cfg, capsys, '--allow-imports', '--resume', 'auto', name='parts')
    assert_same_state(*(os.path.join(d, 'latest.pdparams') for d in (whole, parts)))
    assert [r['loss'] for r in records(whole)] == [r['loss'] for r in records(parts)]
    # SmallNet's map has 4 x 4 cells; all pairs are counted in the log
    wanted = {'regions': 4, 'geometric': 9, 'mutual': None}[variant]
    for r in records(whole):
        assert r['loss_dense'] > 0 and 0 < r['pairs'] <= 16 and (wanted is None or r['pairs'] == wanted)


def test_the_batch_holds_what_the_model_needs(data):
    for variant, shape in (('regions', [4, 2, 32, 32]), ('geometric', [4, 2, 6])):
        trainer = trainer_of(data, variant)
        trainer.train_loader.batch_sampler.set_epoch(1)
        batch = next(iter(trainer.train_loader))
        order = [int(key.index) for key in next(iter(trainer.train_loader.batch_sampler))]
        (name,), names = trainer.model.needs, trainer.model.carried
        assert names == (('places', 'regions') if name == 'regions' else ('places',))       # places: for the log
        assert len(batch) == 2 + len(names) and list(batch[-1].shape) == shape
        for given, x in zip(names, batch[2:]):
            np.testing.assert_array_equal(x.numpy(), [carried(given, i) for i in order])


MORE = {'amp': {'use_amp': True, 'AMP': {'level': 'O1', 'dtype': 'bfloat16'}},
        'accumulated': {'optimizer_config': {'accumulate_steps': 2},
                        'dataloader': {'train': {'sampler': {'batch_size': 2}}}},
        'bn_splits': {'model': {'bn_splits': 2}}}


@pytest.mark.parametrize('more, variant', [
    ('amp', 'geometric'), ('bn_splits', 'regions'), ('bn_splits', 'mutual'), *(('accumulated', v) for v in VARIANTS)])
def test_with(data, variant, more):
    """Every variant's loss is finite and moves the dense projection, and pairs do not depend on how it is computed."""
    plain, trainer = (trainer_of(data, variant, total_iters=1, epochs=None, **change) for change in ({}, MORE[more]))
    before = trainer.model.neck.mlp2[0].weight.numpy().copy()
    for t in (plain, trainer):
        t.run()
    assert np.isfinite(trainer.record['loss_dense'])
    assert np.abs(trainer.model.neck.mlp2[0].weight.numpy() - before).max() > 0
    if variant != 'mutual':
        assert trainer.record['pairs'] == plain.record['pairs'] > 0
    if more == 'amp':
        assert trainer.record['loss_dense'] == pytest.approx(plain.record['loss_dense'], rel=0.02)


def test_a_data_set_that_cannot_carry(data, out, capsys):
    class Plain(UnlabelledFolder):
        carry = property(lambda self: (_ for _ in ()).throw(AttributeError('carry')))
    DATASETS.register(Plain)
    try:
        cfg = dense_parts(data, 'Regions', 'batch', **out)
        cfg['dataloader']['train']['dataset']['name'] = 'Plain'
        refused_training(cfg, capsys, ["needs 'regions' of every sample", 'Plain cannot give'], '--allow-imports')
    finally:
        DATASETS._table.pop('Plain')
    assert ask_for(paddle.nn.Linear(1, 1), object(), 'none') == ()              # nothing is asked for


def test_what_a_data_set_refuses_ends_the_run(data, out, capsys, monkeypatch):
    def carry(self, needs, folder):
        raise ConfigError(f'no {needs[0]} here')
    monkeypatch.setattr(CarryingFolder, 'carry', carry)
    refused_training(dense_parts(data, 'Geometric', 'cells', **out), capsys, ['no places here'], '--allow-imports')


def test_parts_in_a_config_file(data, out, tmp_path):
    cfg = dense_parts(data, 'Regions', 'batch', **out)
    path = write_config(cfg, folder=str(tmp_path))
    changes = ['model.negatives=Batch', 'model.correspondence={name: Regions, min_share: 0.1}']
    full = with_defaults(load_config(path, changes))
    assert full['model']['negatives'] == {'name': 'Batch'}
    assert full['model']['correspondence'] == {'name': 'Regions', 'min_share': 0.1}
    with pytest.raises(ConfigError, match="'model.negatives' must be a mapping with a 'name', or the name alone, not"):
        load_config(path, ['model.negatives=3'])
    with pytest.raises(ConfigError, match="'model.negatives.name' must be text"):
        load_config(path, ["model.negatives=''"])
