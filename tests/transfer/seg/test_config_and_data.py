"""Configs, data layouts and the random crop: what is accepted, and what is refused with which words."""

import glob
import os

import numpy as np
import pytest

from passl.transfer.paddleseg import config, library
from passl.transfer.paddleseg.data import for_paddleseg, read_part, read_parts
from passl.utils.errors import ConfigError, DataError
from tests.conftest import ROOT

library.load()
from paddleseg.cvlibs import manager  # noqa: E402

from passl.transfer.paddleseg.pairs import Pairs  # noqa: E402
from passl.utils.misc import IMAGENET_MEAN as MEAN, IMAGENET_STD as STD  # noqa: E402

CUSTOM = os.path.join(ROOT, 'configs/transfer/seg/custom.yml')
SHIPPED = sorted(glob.glob(os.path.join(ROOT, 'configs/transfer/seg/*.yml')))


def custom(*overrides, **more):
    return config.read(CUSTOM, overrides, **more)


def test_flags_change_the_config():
    cfg = custom('batch_size=3', 'model.backbone.type=ResNet50', 'train_dataset.transforms.0.short_size=64', iters=7,
                 data='somewhere')
    assert (cfg['batch_size'], cfg['iters'], cfg['model']['backbone']['type']) == (3, 7, 'ResNet50')
    assert cfg['train_dataset']['transforms'][0]['short_size'] == 64
    assert cfg['train_dataset']['dataset_root'] == cfg['val_dataset']['dataset_root'] == 'somewhere'


@pytest.mark.parametrize('override, words', [
    ('itres=3', "no 'itres'.*Did you mean 'iters'"), ('model.backbnoe.type=x', "Did you mean 'backbone'"),
    ('train_dataset.transforms.9.x=1', 'index 9 is out of range'), ('batch_size=two', "'batch_size' is 'two'"),
    ('batch_size=0', 'must be 1 or more'), ('loss=null', 'loss is missing')])
def test_wrong_overrides(override, words):
    with pytest.raises(ConfigError, match=words):
        custom(override)


def test_bases_are_followed_and_paddleseg_s_word_for_dropping_them_is_refused(tmp_path):
    path = tmp_path / 'mine.yml'
    path.write_text(f'_base_: {CUSTOM}\niters: 5\nmodel:\n  channels: 8\n')
    cfg = config.read(str(path))
    assert cfg['iters'] == 5 and cfg['model']['channels'] == 8 and cfg['model']['type'] == 'DilatedFCN'
    path.write_text(f'_base_: {CUSTOM}\nmodel:\n  _inherited_: false\n  type: FCN\n')
    with pytest.raises(ConfigError, match="'model._inherited_'.*_delete_: true"):
        config.read(str(path))


def test_where_the_weights_come_from_is_always_said():
    with pytest.raises(ConfigError, match='--pretrained none'):
        config.take_pretrained(custom(), None)
    assert config.take_pretrained(custom(), 'none') is None
    assert config.take_pretrained(custom(), 'a.pdparams') == 'a.pdparams'
    named = custom('model.backbone.pretrained=b.pdparams')
    assert config.take_pretrained(named, None) == 'b.pdparams' and 'pretrained' not in named['model']['backbone']
    assert config.take_pretrained(custom('model.backbone.pretrained=https://x/y'), 'c') == 'c'
    dropped = custom('model.backbone.pretrained=https://x/y', 'model.pretrained=whole.pdparams')
    config.drop_pretrained(dropped)
    assert 'pretrained' not in str(dropped)
    for wrong in ('model.backbone.pretrained=https://x/y.pdparams', 'model.pretrained=whole.pdparams'):
        with pytest.raises(ConfigError, match='Nothing is downloaded|names weights'):
            config.take_pretrained(custom(wrong), None)


def test_normalize_becomes_that_of_pre_training():
    cfg = custom()
    before = str(cfg)
    config.set_normalize(cfg, MEAN, STD)
    assert str(cfg) == before           # already so
    cfg['val_dataset']['transforms'] = [{'type': 'Normalize'}]
    config.set_normalize(cfg, MEAN, STD)
    assert cfg['val_dataset']['transforms'] == [{'type': 'Normalize', 'mean': MEAN, 'std': STD}]
    cfg['val_dataset']['transforms'] = [{'type': 'Normalize'}]
    config.set_normalize(cfg, MEAN, STD, change=False)
    assert cfg['val_dataset']['transforms'] == [{'type': 'Normalize'}]
    cfg['train_dataset']['transforms'] = []
    with pytest.raises(ConfigError, match="'train_dataset.transforms' has no Normalize"):
        config.set_normalize(cfg, MEAN, STD)


