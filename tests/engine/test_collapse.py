"""Warnings of a training that learns nothing: planted collapses, shortcuts and guesses."""

import math
import os
import types

import cv2
import numpy as np
import pytest

from passl.engine.builder import build_trainer
from passl.hooks import CollapseHook
from passl.modeling.architectures import DenseCL, MoCo
from passl.modeling.backbones import BACKBONES
from passl.utils.config import with_defaults

from . import small

SAID_BY = 'collapse_hook'


@BACKBONES.register()
class BlindNet(small.SmallNet):
    """Gives the same map for every image."""

    def forward(self, x):
        return super().forward(x) * 0 + 0.5


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    """As the other files' data, but the 96 images of `flat` differ at first sight: patches of strong colours."""
    root = small.write_data(tmp_path_factory.mktemp('data'), make_images)
    rng = np.random.RandomState(0)
    for i in range(96):
        patches = rng.randint(0, 2, (2, 2, 3)) * 255
        image = patches.repeat(16, axis=0).repeat(16, axis=1).astype('uint8')
        assert cv2.imwrite(os.path.join(root, 'flat', f'{i:04d}.png'), image)
    return root


def run(cfg, folder=None):
    trainer = build_trainer(with_defaults(dict(cfg, checkpoint={'interval': 10000})), folder)
    trainer.run()
    return trainer


def simclr(root, **changes):
    cfg = small.moco(root, **changes)
    cfg['model'].update(name='SimCLR', head={'name': 'SimCLRContrastiveHead', 'temperature': 0.2})
    cfg['model'] = {k: v for k, v in cfg['model'].items() if k not in ('dim', 'K')}
    return cfg


# ------------------------------------------------------------------------------------------------ planted in runs

# the queue is full after 4 steps; at this rate the little network learns
LONG = {'total_iters': 36, 'epochs': None, 'lr_scheduler': {'learning_rate': 0.01},
        'dataloader': {'train': {'dataset': {'transforms': [
            {'name': 'RandomResizedCrop', 'size': 32, 'scale': [0.6, 1.0]}, {'name': 'ToTensor'}]}}},
        'collapse_config': {'chance_patience': 12}}


@pytest.mark.parametrize('build', [small.densecl, small.moco, simclr])
def test_a_healthy_run_is_not_warned_of(data, said, build):
    trainer = run(build(data, **LONG))
    assert said == [] and trainer.iteration == 36 and trainer.record['std'] > 0.2


@pytest.mark.parametrize('build, told', [(small.densecl, ['std is', 'std_dense is']), (small.moco, ['std is']),
                                         (simclr, ['std is'])])
def test_a_constant_encoder(data, said, build, told):
    run(build(data, model={'backbone': {'name': 'BlindNet'}}, **LONG))
    assert [level for level, _ in said] == ['WARNING'] * len(told)
    for (_, text), words in zip(said, told):
        assert f'the features collapse: {words} 0.0000, below 0.1' in text
        assert 'Likely causes: a learning rate' in text and 'docs/LOSS_CURVE.md' in text
    chance = math.log(7 if build is simclr else 17)
    assert f'chance is {chance:.3f}' in said[0][1]
    # five log steps after the one that filled the queue (or the first epoch)
    assert said[0][1].startswith('Iteration 29 (epoch 2)' if build is simclr else 'Iteration 9 (epoch 1)')


def same_pictures(data, **model):
    """At this rate and momentum they are told apart at once."""
    cfg = small.densecl(data, model={'m': 0.5, **model}, **LONG)
    cfg['dataloader']['train']['dataset']['transforms'] = [{'name': 'ToTensor'}]
    return cfg


def test_views_that_are_the_same_picture(data, said):
    cfg = same_pictures(data)
    run(cfg)
    first, second = sorted((text for _, text in said), key=lambda text: 'dense task' in text)
    assert 'the task is too easy: acc1 is 100.00 %' in first and 'same picture' in first
    assert 'the dense task is too easy: acc1_dense is' in second and 'with 16 cells' in second
    assert 'not put back in order' in second and 'model.correspondence: Regions' in second


def test_dense_keys_that_are_the_queries(data, said, monkeypatch):
    """What a key branch that is compared with itself looks like: only the dense task is too easy."""
    from passl.modeling.dense import correspondence
    plain = DenseCL.query

    def query(self, x):
        out = plain(self, x)
        self.cells_of_query = out[2]
        return out
    monkeypatch.setattr(DenseCL, 'query', query)
    monkeypatch.setattr(correspondence, 'take_matched', lambda keys, index: keys.transpose([0, 2, 1]))
    plain_key = DenseCL.key

    def key(self, *args):
        local, everything = plain_key(self, *args)
        dense = self.cells_of_query.detach()
        local[2] = dense / dense.norm(axis=1, keepdim=True)
        return local, everything
    monkeypatch.setattr(DenseCL, 'key', key)
    run(small.densecl(data, **LONG))
    assert len(said) == 1 and 'the dense task is too easy: acc1_dense is 100.00 %' in said[0][1]


def test_keys_of_other_images(data, said, monkeypatch):
    plain = MoCo.key

    def key(self, x, shuffle, **kwargs):
        (k,), everything = plain(self, x, shuffle, **kwargs)
        return [k.roll(1, axis=0)], everything
    monkeypatch.setattr(MoCo, 'key', key)
    run(small.moco(data, **{**LONG, 'collapse_config': {'chance_patience': 12, 'min_std': 0.0}}))
    assert len(said) == 1 and 'in the mean of 12 log steps, at chance (ln(K + 1) = 2.833' in said[0][1]
    assert 'for 16 negatives' in said[0][1] and 'Likely causes: views of different images are paired' in said[0][1]


