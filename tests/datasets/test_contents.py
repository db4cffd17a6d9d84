"""What goes into a training and what is left out is said, and what hardly belongs there is warned of."""

import json
import logging
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from passl import cli
from passl.datasets import build_dataset, read_image
from passl.datasets.contents import describe_images, masks_among, without_masks
from passl.datasets.image import EXTENSIONS
from passl.datasets.listing import is_hidden, is_image_name, list_trees
from passl.datasets.path_list import PathList
from passl.utils.errors import DataError
from tests.engine.small import moco, train

PICTURE = np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)


def touch(root, *names):
    for name in names:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').close()
    return str(root)


def listed(root, name='UnlabelledFolder', **options):
    return build_dataset({'name': name, 'dataroot': root, **options})


SYSTEM = ['$RECYCLE.BIN', '$Recycle.Bin', 'RECYCLER', 'System Volume Information', 'FOUND.000', '__MACOSX', '@eaDir',
          '#recycle', '@Recycle', '@Recently-Snapshot', '#snapshot', '~snapshot', 'lost+found', 'Network Trash Folder',
          'Temporary Items', '__pycache__']
HIDDEN = ['.Trash', '.Trash-1000', '.Trashes', '.thumbnails', '.thumbs', '.ipynb_checkpoints', '.AppleDouble',
          '.snapshot', '.Spotlight-V100', '.git', '.cache']


def test_folders_of_systems_are_left_out_and_counted(tmp_path):
    for number, name in enumerate(SYSTEM + HIDDEN):
        root = touch(tmp_path / str(number), 'a/1.png', f'{name}/2.png', f'a/{name}/deep/3.png')
        dataset = listed(root)
        assert [os.path.basename(p) for p in dataset.samples] == ['1.png']
        lines, warnings = describe_images(dataset, 'x')
        what = f'2 folders of the system (2 {name})' if name in SYSTEM else '2 hidden files or folders'
        assert lines[1] == f'x: left out of the images: {what}.' and not warnings
        assert listed(root, 'ImageFolder').classes == ['a']
    classes = ('recycled', 'recycler', 'thumbs', 'found', 'trash', 'bin', 'snapshot', 'Recycle')
    assert not any(map(is_hidden, classes))


def test_the_block_says_kinds_folders_and_what_was_left_out(tmp_path):
    root = touch(tmp_path / 'd', 'a/1.jpg', 'a/2.JPG', 'a/3.jpe', 'b/c/4.png', 'b/notes.txt', 'b/x.HEIC', 'b/y.heic',
                 'noend', '@eaDir/1.jpg', '.hidden')
    lines, warnings = describe_images(listed(root), 'dataloader.train')
    assert lines == [
        'dataloader.train: 4 images (2 .jpg, 1 .jpe, 1 .png) in 2 folders (a 3, b/c 1).',
        'dataloader.train: left out of the images: 4 files that are no images by their ending (2 .heic, 1 (none), '
        '1 .txt), 1 folders of the system (1 @eaDir), 1 hidden files or folders.']
    assert warnings == ['2 of the files left out are or hold pictures of kinds that are not read: 2 .heic. Write them '
                        'as PNG, TIFF or JPEG.']
    many = touch(tmp_path / 'many', *(f'c{i:02d}/s{j}/{k}.png' for i in range(8) for j in (0, 1) for k in range(i + 1)))
    assert describe_images(listed(many), 'x')[0] == [
        'x: 72 images (72 .png) in 16 folders (c07 16, c06 14, c05 12, c04 10, c03 8 ...).']
    assert describe_images(build_dataset({'name': 'Synthetic', 'num_images': 4}), 'x') == ([], [])
    with pytest.raises(DataError, match=r'holds no images \(left out: 1 files that are no images by their ending \(1 '
                                        r'.txt\)\). Known endings: .jpg'):
        listed(touch(tmp_path / 'none', 'a.txt'))