@pytest.mark.parametrize('path', SHIPPED, ids=os.path.basename)
def test_shipped_configs_hold_the_protocol(path):
    cfg = config.read(path)
    before = str(cfg)
    config.set_normalize(cfg, MEAN, STD)
    assert str(cfg) == before
    rate = cfg['lr_scheduler']
    assert (rate['learning_rate'], rate['power'], rate['end_lr']) == (0.01, 0.9, 1e-4)
    assert (cfg['optimizer']['momentum'], cfg['optimizer']['weight_decay']) == (0.9, 5e-4)
    name = os.path.basename(path)
    if name.startswith('fcn'):
        assert cfg['model']['backbone'] == {'type': 'ResNet50', 'output_stride': 8}
        assert (cfg['model']['channels'], cfg['model']['aux_channels']) == (512, 256)
        assert cfg['loss']['coef'] == [1, 0.4] and cfg['loss']['types'][0]['avg_non_ignore'] is False
        crop = next(t for t in cfg['train_dataset']['transforms'] if t['type'] == 'ClassBalancedCrop')
        expected = (20000, 16, [512, 512]) if 'voc' in name else (40000, 8, [769, 769])
        assert (cfg['iters'], cfg['total_batch'], crop['crop_size']) == expected
        assert crop['max_ratio'] == 0.75
    if 'cityscapes' in name:
        assert cfg['test_config'] == {'is_slide': True, 'crop_size': [769, 769], 'stride': [513, 513]}
        assert cfg['model']['align_corners'] is True


def test_shipped_configs_are_these():
    assert [os.path.basename(p) for p in SHIPPED] == [
        'custom.yml', 'deeplabv3p_r50_voc12aug.yml', 'fcn_r50-d8_cityscapes_40k.yml', 'fcn_r50-d8_voc12aug_20k.yml']


# data; what is read and refused is in tests/datasets/labelled/test_layouts.py

def checked(root, part='train_dataset', **data):
    cfg = custom(data=root)
    cfg[part].update(data)
    return read_part(cfg, part), cfg


@pytest.mark.parametrize('mode', ['train', 'val'])
def test_pairs_are_handed_to_paddleseg_as_it_would_read_them(folders, tmp_path, mode):
    pairs, cfg = checked(folders, mode=mode)
    assert cfg['model']['num_classes'] == cfg['train_dataset']['num_classes'] == cfg['val_dataset']['num_classes'] == 4
    assert for_paddleseg(cfg)['val_dataset']['type'] == 'Dataset' and cfg['val_dataset']['mode'] == 'val'
    path = tmp_path / 'list.txt'
    path.write_text(''.join(f'{a}\t{b}\n' for a, b in zip(pairs.images, pairs.masks)))
    settings = {'mode': mode, f'{mode}_path': str(path), 'separator': '\t', 'num_classes': 4, 'edge': True}
    theirs = manager.DATASETS['Dataset'](dataset_root=folders, transforms=[], **settings)
    ours = Pairs(pairs, mode, [], edge=True)
    assert len(ours) == len(theirs) == {'train': 6, 'val': 4}[mode]
    assert (ours.num_classes, ours.ignore_index) == (4, 255)
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys() and a['gt_fields'] == b['gt_fields'] and ('edge' in a) == (mode == 'train')
        for key in ('img', 'label', 'edge'):
            if key in a:
                np.testing.assert_array_equal(a[key], b[key])
                assert a[key].dtype == b[key].dtype


def test_voc_and_cityscapes_as_paddleseg_pairs_them(voc, cityscapes):
    for kind, root, mode, count in (('PascalVOC', voc, 'trainaug', 6), ('PascalVOC', voc, 'val', 2),
                                    ('Cityscapes', cityscapes, 'train', 3), ('Cityscapes', cityscapes, 'val', 2)):
        theirs = manager.DATASETS[kind](transforms=[], dataset_root=root, mode=mode).file_list
        more = {'labels': 'labelTrainIds'} if kind == 'Cityscapes' else {}
        pairs, _ = checked(root, type=kind, mode=mode, **more)
        assert len(pairs) == count and sorted(map(tuple, theirs)) == sorted(zip(pairs.images, pairs.masks))


