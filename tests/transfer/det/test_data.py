"""Data folders: the real layouts are taken, wrong ones are refused with the reason."""

import json
import os
import random
from xml.etree import ElementTree

import pytest

from passl.datasets.labelled import statistics
from passl.datasets.labelled.voc_xml import read_annotation
from passl.transfer.paddledet.data import images_at, known_classes, prepare_data
from passl.utils.errors import ConfigError, DataError, PasslError
from tests.transfer.det.fixtures import write_coco, write_voc, xml


run_all = statistics.run_all


def voc_config(**changes):
    return dict({'metric': 'VOC', 'num_classes': 2, 'TrainDataset': {}, 'EvalDataset': {},
                 'voc': {'train': ['VOC2007/trainval', 'VOC2012/trainval'], 'eval': ['VOC2007/test']}}, **changes)


def coco_config(**changes):
    def part(name):
        return {'image_dir': 'images', 'anno_path': f'annotations/instances_{name}.json'}
    return dict({'metric': 'COCO', 'num_classes': 'from_data', 'TrainDataset': part('train'),
                 'EvalDataset': part('val')}, **changes)


def test_voc_layout(tmp_path):
    """The other layouts and the refusals are in tests/datasets/labelled/test_layouts.py."""
    root, cfg = write_voc(tmp_path / 'VOCdevkit'), voc_config(num_classes='from_data')
    classes, said = prepare_data(cfg, root, tmp_path / 'lists')
    assert classes == ['red', 'blue'] and cfg['num_classes'] == 2 and len(said) == 2
    with open(cfg['TrainDataset']['anno_path']) as f:
        pairs = [line.split() for line in f]
    assert len(pairs) == 6 and pairs[5][0] == 'VOC2012/JPEGImages/trainval0001.jpg'
    assert all(os.path.isfile(os.path.join(root, p)) for pair in pairs for p in pair)
    assert open(cfg['EvalDataset']['label_list']).read() == 'red\nblue\n'


def remove(path):
    return lambda root: os.remove(os.path.join(root, path))


def write(path, text):
    def act(root):
        with open(os.path.join(root, path), 'w') as f:
            f.write(text)
    return act


XML = 'VOC2007/Annotations/trainval0000.xml'


def test_options_of_the_reader_are_settings_of_voc(tmp_path):
    root = write_voc(tmp_path / 'VOCdevkit')
    write(XML, xml([('red', (0, 0, 9, 9), 0)]))(root)
    cfg = voc_config()
    with pytest.raises(DataError, match='one_based=False'):
        prepare_data(cfg, root, tmp_path / 'lists')
    cfg['voc']['one_based'] = False
    assert prepare_data(cfg, root, tmp_path / 'lists')[0] == ['red', 'blue']
    cfg['voc']['one_bsed'] = False
    with pytest.raises(ConfigError, match="Did you mean 'one_based'"):
        prepare_data(cfg, root, tmp_path / 'lists')


def test_what_paddledetection_cannot_read_in_a_list(tmp_path):
    """Names with spaces; an XML file without the size of its image gets it in a copy."""
    root = write_voc(tmp_path / 'VOCdevkit')
    write(XML, xml([('red', (1, 1, 9, 9), 0)], 0, 0))(root)
    cfg = voc_config()
    prepare_data(cfg, root, tmp_path / 'lists')
    with open(cfg['TrainDataset']['anno_path']) as f:
        copy = os.path.normpath(os.path.join(root, f.readline().split()[1]))
    assert copy.startswith(str(tmp_path / 'lists'))
    assert read_annotation(copy) == ((60, 80), [('red', [1, 1, 9, 9], False)])
    os.rename(os.path.join(root, 'VOC2007'), os.path.join(root, 'VOC 07'))
    cfg['voc']['train'] = ['VOC 07/trainval']
    with pytest.raises(DataError, match='names with spaces'):
        prepare_data(cfg, root, tmp_path / 'lists')


def test_voc_mistakes_in_the_config(tmp_path):
    root = write_voc(tmp_path / 'VOCdevkit')
    with pytest.raises(DataError, match="--data: no folder"):
        prepare_data(voc_config(), str(tmp_path / 'none'), tmp_path / 'lists')
    with pytest.raises(DataError, match='Give --data'):
        prepare_data(voc_config(), None, tmp_path / 'lists')
    with pytest.raises(ConfigError, match='20, the data have 2 classes'):
        prepare_data(voc_config(num_classes=20), root, tmp_path / 'lists')
    with pytest.raises(ConfigError, match="setting 'voc'"):
        prepare_data(voc_config(voc={'train': []}), root, tmp_path / 'lists')


