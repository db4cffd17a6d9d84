"""Judgements of a training: planted collapses, shortcuts, places and guesses, and runs that learn."""

import math
import os

import cv2
import numpy as np
import paddle
import pytest

from passl.engine.builder import build_trainer
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
def test_a_healthy_run_is_told_once(data, said, build):
    trainer = run(build(data, **LONG))
    assert [level for level, _ in said] == ['INFO'] * (1 if build is simclr else 2)     # filling, healthy
    assert ': healthy: features are spread (std 0.' in said[-1][1]
    assert trainer.iteration == 36 and trainer.record['std'] > 0.2 and trainer.record['health'] == 'healthy'


@pytest.mark.parametrize('build', [small.densecl, small.moco, simclr])
def test_a_constant_encoder(data, said, build):
    steps = 32 if build is simclr else 12
    trainer = run(build(data, model={'backbone': {'name': 'BlindNet'}}, **{**LONG, 'total_iters': steps}))
    (text,) = warned(said)
    assert 'collapsing: std is 0.0000, below 0.1' in text and trainer.record['health'] == 'collapsing'
    assert 'Likely causes: a learning rate' in text and 'docs/LOSS_CURVE.md' in text
    assert f'chance is loss {math.log(7 if build is simclr else 17):.3f}' in text
    # five log steps after the one that filled the queue (or the first epoch)
    assert text.startswith('Iteration 29 (epoch 2)' if build is simclr else 'Iteration 9 (epoch 1)')


def warned(said):
    return [text for level, text in said if level == 'WARNING']


def same_pictures(data, **model):
    """At this rate and momentum they are told apart at once."""
    cfg = small.densecl(data, model={'m': 0.5, **model}, **LONG)
    cfg['dataloader']['train']['dataset']['transforms'] = [{'name': 'ToTensor'}]
    return cfg


def test_views_that_are_the_same_picture(data, said):
    cfg = same_pictures(data)
    run(cfg)
    text, = warned(said)            # one word for both losses
    assert 'shortcut: the task is too easy, acc1' in text and 'at or above 99 %' in text and 'same picture' in text


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
    text, = warned(said)
    assert 'shortcut: the task is too easy, acc1_dense is 100.00 %' in text and 'not put back in order' in text


def test_keys_of_other_images(data, said, monkeypatch):
    plain = MoCo.key

    def key(self, x, shuffle, **kwargs):
        (k,), everything = plain(self, x, shuffle, **kwargs)
        return [k.roll(1, axis=0)], everything
    monkeypatch.setattr(MoCo, 'key', key)
    run(small.moco(data, **{**LONG, 'collapse_config': {'chance_patience': 12, 'min_std': 0.0}}))
    text, = warned(said)
    assert 'guessing: loss is' in text and 'in the mean of 12 log steps, at chance (2.833 for 16 negatives)' in text
    assert 'Likely causes: views of different images are paired' in text


def test_keys_that_stay_shuffled(data, said, monkeypatch):
    """All outputs of the key encoder in another order than the queries."""
    plain = MoCo.key

    def key(self, x, shuffle, **kwargs):
        (k,), everything = plain(self, x, shuffle, **kwargs)
        order = np.random.RandomState(self.step).permutation(len(k))
        return [k[paddle.to_tensor(order)]], everything
    monkeypatch.setattr(MoCo, 'key', key)
    trainer = run(small.moco(data, **LONG))
    assert trainer.record['health'] in ('guessing', 'collapsing') and warned(said)


def test_a_rate_that_is_a_hundred_times_too_high(data, said):
    trainer = run(small.moco(data, **{**LONG, 'lr_scheduler': {'learning_rate': 1.0}}))
    assert warned(said) and 'collapsing: std is 0.0' in warned(said)[0]
    assert trainer.record['health'] == 'collapsing' and trainer.record['rank'] < 1.5


