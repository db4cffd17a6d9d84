"""Cityscapes and ADE20K: numbers in the files, layouts."""

import os

import numpy as np
import pytest

from passl.datasets.labelled import build_segmentation
from passl.utils.errors import ConfigError, DataError
from tests.datasets.labelled.render import CITY_IDS, render_ade20k, render_cityscapes, write_image


def test_cityscapes_numbers(tmp_path):
    scenes = render_cityscapes(tmp_path)
    for split, number in (('train', 3), ('val', 2)):
        ds = build_segmentation('cityscapes', tmp_path, split)
        assert len(ds) == number and ds.num_classes == 19 and ds.classes[0] == 'road' and ds.classes[18] == 'bicycle'
        for image, mask, name in (ds[i] for i in range(number)):
            np.testing.assert_array_equal(mask, scenes[name].mask)
            np.testing.assert_array_equal(image, scenes[name].image)
    # every number of the 34, the licence plate (-1, stored as 255) and one that does not exist
    path = f'{tmp_path}/gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png'
    raw = np.full((48, 96), 255, np.uint8)
    raw[0, :34] = np.arange(34)
    write_image(path, raw)
    mask = ds[0][1]
    assert {v: int(mask[0, v]) for v in range(34) if mask[0, v] != 255} == {v: k for k, v in enumerate(CITY_IDS)}
    assert (mask[1:] == 255).all()
    raw[0, 0] = 34
    write_image(path, raw)
    with pytest.raises(DataError, match='value 34'):
        ds[0]


def test_cityscapes_train_ids(tmp_path):
    scenes = render_cityscapes(tmp_path, train_ids=True)
    ids, trained = (build_segmentation('cityscapes', tmp_path, 'train', labels=k) for k in ('auto', 'labelTrainIds'))
    assert ids.masks[0].endswith('labelIds.png') and trained.masks[0].endswith('labelTrainIds.png')
    for i in range(3):
        np.testing.assert_array_equal(ids[i][1], trained[i][1])
    for path in ids.masks:
        os.remove(path)
    only = build_segmentation('cityscapes', tmp_path)
    np.testing.assert_array_equal(only[0][1], scenes[only.ids[0]].mask)
    write_image(only.masks[0], np.full((48, 96), 26, np.uint8))         # labelIds under the name of labelTrainIds
    with pytest.raises(DataError, match='value 26, which stands for no class'):
        only[0]
    with pytest.raises(ConfigError, match='labels'):
        build_segmentation('cityscapes', tmp_path, labels='color')


def test_cityscapes_layout(tmp_path):
    root = tmp_path / 'cityscapes'
    render_cityscapes(root)
    with pytest.raises(DataError, match=f"use root='{root}'"):
        build_segmentation('cityscapes', root / 'leftImg8bit')
    with pytest.raises(DataError, match='Splits that are there: train, val'):
        build_segmentation('cityscapes', root, 'valid')
    with pytest.raises(DataError, match='not published'):
        build_segmentation('cityscapes', root, 'test')
    os.remove(root / 'gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png')
    assert len(build_segmentation('cityscapes', root, 'train', unpaired='drop')) == 2
    with pytest.raises(DataError, match=r'no masks \(labelTrainIds\)(.|\n)*gtFine_trainvaltest.zip'):
        build_segmentation('cityscapes', root, 'train', labels='labelTrainIds')
    os.rename(root / 'leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png',
              root / 'leftImg8bit/val/munster/munster_000000_000019.png')
    with pytest.raises(DataError, match="does not end in '_leftImg8bit.png'"):
        build_segmentation('cityscapes', root, 'val')
    os.rename(root / 'gtFine', root / 'gtCoarse')
    with pytest.raises(DataError, match=r'missing: gtFine(.|\n)*gtCoarse/, leftImg8bit/'):
        build_segmentation('cityscapes', root, 'val')


def test_ade20k(tmp_path):
    scenes = render_ade20k(tmp_path)
    for split, number in (('training', 4), ('validation', 2)):
        ds = build_segmentation('ade20k', tmp_path, split)
        assert len(ds) == number and ds.num_classes == 150 and ds.classes[:2] == ['thing 1', 'thing 2']
        for _, mask, name in (ds[i] for i in range(number)):
            np.testing.assert_array_equal(mask, scenes[name].mask - np.uint8(1))        # 0 becomes 255
    raw = build_segmentation('ade20k', tmp_path, reduce_zero_label=False, classes=[f'c{k}' for k in range(151)])
    np.testing.assert_array_equal(raw[0][1], scenes[raw.ids[0]].mask)
    assert len(build_segmentation('ade20k', tmp_path)) == 4
    with pytest.raises(DataError, match='Splits that are there: training, validation'):
        build_segmentation('ade20k', tmp_path, 'train')
    mask = scenes[raw.ids[0]].mask.copy()
    mask[0, 0] = 151
    write_image(raw.masks[0], mask)
    with pytest.raises(DataError, match='value 151.* values 1 - 150'):
        build_segmentation('ade20k', tmp_path)[0]


def test_ade20k_names(tmp_path):
    render_ade20k(tmp_path)
    info = tmp_path / 'objectInfo150.txt'
    lines = info.read_text().splitlines()
    lines[1:3] = ['1\t0.2\t3\t4\tdoor, gate', '2\t0.1\t3\t4\tdoor']
    info.write_text('\n'.join(lines))
    assert build_segmentation('ade20k', tmp_path).classes[:3] == ['door, gate', 'door', 'thing 3']
    info.write_text('\n'.join(lines[:5] + lines[6:]))
    with pytest.raises(DataError, match='line 6 does not begin with 5'):
        build_segmentation('ade20k', tmp_path)
    os.remove(info)
    with pytest.raises(DataError, match=r'objectInfo150.txt. and labels.txt are missing(.|\n)*classes='):
        build_segmentation('ade20k', tmp_path)
