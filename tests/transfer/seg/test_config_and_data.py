"""Configs, data layouts and the random crop: what is accepted, and what is refused with which words."""

import glob
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from passl.transfer.paddleseg import config, layout, library
from passl.utils.errors import ConfigError, DataError

library.load()
from paddleseg.cvlibs import manager  # noqa: E402

from passl.utils.misc import IMAGENET_MEAN as MEAN, IMAGENET_STD as STD  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
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


# data

def checked(root, tmp_path, part='train_dataset', **data):
    cfg = custom(data=root)
    cfg[part].update(data)
    return layout.check(cfg, part, str(tmp_path)), cfg


def test_folders_become_a_list_that_paddleseg_reads(folders, tmp_path):
    count, cfg = checked(folders, tmp_path)
    assert count == 6
    assert cfg['model']['num_classes'] == cfg['train_dataset']['num_classes'] == cfg['val_dataset']['num_classes'] == 4
    data = manager.DATASETS['Dataset'](transforms=[], **{k: v for k, v in cfg['train_dataset'].items()
                                                         if k not in ('type', 'transforms')})
    assert [[os.path.basename(p) for p in pair] for pair in data.file_list] == [[f'a {i}.png'] * 2 for i in range(6)]
    assert all(os.path.isfile(p) for pair in data.file_list for p in pair)


def test_labels_with_and_without_numbers(tmp_path):
    path = tmp_path / 'labels.txt'
    assert layout.read_labels(str(path)) is None
    path.write_text('background\nred thing\n\n')
    assert layout.read_labels(str(path)) == ['background', 'red thing']
    path.write_text('0 background\n1 red thing\n')
    assert layout.read_labels(str(path)) == ['background', 'red thing']
    path.write_text('1 a\n0 b\n')
    with pytest.raises(DataError, match='numbered 0, 1, 2'):
        layout.read_labels(str(path))


def test_voc_and_cityscapes_as_paddleseg_pairs_them(voc, cityscapes, tmp_path):
    for kind, root, mode, count in (('PascalVOC', voc, 'trainaug', 6), ('PascalVOC', voc, 'val', 2),
                                    ('Cityscapes', cityscapes, 'train', 3), ('Cityscapes', cityscapes, 'val', 2)):
        assert checked(root, tmp_path, type=kind, mode=mode)[0] == count
        theirs = manager.DATASETS[kind](transforms=[], dataset_root=root, mode=mode).file_list
        pairs, _ = layout._KNOWN[kind](root, mode)
        assert sorted(map(tuple, theirs)) == sorted(pairs)


def copy_of(root, tmp_path):
    shutil.copytree(root, tmp_path / 'copy')
    return str(tmp_path / 'copy')


def repaint(path, change):
    array = np.array(Image.open(path))
    Image.fromarray(change(array)).save(path)


@pytest.mark.parametrize('harm, words', [
    (lambda r: shutil.rmtree(f'{r}/masks/train'), r"no folder '.*masks/train'. Expected"),
    (lambda r: os.remove(f'{r}/masks/train/a 2.png'), '1 of 6 images .* have no label map .*: a 2'),
    (lambda r: os.remove(f'{r}/labels.txt'), 'no labels.txt'),
    (lambda r: repaint(f'{r}/masks/train/a 1.png', lambda m: m + (m == 3) * np.uint8(9)), r'values \[12\].*4 classes'),
    (lambda r: repaint(f'{r}/masks/train/a 1.png', lambda m: m[:-1]), '52 x 40, its label map 52 x 39'),
    (lambda r: repaint(f'{r}/masks/train/a 1.png', lambda m: np.stack([m] * 3, -1)), 'mode RGB.*one channel'),
    (lambda r: open(f'{r}/masks/train/a 1.png', 'w').close(), "Cannot read"),
    (lambda r: [os.remove(f) for f in glob.glob(f'{r}/images/train/*')], 'holds no images'),
    (lambda r: shutil.copy(f'{r}/images/train/a 1.png', f'{r}/images/train/a 1.jpg'), 'the same name')])
def test_wrong_folders(folders, tmp_path, harm, words):
    root = copy_of(folders, tmp_path)
    harm(root)
    with pytest.raises(DataError, match=words):
        checked(root, tmp_path)


def test_wrong_lists_and_numbers_of_classes(folders, tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('images/train/a 1.png masks/train/a 1.png\n')
    with pytest.raises(DataError, match='line 1: expected .*separator'):
        checked(folders, tmp_path, train_path=str(path))
    path.write_text('images/train/a 1.png,masks/train/none.png\n')
    with pytest.raises(DataError, match='1 of 2 files .* missing: .*none.png'):
        checked(folders, tmp_path, train_path=str(path), separator=',')
    with pytest.raises(DataError, match='no list file'):
        checked(folders, tmp_path, train_path='none.txt')
    with pytest.raises(DataError, match="number of classes differs: {'train_dataset': 7, 'labels.txt': 4}"):
        checked(folders, tmp_path, num_classes=7)


def test_roots_that_paddleseg_would_download_to(tmp_path):
    for kind in ('PascalVOC', 'OpticDiscSeg'):
        with pytest.raises(DataError, match='Nothing is downloaded'):
            checked(str(tmp_path / 'VOCdevkit'), tmp_path, type=kind, mode='train')
        with pytest.raises(DataError, match='Give --data'):
            checked(None, tmp_path, type=kind, dataset_root=None)


@pytest.mark.parametrize('harm, words', [
    (lambda r: os.rename(f'{r}/VOC2012', f'{r}/VOC'), "There is no '.*VOC2012'"),
    (lambda r: os.remove(f'{r}/VOC2012/ImageSets/Segmentation/aug.txt'), 'aug.txt.*mode=train'),
    (lambda r: os.remove(f'{r}/VOC2012/SegmentationClassAug/2007_000004.png'), '1 of 12 files .*2007_000004.png')])
def test_wrong_voc(voc, tmp_path, harm, words):
    root = copy_of(voc, tmp_path)
    harm(root)
    with pytest.raises(DataError, match=words):
        checked(root, tmp_path, type='PascalVOC', mode='trainaug')


def test_voc_itself_in_place_of_the_folder_above(voc, tmp_path):
    with pytest.raises(DataError, match='give the folder above'):
        checked(f'{voc}/VOC2012', tmp_path, type='PascalVOC', mode='val')


@pytest.mark.parametrize('harm, words', [
    (lambda r: shutil.rmtree(f'{r}/gtFine'), 'leftImg8bit and gtFine'),
    (lambda r: [os.remove(f) for f in glob.glob(f'{r}/gtFine/*/*/*TrainIds.png')], 'csCreateTrainIdLabelImgs'),
    (lambda r: os.remove(glob.glob(f'{r}/gtFine/train/city0/*TrainIds.png')[0]), 'without their partner: city0_')])
def test_wrong_cityscapes(cityscapes, tmp_path, harm, words):
    root = copy_of(cityscapes, tmp_path)
    harm(root)
    with pytest.raises(DataError, match=words):
        checked(root, tmp_path, type='Cityscapes', mode='train')


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