def test_blank_images(said, tmp_path):
    os.makedirs(tmp_path / 'flat')
    for i in range(96):
        assert cv2.imwrite(str(tmp_path / 'flat' / f'{i}.png'), np.full((32, 32, 3), 128, 'uint8'))
    trainer = run(small.densecl(str(tmp_path), **LONG))
    text, = warned(said)
    assert 'collapsing: std is 0.0' in text and 'blank (passl check-data)' in text
    assert trainer.record['health'] == 'collapsing'


def test_a_queue_longer_than_the_data_is_filling_for_the_whole_run(data, said):
    trainer = run(small.densecl(data, model={'K': 256}, **{**LONG, 'total_iters': 12}))
    assert [text.split(': ', 1)[1] for _, text in said] == [
        'queue filling (2 % of its keys are real): a rising loss is normal until step 64']
    assert trainer.record['health'] == 'filling' and trainer.record['queue_fill'] == 18.75


@pytest.mark.slow
@pytest.mark.parametrize('parts, verdict', [
    ({}, 'position'), ({'correspondence': {'name': 'Regions'}, 'negatives': {'name': 'batch'}}, 'healthy')])
def test_small_crops(said, tmp_path, parts, verdict):
    """ResNet-18 on rendered scenes at 64 px: zero padding solves the paper's task within 36 steps, regions' not."""
    cfg = small.densecl(str(tmp_path), total_iters=36, epochs=None, output_dir=str(tmp_path / 'out'),
                        lr_scheduler={'learning_rate': 0.03, 'T_max': None}, best_config={'check': 'off'}, model={
        'dim': 32, 'K': 128, 'm': 0.99, 'bn_splits': 2, 'backbone': {'name': 'ResNet', 'depth': 18},
        'neck': {'in_channels': 512, 'hid_channels': 128, 'out_channels': 32}, **parts})
    data = cfg['dataloader']['train']
    data['sampler']['batch_size'] = 16
    data['dataset'] = {'name': 'Synthetic', 'num_images': 192, 'size': 96, 'return_two_sample': True, 'transforms': [
        {'name': 'RandomResizedCrop', 'size': 64, 'scale': [0.2, 1.0]}, {'name': 'ToTensor'}]}
    trainer = run(cfg)
    figures = {k: round(v, 2) for k, v in trainer.record.items() if isinstance(v, float)}
    assert trainer.record['health'] == verdict, figures
    assert len(warned(said)) == (verdict == 'position') and (figures['acc1_dense'] > 90) == (verdict == 'position')


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


# ------------------------------------------------------------------------------------------- what is handed on

def test_the_code_stands_in_the_log_and_in_visualdl(data, said, tmp_path):
    pytest.importorskip('visualdl')
    from visualdl import LogReader
    os.makedirs(tmp_path / 'run')
    run(small.moco(data, model={'backbone': {'name': 'BlindNet'}}, total_iters=12, epochs=None), str(tmp_path / 'run'))
    codes = [r['health'] for r in small.records(str(tmp_path / 'run'))[:4]]
    assert codes == ['filling'] * 4
    assert [r.get('health') for r in small.records(str(tmp_path / 'run'))[4:]] == [None] * 4 + ['collapsing'] * 4
    (file,) = os.listdir(tmp_path / 'run' / 'vdl')
    texts = LogReader(file_path=str(tmp_path / 'run' / 'vdl' / file)).get_data('text', 'train/health')
    assert [(t.id, t.text.encoded_text_string) for t in texts] == [(1, 'filling'), (9, 'collapsing')]


def test_in_chinese(data, said, monkeypatch):
    monkeypatch.setenv('LC_ALL', 'zh_CN.UTF-8')
    run(small.moco(data, model={'backbone': {'name': 'BlindNet'}}, total_iters=12, epochs=None))
    assert '队列填充中' in said[0][1] and '在第 4 步之前，损失上升是正常的' in said[0][1]
    assert '正在坍缩：std 为 0.0000，低于 0.1' in said[1][1] and 'docs/LOSS_CURVE_ch.md' in said[1][1]
