"""One reader: check-data, evaluate, transfer-seg and transfer-det find the same pairs, and refuse in the same words."""

import glob
import json
import logging
import os
import shutil

import pytest

from passl.datasets.check import labels as check_labels
from passl.transfer.paddledet.data import prepare_data
from passl.transfer.paddleseg import config as seg_config
from passl.transfer.paddleseg.data import read_parts
from passl.transfer.probes.command import load_data
from passl.transfer.probes.options import FORMATS, build_evaluate_parser
from passl.utils.errors import PasslError
from passl.utils.options import build_check_parser
from tests.datasets.labelled.render import (Scene, render_ade20k, render_cityscapes, render_coco, render_folder,
                                            render_voc, write_file, write_image)
from tests.test_docs import ROOT

CUSTOM = os.path.join(ROOT, 'configs/transfer/seg/custom.yml')
TYPES = {'folder': 'Dataset', 'voc': 'PascalVOC', 'cityscapes': 'Cityscapes', 'ade20k': 'ADE20K'}


def by_check_data(task, kind, root, split, options, monkeypatch):
    """What `passl check-data` looks at."""
    seen = []
    name = f'{task}_statistics'
    look = getattr(check_labels, name)
    monkeypatch.setattr(check_labels, name, lambda ds, *more: seen.append(ds) or look(ds, *more))
    words = [str(root), f'--{task}', kind, *(['--split', split] if split else []),
             *(w for o in options for w in ('--option', o))]
    try:
        check_labels.check_labels(build_check_parser().parse_args(words), 1)
    finally:
        monkeypatch.undo()
    return seen[0]


def by_evaluate(kind, root, splits, options):
    """The two sets with masks of `passl evaluate`."""
    words = ['--tasks', 'linear-seg', '--weights', 'random', '--data', str(root), '--data-format', kind,
             *(w for o in options for w in ('--option', o))]
    words += ['--train-split', splits[0], '--val-split', splits[1]] if splits else []
    return [split.dataset for split in load_data(build_evaluate_parser().parse_args(words))[1]]


def by_transfer_seg(kind, root, splits, options):
    """The two sets of `passl transfer-seg`, which PaddleSeg reads through them."""
    words = []
    for part, split in zip(seg_config.DATASETS, splits or ('train', 'val')):
        settings = {'type': TYPES.get(kind, kind), 'mode': split}
        words += [f'{part}.{key}={value}' for key, value in settings.items()]
        words += [f'{part}.{option}' for option in options]
    return list(read_parts(seg_config.read(CUSTOM, words, data=str(root)), seg_config.DATASETS).values())


def content(ds):
    """[(image's path, mask's path, mask)] of a set, its classes."""
    files = ds.masks or [None] * len(ds)
    return [(os.path.realpath(i), m and os.path.realpath(m), ds[k][1].tolist())
            for k, (i, m) in enumerate(zip(ds.images, files))], ds.classes


def folder(root):
    return render_folder(root)


def city(train_ids):
    def write(root):
        render_cityscapes(root, train_ids=train_ids)
        for path in glob.glob(f'{root}/gtFine/*/*/*_labelIds.png') if train_ids else ():
            os.remove(path)
    return write


def devkit(*changes):
    def write(root):
        render_voc(root / 'VOC2012')
        for change in changes:
            change(root / 'VOC2012')
    return write


def aug_txt(base):
    """PaddleSeg's way: aug.txt has what train.txt lacks, and only these have masks in SegmentationClassAug."""
    lists, names = base / 'ImageSets/Segmentation', {}
    for name in ('train', 'trainaug'):
        names[name] = (lists / f'{name}.txt').read_text().split()
    (lists / 'aug.txt').write_text('\n'.join(n for n in names['trainaug'] if n not in names['train']))
    os.remove(lists / 'trainaug.txt')
    for name in names['train']:
        os.remove(base / f'SegmentationClassAug/{name}.png')


def odd_folder(root):
    """A .tif among others, hidden files of several systems, a mask without image."""
    render_folder(root)
    write_image(f'{root}/images/train/0090.tif', Scene(90).image)
    write_image(f'{root}/masks/train/0090.png', Scene(90).mask)
    write_image(f'{root}/masks/train/0091.png', Scene(91).mask)
    for hidden in ('images/train/._0001.jpg', 'masks/train/._0001.png', 'images/train/__MACOSX/0001.jpg'):
        write_file(f'{root}/{hidden}', b'none')


