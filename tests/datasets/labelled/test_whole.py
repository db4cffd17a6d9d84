"""Masks as a whole: what cannot be learned or measured is refused by all commands, with the way out."""

import logging
import os
import signal

import numpy as np
import pytest
from PIL import Image

from passl import cli
from passl.datasets.labelled import build_segmentation
from passl.datasets.labelled.checked import FOLDER, check_pairs, fault_of_masks, judge_masks
from passl.datasets.labelled.statistics import segmentation_statistics
from passl.transfer.paddleseg import config as seg_config
from passl.transfer.paddleseg.data import check_parts, read_parts
from passl.transfer.probes.command import load_data
from passl.transfer.probes.options import build_evaluate_parser
from passl.utils.errors import ConfigError, DataError
from tests.datasets.labelled.render import write_file, write_image
from tests.test_docs import ROOT

CUSTOM = os.path.join(ROOT, 'configs/transfer/seg/custom.yml')


def write_set(root, train, val=None, classes=('background', 'foreground'), images=3):
    """Pairs of 12 x 16 pixels; the masks hold the values of `train` and `val` in columns."""
    for split, values in (('train', train), ('val', train if val is None else val)):
        for k in range(images):
            rng = np.random.RandomState(k)
            mask = np.repeat(np.resize(np.array(values, np.uint8), 16)[None], 12, 0)
            write_image(f'{root}/images/{split}/{k}.png', rng.randint(0, 255, (12, 16, 3)).astype(np.uint8))
            write_image(f'{root}/masks/{split}/{k}.png', mask)
    write_file(f'{root}/labels.txt', '\n'.join(classes))
    return str(root)


def by_seg(root, *options):
    words = [f'{part}.{o}' for part in seg_config.DATASETS for o in options]
    pairs = read_parts(seg_config.read(CUSTOM, words, data=root), seg_config.DATASETS)
    check_parts(pairs)
    return list(pairs.values())


def by_evaluate(root, *options):
    words = ['--tasks', 'linear-seg', '--weights', 'random', '--data', root]
    words += [w for o in options for w in ('--option', o)]
    return load_data(build_evaluate_parser().parse_args(words))[1]


TWO, THREE = ('background', 'foreground'), ('background', 'red', 'blue')
NOTHING = {
    '0 and 255': ([0, 255], None, TWO, "nothing but the class 'background'; 50 % .*Is 255 the class 'foreground'.*"
                  r'mapping=..255, 1..'),
    'all 255': ([255], None, TWO, 'no class at all; 100 %'),
    'all 0': ([0], None, TWO, "nothing but .*'background'; 0 %"),
    'one class of three': ([1, 1, 1, 255], None, THREE, "nothing but the class 'red'.*Is 255 the class 'blue'"),
    'nothing to measure': ([0, 1], [255], TWO, 'evaluation: .*no class at all'),
    'a value far away': ([0, 128], None, TWO, r'holds the value 128, which stands for no class.*mapping=..128, CLASS'),
    'two values far away': ([0, 100, 200], None, TWO, 'holds the value 100, 200')}


@pytest.mark.parametrize('name', NOTHING)
def test_masks_from_which_nothing_is_learned(tmp_path, name, capsys):
    train, val, classes, said = NOTHING[name]
    root = write_set(tmp_path / 'set', train, val, classes)
    for read in (by_seg, by_evaluate):
        with pytest.raises(DataError, match=said):
            read(root)
    split = 'val' if 'evaluation' in said else 'train'
    assert cli.check_main([root, '--segmentation', 'folder', '--split', split]) == 1
    assert 'No problems' not in capsys.readouterr().out


@pytest.mark.parametrize('values, option, expected', [
    ([0, 255], 'mapping=[[255, 1]]', [0, 1]), ([0, 128], 'mapping=[[128, 1]]', [0, 1]),
    ([1, 2, 0], 'mapping=[[2, 0], [0, 255]]', [1, 0, 255])])
def test_a_mapping_is_the_way_out(tmp_path, values, option, expected):
    root = write_set(tmp_path / 'set', values)
    for sets in (by_seg(root, option), [s.dataset for s in by_evaluate(root, option)]):
        for ds in sets:
            assert ds.load_mask(0)[0, :len(values)].tolist() == expected
    assert cli.check_main([root, '--segmentation', 'folder', '--split', 'train', '--option', option]) == 0


@pytest.mark.parametrize('mapping', [
    [1], [[1]], [[1, 0, 2]], [['a', 0]], {256: 0}, {-1: 0}, {1: 2}, {1: 254}, {True: 1}, {0: '1'}, {0: None}, 'x'])
def test_no_mappings(tmp_path, mapping):
    with pytest.raises(ConfigError, match='mapping must be pairs of a value of the masks'):
        build_segmentation('folder', write_set(tmp_path / 'set', [0, 1]), 'train', mapping=mapping)