def edit_file(path, change):
    with open(path) as f:
        content = json.load(f)
    change(content)
    with open(path, 'w') as f:
        json.dump(content, f)


def edit(part, change):
    return lambda root: edit_file(os.path.join(root, 'annotations', f'instances_{part}.json'), change)


def handed(cfg, part='TrainDataset'):
    """The annotation file that PaddleDetection gets."""
    with open(cfg[part]['anno_path'], encoding='utf-8') as f:
        return json.load(f)


def test_coco_layout_is_left_alone_and_a_clean_copy_handed_on(tmp_path):
    root, cfg = write_coco(tmp_path / 'd'), coco_config()
    folder = os.path.join(root, 'annotations')
    before = {f: os.path.getmtime(os.path.join(folder, f)) for f in os.listdir(folder)}
    assert prepare_data(cfg, root, tmp_path / 'lists')[0] == ['red', 'blue'] and cfg['num_classes'] == 2
    assert cfg['TrainDataset']['anno_path'] == str(tmp_path / 'lists/train.json')
    with open(os.path.join(folder, 'instances_train.json')) as f:
        given = json.load(f)
    found = handed(cfg)
    keys = ('id', 'image_id', 'category_id', 'iscrowd', 'bbox', 'area')
    assert [{k: a[k] for k in keys} for a in given['annotations']] == found['annotations']        # no outlines
    assert [found[k] for k in ('images', 'categories')] == [given[k] for k in ('images', 'categories')]
    masks = coco_config(masks=True)
    prepare_data(masks, root, tmp_path / 'lists')
    assert {type(a['segmentation']) for a in handed(masks)['annotations']} == {list}
    # the evaluator reads run lengths itself
    with open(os.path.join(folder, 'instances_val.json')) as f:
        given = json.load(f)['annotations']
    found = handed(masks, 'EvalDataset')['annotations']
    assert [a['segmentation'] for a in given] == [a['segmentation'] for a in found]
    assert before == {f: os.path.getmtime(os.path.join(folder, f)) for f in os.listdir(folder)}


def each(**changes):
    """A change of every annotation; the values are functions of its number and the annotation."""
    def change(content):
        for k, a in enumerate(content['annotations']):
            for key, make in changes.items():
                a[key] = make(k, a)
    return change


def images(**changes):
    def change(content):
        for k, image in enumerate(content['images']):
            image.update({key: make(k, image) for key, make in changes.items()})
    return change


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """(folder, its file of the training, what PaddleDetection gets of it)."""
    folder, cfg = tmp_path_factory.mktemp('plain'), coco_config()
    root = write_coco(folder / 'd')
    with open(os.path.join(root, 'annotations/instances_train.json')) as f:
        given = f.read()
    prepare_data(cfg, root, folder / 'lists', ['train'])
    for a in handed(cfg)['annotations']:
        assert a['area'] == a['bbox'][2] * a['bbox'][3] and a['iscrowd'] == 0
    return root, given, handed(cfg)


@pytest.mark.parametrize('harm', [
    lambda c: [a.pop('id') for a in c['annotations']], each(id=lambda k, a: 1), each(id=lambda k, a: k),
    each(id=lambda k, a: a['image_id']), each(id=lambda k, a: None), each(id=lambda k, a: f'x{k}'),
    each(id=lambda k, a: [k]), each(area=lambda k, a: 0), each(area=lambda k, a: k % 2 and a['area']),
    each(area=lambda k, a: -3.5), each(area=lambda k, a: str(a['area'])), each(area=lambda k, a: None),
    each(area=lambda k, a: float('nan')), each(iscrowd=lambda k, a: False), each(iscrowd=lambda k, a: None),
    each(iscrowd=lambda k, a: '0'), each(iscrowd=lambda k, a: 0.0), each(image_id=lambda k, a: float(a['image_id'])),
    each(category_id=lambda k, a: str(a['category_id'])), each(bbox=lambda k, a: [str(v) for v in a['bbox']]),
    each(segmentation=lambda k, a: [[1, 2]]), each(segmentation=lambda k, a: 'none'),
    images(id=lambda k, i: str(i['id'])), images(height=lambda k, i: 60.0, width=lambda k, i: '80'),
    lambda c: [a.pop(k) for a in c['annotations'] for k in ('area', 'iscrowd')],
    images(height=lambda k, i: None, width=lambda k, i: None), images(file_name=lambda k, i: '.\\' + i['file_name']),
    images(file_name=lambda k, i: i['file_name'].upper())])
