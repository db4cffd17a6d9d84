"""Pascal VOC: masks, boxes, instances and several labels per image."""

import os
import shutil

import numpy as np
import pytest

from passl.datasets.labelled import build_detection, build_multilabel, build_segmentation
from passl.utils.errors import ConfigError, DataError
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
    assert [os.path.basename(os.path.dirname(m)) for m in ds.masks] == ['SegmentationClass'] * 4 + [
        'SegmentationClassAug'] * 2
    assert [scenes[i].split for i in ds.ids] == ['train'] * 4 + ['aug'] * 2
    assert 'Aug' in build_segmentation('voc', root, 'train', masks='SegmentationClassAug').masks[0]


def test_what_is_said_about_other_folders(own):
    for wrong in (own / 'JPEGImages', own.parent.parent):
        with pytest.raises(DataError, match=f"use root='{own}'"):
            build_segmentation('voc', wrong, 'train')
    with pytest.raises(DataError, match='Lists that are there: train, trainaug, trainval, val'):
        build_segmentation('voc', own, 'test')


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


def test_boxes(rendered):
    root, scenes = rendered
    ds = build_detection('voc', root, 'trainval')
    assert len(ds) == 6 and ds.classes == list(VOC_NAMES[1:]) and ds.dropped == []
    for i, (image, target, name) in enumerate(ds[i] for i in range(6)):
        scene = scenes[name]
        assert target['boxes'].tolist() == [[float(v) for v in b] for b in scene.boxes]
        assert target['labels'].tolist() == [c - 1 for c in scene.classes] and image.shape == (48, 64, 3)
        assert target['difficult'].tolist() == [i == 0 and k == 0 for k in range(3)] and not target['crowd'].any()
        assert target['boxes'].dtype == np.float32 and target['labels'].dtype == np.int64


def test_masks_of_objects(rendered):
    root, scenes = rendered
    ds = build_detection('voc', root, 'train', masks=True)
    for _, target, name in (ds[i] for i in range(4)):
        for k, mask in enumerate(target['masks']):
            np.testing.assert_array_equal(mask, scenes[name].instances == k + 1)


def test_several_labels(rendered):
    root, scenes = rendered
    ds = build_multilabel('voc', root, 'trainval')
    assert len(ds) == 6 and ds.labels.shape == (6, 20) and ds.labels.dtype == np.int8
    for i in range(6):
        image, labels = ds[i]
        scene = scenes[ds.ids[i]]
        expected = [int(c in scene.classes) for c in range(1, 21)]
        if i == 0 and scene.classes.count(scene.classes[0]) == 1:
            expected[scene.classes[0] - 1] = -1
        assert labels.tolist() == expected and image.shape == (48, 64, 3)
    assert (ds.labels == 1).sum() > 6


def test_a_class_that_is_only_difficult_counts_neither_way(own):
    (own / 'ImageSets/Main/dog_val.txt').write_text('2007_000004  0\n2007_000005 -1\n')
    assert build_multilabel('voc', own, 'val').labels[:, VOC_NAMES.index('dog') - 1].tolist() == [-1, 0]


@pytest.mark.parametrize('text, said', [('2007_000004 2\n', 'label 1, 0 or -1'), ('2007_000004\n', 'label 1, 0 or -1'),
                                        ('2007_000004 1\n2007_000004 1\n', 'again'), ('2007_000004 1\n', '0005. is m'),
                                        ('2007_000004 1\n2007_000005 1\nx 1\n', 'same images')])
def test_wrong_lists_of_classes(own, text, said):
    (own / 'ImageSets/Main/dog_val.txt').write_text(text)
    with pytest.raises(DataError, match=said):
        build_multilabel('voc', own, 'val')


def test_other_trees_in_the_same_format(own):
    os.rename(own / 'JPEGImages', own / 'images')
    os.rename(own / 'Annotations', own / 'annotations')
    (own / 'mine.txt').write_text('2007_000003\n')
    (own / 'names.txt').write_text('\n'.join(VOC_NAMES[:0:-1]))
    ds = build_detection('voc', own, images='images', annotations='annotations', list_file='mine.txt',
                         classes='names.txt')
    assert ds.ids == ['2007_000003'] and ds.classes[0] == 'tvmonitor'
    assert build_detection('voc', own, 'train').images[0].endswith('images/2007_000000.jpg')
    os.rename(own / 'images', own / 'pictures')
    with pytest.raises(DataError, match='missing: JPEGImages'):
        build_detection('voc', own)
    os.rename(own / 'pictures', own / 'images')
    (own / 'names.txt').write_text('cat\n')
    with pytest.raises(DataError, match=r'object 1 is .*none of the 1 classes.*classes=FILE'):
        build_detection('voc', own, images='images', annotations='annotations', list_file='mine.txt',
                        classes='names.txt')
    with pytest.raises(ConfigError, match='lies outside'):
        build_detection('voc', own, images='images', annotations='annotations', list_file='../mine.txt')