MASKS = {       # images and masks: which name the message shows
    'masks': (['images/1.jpg', 'masks/1.png'], 'masks'), 'Mask': (['img/1.jpg', 'Mask/1.png'], 'Mask'),
    'labels': (['images/train/1.jpg', 'labels/train/1.png'], 'labels'),
    'annotations': (['images/training/1.jpg', 'annotations/training/1.png'], 'annotations'),
    'gt': (['rgb/1.png', 'gt/1.png'], 'gt'), 'groundtruth': (['a/1.png', 'ground_truth/1.png'], 'ground_truth'),
    'VOC': (['JPEGImages/1.jpg', 'SegmentationClass/1.png'], 'SegmentationClass'),
    'VOC, objects': (['JPEGImages/1.jpg', 'SegmentationObject/1.png'], 'SegmentationObject'),
    'aug': (['JPEGImages/1.jpg', 'SegmentationClassAug/1.png'], 'SegmentationClassAug'),
    'Cityscapes': (['leftImg8bit/a/1.png', 'gtFine/a/1.png'], 'gtFine'),
    'train_masks': (['train/1.jpg', 'train_masks/1.gif'], 'train_masks'),
    'train labels': (['train/1.jpg', 'train labels/1.png'], 'train labels'),
    'trainannot': (['train/1.jpg', 'train-annot/1.png'], 'train-annot'),
    'trimaps': (['images/1.jpg', 'annotations/trimaps/1.png'], 'annotations'),
    'stuffthingmaps': (['train2017/1.jpg', 'stuffthingmaps/train2017/1.png'], 'stuffthingmaps'),
    '标注': (['图像/1.jpg', '标注/1.png'], '标注'), 'semantic': (['rgb/1.jpg', 'semantic_seg/1.png'], 'semantic_seg'),
    '_mask': (['1.jpg', '1_mask.png', '2.jpg', '2_mask.png'], '1_mask.png'),
    '-gt': (['1.jpg', '1-gt.png'], '1-gt.png'), '.seg': (['1.jpg', '1.seg.png'], '1.seg.png'),
    '_mask_0': (['benign (1).png', 'benign (1)_mask_0.png'], 'benign (1)_mask_0.png'),
    'labelIds': (['a_leftImg8bit.png', 'a_gtFine_labelIds.png'], 'a_gtFine_labelIds.png'),
    'same stem': (['1.jpg', '1.png', '2.jpg', '2.png'], '1.png'),
    'same stem, deep': (['a/1.jpeg', 'a/1.bmp', 'b/2.jpeg', 'b/2.bmp'], '1.bmp')}
NO_MASKS = {
    'faces': ['with_mask/1.png', 'without_mask/1.png', 'other/1.png'], 'all': ['masks/1.png', 'masks/2.png'],
    'words': ['labels of wine/1.jpg', 'mask shops/1.jpg', 'c/1.jpg'], 'same names': ['cat/1.png', 'dog/1.jpg'],
    'few': [f'{i}.jpg' for i in range(20)] + ['x_mask.png'], 'unmasked': ['1.jpg', 'unmask.png', '2.jpg'],
    'jpg twice': ['1.jpg', '1.jpeg'], 'segments': ['segments/1.jpg', 'c/2.jpg'],
    'labelled': ['labelled/1.jpg', 'u/2.jpg'],
    'marked class': ['gtr/1.jpg', 'bmw/1.jpg'], 'every name': ['1_mask.png', '2_mask.png']}


def test_masks_beside_images_are_warned_of_and_other_folders_are_not(tmp_path):
    for name, (files, shown) in MASKS.items():
        _, warnings = describe_images(listed(touch(tmp_path / 'a' / name, *files)), 'x')
        assert len(warnings) == 1 and shown in warnings[0] and 'dataroot may be a list' in warnings[0], name
    for name, files in NO_MASKS.items():
        assert describe_images(listed(touch(tmp_path / 'b' / name, *files)), 'x')[1] == [], name


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12)), min_size=1, max_size=9))
def test_no_name_breaks_the_block(names):
    paths = [os.path.join('r', a.replace('\0', ''), b.replace('\0', '') + '.png') for a, b in names]
    with_folders = PathList.of([p.encode('utf-8', 'replace').decode() for p in paths])
    assert isinstance(masks_among(with_folders, ['r']), str)
    assert sum(with_folders.endings().values()) == len(names)
    assert sum(count for _, count in with_folders.folders()) == len(names)


def test_check_data_says_the_same(tmp_path, capsys):
    for name in ('images/1.png', 'images/2.png', 'masks/1.png', '@eaDir/1.png'):
        os.makedirs(os.path.dirname(tmp_path / 'd' / name), exist_ok=True)
        Image.fromarray(np.roll(PICTURE, hash(name) % 7, 0)).save(tmp_path / 'd' / name)
    touch(tmp_path / 'd', 'a.heic', '.hidden')
    dataset = listed(str(tmp_path / 'd'))
    _, warnings = describe_images(dataset, 'x')
    assert cli.check_main([str(tmp_path / 'd'), '--unlabelled', '--json', str(tmp_path / 'r.json')]) == 1
    report, text = json.loads((tmp_path / 'r.json').read_text()), capsys.readouterr().out
    part = report['train']
    assert 'masks' in report['problems'] and 'left_out' in report['notes'] and set(warnings) == {
        *part['masks'], *part['left_out']['pictures']} and all(w in text for w in warnings)
    assert part['left_out']['by_ending'] == {'.heic': 1} and part['left_out']['systems'] == {'@eaDir': 1}
    assert f"left out: {dataset.left_out.words()}." in text


