"""What a folder of images may hold besides good images, and what training does about each kind."""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import socket
import struct
import sys
import tempfile
import zlib

import numpy as np
import pytest
from PIL import Image

from passl.datasets import ImageReadError, build_dataloader, build_dataset, read_image
from passl.datasets import image as image_module
from passl.datasets.image import shown
from passl.utils.errors import ConfigError, DataError
from passl.utils.logger import setup_logger

CROP = [{'name': 'RandomResizedCrop', 'size': 8}, {'name': 'ToTensor'}]
NOISE = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
NOT_UTF8 = os.fsdecode(b'gr\xfcn.png')
FORGED = 'a\n[2026-01-01 00:00:00] INFO: Done\x1b[2J.png'


def encode(img, kind, **options):
    out = io.BytesIO()
    (img if isinstance(img, Image.Image) else Image.fromarray(img)).save(out, kind, **options)
    return out.getvalue()


def frames(kind, **options):
    return encode(Image.fromarray(NOISE), kind, save_all=True, append_images=[Image.fromarray(255 - NOISE)], **options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


PNG, JPEG = encode(NOISE, 'PNG'), encode(NOISE, 'JPEG')
DEEP = NOISE.astype(np.uint16) * 256 + 99
GOOD = {            # file name: (content, shape of what is read)
    'animated.gif': (frames('GIF'), (40, 60, 3)), 'animated.webp': (frames('WEBP', lossless=True), (40, 60, 3)),
    'animated.png': (frames('PNG'), (40, 60, 3)), 'cmyk.jpg': (encode(Image.fromarray(NOISE).convert('CMYK'), 'JPEG'),
                                                               (40, 60, 3)),
    'sixteen.png': (encode(Image.fromarray(DEEP[..., 0]), 'PNG'), (40, 60, 3)),
    'grey.jpg': (encode(NOISE[..., 0], 'JPEG'), (40, 60, 3)),
    'alpha.png': (encode(np.dstack([NOISE, NOISE[..., 0]]), 'PNG'), (40, 60, 3)),
    'palette.gif': (encode(Image.fromarray(NOISE).quantize(16), 'GIF'), (40, 60, 3)),
    'turned.jpg': (encode(NOISE, 'JPEG', exif=turned(6)), (60, 40, 3)), 'dot.png': (encode(NOISE[:1, :1], 'PNG'),
                                                                                    (1, 1, 3)),
    'line.png': (encode(np.resize(NOISE, (1, 5000, 3)), 'PNG'), (1, 5000, 3)),
    'pole.jpg': (encode(np.resize(NOISE, (5000, 1, 3)), 'JPEG'), (5000, 1, 3)),
    'wrong ending.png': (JPEG, (40, 60, 3)), '图 片 1.png': (PNG, (40, 60, 3)), 'two\nlines.png': (PNG, (40, 60, 3)),
    NOT_UTF8: (PNG, (40, 60, 3)), "quote'.png": (PNG, (40, 60, 3)), '-rf.png': (PNG, (40, 60, 3)),
    'tail.jpg': (JPEG + b'\0' * 99, (40, 60, 3))}
BAD = {             # file name: (content, what the log says)
    'cut.jpg': (JPEG[:-40], 'cannot be decoded'), 'cut.png': (PNG[:-40], 'cannot be decoded'),
    'flipped.png': (PNG[:3000] + bytes([PNG[3000] ^ 8]) + PNG[3001:], 'cannot be decoded'),
    'spliced.png': (PNG[:2000] + PNG[3000:], 'cannot be decoded'), 'header.jpg': (JPEG[:30], 'cannot be decoded'),
    'zero.png': (b'', 'is empty'), 'text.jpg': (b'<html>404</html>', 'not an image'),
    'zeros.jpg': (b'\0' * 4096, 'not an image'), 'program.jpg': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
                                                                 'not an image'),
    'archive.png': (b'PK\x03\x04' + bytes(200), 'not an image'),
    'huge.png': (PNG[:16] + b'\0\0\x4e\x20\0\0\x4e\x20' + PNG[24:], '20000 x 20000 pixels, more than max_pixels')}


def fill(folder, *kinds):
    for kind in kinds:
        for name, (content, _) in kind.items():
            with open(os.path.join(str(folder), name), 'wb') as f:
                f.write(content)