def test_splits_in_folders(own):
    kit = own.parent
    shutil.copytree(own, kit / 'VOC2007')
    os.remove(kit / 'VOC2007/ImageSets/Main/val.txt')
    both = build_detection('voc', [kit, kit], ['VOC2007/train', 'VOC2012/train'])
    assert [i.split('/')[0] for i in both.ids] == ['VOC2007'] * 4 + ['VOC2012'] * 4
    assert len(build_multilabel('voc', own, 'VOC2007/train')) == 4 and len(build_detection('voc', kit, 'val')) == 2
    with pytest.raises(DataError, match="no folder 'VOC2010' for the split"):
        build_detection('voc', kit, 'VOC2010/train')
    with pytest.raises(ConfigError, match='lies outside'):
        build_detection('voc', kit, '../VOC2012/train')


def test_classes_of_a_set_of_its_own(own):
    (own.parent / 'label_list.txt').write_text('\n'.join(VOC_NAMES[:0:-1]))
    assert build_detection('voc', own.parent, 'val').classes == list(VOC_NAMES[:0:-1])
    (own / 'label_list.txt').write_text('\n'.join(VOC_NAMES))
    with pytest.raises(DataError, match="'background', of which there are no boxes"):
        build_detection('voc', own.parent, 'val')


def with_box(root, *corners, name='2007_000004'):
    (root / f'Annotations/{name}.xml').write_text(
        '<annotation><size><width>64</width><height>48</height></size><object><name>dog</name><part><name>head</name>'
        '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>' +
        ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners)) +
        '</bndbox></object></annotation>')


def test_boxes_of_one_based_corners_and_the_border(own):
    with_box(own, 1, 1, 64, 48)
    assert build_detection('voc', own, 'val')[0][1]['boxes'].tolist() == [[0, 0, 64, 48]]
    with_box(own, 3.5, 2, 10.25, 20)
    assert build_detection('voc', own, 'val')[0][1]['boxes'].tolist() == [[2.5, 1, 10.25, 20]]
    with_box(own, 0, 0, 64, 48)
    with pytest.raises(DataError, match=r'object 1 \(dog\) begins at \(0, 0\).*one_based=False'):
        build_detection('voc', own, 'val')
    assert build_detection('voc', own, 'val', one_based=False)[0][1]['boxes'].tolist() == [[0, 0, 64, 48]]
    with_box(own, 60, 40, 70, 99)
    assert build_detection('voc', own, 'val')[0][1]['boxes'].tolist() == [[59, 39, 64, 48]]


@pytest.mark.parametrize('corners, said', [((9, 9, 9, 9), 'no area: its size is 0 x 0'), ((9, 9, 5, 20), 'no area'),
                                           ((70, 3, 80, 9), 'outside the image of 64 x 48')])
def test_boxes_of_no_use(own, corners, said):
    with_box(own, *corners)
    ds = build_detection('voc', own, 'val')
    assert len(ds.dropped) == 1 and ds.dropped[0][0] == '2007_000004' and said in ds.dropped[0][1]
    assert len(ds[0][1]['boxes']) == 0 and len(ds[1][1]['boxes']) == 3
    with pytest.raises(DataError, match=said):
        build_detection('voc', own, 'val', bad_boxes='error')


def test_masks_stay_with_their_boxes_when_one_is_left_out(own):
    path = own / 'Annotations/2007_000001.xml'
    text = path.read_text()
    start = text.index('<object>')
    box = text[text.index('<bndbox>', start):text.index('</bndbox>', start)]
    path.write_text(text.replace(box, '<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>4</xmax><ymax>4</ymax>', 1))
    scene = render_voc(own / 'again')['2007_000001']
    target = build_detection('voc', own, 'train', masks=True)[1][1]
    assert len(target['boxes']) == 2
    np.testing.assert_array_equal(target['masks'][0], scene.instances == 2)


def test_sizes_in_the_xml_must_be_those_of_the_image(own):
    with_box(own, 1, 1, 9, 9)
    path = own / 'Annotations/2007_000004.xml'
    path.write_text(path.read_text().replace('<width>64', '<width>65'))
    with pytest.raises(DataError, match='64 x 48 pixels, but its annotation .* has 65 x 48'):
        build_detection('voc', own, 'val')[0]
    path.write_text(path.read_text().replace('<width>65', '<width>0'))          # some tools write none
    assert len(build_detection('voc', own, 'val')[0][1]['boxes']) == 1