def odd_voc(root):
    """An image in another format."""
    render_voc(root / 'VOC2012')
    path = root / 'VOC2012/JPEGImages/2007_000001.jpg'
    write_image(str(path.with_suffix('.tif')), Scene(1).image)
    os.remove(path)


def listed(root):
    render_folder(root)
    for split in ('train', 'val'):
        names = sorted(os.listdir(f'{root}/images/{split}'))
        write_file(f'{root}/{split}.txt', ''.join(f'images/{split}/{n}\tmasks/{split}/{n[:-4]}.png\n' for n in names))


def own_names(root):
    """COCO's format as tools for labelling write it: images/train, annotations/instances_train.json."""
    render_coco(root)
    for part in ('train', 'val'):
        shutil.move(root / f'{part}2017', root / 'images' / part)
        os.rename(root / f'annotations/instances_{part}2017.json', root / f'annotations/instances_{part}.json')


# kind, what is written, folder that is given, splits, options, number of pairs
ACCEPTED = {
    'cityscapes as downloaded': ('cityscapes', city(False), '', ('train', 'val'), (), (3, 2)),
    'cityscapes prepared': ('cityscapes', city(True), '', ('train', 'val'), (), (3, 2)),
    'VOCdevkit': ('voc', devkit(), '', ('train', 'val'), (), (4, 2)),
    'VOCdevkit, two years': ('voc', lambda r: (render_voc(r / 'VOC2012'), render_voc(r / 'VOC2007', train=1)), '',
                             ('train', 'val'), (), (4, 2)),
    'VOC2012': ('voc', devkit(), 'VOC2012', ('train', 'val'), (), (4, 2)),
    'trainaug.txt': ('voc', devkit(), '', ('trainaug', 'val'), (), (6, 2)),
    'aug.txt': ('voc', devkit(aug_txt), 'VOC2012', ('trainaug', 'val'), (), (6, 2)),
    'folder': ('folder', folder, '', ('train', 'val'), (), (6, 3)),
    'mixed endings, hidden files, a mask alone': ('folder', odd_folder, '', ('train', 'val'), (), (7, 3)),
    'VOC with a .tif': ('voc', odd_voc, '', ('train', 'val'), (), (4, 2)),
    'an image without mask, left out': ('folder', lambda r: (render_folder(r), os.remove(r / 'masks/train/0001.png')),
                                        '', ('train', 'val'), ('unpaired=drop',), (5, 3)),
    'list': ('list', listed, '', ('train', 'val'), (), (6, 3)),
    'ADE20K': ('ade20k', render_ade20k, '', ('training', 'validation'), (), (4, 2)),
    'COCO': ('coco', render_coco, '', ('train2017', 'val2017'), (), (4, 2)),
    "COCO's format, own names": ('coco', own_names, '', ('train', 'val'), (), (4, 2)),
}


@pytest.mark.parametrize('name', ACCEPTED)
def test_the_same_pairs_of_masks(name, tmp_path, monkeypatch):
    kind, write, below, splits, options, numbers = ACCEPTED[name]
    write(tmp_path)
    root = tmp_path / below
    checked = [content(by_check_data('segmentation', kind, root, s, options, monkeypatch)) for s in splits]
    assert [len(pairs) for pairs, _ in checked] == list(numbers)
    assert [content(ds) for ds in by_evaluate(kind, root, splits, options)] == checked
    assert [content(ds) for ds in by_transfer_seg(kind, root, splits, options)] == checked
    if kind == 'coco':
        assert content(by_check_data('segmentation', kind, root, None, options, monkeypatch)) == checked[0]
    if splits != ('trainaug', 'val'):           # the usual ones need no flag
        assert [content(ds) for ds in by_evaluate(kind, root, (), options)] == checked
        assert [content(ds) for ds in by_transfer_seg(kind, root, (), options)] == checked