def special_files(folder):
    """{name: what is said of it} of files that are none, made in `folder`."""
    os.mkfifo(folder / 'pipe.jpg')
    listener = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(folder)            # the name of a socket must be short
    listener.bind('socket.jpg')
    os.chdir(before)
    listener.close()
    os.symlink('/dev/zero', folder / 'device.jpg')
    os.symlink('nowhere.jpg', folder / 'broken.jpg')
    os.symlink('loop.jpg', folder / 'loop.jpg')
    os.symlink(folder, folder / 'circle')
    return {'pipe.jpg': 'no regular file', 'socket.jpg': 'cannot be read', 'device.jpg': 'no regular file',
            'broken.jpg': 'No such file', 'loop.jpg': 'symbolic links'}


@pytest.mark.parametrize('name', GOOD, ids=ascii)
def test_these_are_read(tmp_path, name):
    fill(tmp_path, {name: GOOD[name]})
    img = read_image(str(tmp_path / name))
    assert img.shape == GOOD[name][1] and img.dtype == np.uint8
    dataset = build_dataset({'name': 'UnlabelledFolder', 'dataroot': str(tmp_path), 'transforms': CROP,
                             'return_two_sample': True, 'on_error': 'raise'})
    assert dataset.samples == [str(tmp_path / name)] and [v.shape for v in dataset[0]] == [(3, 8, 8)] * 2


@pytest.mark.parametrize('name', ['animated.gif', 'animated.webp', 'animated.png'])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, name):
    fill(tmp_path, GOOD)
    img = read_image(str(tmp_path / name)).astype(int)
    assert np.abs(img - NOISE).mean() < np.abs(img - (255 - NOISE)).mean() / 2
    if name != 'animated.gif':
        assert np.array_equal(img, NOISE)


def test_sixteen_bits_and_colour(tmp_path):
    fill(tmp_path, GOOD)
    assert np.array_equal(read_image(str(tmp_path / 'sixteen.png')), np.repeat(NOISE[..., :1], 3, 2))
    import cv2
    cv2.imwrite(str(tmp_path / 'deep.png'), DEEP[..., ::-1])
    assert np.abs(read_image(str(tmp_path / 'deep.png')).astype(int) - NOISE).max() <= 1


@pytest.mark.parametrize('name', BAD)
def test_these_are_not(tmp_path, name):
    fill(tmp_path, {name: BAD[name]})
    with pytest.raises(ImageReadError, match=BAD[name][1]) as e:
        read_image(str(tmp_path / name))
    assert name in str(e.value)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no FIFOs')
def test_a_folder_with_everything(tmp_path, make_images):
    """Every bad file is replaced by the same image each time, counted and named, with workers and without."""
    folder = tmp_path / 'images'
    make_images(folder, 30)
    fill(folder, GOOD, BAD)
    special = special_files(folder)
    settings = {'sampler': {'batch_size': 5, 'shuffle': False}, 'dataset': {
        'name': 'UnlabelledFolder', 'dataroot': str(folder), 'transforms': CROP, 'max_bad': 0.5}}
    loaders = {n: build_dataloader({'loader': {'num_workers': n, 'timeout': 60}, **settings}) for n in (0, 2)}
    os.unlink(folder / '0007.png')              # after it was listed
    bad = sorted([*BAD, *special, '0007.png'])
    epochs = []
    for workers, loader in loaders.items():
        setup_logger(str(tmp_path / f'run{workers}'))
        try:
            epochs += [np.concatenate([b[0].numpy() for b in loader]) for _ in (0, 1)]
        finally:
            setup_logger()
        dataset = loader.dataset
        assert sorted(map(os.path.basename, dataset.bad_names())) == bad and dataset.num_bad == len(bad)
        assert len(dataset) == 30 + len(GOOD) + len(BAD) + len(special) == len(epochs[0])
        lines = (tmp_path / f'run{workers}' / 'log.txt').read_text('utf-8').splitlines()
        for name, why in {**{n: why for n, (_, why) in BAD.items()}, **special, '0007.png': 'No such file'}.items():
            mine = [line for line in lines if f'/{name}' in line]
            # two workers that meet a file at the same moment may both name it
            assert mine and all(why in line for line in mine) and len(mine) <= 1 + workers // 2, (name, mine)
    assert all(np.array_equal(epochs[0], other) for other in epochs[1:])
    assert len({image.tobytes() for image in epochs[0]}) > 40


