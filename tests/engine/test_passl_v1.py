"""PASSL v1.1.1's four config files train as they are: only the data path (and, here, the cost) is changed by -o."""

import json
import os

import pytest

from passl.cli import train_main

FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'fixtures', 'passl_v1')
CHEAP = ['-o', 'epochs=null', '-o', 'total_iters=2', '-o', 'log_config.interval=1', '-o', 'best_config.check=off',
         '-o', 'dataloader.train.sampler.batch_size=2', '-o', 'dataloader.train.num_workers=0',
         '-o', 'dataloader.train.dataset.transforms.0.size=64']


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory, make_images):
    root = tmp_path_factory.mktemp('imagenet')
    make_images(root / 'train', 3, size=(80, 100), classes=['n01440764', 'n01443537'], extension='.JPEG')
    make_images(root / 'val', 2, size=(80, 100), classes=['n01440764', 'n01443537'], extension='.JPEG')
    return root


@pytest.mark.slow
@pytest.mark.parametrize('name', ['densecl_r50', 'moco_v1_r50', 'moco_v2_r50', 'moco_clas_r50'])
def test_runs(name, tmp_path, imagenet):
    flags = ['-c', os.path.join(FIXTURES, name + '.yaml'), '--no-cuda', '-o', f'output_dir={tmp_path}',
             '-o', f'dataloader.train.dataset.dataroot={imagenet}/train', *CHEAP]
    if name == 'moco_clas_r50':
        flags += ['-o', f'dataloader.val.dataset.dataroot={imagenet}/val', '-o', 'dataloader.val.loader.num_workers=0',
                  '-o', 'epochs=1', '-o', 'total_iters=null']
    if name != 'moco_v1_r50':
        flags += ['-o', 'dataloader.train.loader.num_workers=0']
    assert train_main(flags) == 0
    with open(tmp_path / name / 'log.jsonl') as f:
        records = [json.loads(line) for line in f]
    train = [r for r in records if r['mode'] == 'train']
    assert [r['iteration'] for r in train][:2] == [1, 2]
    if name == 'densecl_r50':
        assert train[0]['loss'] == pytest.approx((train[0]['loss_global'] + train[0]['loss_dense']) / 2, rel=1e-5)
        assert 'acc1' not in train[0]            # return_accuracy: False
    if name == 'moco_clas_r50':
        val, = [r for r in records if r['mode'] == 'val']
        assert val['num_samples'] == 4 and 0 <= val['acc1'] <= val['acc5'] <= 100
    if name.startswith('moco_v'):
        assert train[0]['lr'] == {'moco_v1_r50': 0.03, 'moco_v2_r50': 0.015}[name]
        assert train[0]['acc5'] >= train[0]['acc1']