def test_classes_that_no_mask_for_training_shows(tmp_path, caplog):
    root = write_set(tmp_path / 'set', [0, 1, 255], [0, 2], THREE)
    logging.getLogger('passl').addHandler(caplog.handler)
    try:
        by_seg(root)
    finally:
        logging.getLogger('passl').removeHandler(caplog.handler)
    said = ' '.join(r.getMessage() for r in caplog.records)
    assert "No mask for training shows 'blue' (1 of 3 classes)" in said and "Is 255 the class 'blue'" in said
    assert "'blue': not learned, their IoU is 0" in said


def test_counts_at_the_edge():
    pixels = np.zeros(256, int)
    assert 'no class at all' in fault_of_masks(TWO, pixels)
    pixels[[0, 1]] = 1
    assert fault_of_masks(TWO, pixels) == '' and judge_masks(TWO, pixels, None) is None
    judge_masks(TWO, None, pixels)


def turned(path, orientation=6):
    """Give a picture an EXIF tag that turns it."""
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x112] = orientation
        picture.save(path[:-4] + '.jpg', exif=exif)
    os.remove(path)


def test_turned_photographs_are_counted_and_read_as_they_are_checked(tmp_path, capsys):
    root = write_set(tmp_path / 'set', [0, 1])
    for split in ('train', 'val'):
        for k in range(2):
            turned(f'{root}/images/{split}/{k}.png')
    with pytest.raises(DataError, match='train: 2 of 3 images .*exif=False'):
        by_seg(root)
    assert [ds[0][0].shape for ds in by_seg(root, 'exif=false')] == [(12, 16, 3)] * 2
    assert cli.check_main([root, '--segmentation', 'folder', '--split', 'train', '--option', 'exif=False']) == 0
    assert '2 images carry an EXIF tag' in capsys.readouterr().out
    for split in ('train', 'val'):
        for k in range(2):
            mask = np.array(Image.open(f'{root}/masks/{split}/{k}.png'))
            write_image(f'{root}/masks/{split}/{k}.png', np.ascontiguousarray(np.rot90(mask, -1)))
    assert [ds[0][0].shape for ds in by_seg(root)] == [(16, 12, 3)] * 2


def test_what_is_remembered_belongs_to_the_files_and_the_reader(tmp_path):
    root, memory = write_set(tmp_path / 'set', [0, 1, 2], classes=THREE), str(tmp_path / FOLDER)

    def look(**options):
        return check_pairs(build_segmentation('folder', root, 'train', **options), 'train', memory)
    first, second = look(), look()
    assert [f['remembered'] for f in (first, second)] == [0, 3]
    assert {k: str(v) for k, v in first.items() if k != 'remembered'} == {
        k: str(v) for k, v in second.items() if k != 'remembered'}
    assert look(mapping={2: 255})['remembered'] == 0 and look(exif=False)['remembered'] == 0
    write_image(f'{root}/masks/train/1.png', np.full((12, 16), 1, np.uint8))
    found = look()
    assert found['remembered'] == 2 and found['pixels'][1] > first['pixels'][1]
    for name in os.listdir(memory):
        write_file(f'{memory}/{name}', b'damaged')
    assert look()['remembered'] == 0 and look()['remembered'] == 3
    write_image(f'{root}/masks/train/1.png', np.full((12, 16), 7, np.uint8))
    for _ in range(2):
        with pytest.raises(DataError, match='1 of 3 images cannot be used.*value 7'):
            look()
    os.remove(f'{root}/masks/train/1.png')
    os.remove(f'{root}/images/train/1.png')
    assert look()['remembered'] == 0 and look()['images'] == 2        # another list, another file
    write_file(f'{tmp_path}/none', 'a file in the way')
    assert check_pairs(build_segmentation('folder', root, 'train'), 'train', f'{tmp_path}/none/x')['images'] == 2


@pytest.mark.parametrize('images', [3, 40])
def test_an_image_that_kills_its_reader_is_named_and_the_others_are_counted(images, tmp_path, monkeypatch):
    """Fewer images, and more, than a process gets at a time."""
    found = build_segmentation('folder', write_set(tmp_path, [0, 1], images=images), 'train')
    read = type(found).load_image

    def deadly(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)
    monkeypatch.setattr(type(found), 'load_image', deadly)
    told = []
    out = segmentation_statistics(found, 2, told.append)
    assert out['unusable'] == [{'id': found.ids[2], 'reason': f"'{found.images[2]}': the process that read it was "
                                'killed by SIGKILL'}]
    assert out['pixels'][:2].tolist() == [96 * (images - 1)] * 2 and sum(told) == images
    with pytest.raises(DataError, match=f'train: 1 of {images} images cannot be used.*killed by SIGKILL'):
        check_pairs(found, 'train')
