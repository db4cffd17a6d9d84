"""What the numbers of files with more than 8 bits mean: one range for all files of a set, never guessed per file."""

import json
import logging
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from passl import cli
from passl.datasets import ImageReadError, build_dataset, read_image
from passl.datasets.image import decode_image
from passl.datasets.values import depth_of, measure
from passl.engine.builder import build_trainer
from passl.utils.config import with_defaults
from passl.utils.errors import ConfigError, DataError
from tests.engine.small import clas, write_data

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
RECIPE = [{'name': 'ToTensor'}]


def tiff(a, photometric=None, planar=1, extra=None, order='<', **tags):
    """A TIFF of [H, W] or [H, W, bands] without compression, with the tags that real writers set."""
    a = np.asarray(a)
    bands = a.shape[2] if a.ndim == 3 else 1
    photometric = (2 if bands >= 3 else 1) if photometric is None else photometric
    pixels = np.moveaxis(a, 2, 0) if planar == 2 and a.ndim == 3 else a
    body = pixels.astype(a.dtype.newbyteorder(order)).tobytes()
    form = {'u': 1, 'i': 2, 'f': 3, 'c': 6}[a.dtype.kind]
    strips = bands if planar == 2 else 1
    entries = {256: (4, [a.shape[1]]), 257: (4, [a.shape[0]]), 258: (3, [8 * a.dtype.itemsize] * bands), 259: (3, [1]),
               262: (3, [photometric]), 273: (4, [8 + i * len(body) // strips for i in range(strips)]),
               277: (3, [bands]), 278: (4, [a.shape[0]]), 279: (4, [len(body) // strips] * strips), 284: (3, [planar]),
               339: (3, [form] * bands)}
    if extra is not None:
        entries[338] = (3, extra)
    if 'nodata' in tags:
        entries[42113] = (2, tags['nodata'].encode() + b'\0')
    if 'orientation' in tags:
        entries[274] = (3, [tags['orientation']])
    at = 8 + len(body)
    directory, more = b'', b''
    for tag, (kind, value) in sorted(entries.items()):
        packed = value if kind == 2 else struct.pack(f"{order}{len(value)}{'HL'[kind - 3]}", *value)
        if len(packed) > 4:
            place = struct.pack(order + 'L', at + 2 + 12 * len(entries) + 4 + len(more))
            more += packed + b'\0' * (len(packed) % 2)
        else:
            place = packed.ljust(4, b'\0')
        directory += struct.pack(order + 'HHL', tag, kind, len(value)) + place
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(order + 'L', at)
    return head + body + struct.pack(order + 'H', len(entries)) + directory + bytes(4) + more


def png(a):
    done, data = cv2.imencode('.png', a[..., ::-1] if a.ndim == 3 else a)
    assert done
    return data.tobytes()


DEEP = {        # name: (content, its numbers)
    'u16.tif': (tiff(RAMP), RAMP), 'u16be.tif': (tiff(RAMP, order='>'), RAMP), 'u16.png': (png(RAMP), RAMP),
    'u16.pgm': (b'P5 64 64 65535\n' + RAMP.astype('>u2').tobytes(), RAMP),
    'i16.tif': (tiff(RAMP.astype(np.int16) - 2000), RAMP.astype(int) - 2000),
    'u32.tif': (tiff(RAMP.astype(np.uint32) + 3000000000), RAMP.astype(np.int64) + 3000000000),
    'i32.tif': (tiff(RAMP.astype(np.int32) * 1000 - 70000), RAMP.astype(int) * 1000 - 70000),
    'i8.tif': (tiff((RAMP % 256 - 128).astype(np.int8)), RAMP.astype(int) % 256 - 128),
    'f32.tif': (tiff(RAMP.astype(np.float32) / 7), RAMP / 7), 'f64.tif': (tiff(RAMP / 7), RAMP / 7),
    'rgb16.tif': (tiff(np.dstack([RAMP, RAMP // 2, RAMP // 3])), np.dstack([RAMP, RAMP // 2, RAMP // 3])),
    'rgb16.png': (png(np.dstack([RAMP, RAMP // 2, RAMP // 3])), np.dstack([RAMP, RAMP // 2, RAMP // 3])),
    'rgba16.tif': (tiff(np.dstack([RAMP, RAMP // 2, RAMP // 3, RAMP]), extra=[2]),
                   np.dstack([RAMP, RAMP // 2, RAMP // 3])),
    'rgbf32.tif': (tiff(np.dstack([RAMP, RAMP // 2, RAMP // 3]).astype(np.float32)),
                   np.dstack([RAMP, RAMP // 2, RAMP // 3]))}
NATURAL = [name for name in DEEP if name.startswith(('u16', 'rgb16', 'rgba16'))]


@pytest.mark.parametrize('name', DEEP)
def test_a_range_is_applied_to_every_kind_in_the_same_way(name):
    data, numbers = DEEP[name]
    low, high = float(numbers.min()), float(numbers.max())
    for bottom, top in ((low, high), (low - 10, (low + high) / 2)):
        img = decode_image(data, value_range=[bottom, top])
        wanted = np.clip((numbers - bottom) / (top - bottom), 0, 1) * 255
        wanted = np.dstack([wanted] * 3) if wanted.ndim == 2 else wanted
        assert img.dtype == np.uint8 and img.shape == (64, 64, 3) and img.flags.c_contiguous
        assert np.abs(img - wanted).max() < 2 and img.max() == 255 and (top < high or img.min() == 0)


@pytest.mark.parametrize('name', DEEP)
def test_without_a_range_the_kind_decides_never_the_file(name):
    data, numbers = DEEP[name]
    if name in NATURAL:
        img = decode_image(data)
        assert np.array_equal(img, np.broadcast_to((numbers >> 8 if numbers.ndim == 3 else (numbers >> 8)[..., None]),
                                                   (64, 64, 3)))
        assert np.array_equal(img, decode_image(data, value_range=[0, 65535]))
        return
    with pytest.raises(ImageReadError, match=r'value_range: \[low, high\] beside dataroot \(`passl check-data'):
        decode_image(data, name)


def test_one_pixel_changes_no_other():
    """The scale was guessed from the file's largest number."""
    dark, spot = RAMP % 200, (RAMP % 200).copy()
    spot[0, 0] = 300
    for value_range in (None, [0, 400]):
        a, b = (decode_image(tiff(x), value_range=value_range)[1:] for x in (dark, spot))
        assert np.array_equal(a, b)
    a, b = (decode_image(tiff((x / 200).astype(np.float32)), value_range=[0, 1])[1:] for x in (dark, spot))
    assert np.array_equal(a, b)


def test_twelve_bits_of_sixteen_use_all_shades():
    assert np.unique(decode_image(tiff(RAMP), value_range=[0, 4095])).tolist() == list(range(256))
    assert np.array_equal(decode_image(tiff(RAMP), value_range=[0, 4095])[..., 0], RAMP >> 4)


def test_eight_bits_are_not_concerned():
    grey = (RAMP % 256).astype(np.uint8)
    for data in (png(grey), tiff(grey), png(np.dstack([grey, grey.T, grey])), tiff(np.dstack([grey, grey.T, grey]))):
        for value_range in ([0, 1], [100, 4095]):
            assert np.array_equal(decode_image(data, value_range=value_range), decode_image(data))
        assert np.array_equal(decode_image(data)[..., 0], grey)


def test_small_numbers_may_be_white():
    dark_first = decode_image(tiff(RAMP), value_range=[0, 4095])
    assert np.array_equal(decode_image(tiff(RAMP, photometric=0), value_range=[0, 4095]), 255 - dark_first)


def test_turned_files():
    data = tiff(RAMP, orientation=6)
    assert np.array_equal(decode_image(data, value_range=[0, 4095]), np.rot90(decode_image(
        tiff(RAMP), value_range=[0, 4095]), -1))
    with pytest.raises(ImageReadError, match='is to be turned.*Save it upright'):
        decode_image(tiff(np.dstack([RAMP] * 3), orientation=6), value_range=[0, 4095])


@pytest.mark.parametrize('nodata', ['-9999', 'nan', '-inf'])
def test_declared_missing_values_are_black_and_not_measured(nodata):
    a = RAMP.astype(np.float32)
    a[:8] = float(nodata)
    data = tiff(a, nodata=nodata)
    img = decode_image(data, value_range=[512, 4095])
    assert (img[:8] == 0).all() and img[8, 0, 0] == 0 and img[-1, -1, 0] == 255
    assert measure(a, depth_of(data))[:2] == (512, 4095)


@pytest.mark.parametrize('odd', [np.nan, np.inf, -np.inf])
def test_nan_is_named(odd):
    a = RAMP.astype(np.float32)
    a[3, :5] = odd
    for value_range in (None, [0, 4095]):
        with pytest.raises(ImageReadError, match="'n.tif' holds nan or infinite numbers in 5 of 4096 values"):
            decode_image(tiff(a), 'n.tif', value_range=value_range)


BANDS = np.dstack([(RAMP >> s).astype(np.uint8) for s in range(8)])
REFUSED = {     # name: (content, what is said)
    'rgbn': (tiff(BANDS[..., :4]), 'has 4 bands, of which three are colours'),
    'rgbn, told so': (tiff(BANDS[..., :4], extra=[0]), 'has 4 bands'),
    'rgba and one': (tiff(BANDS[..., :5], extra=[2, 0]), 'has 5 bands'),
    'five grey': (tiff(BANDS[..., :5], photometric=1, extra=[0] * 4), 'has 5 bands, of which one is grey'),
    'five planes': (tiff(BANDS[..., :5], photometric=1, planar=2, extra=[0] * 4), 'has 5 bands'),
    'eight of 16 bits': (tiff(BANDS.astype(np.uint16), photometric=1, extra=[0] * 7), 'has 8 bands'),
    'two': (tiff(BANDS[..., :2], photometric=1, extra=[0]), 'has 2 bands'),
    'three grey': (tiff(BANDS[..., :3], photometric=1, extra=[0, 0]), 'has 3 bands'),
    'planes of 16 bits': (tiff(np.dstack([RAMP] * 3), planar=2), 'one plane after the other'),
    'planes of floats': (tiff(np.dstack([RAMP] * 3).astype(np.float32), planar=2), 'one plane after the other'),
    'half floats': (tiff(RAMP.astype(np.float16)), 'kind float16'),
    'complex': (tiff(RAMP.astype(np.complex64)), 'kind complex64'),
    '64 bits': (tiff(RAMP.astype(np.uint64)), 'kind uint64'),
    'raw': (tiff(RAMP, photometric=32803), 'raw data of a camera'),
    'inks of 16 bits': (tiff(np.dstack([RAMP] * 4), photometric=5), '16 bits per value as a palette, inks'),
    'colours in one band': (tiff(RAMP, photometric=2), 'photometric 2, bands: 1'),
    'grey and alpha': (tiff(np.dstack([RAMP] * 2), photometric=1, extra=[2]), 'bits per value as a palette, inks, al')}


@pytest.mark.parametrize('name', REFUSED)
def test_other_bands_and_numbers_are_refused_with_the_reason(name, tmp_path, capsys):
    data, why = REFUSED[name]
    for value_range in (None, [0, 4095]):
        with pytest.raises(ImageReadError, match=f"'a.tif' .*{why}"):
            decode_image(data, 'a.tif', value_range=value_range)
    (tmp_path / 'a.tif').write_bytes(data)
    assert cli.check_main([str(tmp_path), '--json', str(tmp_path / 'r.json')]) == 1
    entry, = json.loads((tmp_path / 'r.json').read_text())['train']['unreadable']
    assert entry['reason'] == 'unsuitable bands or numbers' and why in entry['detail']


def test_alpha_and_planes_of_eight_bits_are_read():
    for data in (tiff(BANDS[..., :4], extra=[2]), tiff(BANDS[..., :3]),
                 tiff(BANDS[..., :3], planar=2), tiff(BANDS[..., :4], planar=2, extra=[2])):
        assert np.array_equal(decode_image(data), BANDS[..., :3])


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(['u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'f2', 'f4', 'f8', 'c8', 'u8']), st.integers(1, 6),
       st.sampled_from([None, 0, 1, 2, 3, 5, 6, 8, 32803, 34892, 7]), st.sampled_from([1, 2]),
       st.lists(st.integers(0, 3), max_size=5), st.integers(0, 8), st.sampled_from(['<', '>']),
       st.sampled_from([None, '0', 'nan', 'x', '']), st.sampled_from([None, [0, 1], [-5.5, 300]]), st.integers(0, 400))
def test_every_tiff_is_read_or_refused_in_words(kind, bands, photometric, planar, extra, orientation, order, nodata,
                                                value_range, cut):
    a = np.random.RandomState(bands).randint(0, 100, (9, 7, bands)).astype(kind)
    tags = {'orientation': orientation} if orientation else {}
    tags.update({'nodata': nodata} if nodata is not None else {})
    data = tiff(a if bands > 1 else a[..., 0], photometric, planar, extra or None, order, **tags)
    data = data if cut > 200 else data[:len(data) - cut]
    try:
        img = decode_image(data, 'a.tif', value_range=value_range)
    except ImageReadError as e:
        assert "'a.tif'" in str(e)
    else:
        assert img.dtype == np.uint8 and img.shape in ((9, 7, 3), (7, 9, 3))


def folder_of(tmp_path, **files):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, a in files.items():
        (folder / f'{name}.tif').write_bytes(tiff(a))
    return folder


def test_the_range_is_a_setting_of_every_data_set(tmp_path, caplog):
    folder = folder_of(tmp_path, a=RAMP, b=RAMP // 2, c=RAMP // 100)
    cfg = {'name': 'UnlabelledFolder', 'dataroot': str(folder), 'transforms': RECIPE}
    dataset = build_dataset({**cfg, 'value_range': [0, 4095]})
    with caplog.at_level(logging.WARNING, 'passl'):
        images = [dataset[i][0] * 255 for i in range(3)]
    assert [round(float(i.max())) for i in images] == [255, 127, 2]
    assert 'c.tif' in caplog.text and 'uses 0.8% of the value_range [0, 4095]' in caplog.text
    caplog.clear()
    dataset = build_dataset(cfg)
    with caplog.at_level(logging.WARNING, 'passl'):
        assert [round(float(dataset[i][0].max() * 255)) for i in (0, 1, 0)] == [15, 7, 15]
    assert caplog.text.count('value_range is not set, so 0 to 65535') == 1 and 'check-data' in caplog.text
    for wrong in ([1, 0], [0], [0, 'x'], 5, '0 1', [0, float('inf')], [True, 3], [2, 2]):
        with pytest.raises(ConfigError, match="'dataloader.train.dataset.value_range' must be a list of two numbers"):
            build_dataset({**cfg, 'value_range': wrong})
    assert np.array_equal(read_image(folder / 'a.tif', [0, 4095])[..., 0], RAMP >> 4)


def test_floats_without_a_range_stop_a_run_with_the_way_out(tmp_path):
    folder = folder_of(tmp_path, a=RAMP.astype(np.float32), b=RAMP.astype(np.float32))
    dataset = build_dataset({'name': 'UnlabelledFolder', 'dataroot': str(folder), 'transforms': RECIPE})
    with pytest.raises(DataError, match=r'2 of 2 images are unreadable.*Set value_range: \[low, high\]'):
        dataset[0]


def test_train_and_val_with_different_ranges_are_told(tmp_path, make_images, caplog):
    cfg = clas(write_data(tmp_path, make_images))
    for ranges, told in ((([0, 9], [0, 9]), False), (([0, 9], None), True), (([0, 9], [0, 8]), True)):
        for part, value_range in zip(('train', 'val'), ranges):
            cfg['dataloader'][part]['dataset']['value_range'] = value_range
        caplog.clear()
        with caplog.at_level(logging.WARNING, 'passl'):
            build_trainer(with_defaults(cfg), with_val=True)
        assert ('the same number in files of more than 8 bits' in caplog.text) is told


def checked(folder, *words):
    report = folder.parent / f'{folder.name}.json'
    code = cli.check_main([str(folder), '--json', str(report), '--overwrite', *words])
    return code, json.loads(report.read_text())


def test_check_data_measures_the_range_and_names_what_it_does_not_fit(tmp_path, capsys):
    hot = RAMP.copy()
    hot[0, 0] = 65535                           # a defect of the sensor
    folder = folder_of(tmp_path, a=RAMP, b=hot, c=RAMP // 100, d=RAMP * 0 + 7)
    code, report = checked(folder)
    text = capsys.readouterr().out
    values = report['train']['values']
    assert code == 1 and report['problems'] == ['value_range', 'narrow', 'blank'] and values['kinds'] == {'uint16': 4}
    assert (values['lowest'], values['highest'], values['measured']) == (0, 65535, [0, 4092])
    assert report['train']['narrow'] == [str(folder / 'c.tif')] and report['train']['blank'] == [str(folder / 'd.tif')]
    assert '    value_range: [0, 4092]\n' in text and 'of which these use 6.2%' in text
    build_dataset({'name': 'UnlabelledFolder', 'dataroot': str(folder), 'value_range': values['measured']})
    code, report = checked(folder, '--value-range', '0', '65535')
    assert report['problems'] == ['narrow', 'blank'] and report['train']['values']['cut'] == 0
    assert [n[-5:] for n in report['train']['narrow']] == ['c.tif']
    code, report = checked(folder, '--value-range', '1000', '2000')
    assert 'cut' in report['notes'] and report['train']['values']['cut'] == 4
    assert 'hold values outside value_range [1000, 2000]' in capsys.readouterr().out


def test_check_data_knows_floats_nan_and_full_sixteen_bits(tmp_path, capsys):
    nan = RAMP.astype(np.float32)
    nan[0] = np.nan
    folder = folder_of(tmp_path, a=RAMP.astype(np.float32) / 4095, n=nan)
    code, report = checked(folder, '--workers', '1')
    text = capsys.readouterr().out
    assert report['problems'] == ['unreadable', 'value_range'] and 'n.tif: holds nan' in text
    assert report['train']['values']['measured'] == [0.000976801, 0.999023] and '32-bit floats are refused' in text
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'a.tif').write_bytes(tiff(RAMP * 16))
    code, report = checked(tmp_path / 'full')
    assert code == 0 and report['notes'] == ['too_small', 'deep'] and 'value_range: [64, 65456]' in \
        capsys.readouterr().out


def test_the_range_must_have_its_ends_in_order(tmp_path, capsys):
    for words in (['5', '2'], ['nan', '2'], ['a', '2']):
        with pytest.raises((SystemExit, ConfigError)) as e:
            code = cli.check_main([str(tmp_path), '--value-range', *words])
            raise SystemExit(code)
        assert getattr(e.value, 'code', 2) == 2
    assert 'the lower first' in capsys.readouterr().err


def test_eight_bit_images_of_few_shades_are_named_too(tmp_path, capsys):
    board = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8) * 10
    Image.fromarray(board + 50).save(tmp_path / 'few.png')
    Image.fromarray(board * 20).save(tmp_path / 'all.png')
    code, report = checked(tmp_path)
    assert code == 1 and report['problems'] == ['narrow'] and report['train']['narrow'] == [str(tmp_path / 'few.png')]