def test_numbers_of_classes_must_agree(folders, voc):
    with pytest.raises(DataError, match="has 4 classes, .*: {'train_dataset': 7}"):
        checked(folders, num_classes=7)
    cfg = config.read(CUSTOM, ['model.num_classes=19', 'train_dataset.type=PascalVOC'], data=voc)
    with pytest.raises(DataError, match="has 21 classes, .*{'model': 19}"):
        read_part(cfg, 'train_dataset')


def test_settings_that_are_refused(folders):
    for wrong, words in (({'ignore_index': 0}, "'train_dataset.ignore_index' is 0; .*reduce_zero_label=true"),
                         ({'img_channels': 1}, 'always have 3 channels'), ({'unpired': 'drop'}, "mean 'unpaired'")):
        with pytest.raises(ConfigError, match=words):
            checked(folders, **wrong)
    assert len(checked(folders, ignore_index=255, img_channels=3)[0]) == 6


def test_roots_that_paddleseg_would_download_to(tmp_path, folders):
    for kind in ('PascalVOC', 'OpticDiscSeg'):
        with pytest.raises(DataError, match='othing is downloaded'):
            checked(str(tmp_path / 'VOCdevkit'), type=kind, mode='train')
        with pytest.raises(DataError, match='Give --data'):
            checked(None, type=kind, dataset_root=None)
    cfg = custom('train_dataset.type=OpticDiscSeg', data=folders)       # one that only PaddleSeg knows
    assert read_parts(cfg, ['train_dataset']) == {'train_dataset': None}
    assert for_paddleseg(cfg)['train_dataset'] == cfg['train_dataset']


# the crop

def crop(height, width, **settings):
    """One crop of an image whose pixels tell where they are, with labels that say the same."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows * 0], -1).astype('float32')
    labels = ((rows * 7 + columns * 3) % 5).astype('uint8')
    transform = manager.TRANSFORMS['ClassBalancedCrop'](**settings)
    return transform({'img': image, 'label': labels, 'gt_fields': ['label']}), labels


def test_crop_takes_the_same_window_of_image_and_labels():
    np.random.seed(0)
    corners = set()
    for _ in range(20):
        data, labels = crop(30, 40, crop_size=[16, 8])
        assert data['img'].shape == (8, 16, 3) and data['label'].shape == (8, 16)
        top, left = data['img'][0, 0, :2].astype(int)
        corners.add((top, left))
        assert np.array_equal(data['label'], labels[top:top + 8, left:left + 16])
    assert len(corners) > 10 and max(c[0] for c in corners) <= 22 and max(c[1] for c in corners) <= 24


def test_crop_pads_small_images_with_what_normalize_makes_zero():
    data, labels = crop(6, 40, crop_size=[16, 10])
    assert data['img'].shape == (10, 16, 3) and (data['label'][6:] == 255).all()
    assert np.array_equal(data['label'][:6], labels[:, int(data['img'][0, 0, 1]):][:, :16])
    normalize = manager.TRANSFORMS['Normalize'](mean=MEAN, std=STD)
    assert np.abs(normalize({'img': data['img'].copy()})['img'][6:]).max() < 1e-6


def test_crop_avoids_windows_of_one_class():
    labels = np.zeros((20, 200), 'uint8')
    labels[:, 195:] = 1
    shares = {}
    for ratio in (1.0, 0.9):
        np.random.seed(0)
        transform = manager.TRANSFORMS['ClassBalancedCrop'](crop_size=[20, 20], max_ratio=ratio, tries=500)
        shares[ratio] = [(transform({'img': np.zeros((20, 200, 3), 'float32'), 'label': labels.copy(),
                                     'gt_fields': ['label']})['label'] == 0).mean() for _ in range(20)]
    assert max(shares[0.9]) < 0.9 and np.mean(shares[1.0]) > 0.95


def test_wrong_crops():
    for settings in ({'crop_size': [0, 5]}, {'crop_size': [5]}, {'max_ratio': 0}, {'tries': 0}):
        with pytest.raises(ConfigError, match='it must be|they must be'):
            manager.TRANSFORMS['ClassBalancedCrop'](**settings)
