"""Pascal VOC: masks, boxes, instances and several labels per image."""

import os
import shutil

import numpy as np
import pytest

from passl.datasets.labelled import build_segmentation
from passl.utils.errors import DataError
from tests.datasets.labelled.render import VOC_NAMES, render_voc, write_image


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('kit') / 'VOCdevkit' / 'VOC2012'
    return root, render_voc(root)


@pytest.fixture
def own(rendered, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(rendered[0], tmp_path / 'VOCdevkit' / 'VOC2012')
    return tmp_path / 'VOCdevkit' / 'VOC2012'


def test_masks_are_indices_of_the_palette(rendered):
    root, scenes = rendered
    for split, number in (('train', 4), ('val', 2), ('trainval', 6), ('trainaug', 6)):
        ds = build_segmentation('voc', root, split)
        assert len(ds) == number and ds.classes == list(VOC_NAMES)
        for image, mask, name in (ds[i] for i in range(number)):
            np.testing.assert_array_equal(mask, scenes[name].mask)
            assert {0, 255} <= set(np.unique(mask)) and image.shape == (48, 64, 3)
    assert 'SegmentationClassAug' in ds.masks[0]
    assert [scenes[i].split for i in ds.ids] == ['train'] * 4 + ['aug'] * 2
    assert 'Aug' in build_segmentation('voc', root, 'train', masks='SegmentationClassAug').masks[0]


def test_what_is_said_about_other_folders(own):
    for wrong in (own.parent, own / 'JPEGImages', own.parent.parent):
        with pytest.raises(DataError, match=f"use root='{own}'"):
            build_segmentation('voc', wrong, 'train')
    with pytest.raises(DataError, match='Lists that are there: train, trainaug, trainval, val'):
        build_segmentation('voc', own, 'test')
    os.rename(own / 'SegmentationClassAug', own / 'other')
    with pytest.raises(DataError, match='SegmentationClassAug is not part of VOC2012: build it from .*SBD'):
        build_segmentation('voc', own, 'trainaug')
    os.remove(own / 'SegmentationClass' / '2007_000001.png')
    with pytest.raises(DataError, match=r"1 of 4 masks in 'SegmentationClass' are missing, first .*2007_000001.png"):
        build_segmentation('voc', own, 'train')
    os.remove(own / 'JPEGImages' / '2007_000002.jpg')
    with pytest.raises(DataError, match=r"1 of 4 images are missing, first .*2007_000002.jpg"):
        build_segmentation('voc', own, 'train')


@pytest.mark.parametrize('line, said', [('../../x', 'lies outside'), ('/etc/passwd', 'lies outside'),
                                        ('2007_000001', 'twice'),
                                        ('/JPEGImages/a.jpg /SegmentationClassAug/a.png', 'a file and no id'),
                                        ('a\0b', 'zero byte')])
def test_lists_that_are_refused(own, line, said):
    with open(own / 'ImageSets' / 'Segmentation' / 'train.txt', 'a') as f:
        f.write(line + '\n')
    with pytest.raises(DataError, match=said):
        build_segmentation('voc', own, 'train')


def test_masks_in_colours_are_refused(own):
    write_image(f'{own}/SegmentationClass/2007_000000.png', np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(DataError, match='picture in colours'):
        build_segmentation('voc', own, 'train')[0]
