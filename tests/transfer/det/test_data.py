"""Data folders: the real layouts are taken, wrong ones are refused with the reason."""

import json
import os

import pytest

from passl.datasets.labelled.voc_xml import read_annotation
from passl.transfer.paddledet.data import images_at, known_classes, prepare_data
from passl.utils.errors import ConfigError, DataError
from tests.transfer.det.fixtures import write_coco, write_voc, xml


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


def test_coco_layout_is_left_alone(tmp_path):
    root, cfg = write_coco(tmp_path / 'd'), coco_config()
    folder = os.path.join(root, 'annotations')
    before = {f: os.path.getmtime(os.path.join(folder, f)) for f in os.listdir(folder)}
    assert prepare_data(cfg, root, tmp_path / 'lists')[0] == ['red', 'blue'] and cfg['num_classes'] == 2
    assert cfg['TrainDataset']['anno_path'] == os.path.join(root, 'annotations/instances_train.json')
    masks = coco_config(masks=True)
    prepare_data(masks, root, tmp_path / 'lists')
    with open(masks['TrainDataset']['anno_path']) as f:
        kinds = {type(a['segmentation']) for a in json.load(f)['annotations']}
    assert kinds == {list} and masks['EvalDataset']['anno_path'].startswith(root)
    assert before == {f: os.path.getmtime(os.path.join(folder, f)) for f in os.listdir(folder)}


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


def test_what_paddledetection_takes_for_granted_is_added(tmp_path):
    root, cfg = write_coco(tmp_path / 'd'), coco_config()
    edit('train', lambda c: [a.pop(k) for a in c['annotations'] for k in ('area', 'iscrowd')])(root)
    prepare_data(cfg, root, tmp_path / 'lists')
    with open(cfg['TrainDataset']['anno_path']) as f:
        added = json.load(f)['annotations']
    assert all(a['area'] == a['bbox'][2] * a['bbox'][3] and a['iscrowd'] == 0 for a in added)
    assert cfg['TrainDataset']['anno_path'].startswith(str(tmp_path / 'lists'))


def test_images_and_classes_for_predictions(tmp_path, make_images):
    files = make_images(tmp_path / 'pictures', 2)
    assert images_at(tmp_path / 'pictures') == files and images_at(files[0]) == [files[0]]
    with pytest.raises(DataError, match='No image or folder'):
        images_at(str(tmp_path / 'none'))
    with pytest.raises(DataError, match='label_list.txt'):
        known_classes(str(tmp_path / 'w.pdparams'))
