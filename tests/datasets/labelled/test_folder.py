"""Folders of images and masks: pairs, values, and what is said about wrong ones."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from passl.datasets.labelled import build_segmentation
from passl.datasets.labelled.masks import decode_mask
from passl.utils.errors import ConfigError, DataError, PasslError
from tests.datasets.labelled.render import palette_png, render_folder, write_file, write_image


@pytest.fixture
def tree(tmp_path):
    return tmp_path / 'up' / 'set', render_folder(tmp_path / 'up' / 'set')


def test_pairs_values_and_names(tree):
    root, scenes = tree
    for split, number in (('train', 6), ('val', 3)):
        ds = build_segmentation('folder', root, split)
        assert len(ds) == number and ds.classes == ['background', 'square', 'brick'] and ds.ignore_index == 255
        for i in range(len(ds)):
            image, mask, name = ds[i]
            scene = scenes[name]
            assert image.dtype == mask.dtype == np.uint8 and isinstance(name, str)
            np.testing.assert_array_equal(mask, scene.mask)
            assert np.abs(image.astype(int) - scene.image).max() <= (0 if ds.images[i].endswith('png') else 30)
        assert ds.ids == sorted(ds.ids) and len(ds) == len(set(ds.ids))
    np.testing.assert_array_equal(ds[-1][1], ds[2][1])
    with pytest.raises(IndexError):
        ds[3]


def test_without_parts_and_by_a_list(tmp_path):
    scenes = render_folder(tmp_path, flat=True)
    assert len(build_segmentation('folder', tmp_path)) == 9
    wanted = tmp_path / 'some.txt'
    wanted.write_text('0102\n0003\n')
    ds = build_segmentation('folder', tmp_path, list_file=str(wanted))
    assert ds.ids == ['0102', '0003']
    np.testing.assert_array_equal(ds[0][1], scenes['0102'].mask)
    for text, said in (('0102\n0102\n', 'twice'), ('0102\n../x\n', 'no images'), ('', 'names no images')):
        wanted.write_text(text)
        with pytest.raises(DataError, match=said):
            build_segmentation('folder', tmp_path, list_file=wanted)


def test_unpaired_images(tree):
    root, _ = tree
    os.remove(root / 'masks/train/0001.png')
    (root / 'some.txt').write_text('0000\n0001\n')
    assert build_segmentation('folder', root, 'train', list_file=root / 'some.txt', unpaired='drop').ids == ['0000']
    with pytest.raises(DataError, match='1 of 2 images have no mask'):
        build_segmentation('folder', root, 'train', list_file=root / 'some.txt')
    with pytest.raises(ConfigError, match="'error' or 'drop', not 'skip'"):
        build_segmentation('folder', root, 'train', unpaired='skip')
    for path in (root / 'masks/train').iterdir():
        path.unlink()
    with pytest.raises(DataError, match='no labelled images'):
        build_segmentation('folder', root, 'train', unpaired='drop')


@pytest.mark.parametrize('text, separator', [('images/val/0100.png masks/val/0100.png\n\n', None),
                                             ('images/val/0100.png \t masks/val/0100.png\r\n', None),
                                             ('images/val/0100.png,masks/val/0100.png', ',')])
def test_lists_of_pairs(tree, text, separator):
    root, scenes = tree
    (root / 'mine.txt').write_text(text)
    ds = build_segmentation('list', root, list_file=root / 'mine.txt', separator=separator)
    assert ds.ids == ['images/val/0100.png']
    np.testing.assert_array_equal(ds[0][1], scenes['0100'].mask)


@pytest.mark.parametrize('text, said', [('', 'names no images'), ('a b\na c\n', 'names .a. twice'),
                                        ('a b\nmy photo.jpg b\n', 'line 2 .*no pair.*tab between'),
                                        ('a\t\n', 'no pair'), ('a b\n', '1 of 1 images are missing')])
def test_wrong_lists_of_pairs(tree, text, said):
    root, _ = tree
    (root / 'train.txt').write_text(text)
    with pytest.raises(DataError, match=said):
        build_segmentation('list', root)
    for wrong in ({'separator': ''}, {'allow_outside': 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            build_segmentation('list', root, **wrong)


def test_lists_may_lead_out_when_that_is_said(tree):
    root, _ = tree
    os.makedirs(root / 'lists')
    (root / 'lists/train.txt').write_text('../images/val/0100.png ../masks/val/0100.png\n')
    ds = build_segmentation('list', root / 'lists', allow_outside=True, classes=3)
    assert len(ds) == 1 and ds.classes == ['class 0', 'class 1', 'class 2'] and ds[0][0].shape == (48, 64, 3)


def test_zero_can_be_left_out(tree):
    root, scenes = tree
    ds = build_segmentation('folder', root, 'train', reduce_zero_label=True, classes=['square', 'brick'])
    raw = scenes[ds[0][2]].mask
    np.testing.assert_array_equal(ds[0][1], np.where((raw == 0) | (raw == 255), 255, raw.astype(int) - 1))


def test_class_names(tree):
    root, _ = tree
    (root / 'labels.txt').write_text('0 the ground\n1 square\n2 brick\n')
    assert build_segmentation('folder', root, 'train').classes == ['the ground', 'square', 'brick']
    (root / 'labels.txt').write_text('2 doors\n4 doors\nbus\n')
    assert build_segmentation('folder', root, 'train').classes == ['2 doors', '4 doors', 'bus']
    for text, said in (('', 'names no classes'), ('a\nb\na\n', 'twice'), ('x\n' * 3, 'twice'),
                       (''.join(f'c{k}\n' for k in range(255)), '255 classes')):
        (root / 'labels.txt').write_text(text)
        with pytest.raises(DataError, match=said):
            build_segmentation('folder', root, 'train')
    for wrong in (['a', 3], 255, True):
        with pytest.raises(ConfigError, match='list of names, their number'):
            build_segmentation('folder', root, 'train', classes=wrong)
    os.remove(root / 'labels.txt')
    with pytest.raises(DataError, match=r'labels.txt. is missing.*(.|\n)*expected:(.|\n)*found in(.|\n)*classes='):
        build_segmentation('folder', root, 'train')


@pytest.mark.parametrize('harm, said', [
    (lambda r: os.rename(r / 'masks', r / 'labels'), 'missing: masks(.|\n)*found in(.|\n)*labels/'),
    (lambda r: os.rename(r / 'images/train', r / 'images/training'), 'Splits that are there: training, val'),
])
def test_wrong_layouts(tree, harm, said):
    harm(tree[0])
    with pytest.raises(DataError, match=said):
        build_segmentation('folder', tree[0], 'train')


def test_the_right_folder_nearby_is_named(tree):
    root, _ = tree
    for wrong in (root.parent, root.parent.parent, root / 'images', root / 'images' / 'train'):
        with pytest.raises(DataError, match=f"use root='{root}'"):
            build_segmentation('folder', wrong, 'train')


def test_wrong_calls(tree):
    root, _ = tree
    for error, said, call in (
            (ConfigError, "Did you mean 'folder'", lambda: build_segmentation('foldr', root, 'train')),
            (ConfigError, "Did you mean 'classes'", lambda: build_segmentation('folder', root, 'train', clases=[])),
            (ConfigError, 'lies outside', lambda: build_segmentation('folder', root, '../..')),
            (ConfigError, 'exif', lambda: build_segmentation('folder', root, 'train', exif=1)),
            (ConfigError, 'kind', lambda: build_segmentation(3, root)),
            (DataError, 'no folder', lambda: build_segmentation('folder', root / 'none', 'train'))):
        with pytest.raises(error, match=said):
            call()


def test_a_value_without_a_class_is_named(tree):
    root, scenes = tree
    mask = scenes['0000'].mask.copy()
    mask[5, 5] = 7
    write_image(f'{root}/masks/train/0000.png', mask)
    ds = build_segmentation('folder', root, 'train')
    with pytest.raises(DataError, match=r'masks/train/0000.png. holds the value 7, .* 3 classes have the values 0 - 2'):
        ds[0]
    mask[5, 5] = 254            # the mark for illegal values inside is no way in
    write_image(f'{root}/masks/train/0000.png', mask)
    with pytest.raises(DataError, match='value 254'):
        ds[0]


def test_a_mask_of_another_size_is_refused(tree):
    root, _ = tree
    write_image(f'{root}/masks/train/0000.png', np.zeros((64, 48), np.uint8))
    with pytest.raises(DataError, match=r'64 x 48 pixels, but its mask .* has 48 x 64. Both must have the same size'):
        build_segmentation('folder', root, 'train')[0]


def test_turned_images(tree):
    """A photograph with an EXIF tag: labels may have been drawn on the stored or on the turned pixels."""
    root, scenes = tree
    scene, path = scenes['0001'], f'{root}/images/train/0001.jpg'
    tag = Image.Exif()
    tag[0x112] = 6              # turn by 90 degrees clockwise
    Image.fromarray(scene.image).save(path, quality=95, subsampling=0, exif=tag)
    with pytest.raises(DataError, match=r'48 x 64 pixels, but its mask .* has 64 x 48. .*EXIF.*exif=False'):
        build_segmentation('folder', root, 'train')[1]
    image, mask, _ = build_segmentation('folder', root, 'train', exif=False)[1]
    assert np.abs(image.astype(int) - scene.image).mean() < 5 and mask.shape == (48, 64)
    write_image(f'{root}/masks/train/0001.png', np.rot90(scene.mask, -1))
    image, mask, _ = build_segmentation('folder', root, 'train')[1]
    assert np.abs(image.astype(int) - np.rot90(scene.image, -1)).mean() < 5
    np.testing.assert_array_equal(mask, np.rot90(scene.mask, -1))
    with pytest.raises(DataError, match=r'exif=True'):
        build_segmentation('folder', root, 'train', exif=False)[1]


def encoded(image, kind='PNG', **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width, height, bits, rows):
    """A grey PNG of that size and depth."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)) + \
        chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def test_masks_of_every_depth_are_read_as_numbers():
    numbers = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
    assert decode_mask(encoded(Image.fromarray(numbers.astype(bool)))).tolist() == numbers.tolist()
    for bits in (1, 2, 4, 8):
        values = np.arange(12, dtype=np.uint8).reshape(2, 6) % 2**min(bits, 3)
        data = palette_png(values)
        palette = Image.open(io.BytesIO(data))
        data = encoded(palette, bits=bits) if bits < 8 else data
        assert data[24] == bits and data[25] == 3
        np.testing.assert_array_equal(decode_mask(data), values)
    wide = np.array([[3, 200], [0, 255]], np.uint16)
    assert decode_mask(encoded(Image.fromarray(wide))).tolist() == wide.tolist()