def test_a_training_says_it_at_the_start(tmp_path, make_images, capsys):
    make_images(tmp_path / 'flat' / 'images', 6)
    make_images(tmp_path / 'flat' / 'masks', 6)
    touch(tmp_path / 'flat', 'notes.txt')
    run, _ = train(moco(str(tmp_path), epochs=1), capsys)
    with open(os.path.join(run, 'log.txt'), encoding='utf-8') as f:
        log = f.read()
    assert 'INFO: dataloader.train: 12 images (12 .png) in 2 folders (images 6, masks 6).' in log
    assert 'INFO: dataloader.train: left out of the images: 1 files that are no images by their ending (1 .txt).' in log
    assert 'WARNING: 6 of 12 images lie in folders whose name says masks (6 masks).' in log


KINDS = {'jpe': 'JPEG', 'jif': 'JPEG', 'jfif': 'JPEG', 'mpo': 'MPO', 'apng': 'PNG', 'dib': 'DIB', 'pbm': 'PPM',
         'pnm': 'PPM', 'avif': 'AVIF', 'JPE': 'JPEG', 'AVIF': 'AVIF'}


def test_every_kind_that_can_be_read_is_listed(tmp_path):
    ends = [end for end in KINDS if f'.{end.lower()}' in EXTENSIONS]         # not every Pillow reads AVIF
    paths = [tmp_path / 'd' / f'{number:02d}.{end}' for number, end in enumerate(ends)]
    paths[0].parent.mkdir()
    for number, (path, end) in enumerate(zip(paths, ends)):
        Image.fromarray(np.roll(PICTURE, number, 0)).convert('1' if end == 'pbm' else 'RGB').save(path, KINDS[end])
        assert read_image(path).shape == (40, 40, 3)
    assert list(listed(str(tmp_path / 'd')).samples) == list(map(str, paths)) and len(paths) >= 9
    assert cli.check_main([str(tmp_path / 'd'), '--json', str(tmp_path / 'r.json'), '--size', '8']) == 0
    report = json.loads((tmp_path / 'r.json').read_text())
    assert report['train']['readable'] == len(paths) and report['notes'] == []


def test_endings_are_counted_without_regard_to_case(tmp_path):
    names = ['a.JPG', 'b.jpg', 'c.tar.PNG', 'é.png']
    assert PathList.of(names).endings() == {'.jpg': 2, '.png': 2} and all(map(is_image_name, names))


def test_lists_and_packed_sets_have_a_block_too(tmp_path, make_images, caplog):
    make_images(tmp_path / 'i', 3)
    (tmp_path / 'l.txt').write_text('0000.png\n0001.png\n0001.png\n')
    with caplog.at_level(logging.WARNING, 'passl'):
        dataset = build_dataset({'name': 'ImageList', 'dataroot': str(tmp_path / 'i'), 'list_file':
                                 str(tmp_path / 'l.txt')})
    assert describe_images(dataset, 'x') == (['x: 3 images (3 .png) in 1 folder (. 3).'], [])
    assert 'names 1 images more than once' in caplog.text


@pytest.mark.parametrize('folders, kept, lost', [
    ({'images/train': 3, 'images/val': 1, 'masks/train': 3, 'masks/val': 1}, ['images'], 4),
    ({'images': 2, 'masks': 2}, ['images'], 2),
    ({'train/images': 2, 'train/masks': 2, 'val/images': 1, 'val/masks': 1}, ['train/images', 'val/images'], 3),
    ({'a': 2, 'b/c': 2, 'b/gt': 1}, ['a', 'b/c'], 1),
    ({'a/x': 2, 'a/y': 1}, [''], 0),
    ({'masks': 2, 'labels': 1}, [''], 0),                   # nothing else is there
    ({'': 2, 'masks': 2}, [''], 0),                         # loose images cannot be named without what lies below
    ({'with_mask': 2, 'without_mask': 2}, [''], 0)])        # classes
def test_folders_without_those_of_masks(folders, kept, lost, tmp_path):
    touch(tmp_path, *(os.path.join(folder, f'{i}.png') for folder, count in folders.items() for i in range(count)))
    paths, _ = list_trees([str(tmp_path)])
    roots, left = without_masks(paths, str(tmp_path))
    assert [os.path.relpath(r, tmp_path) for r in roots] == [k or '.' for k in kept] and left == lost
    again, _ = list_trees(roots)
    assert len(again) == sum(folders.values()) - lost
