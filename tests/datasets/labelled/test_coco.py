"""COCO: boxes, instances in all three forms, masks of classes, and files that are none."""

import json
import os
import random
import shutil

import numpy as np
import pytest

from passl.datasets.labelled import build_detection, build_segmentation
from passl.datasets.labelled.coco_json import CocoFile
from passl.utils.errors import ConfigError, DataError, PasslError
from tests.datasets.labelled.render import render_coco

FILE = 'annotations/instances_train2017.json'


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'coco'
    return root, render_coco(root)


@pytest.fixture
def own(rendered, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(rendered[0], tmp_path / 'coco')
    return tmp_path / 'coco'


def change(root, function, file=FILE):
    content = json.loads((root / file).read_text())
    function(content)
    (root / file).write_text(json.dumps(content))


def test_boxes_and_instances(rendered):
    root, scenes = rendered
    ds = build_detection('coco', root, 'train2017', masks=True)
    assert len(ds) == 4 and ds.classes == ['person', 'car', 'dog'] and ds.category_ids == [1, 3, 18]
    assert ds.dropped == []
    for image, target, name in (ds[i] for i in range(4)):
        scene = scenes[name]
        assert image.shape == (48, 64, 3) and np.abs(image.astype(int) - scene.image).mean() < 5
        assert target['boxes'].dtype == np.float32 and target['labels'].dtype == np.int64
        assert target['boxes'].tolist() == [[float(v) for v in b] for b in scene.boxes]
        assert target['labels'].tolist() == [c - 1 for c in scene.classes]
        assert target['crowd'].tolist() == [k == 2 for k in range(len(scene.boxes))]
        assert not target['difficult'].any() and target['masks'].dtype == bool
        for mask, (x0, y0, x1, y1) in zip(target['masks'], scene.boxes):
            assert mask.sum() == (x1 - x0) * (y1 - y0) and mask[y0:y1, x0:x1].all()
    assert len(ds[3][1]['labels']) == 0 and ds[3][1]['boxes'].shape == (0, 4) and ds[3][1]['masks'].shape == (0, 48, 64)
    ds[0][1]['boxes'][:] = 0                    # a copy, not the data set's own
    assert ds[0][1]['boxes'].any() and 'masks' not in build_detection('coco', root, 'val2017')[0][1]


def test_masks_of_classes(rendered):
    root, scenes = rendered
    ds = build_segmentation('coco', root, 'train2017')
    assert ds.classes == ['background', 'person', 'car', 'dog']
    for _, mask, name in (ds[i] for i in range(4)):
        scene, expected = scenes[name], np.zeros((48, 64), np.uint8)
        order = sorted(range(len(scene.boxes)), key=lambda k: (k != 2, -np.prod([
            scene.boxes[k][2] - scene.boxes[k][0], scene.boxes[k][3] - scene.boxes[k][1]]), k))
        for k in order:                         # crowds first, then from large to small
            x0, y0, x1, y1 = scene.boxes[k]
            expected[y0:y1, x0:x1] = 255 if k == 2 else scene.classes[k]
        np.testing.assert_array_equal(mask, expected)
    assert {255} < {v for i in range(4) for v in np.unique(ds[i][1])}


def test_layouts(own):
    (own / 'images').mkdir()
    for part in ('train2017', 'val2017'):
        os.rename(own / part, own / 'images' / part)
    assert len(build_detection('coco', own)) == 4           # images/<split> as well
    with pytest.raises(DataError, match='Splits that are there: train2017, val2017'):
        build_detection('coco', own, 'train')
    with pytest.raises(DataError, match=f"use root='{own}'"):
        build_detection('coco', own / 'images', 'train2017')
    os.rename(own / 'annotations/instances_val2017.json', own / 'boxes.json')
    ds = build_detection('coco', own, 'val', images='images/val2017', annotations='boxes.json')
    assert len(ds) == 2
    with pytest.raises(DataError, match='no folder .*other'):
        build_detection('coco', own, 'train2017', images='other')
    for name in ('../x.json', '/etc/passwd'):
        with pytest.raises(ConfigError, match='lies outside'):
            build_detection('coco', own, annotations=name)
    os.remove(ds.images[1])
    with pytest.raises(DataError, match=f'1 of 2 images are missing, first .{ds.images[1]}'):
        build_detection('coco', own, 'val', images='images/val2017', annotations='boxes.json')


def first(**changes):
    return lambda c: c['annotations'][0].update(changes)


@pytest.mark.parametrize('harm, said', [
    (lambda c: c.pop('annotations'), "'annotations' is missing.*there are: info, licenses, images"),
    (lambda c: c.update(images={}), "'images' is missing or no list"),
    (lambda c: c.update(categories=[]), 'no categories'),
    (lambda c: c['images'][0].update(file_name='../../secret.jpg'), 'secret.jpg.*lies outside'),
    (lambda c: c['images'][0].update(file_name=''), 'no name'),
    (lambda c: c['images'][0].update(id='one'), 'no whole number'), (first(image_id=1.5), 'no whole number'),
    (lambda c: c['images'][0].update(id=2), 'same id'),
    (lambda c: c['images'][0].update(height=0), 'no height and width'),
    (lambda c: c['images'][0].update(width=10**9), 'pixels are more than'),
    (lambda c: c['images'][1].update(file_name=c['images'][0]['file_name']), 'same file_name'),
    (lambda c: c['categories'][0].update(id=3), 'stands twice'),
    (first(image_id=99), 'belongs to image 99 .* not listed'), (first(category_id=2), 'category 2.* not listed'),
    (first(image_id=True), 'no whole number'), (first(iscrowd=2), 'neither 0 nor 1'), (first(bbox=[1, 2, 3]), "'bbox'"),
    (first(bbox=None), "'bbox'"), (first(bbox=[1, 2, 3, float('nan')]), "'bbox'"),
    (first(bbox=[1, 2, 3, float('inf')]), "'bbox'"),
    (first(segmentation='x'), 'neither a list'), (first(segmentation=[[1, 2]]), 'three or more points'),
    (first(segmentation={'size': [9, 9], 'counts': [81]}), 'size .9, 9., but the image is .48, 64.'),
    (first(segmentation={'size': [48, 64], 'counts': [-1]}), 'no whole numbers'),
    (first(segmentation={'size': [48, 64], 'counts': 'P'}), 'cut off'),
    (first(segmentation={'size': [48, 64]}), "no 'counts'"),
    (first(segmentation=None), "no 'segmentation'"),
])
def test_wrong_files(own, harm, said):
    change(own, harm)
    with pytest.raises(DataError, match=said):
        build_detection('coco', own, 'train2017', masks=True)


def test_files_that_are_no_json(own):
    for text, said in (('[1, 2]', 'a list'), ('{', 'no valid JSON'), ('[' * 10**5, 'no valid JSON'),
                       ('\udcff', 'no UTF-8'), ('{"a": ' + '9' * 10000 + '}', 'JSON')):
        (own / FILE).write_bytes(text.encode('utf-8', 'surrogateescape'))
        with pytest.raises(DataError, match=said):
            build_detection('coco', own)


def test_boxes_without_area_and_beyond_the_border(own, caplog):
    def harm(content):
        content['annotations'][0]['bbox'] = [5, 5, 0, 3]
        content['annotations'][1]['bbox'] = [100, 5, 9, 9]
        content['annotations'][3]['bbox'] = [-4, 40, 10, 30]
    change(own, harm)
    ds = build_detection('coco', own, masks=True)
    assert [i for i, _ in ds.dropped] == ['1', '1'] and 'no area' in ds.dropped[0][1] and 'outside' in ds.dropped[1][1]
    assert len(ds[0][1]['labels']) == 1 and ds[0][1]['crowd'].tolist() == [True] and len(ds[0][1]['masks']) == 1
    x0, y0, x1, y1 = render_third_box(own)
    assert ds[0][1]['masks'][0][y0:y1, x0:x1].all()         # the mask stays with its own box
    assert ds[1][1]['boxes'][0].tolist() == [0, 40, 6, 48]
    with pytest.raises(DataError, match="annotation 0 .* no area.*bad_boxes='drop'"):
        build_detection('coco', own, bad_boxes='error')
    with pytest.raises(ConfigError, match='bad_boxes'):
        build_detection('coco', own, bad_boxes='keep')


def render_third_box(root):
    x, y, w, h = json.loads((root / FILE).read_text())['annotations'][2]['bbox']
    return x, y, x + w, y + h


def test_sizes_must_agree_with_the_image(own):
    def harm(content):
        content['images'][0].update(height=64, width=48)
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 1]
    change(own, harm)
    for build in (build_detection, build_segmentation):
        with pytest.raises(DataError, match='64 x 48 pixels, but its entry in .* has 48 x 64'):
            build('coco', own)[0]