def test_both_ways_of_giving_voc_and_cityscapes_are_the_same_labels(tmp_path, monkeypatch):
    def pairs(name, split=0):
        kind, write, below, splits, options, _ = ACCEPTED[name]
        root = tmp_path / name
        write(root)
        ds = by_check_data('segmentation', kind, root / below, splits[split], options, monkeypatch)
        return [(os.path.basename(image), mask) for image, _, mask in content(ds)[0]]
    assert pairs('VOCdevkit') == pairs('VOC2012') == pairs('VOCdevkit, two years')
    assert pairs('trainaug.txt') == pairs('aug.txt')
    assert pairs('cityscapes as downloaded') == pairs('cityscapes prepared')
    assert pairs('folder') == pairs('list')


def test_a_list_in_paddleseg_s_words(tmp_path):
    listed(tmp_path)
    words = [f'{part}.{key}={value}' for part, key, value in (
        ('train_dataset', 'train_path', tmp_path / 'train.txt'), ('val_dataset', 'val_path', tmp_path / 'val.txt'))]
    found = read_parts(seg_config.read(CUSTOM, words, data=str(tmp_path)), seg_config.DATASETS).values()
    assert [content(ds) for ds in found] == [content(ds) for ds in by_evaluate('list', tmp_path, ('train', 'val'), ())]


def gone(path):
    return lambda root: os.remove(root / path)


REFUSED = {
    'an image without mask': ('folder', lambda r: (render_folder(r), os.remove(r / 'masks/train/0001.png')), 'train',
                              ["1 of 6 images have no mask: '{}/images/train/0001.jpg'", "unpaired: 'drop'"]),
    'an image of a street without mask': (
        'cityscapes', lambda r: (city(False)(r), os.remove(glob.glob(f'{r}/gtFine/train/aachen/*1_000019*Ids.png')[0])),
        'train', ['1 of 3 images have no mask', '000001_000019_leftImg8bit.png', "unpaired: 'drop'"]),
    'two images of one name': (
        'folder', lambda r: (render_folder(r), write_image(f'{r}/images/train/0001.tif', Scene(1).image)), 'train',
        ['/0001.jpg', '/0001.tif', 'differ in their ending only']),
    'two masks of one name': (
        'folder', lambda r: (render_folder(r), write_image(f'{r}/masks/train/0001.tif', Scene(1).mask)), 'train',
        ['/0001.png', '/0001.tif', 'differ in their ending only']),
    'two images of one name in VOC': (
        'voc', devkit(lambda b: write_image(f'{b}/JPEGImages/2007_000001.png', Scene(1).image)), 'train',
        ['2007_000001.jpg', '2007_000001.png', 'differ in their ending only']),
    'no such image in VOC': ('voc', devkit(gone('JPEGImages/2007_000001.jpg')), 'train',
                             ['1 of 4 images are missing', 'JPEGImages/2007_000001', 'train.txt']),
    'no masks of SBD': ('voc', devkit(lambda b: shutil.rmtree(b / 'SegmentationClassAug')), 'trainaug',
                        ["no folder 'SegmentationClassAug'", 'SBD']),
    'no labels.txt': ('folder', lambda r: (render_folder(r), os.remove(r / 'labels.txt')), 'train',
                      ['labels.txt', 'is missing', 'classes=NUMBER']),
    'a file of a list is missing': ('list', lambda r: (listed(r), os.remove(r / 'masks/train/0001.png')), 'train',
                                    ['1 of 6 masks are missing', '0001.png', 'train.txt']),
    'a line of a list is no pair': ('list', lambda r: (listed(r), write_file(f'{r}/train.txt', 'a b c\n')), 'train',
                                    ["line 1 ('a b c') is no pair"]),
    'a list leads out': ('list', lambda r: (listed(r), write_file(f'{r}/train.txt', '../a.jpg b.png\n')), 'train',
                         ["'../a.jpg', lies outside", 'allow_outside: true']),
    'no data of this kind': ('cityscapes', folder, 'train', ['missing: leftImg8bit, gtFine']),
    'no folder': ('voc', lambda r: os.rmdir(r), 'train', ['no folder', 'nothing is downloaded']),
}