@pytest.mark.parametrize('bits', [2, 4])
def test_grey_masks_of_few_bits(bits):
    """Pillow stretches them to 0 - 255; the stored numbers count."""
    values = np.arange(8) % 2**bits
    row = int(''.join(f'{v:0{bits}b}' for v in values), 2).to_bytes(bits, 'big')
    assert decode_mask(png(8, 1, bits, b'\0' + row)).tolist() == [values.tolist()]


@pytest.mark.parametrize('data, said', [
    (b'', 'is empty'), (b'no image', 'not an image'),
    (encoded(Image.new('RGB', (4, 3))), 'picture in colours.*grey or palette PNG.*LABELLED_DATA'),
    (encoded(Image.new('RGBA', (4, 3))), 'picture in colours'), (encoded(Image.new('LA', (4, 3))), 'in colours'),
    (encoded(Image.new('L', (4, 3)), 'JPEG'), 'is a JPEG file, no PNG'),
    (encoded(Image.fromarray(np.full((2, 2), 26001, np.uint16))), 'value 26001.*instances'),
    (encoded(Image.new('L', (40, 30)))[:50], 'cannot be decoded'),
])
def test_masks_that_are_none(data, said):
    with pytest.raises(PasslError, match=said):
        decode_mask(data, 'm.png')


def test_bombs_are_refused_by_their_header():
    data = png(20000, 20000, 8, b'')
    with pytest.raises(PasslError, match='too large'):
        decode_mask(data)
    with pytest.raises(PasslError, match='too large'):
        decode_mask(encoded(Image.new('L', (40, 30))), max_pixels=1000)


def test_odd_files_in_place_of_texts(tree):
    root, _ = tree
    os.remove(root / 'labels.txt')
    os.mkfifo(root / 'labels.fifo')
    for name, content, said in (('labels.fifo', None, 'no regular file'), ('bin', b'\xff\xfe\0', 'UTF-8'),
                                ('zero', b'a\0b', 'zero byte')):
        if content is not None:
            write_file(f'{root}/{name}', content)
        with pytest.raises(DataError, match=said):
            build_segmentation('folder', root, 'train', classes=str(root / name))