def test_run_lengths_are_told_when_they_are_met(own):
    change(own, first(segmentation={'size': [48, 64], 'counts': [3, 4]}))
    with pytest.raises(DataError, match='annotation 0: the run lengths add up to 7'):
        build_detection('coco', own, masks=True)[0]
    change(own, lambda c: c['categories'][0].update(name='background'))
    with pytest.raises(ConfigError, match='Rename it'):
        build_segmentation('coco', own)


def test_changed_files_give_data_or_an_error_of_ours(rendered, tmp_path):
    """Values of a good file replaced one by one with others, and texts cut."""
    good, rng, fine = (rendered[0] / FILE).read_text(), random.Random(1), 0
    values = [None, True, -1, 0, 1.5, 10**400, float('nan'), '', 'x', [], {}, [[]], {'size': 1}, '../x', 2**63]
    path = tmp_path / 'x.json'

    def places(node):
        for key in (node if isinstance(node, dict) else range(len(node))):
            yield node, key
            if isinstance(node[key], (dict, list)):
                yield from places(node[key])
    for n in range(250):
        content = json.loads(good)
        for _ in range(rng.choice([1, 1, 2])):
            node, key = rng.choice(list(places(content)))
            node[key] = rng.choice(values)
        try:
            text = json.dumps(content) if n % 7 else good[:rng.randrange(len(good))]
        except ValueError:              # Python writes no numbers of so many digits
            continue
        path.write_text(text)
        try:
            CocoFile(str(path))
            fine += 1
        except PasslError:
            pass
    assert 10 < fine < 180
