"""Every checkpoint is measured, the best one stays, and the training does not notice."""

import json
import os
import random

import numpy as np
import pytest

from passl.engine.builder import build_trainer
from passl.hooks import BestHook
from passl.modules.dense_structure import dense_structure
from passl.utils.config import with_defaults
from passl.utils.errors import ConfigError
from passl.utils.weights.checkpoint import read_note

from . import small

SAID_BY = 'best_hook'


def built(data, folder=None, **changes):
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    cfg = small.densecl(data, **{'best_config': {'check': 'auto'}, **changes})
    return build_trainer(with_defaults(cfg), None if folder is None else str(folder))


def config(data, out, epochs, **changes):
    return small.densecl(data, **out, epochs=epochs, lr_scheduler={'T_max': None}, best_config={'check': 'auto'},
                         **changes)


def facts(folder):
    with open(os.path.join(folder, 'best.json')) as f:
        return json.load(f)


def planted(monkeypatch, values):
    """`dse` of the checkpoints of this test, one after the other."""
    values = iter(values)
    monkeypatch.setattr(BestHook, 'measure', lambda *_: {'dse': next(values)})


def test_the_best_checkpoint_stays_when_others_are_removed(data, out, capsys, monkeypatch, said):
    planted(monkeypatch, [0.875, 0.75, 0.625])      # the first is of the first half of the run
    cfg = config(data, out, 3, checkpoint={'name': 'CheckpointHook', 'max_keep_ckpts': 1})
    folder, _ = small.train(cfg, capsys)
    assert read_note(os.path.join(folder, 'best.pdparams'))['iteration'] == 6
    assert facts(folder) == {'figure': 'dse', 'value': 0.75, 'iteration': 6, 'checkpoint': 'epoch_2.pdparams'}
    assert sorted(n for n in os.listdir(folder) if 'epoch' in n) == ['epoch_3.pdparams']
    written = small.records(folder, 'quality')
    assert [(r['iteration'], r['epoch'], r['dse'], r['best']) for r in written] == [
        (3, 1, 0.875, False), (6, 2, 0.75, True), (9, 3, 0.625, False)]
    assert 'Iteration 9: dse 0.625' in said[-1][1] and 'the best has dse 0.75' in said[-1][1]


def test_a_resumed_run_knows_what_was_best(data, out, capsys, monkeypatch):
    planted(monkeypatch, [0.75, 0.5, 0.875])
    folder, _ = small.train(config(data, out, 1), capsys)
    small.train(config(data, out, 2), capsys, '--resume', 'auto')
    assert facts(folder)['value'] == 0.75 and read_note(os.path.join(folder, 'best.pdparams'))['iteration'] == 3
    small.train(config(data, out, 3), capsys, '--resume', 'auto')
    assert facts(folder)['value'] == 0.875 and read_note(os.path.join(folder, 'best.pdparams'))['iteration'] == 9


def test_without_links_it_is_a_copy(data, out, capsys, monkeypatch):
    planted(monkeypatch, [0.5])

    def refuse(*_):
        raise OSError('no links here')
    plain = os.link
    monkeypatch.setattr(os, 'link', lambda a, b, **more: refuse() if 'best' in str(b) else plain(a, b, **more))
    folder, _ = small.train(config(data, out, 1), capsys)
    contents = []
    for name in ('best.pdparams', 'epoch_1.pdparams'):
        with open(os.path.join(folder, name), 'rb') as f:
            contents.append(f.read())
    assert contents[0] == contents[1]


def test_the_training_is_the_same_to_the_last_bit_with_and_without_the_figures(data, tmp_path):
    def state(name, **changes):
        trainer = built(data, tmp_path / name, epochs=2, checkpoint={'interval': 1}, **changes)
        trainer.run()
        return {k: v.numpy() for k, v in trainer.model.state_dict().items()}
    on = state('on')
    assert len(small.records(str(tmp_path / 'on'), 'quality')) == 2
    off = state('off', best_config={'check': 'off'}, collapse_config={'check': 'off'}, log_config={'interval': 1000})
    assert not os.path.exists(tmp_path / 'off' / 'best.pdparams')
    assert on.keys() == off.keys() and all(np.array_equal(on[k], off[k]) for k in on) and len(on) > 20


def test_the_estimate_sees_central_squares_normalised_as_in_the_training(data):
    trainer = built(data)
    random.seed(3)
    np.random.seed(4)
    before = random.getstate(), np.random.get_state()[1].copy()
    statistics = trainer.model.backbone.bn1._mean.numpy()
    found = trainer.structure(images=5, side=64)
    assert trainer.structure(images=5, side=64) == found and found.pop('images') == 5
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()
    assert np.array_equal(trainer.model.backbone.bn1._mean.numpy(), statistics) and trainer.model.training
    # by hand: the pictures are 32 px, enlarged to 64, of 12 the numbers 0, 2, 4, 7, 9
    import cv2
    import paddle
    flat = trainer.train_loader.dataset
    squares = [cv2.resize(flat.load(i), (64, 64)).transpose(2, 0, 1) / 255 for i in (0, 2, 4, 7, 9)]
    trainer.model.eval()
    maps = trainer.model.backbone(paddle.to_tensor(np.stack(squares).astype('float32'))).numpy()
    by_hand = dense_structure(maps.reshape(5, 16, 64).transpose(0, 2, 1))
    assert found == pytest.approx(by_hand, rel=0.02)


def test_what_cannot_be_measured_is_a_warning_and_a_mistake_is_not(data, out, capsys, monkeypatch, said):
    def refuse(*_):
        raise ConfigError('there is nothing to look at.')
    monkeypatch.setattr(BestHook, 'measure', refuse)
    folder, _ = small.train(config(data, out, 2), capsys)
    assert [text for level, text in said if level == 'WARNING'] == [
        'Checkpoints of this run are not measured, and there is no best.pdparams: there is nothing to look at.']
    assert os.path.isfile(os.path.join(folder, 'epoch_2.pdparams')) and not small.records(folder, 'quality')
    monkeypatch.setattr(BestHook, 'measure', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small.train(config(data, out, 3), capsys, '--resume', 'auto')


def test_a_classifier_is_not_measured(data, out, capsys, said):
    folder, _ = small.train(small.clas(data, **out, epochs=1), capsys)
    assert said == [] and not os.path.exists(os.path.join(folder, 'best.pdparams'))


def test_checkpoints_of_every_few_steps_are_not_all_measured(data, out, capsys, monkeypatch):
    planted(monkeypatch, [0.25, 0.5, 0.75])
    monkeypatch.setattr(BestHook, 'times', 3)       # 9 iterations: 3 lie between two measurements
    cfg = config(data, out, 3, checkpoint={'name': 'CheckpointHook', 'by_epoch': False, 'interval': 2})
    folder, _ = small.train(cfg, capsys)
    assert [r['iteration'] for r in small.records(folder, 'quality')] == [2, 6, 9]