@pytest.mark.parametrize('name', REFUSED)
def test_the_same_refusals(name, tmp_path, monkeypatch):
    kind, write, split, said = REFUSED[name]
    root = tmp_path / 'set'
    root.mkdir()
    write(root)
    texts = []
    for read in (lambda: by_check_data('segmentation', kind, root, split, (), monkeypatch),
                 lambda: by_evaluate(kind, root, (split, 'val'), ()),
                 lambda: by_transfer_seg(kind, root, (split, 'val'), ())):
        with pytest.raises(PasslError) as e:
            read()
        texts.append(str(e.value))
    assert texts == texts[:1] * 3
    assert all(part.format(root) in texts[0] for part in said)


def test_masks_without_image_and_dropped_images_are_told(tmp_path, caplog):
    odd_folder(tmp_path)
    os.remove(tmp_path / 'masks/train/0001.png')
    with caplog.at_level(logging.WARNING):
        logging.getLogger('passl').addHandler(caplog.handler)
        try:
            by_evaluate('folder', tmp_path, ('train', 'val'), ('unpaired=drop',))
        finally:
            logging.getLogger('passl').removeHandler(caplog.handler)
    text = '\n'.join(r.getMessage() for r in caplog.records)
    assert '1 masks in' in text and '0091.png' in text and 'have no image and are not used' in text
    assert '1 of 7 images have no mask' in text and "left out (unpaired: 'drop')" in text


def test_kinds_are_the_same_everywhere():
    from passl.datasets.labelled.registry import SEGMENTATION
    from passl.transfer.paddleseg.data import KINDS
    assert set(FORMATS) == set(SEGMENTATION.names()) == set(KINDS.values())


# boxes

def by_transfer_det(kind, root, splits, folder):
    """[{image: [(class, box of the XML file or of COCO)]}] of what PaddleDetection gets to read, the classes."""
    from passl.datasets.labelled.voc_xml import read_annotation
    cfg = {'metric': kind.upper(), 'num_classes': 'from_data',
           'voc': {p: [s] for p, s in zip(('train', 'eval'), splits)}}
    for part, split in zip(('TrainDataset', 'EvalDataset'), splits):
        cfg[part] = {} if kind == 'voc' else {'anno_path': f'annotations/instances_{split}.json'}
    classes, _ = prepare_data(cfg, str(root), folder)
    found = []
    for part in ('TrainDataset', 'EvalDataset'):
        top = os.path.join(cfg[part]['dataset_dir'], cfg[part]['image_dir'])
        with open(cfg[part]['anno_path']) as f:
            if kind == 'voc':
                pairs = [[os.path.join(top, p) for p in line.split()] for line in f]
                found.append({os.path.realpath(i): [(n, *b) for n, b, _ in read_annotation(x)[1]] for i, x in pairs})
                continue
            content = json.load(f)
        names = {c['id']: c['name'] for c in content['categories']}
        found.append({os.path.realpath(os.path.join(top, i['file_name'])): [
            (names[a['category_id']], *a['bbox']) for a in content['annotations'] if a['image_id'] == i['id']]
            for i in content['images']})
    return found, classes


def boxes_of(ds, kind):
    """As `by_transfer_det`, from a set: VOC counts from 1 with both ends, COCO gives the size."""
    found = {}
    for i, image in enumerate(ds.images):
        target = ds.target(i)
        found[os.path.realpath(image)] = [
            (ds.classes[c], *((x0 + 1, y0 + 1, x1, y1) if kind == 'voc' else (x0, y0, x1 - x0, y1 - y0)))
            for c, (x0, y0, x1, y1) in zip(target['labels'], target['boxes'].tolist())]
    return found


def plain(root):
    """Folders `images` and `annotations` beside the lists, classes of one's own, an XML file without a size."""
    render_voc(root)
    os.rename(root / 'JPEGImages', root / 'images')
    os.rename(root / 'Annotations', root / 'annotations')
    for split in ('train', 'val'):
        os.rename(root / f'ImageSets/Main/{split}.txt', root / f'{split}.txt')
    from passl.datasets.labelled.voc import CLASSES
    write_file(f'{root}/label_list.txt', '\n'.join(CLASSES[::-1]))
    path = root / 'annotations/2007_000001.xml'
    path.write_text(path.read_text().replace('<width>64', '<width>0'))