def test_a_classifier_is_not_judged(data, said):
    run(small.clas(data, epochs=6, collapse_config={'min_std': 1.0, 'patience': 1, 'max_acc': 0.0}))
    assert said == []


def test_off(data, said):
    for word in ('off', False):
        run(small.moco(data, model={'backbone': {'name': 'BlindNet'}}, epochs=1, collapse_config={'check': word}))
    assert said == []


@pytest.mark.parametrize('build', [small.densecl, simclr])
def test_the_numbers_of_the_training_are_the_same_with_and_without(data, tmp_path, build):
    def state(folder, **changes):
        os.makedirs(tmp_path / folder)
        trainer = run(build(data, **{'total_iters': 8, 'epochs': None, **changes}), str(tmp_path / folder))
        values = {k: v.numpy() for k, v in trainer.model.state_dict().items()}
        return values, [r['loss'] for r in small.records(str(tmp_path / folder))]
    on, losses = state('on', collapse_config={'patience': 1, 'min_std': 1.0})
    off, same = state('off', collapse_config={'check': 'off'})
    quiet, _ = state('quiet', log_config={'interval': 1000}, collapse_config={'check': 'off'})
    assert losses == same and len(losses) == 8
    for other in (off, quiet):
        assert on.keys() == other.keys() and all(np.array_equal(on[k], other[k]) for k in on)


# ---------------------------------------------------------------------------------------------- rules, one by one

def judged(records, model=None, **settings):
    """Iterations at which the hook says something, and what."""
    model = model or types.SimpleNamespace(negatives=1024, queues={}, head=types.SimpleNamespace(temperature=0.2))
    trainer = types.SimpleNamespace(model=model, iteration=0, global_batch_size=64, iters_per_epoch=100, epoch=1,
                                    is_log_step=True)
    hook, found = CollapseHook(**settings), []
    hook._warn = lambda trainer, words: found.append((trainer.iteration, words))
    hook.run_begin(trainer)
    for record in records:
        trainer.iteration, trainer.epoch = record['iteration'], record['epoch']
        trainer.record = record
        hook.train_iter_end(trainer)
    return found


def steps(count, first=20, epoch=1, **values):
    figures = {'loss': 5.0, 'loss_global': 5.0, 'std': 0.8, 'acc1': 40.0, **values}
    return [{**figures, 'iteration': first + i, 'epoch': epoch} for i in range(count)]


def test_nothing_is_said_while_the_queue_fills():
    assert judged(steps(16, first=1, std=0.0), patience=1) == []          # 1024 / 64
    assert [i for i, _ in judged(steps(17, first=1, std=0.0), patience=1)] == [17]


def test_once_and_again_only_after_it_had_gone():
    bad = dict(std=0.05)
    told = judged(steps(9, **bad) + steps(4, 29) + steps(9, 33, **bad) + steps(5, 42) + steps(9, 47, **bad))
    assert [i for i, _ in told] == [24, 51]
    assert judged(steps(4, **bad) + steps(1, 24) + steps(4, 25, **bad)) == []


def test_high_accuracy_late_in_a_run_is_no_shortcut_unless_all_negatives_are_told_apart():
    floor = math.log(1 + 1024 * math.exp(-5))
    assert judged(steps(30, epoch=50, acc1=99.5, loss_global=floor * 1.2)) == []
    assert len(judged(steps(30, epoch=50, acc1=99.5, loss_global=floor * 1.05))) == 1
    assert len(judged(steps(30, epoch=2, acc1=99.0, loss_global=floor * 1.2))) == 1
    assert judged(steps(30, epoch=2, acc1=98.9, loss_global=0.0)) == []


def test_chance():
    chance = math.log(1025)
    assert [i for i, _ in judged(steps(30, loss_global=chance * 0.991))] == [39]
    up_and_down = [dict(r, loss_global=chance + (-1) ** i) for i, r in enumerate(steps(60))]
    assert [i for i, _ in judged(up_and_down)] == [39]
    assert judged(steps(30, loss_global=chance * 0.989)) == [] and judged(steps(19, loss_global=chance)) == []
    both = judged(steps(30, loss_global=chance, std=0.0))
    assert len(both) == 1 and 'collapse' in both[0][1]                      # one cause, not two


def test_a_loss_without_weight_is_not_judged():
    def model(part):
        return types.SimpleNamespace(negatives=1024, queues={}, loss_lambda=part, cells=49,
                                     head=types.SimpleNamespace(temperature=0.2))
    dense = steps(30, loss_dense=math.log(1025), std_dense=0.5, acc1_dense=0.1)
    assert judged(dense, model(0.0)) == [] and len(judged(dense, model(0.5))) == 1
    whole = steps(30, loss_global=math.log(1025), loss_dense=5.0, std_dense=0.5, acc1_dense=9.0)
    assert judged(whole, model(1.0)) == [] and len(judged(whole, model(0.5))) == 1


def test_figures_that_are_missing():
    model = types.SimpleNamespace(negatives=1024, queues={}, head=object())
    record = [{'iteration': 20 + i, 'epoch': 1, 'loss': 5.0} for i in range(30)]
    assert judged(record, model) == []


@pytest.mark.parametrize('settings, parts', [
    ({'check': 'on'}, ["'collapse_config.check' must be", "not 'on'", 'one of auto, off, false']),
    ({'min_std': 2}, ["'collapse_config.min_std' must be", "not 2", 'from 0 to 1']),
    ({'max_acc': 101}, ["'collapse_config.max_acc' must be", "not 101", 'from 0 to 100']),
    ({'patience': 0}, ["'collapse_config.patience' must be", "not 0"]),
    ({'min_stdd': 0.1}, ['min_std'])])
def test_wrong_settings(data, out, capsys, settings, parts):
    small.refused_training(small.moco(data, **out, collapse_config=settings), capsys, parts)