def test_names_cannot_forge_log_lines(tmp_path, make_images):
    make_images(tmp_path / 'i', 9)
    for name in (FORGED, NOT_UTF8, 'rtl\u202egnp.png'):
        (tmp_path / 'i' / name).write_bytes(b'')
    setup_logger(str(tmp_path / 'run'))
    try:
        dataset = build_dataset({'name': 'UnlabelledFolder', 'dataroot': str(tmp_path / 'i'), 'max_bad': 1.0})
        [dataset[i] for i in range(len(dataset))]
    finally:
        setup_logger()
    text = (tmp_path / 'run' / 'log.txt').read_text('utf-8')
    lines = text.split('\n')
    assert len([x for x in lines if x]) == 3 and all('WARNING: Unreadable' in x for x in lines if x), text
    assert '\\n[2026' in text and '\x1b' not in text and '\\udcfc' in text and '\u202e' not in text
    assert shown('猫 1.png') == "'猫 1.png'" and shown('a\r\nb') == "'a\\r\\nb'"
    json.dumps(dataset.bad_names())


@contextlib.contextmanager
def another_user():
    """As an ordinary user, also where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, 'seteuid'), reason='no users')
def test_without_permission(make_images):
    folder = tempfile.mkdtemp(dir='/tmp')
    try:
        files = make_images(folder, 6)
        make_images(os.path.join(folder, 'locked'), 1)
        os.chmod(folder, 0o755)
        for f in files:
            os.chmod(f, 0o644)
        os.chmod(files[2], 0)
        with another_user():
            with pytest.raises(ImageReadError, match="0002.png' cannot be read: Permission denied"):
                read_image(files[2])
            dataset = {'name': 'UnlabelledFolder', 'dataroot': folder, 'index': False}
            assert len(build_dataset(dataset)) == 7
        os.chmod(os.path.join(folder, 'locked'), 0)
        with another_user():
            with pytest.raises(DataError, match=r"locked' cannot be listed: Permission denied.*chmod u\+rx.*dot"):
                build_dataset(dataset)
        os.rename(os.path.join(folder, 'locked'), os.path.join(folder, '.locked'))
        with another_user():
            dataset = build_dataset(dataset)
            assert len(dataset) == 6 and dataset[2][0].shape == (3, 32, 32) and dataset.num_bad == 1
    finally:
        shutil.rmtree(folder)


def test_a_file_of_many_gigabytes_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / 'large.jpg', 'wb') as f:
        f.write(JPEG)
        f.truncate(200 * 2**30)         # takes no room
    with pytest.raises(ImageReadError, match='large.jpg. has more than 1024 MiB.*Remove it'):
        read_image(str(tmp_path / 'large.jpg'))
    monkeypatch.setattr(image_module, 'MAX_FILE_BYTES', len(PNG) - 1)
    (tmp_path / 'a.png').write_bytes(PNG)
    with pytest.raises(ImageReadError, match='more than'):
        image_module.read_file(str(tmp_path / 'a.png'))
    monkeypatch.setattr(image_module, 'MAX_FILE_BYTES', len(PNG))
    assert image_module.read_file(str(tmp_path / 'a.png')) == PNG
    with pytest.raises(ImageReadError, match='cannot be read'):
        image_module.read_file('a\0b.png')


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='no /proc')
def test_a_file_that_says_it_is_empty_is_read_to_its_end():
    assert image_module.read_file('/proc/self/status').startswith(b'Name')


def test_max_pixels_is_a_setting_of_every_data_set(tmp_path):
    fill(tmp_path, {'a.jpg': GOOD['grey.jpg'], 'b.png': GOOD['alpha.png'], 'c.gif': GOOD['palette.gif'],
                    'd.png': GOOD['animated.png'], 'e.png': GOOD['dot.png']})
    settings = {'name': 'UnlabelledFolder', 'dataroot': str(tmp_path), 'transforms': CROP, 'max_bad': 1.0}
    dataset = build_dataset(dict(settings, max_pixels=2399))
    [dataset[i] for i in range(5)]
    assert [os.path.basename(n) for n in dataset.bad_names()] == ['a.jpg', 'b.png', 'c.gif', 'd.png']
    dataset = build_dataset(dict(settings, max_pixels=2400))
    [dataset[i] for i in range(5)]
    assert dataset.num_bad == 0
    for wrong in (0, -1, 1.5, True, 'many'):
        with pytest.raises(ConfigError, match="'dataloader.train.dataset.max_pixels' must be a whole number of 1"):
            build_dataset(dict(settings, max_pixels=wrong))
    assert build_dataset(dict(settings, max_pixels=None)).max_pixels == image_module.MAX_PIXELS == 178956970


def test_more_pixels_than_pillow_allows_by_itself(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    data = GOOD['palette.gif'][0]
    with pytest.raises(ImageReadError, match='too large.*raise max_pixels'):
        image_module.decode_image(data, max_pixels=2000)
    assert image_module.decode_image(data, max_pixels=2400).shape == (40, 60, 3)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height, body, *extra):
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + \
        b''.join(extra) + chunk(b'IDAT', body) + chunk(b'IEND', b'')


def zeros(mib):
    packer, block = zlib.compressobj(9), bytes(2**20)
    return b''.join([packer.compress(block) for _ in range(mib)] + [packer.flush()])


def tiff(tags, body):
    tags = {256: (4, 16), 257: (4, 16), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1), **tags}
    out = b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags))
    for tag, (kind, value) in sorted(tags.items()):
        out += struct.pack('<HHI', tag, kind, 1) + struct.pack('<HH' if kind == 3 else '<I', *[value, 0][:5 - kind])
    return out + struct.pack('<I', 0) + bytes(50) + body


def with_size(kind, at, size):
    data = bytearray(encode(np.zeros((16, 16, 3), np.uint8), kind))
    at = data.index(b'\xff\xc0') + 5 if at is None else at
    data[at:at + len(size)] = size
    return bytes(data)


def bombs():
    """{name: a file of less than 2 MiB that unpacks to 128 MiB and more, or says so}."""
    bomb, dot, turn = zeros(128), zlib.compress(b'\0abc'), chunk(b'eXIf', b'MM\0*\0\0\0\x08\0\0')
    cases = {
        'png 20000': png(20000, 20000, zeros(150)), 'png 2**31': png(2**31 - 1, 2**31 - 1, dot),
        'jpeg 20000': with_size('JPEG', None, struct.pack('>HH', 20000, 20000)),
        'gif': with_size('GIF', 6, struct.pack('<HH', 65535, 65535)),
        'bmp': with_size('BMP', 18, struct.pack('<ii', 60000, 60000)),
        'tiff': tiff({256: (4, 100000), 257: (4, 100000), 273: (4, 200), 279: (4, 100), 278: (4, 100000)}, b''),
        'tiff tile': tiff({322: (4, 60000), 323: (4, 60000), 324: (4, 200), 325: (4, len(bomb))}, bomb),
        'tiff strip': tiff({273: (4, 200), 279: (4, len(bomb)), 278: (4, 2**31)}, bomb)}
    for way, more in (('', ()), (' by Pillow', (turn,))):
        cases['iCCP' + way] = png(1, 1, dot, *more, chunk(b'iCCP', b'x\0\0' + bomb))
        cases['zTXt' + way] = png(1, 1, dot, *more, *[chunk(b'zTXt', b'x\0\0' + bomb)] * 5)
        cases['iTXt' + way] = png(1, 1, dot, *more, chunk(b'iTXt', b'x\0\1\0\0\0' + bomb))
        cases['IDAT' + way] = png(1, 1, bomb, *more)
    return cases


def decode_in_child(name, data, connection):
    """Send (MiB that the peak of memory grows, what came of it)."""
    import resource         # not on Windows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = str(image_module.decode_image(data, name).shape)
    except ImageReadError as e:
        said = str(e)
    connection.send(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, said))


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is counted in KiB on Linux')
def test_bombs_take_no_memory(capfd):
    """16 small files that unpack to 128 MiB and more, or say so: none takes 100 MiB."""
    context, said = multiprocessing.get_context('fork'), {}
    for name, data in bombs().items():
        ours, theirs = context.Pipe()
        child = context.Process(target=decode_in_child, args=(name, data, theirs))
        child.start()
        theirs.close()
        grown, said[name] = ours.recv()
        child.join()
        assert child.exitcode == 0 and grown < 100 and len(data) < 2**21, (name, grown)
    assert len(said) == 16
    for name in ('png 20000', 'png 2**31', 'jpeg 20000', 'gif', 'bmp', 'tiff', 'tiff tile'):
        assert 'too large' in said[name] and 'max_pixels' in said[name], said