def one_folder(root):
    """COCO with all images in `images`."""
    render_coco(root)
    os.mkdir(root / 'images')
    for path in glob.glob(f'{root}/*2017/*'):
        shutil.move(path, root / 'images')
    shutil.rmtree(root / 'train2017')


BOXES = {
    'VOCdevkit': ('voc', devkit(), '', ('VOC2012/train', 'VOC2012/val')),
    'VOCdevkit, the only year': ('voc', devkit(), '', ('train', 'val')),
    'VOC2012': ('voc', devkit(), 'VOC2012', ('train', 'val')),
    'VOC2012, splits as in VOCdevkit': ('voc', devkit(), 'VOC2012', ('VOC2012/train', 'VOC2012/val')),
    'another year beside': ('voc', lambda r: (render_voc(r / 'VOC2012'), render_voc(r / 'VOC2007', train=1)), 'VOC2012',
                            ('VOC2007/train', 'VOC2012/val')),
    'plain folders': ('voc', plain, '', ('train', 'val')),
    'VOC with a .tif': ('voc', odd_voc, '', ('train', 'val')),
    'COCO': ('coco', render_coco, '', ('train2017', 'val2017')),
    'COCO in one folder': ('coco', one_folder, '', ('train2017', 'val2017')),
}


@pytest.mark.parametrize('name', BOXES)
def test_the_same_boxes(name, tmp_path, monkeypatch):
    kind, write, below, splits = BOXES[name]
    write(tmp_path / 'set')
    root = tmp_path / 'set' / below
    checked = [by_check_data('detection', kind, root, s, (), monkeypatch) for s in splits]
    found, classes = by_transfer_det(kind, root, splits, tmp_path / 'lists')
    assert found == [boxes_of(ds, kind) for ds in checked] and classes == checked[0].classes
    assert sum(map(len, found)) == (3 if 'beside' in name else 6)


BAD_BOXES = {
    'no such image': ('voc', devkit(gone('JPEGImages/2007_000001.jpg')), ['1 of 4 images are missing', '2007_000001']),
    'no annotation': ('voc', devkit(gone('Annotations/2007_000001.xml')),
                      ['1 of 4 annotation files are missing', '2007_000001.xml']),
    'two images of one name': ('voc', devkit(lambda b: write_image(f'{b}/JPEGImages/2007_000001.png', Scene(1).image)),
                               ['2007_000001.jpg', '2007_000001.png', 'differ in their ending only']),
    'corners from 0': ('voc', devkit(lambda b: (b / 'Annotations/2007_000001.xml').write_text(
        '<annotation><object><name>dog</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>'
        '</object></annotation>')), ['counts pixels from 1', 'one_based=False']),
    'no objects': ('voc', devkit(lambda b: [p.write_text('<annotation/>') for p in (b / 'Annotations').iterdir()]),
                   ['has an object']),
    'an image of COCO is missing': ('coco', lambda r: (render_coco(r), os.remove(r / 'train2017/000000000002.jpg')),
                                    ['1 of 4 images are missing', '000000000002.jpg']),
}


@pytest.mark.parametrize('name', BAD_BOXES)
def test_the_same_refusals_of_boxes(name, tmp_path, monkeypatch):
    kind, write, said = BAD_BOXES[name]
    write(tmp_path / 'set')
    splits = ('train', 'val') if kind == 'voc' else ('train2017', 'val2017')
    texts = []
    for read in (lambda: by_check_data('detection', kind, tmp_path / 'set', splits[0], (), monkeypatch),
                 lambda: by_transfer_det(kind, tmp_path / 'set', splits, tmp_path / 'lists')):
        with pytest.raises(PasslError) as e:
            read()
        texts.append(str(e.value))
    assert texts[0] == texts[1] and all(part in texts[0] for part in said)


def test_masks_of_different_classes_are_no_pair(tmp_path):
    render_coco(tmp_path)
    path = tmp_path / 'annotations/instances_val2017.json'
    path.write_text(path.read_text().replace('"dog"', '"cat"'))
    for read in (by_evaluate, by_transfer_seg):
        with pytest.raises(PasslError, match='(?s)dog|cat'):
            read('coco', tmp_path, ('train2017', 'val2017'), ())