def test_what_other_programs_write_comes_out_clean(tmp_path, plain, harm):
    """The same boxes of the same images, whatever the types, ids and names in the file."""
    root, given, good = plain
    content, cfg = json.loads(given), coco_config()
    harm(content)
    write('annotations/instances_train.json', json.dumps(content))(root)
    prepare_data(cfg, root, tmp_path / 'lists', ['train'])
    assert handed(cfg) == good


def test_boxes_in_another_format_are_refused(tmp_path):
    forms = {'x1, y1, x2, y2': lambda k, a: [*a['bbox'][:2], a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3]],
             'YOLO': lambda k, a: [v / s for v, s in zip(a['bbox'], (80, 60, 80, 60))],
             'centre x, centre y': lambda k, a: [a['bbox'][0] + a['bbox'][2] / 2, a['bbox'][1] + a['bbox'][3] / 2,
                                                 *a['bbox'][2:]]}
    for name, change in forms.items():
        root = write_coco(tmp_path / name[:2], counts=(('train', 12), ('val', 3)))
        edit('train', each(bbox=change))(root)
        with pytest.raises(DataError, match=f'right as .*{name}.*Convert'):
            prepare_data(coco_config(), root, tmp_path / 'lists')


def test_every_pair_is_read_and_remembered(tmp_path, monkeypatch):
    root = write_coco(tmp_path / 'd')
    prepare_data(coco_config(), root, tmp_path / 'lists', memory=str(tmp_path / 'memory'))
    read = []
    monkeypatch.setattr(statistics, 'run_all',
                        lambda look, todo, *more: read.extend(todo) or run_all(look, todo, *more))
    prepare_data(coco_config(), root, tmp_path / 'lists', memory=str(tmp_path / 'memory'))
    assert read == []
    path = os.path.join(root, 'images/train3.png')
    with open(path, 'rb') as f:
        data = f.read()
    info = os.stat(path)
    with open(path, 'r+b') as f:                # the same size and time, another content
        f.seek(len(data) // 2)
        f.write(b'\0' * 40)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    for _ in range(2):                          # a fault is not remembered
        with pytest.raises(DataError, match='train: 1 of 6 images cannot be used with their labels: .*train3.png'):
            prepare_data(coco_config(), root, tmp_path / 'lists', memory=str(tmp_path / 'memory'))
    assert read == [3, 3]
    with open(path, 'wb') as f:
        f.write(data)
    edit('train', images(height=lambda k, i: 80, width=lambda k, i: 60))(root)      # every answer depends on this file
    with pytest.raises(DataError, match='train: 6 of 6 images .*80 x 60 pixels, but its entry in .* has 60 x 80'):
        prepare_data(coco_config(), root, tmp_path / 'lists', memory=str(tmp_path / 'memory'))


def test_a_batch_of_images_with_objects_is_needed(tmp_path):
    root, cfg = write_coco(tmp_path / 'd'), coco_config(total_batch=4)
    edit('train', lambda c: c.update(annotations=[a for a in c['annotations'] if a['image_id'] < 3]))(root)
    with pytest.raises(DataError, match='2 of the 6 images for training have an object.*batch of 4.*total_batch'):
        prepare_data(cfg, root, tmp_path / 'lists')
    prepare_data(dict(cfg, total_batch=2), root, tmp_path / 'lists')


@pytest.mark.parametrize('encoding, declared', [
    ('gbk', 'GBK'), ('gbk', 'gb2312'), ('gb18030', 'GB18030'), ('utf-16', 'UTF-16'), ('utf-8-sig', 'utf-8'),
    ('latin-1', 'ISO-8859-1'), ('utf-16-le', None), ('utf-8', 'utf-16'), ('utf-8', 'us-ascii'), ('utf-8-sig', None)])
def test_paddledetection_gets_xml_that_it_can_read(tmp_path, encoding, declared):
    root = write_voc(tmp_path / 'VOCdevkit', [('VOC2007', 'trainval', 1)])
    folder = 'é' if encoding == 'latin-1' else '图片'
    text = xml([('red', (1, 1, 9.5, 9), 'True'), ('blue', (3, 3, 2, 9), 0)]).replace(
        '<annotation>', f'<annotation><folder>{folder}</folder><name>none</name>')
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ''
    with open(os.path.join(root, XML), 'wb') as f:
        f.write((head + text).encode(encoding))
    cfg = voc_config(voc={'train': ['VOC2007/trainval']})
    prepare_data(cfg, root, tmp_path / 'lists', ['train'])
    with open(cfg['TrainDataset']['anno_path']) as f:
        copy = os.path.join(root, f.readline().split()[1])
    tree = ElementTree.parse(copy)              # as PaddleDetection does; the second box has no area
    assert [o.find('name').text for o in tree.findall('object')] == ['red']
    assert [o.find('difficult').text for o in tree.findall('object')] == ['1']
    assert [float(v.text) for v in tree.find('object/bndbox')] == [1, 1, 9.5, 9]
    assert [int(tree.find(f'size/{k}').text) for k in ('width', 'height')] == [80, 60]


@pytest.mark.parametrize('damage, message', [
    (remove('annotations/instances_val.json'), 'missing: annotations/instances_val.json'),
    (edit('val', lambda c: c['categories'].pop()), 'is not listed|different classes'),
    (edit('train', lambda c: c['annotations'][1].pop('segmentation')), "no 'segmentation'"),
    (remove('images/val1.png'), '1 of 3 images are missing.*val1.png')])
def test_wrong_coco_folders(tmp_path, damage, message):
    """The other refusals are in tests/datasets/labelled."""
    root = write_coco(tmp_path / 'd')
    damage(root)
    with pytest.raises(DataError, match=message):
        prepare_data(coco_config(masks=True), root, tmp_path / 'lists')


def test_annotations_and_images_may_lie_elsewhere(tmp_path):
    """What the config names may; what the annotations name may not."""
    root, cfg = write_coco(tmp_path / 'd'), coco_config()
    for part, name in (('TrainDataset', 'train'), ('EvalDataset', 'val')):
        os.rename(os.path.join(root, f'annotations/instances_{name}.json'), tmp_path / f'{name}.json')
        cfg[part]['anno_path'] = str(tmp_path / f'{name}.json')
    del cfg['EvalDataset']['image_dir']
    edit_file(tmp_path / 'val.json', lambda c: [i.update(file_name='images/' + i['file_name']) for i in c['images']])
    prepare_data(cfg, root, tmp_path / 'lists')
    assert cfg['TrainDataset']['image_dir'] == os.path.join(root, 'images')
    assert cfg['EvalDataset']['image_dir'] == root


def test_images_and_classes_for_predictions(tmp_path, make_images):
    files = make_images(tmp_path / 'pictures', 2)
    assert images_at(tmp_path / 'pictures') == files and images_at(files[0]) == [files[0]]
    with pytest.raises(DataError, match='No image or folder'):
        images_at(str(tmp_path / 'none'))
    with pytest.raises(DataError, match='label_list.txt'):
        known_classes(str(tmp_path / 'w.pdparams'))


def test_any_file_gives_clean_annotations_or_an_error_of_ours(tmp_path):
    """Values of a good file replaced with others: what is handed on always keeps what PaddleDetection relies on."""
    root, rng, fine = write_coco(tmp_path / 'd'), random.Random(3), 0
    path = os.path.join(root, 'annotations/instances_train.json')
    with open(path) as f:
        good = f.read()
    values = [None, True, -1, 0, 1, 1.5, '1', '7.0', '', 'x', [], {}, [[]], [[1, 2]], 1e300, 10**30, float('nan')]
    for _ in range(60):
        content = json.loads(good)
        for _ in range(rng.choice([1, 1, 3])):
            node = rng.choice(content[rng.choice(['annotations', 'annotations', 'images', 'categories'])])
            node[rng.choice([*node, 'new'])] = rng.choice(values)
        with open(path, 'w') as f:
            json.dump(content, f)
        cfg = coco_config()
        try:
            prepare_data(cfg, root, tmp_path / 'lists', ['train'])
        except PasslError:
            continue
        fine += 1
        found = handed(cfg)
        assert [a['id'] for a in found['annotations']] == list(range(1, len(found['annotations']) + 1))
        sizes = {i['id']: (i['width'], i['height']) for i in found['images']}
        categories = {c['id'] for c in found['categories']}
        for a in found['annotations']:
            (x, y, w, h), (width, height) = a['bbox'], sizes[a['image_id']]
            assert 0 <= x and 0 <= y and 0 < w <= width - x + 1e-3 and 0 < h <= height - y + 1e-3 and a['area'] > 0
            assert a['category_id'] in categories and a['iscrowd'] in (0, 1)
        assert all(os.path.isfile(os.path.join(root, 'images', i['file_name'])) for i in found['images'])
    assert 15 < fine < 55
