"""Hostile .safetensors, folder indexes, packed files, CIFAR archives and logs."""

import gc
import io
import os
import struct
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from passl.datasets import build_dataset, packed
from passl.datasets import index as index_module
from passl.datasets.cifar import _read_batch
from passl.datasets.image import ImageReadError
from passl.datasets.lmdb_file import FormatError, LmdbFile
from passl.utils.weights.checkpoint import load_file
from passl.utils.errors import CheckpointError, DataError, PasslError
from passl.utils.plots import plot_loss

from . import hostile
from .guard import guarded

F4 = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}
SAFETENSORS = {
    'overlap': ({'a': F4, 'b': F4}, 'overlap'),
    'many names for the same bytes': ({f'n{i}': {'dtype': 'U8', 'shape': [10**6], 'data_offsets': [0, 10**6]}
                                       for i in range(1000)}, 'overlap'),
    'negative': ({'a': dict(F4, data_offsets=[-4, 0])}, 'no pair of rising numbers'),
    'falling': ({'a': dict(F4, data_offsets=[4, 0])}, 'no pair of rising numbers'),
    'beyond the end': ({'a': dict(F4, data_offsets=[10**9, 10**9 + 4])}, 'ends too early'),
    'overflowing': ({'a': dict(F4, data_offsets=[2**63, 2**64])}, 'ends too early'),
    'a float': ({'a': dict(F4, data_offsets=[0.0, 4.0])}, 'no pair of rising numbers'),
    'a flag': ({'a': dict(F4, data_offsets=[False, True])}, 'no pair of rising numbers'),
    'a text': ({'a': dict(F4, data_offsets='04')}, 'no pair of rising numbers'),
    'three': ({'a': dict(F4, data_offsets=[0, 2, 4])}, 'no pair of rising numbers'),
    'shape and bytes': ({'a': dict(F4, shape=[2])}, 'damaged'),
    'shape overflows': ({'a': dict(F4, shape=[2**32, 2**32, 2**32])}, 'damaged'),
    'shape of a huge number': ({'a': dict(F4, shape=[10**400])}, 'damaged'),
    'negative shape': ({'a': dict(F4, shape=[-1, -1])}, 'damaged'),
    'shape of texts': ({'a': dict(F4, shape=['1'])}, 'damaged'),
    'shape of 1000 axes': ({'a': dict(F4, shape=[1] * 1000)}, 'damaged'),
    'objects': ({'a': dict(F4, dtype='O')}, 'has the type O'),
    'V1000000000': ({'a': dict(F4, dtype='V1000000000')}, 'has the type V1'),
    'type of a list': ({'a': dict(F4, dtype=['F32'])}, 'not supported'),
    'no description': ({'a': 3}, 'no description'),
    'half a description': ({'a': {'dtype': 'F32'}}, 'no description'),
    'a list': ([1], 'not a mapping'),
    'twice the same name': (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 'appears twice'),
    'nested 100000 deep': (b'[' * 100000, 'damaged'),
    'no JSON': (b'{"a": __import__("os").system("x")}', 'damaged'),
    'no text': (b'{\xff\xfe', 'damaged'),
    'number of 100000 digits': (b'{"a": ' + b'9' * 100000 + b'}', 'damaged'),
    'NaN': (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, Infinity]}}', 'no pair'),
}


def refused(reader, *args, errors=PasslError, match='', **limits):
    done = guarded(reader, *args, allowed=errors, **limits)
    assert done.error is not None, f'accepted as {done.value!r:.200}'
    assert match in str(done.error) and len(str(done.error)) < 2000, done.error
    return done


@pytest.mark.parametrize('name', sorted(SAFETENSORS))
def test_safetensors(tmp_path, name):
    header, match = SAFETENSORS[name]
    (tmp_path / 'x.safetensors').write_bytes(hostile.safetensors(header,
                                                                 bytes(16) if 'many' not in name else bytes(10**6)))
    refused(load_file, str(tmp_path / 'x.safetensors'), errors=CheckpointError, match=match, seconds=5, megabytes=100)


@pytest.mark.parametrize('length', [2**64 - 1, 2**63, 10**12, 10**8 + 1, 1000])
def test_safetensors_header_longer_than_the_file(tmp_path, length):
    (tmp_path / 'x.safetensors').write_bytes(hostile.safetensors({'a': F4}, bytes(4), length))
    refused(load_file, str(tmp_path / 'x.safetensors'), errors=CheckpointError, match='too early', megabytes=50)


# ------------------------------------------------------------------------------------------------ folder index

@pytest.fixture
def folder(tmp_path, make_images):
    make_images(tmp_path / 'images', 3, classes=['a', 'b'])
    os.utime(tmp_path / 'images', (1, 1))
    for name in 'ab':
        os.utime(tmp_path / 'images' / name, (1, 1))
    return str(tmp_path / 'images')


def good_index(folder, file, **changes):
    """Write the index of `folder` with some arrays replaced by others, or by raw bytes of a .npy file."""
    listing = index_module.Listing.scanned([folder], True)
    index_module._write(file, listing, index_module._settings([folder], True))
    with zipfile.ZipFile(file) as z:
        entries = {n: z.read(n) for n in z.namelist()}
    for key, value in changes.items():
        if isinstance(value, np.ndarray):
            out = io.BytesIO()
            np.save(out, value, allow_pickle=True)
            value = out.getvalue()
        entries[key + '.npy'] = value
    with open(file, 'wb') as f:
        f.write(hostile.zipped(entries))
    return listing


def used(folder, file):
    """The paths that a data set with this index gives; it must not fail, whatever the index holds."""
    def build():
        return list(build_dataset({'name': 'UnlabelledFolder', 'dataroot': folder, 'index': file}).samples)
    os.chmod(file, 0o400)
    return build()


def read_index(folder, file):
    return index_module._read(file, index_module._settings([folder], True), [folder])


INDEXES = {
    'pickled objects': dict(names=np.array([os.system, 'x'], object)),
    'a pickle with a call': dict(names=hostile.npy('|O', '(1,)',
                                                   hostile.pickled(hostile.calls('x')['GLOBAL and REDUCE']))),
    'names that leave': dict(folders=np.frombuffer(b'../../etc\0\0\0', np.uint8)),
    'absolute names': dict(folders=np.frombuffer(b'/etc\0a\0b\0', np.uint8)),
    'a path as a name': dict(names=np.frombuffer(b'../x\0' * 6, np.uint8)),
    'huge shape': dict(names=hostile.npy('|u1', '(100000000000000,)')),
    'shape that overflows': dict(stamps=hostile.npy('<i8', '(4294967296, 4294967296)')),
    'header of code': dict(names=hostile.npy('', '', header='{"descr": __import__("os").system("x")}')),
    'header of brackets': dict(names=hostile.npy('', '', header='(' * 60000)),
    'V1000000000': dict(names=hostile.npy('|V1000000000', '(1,)')),
    'counts that overflow': dict(counts=np.array([2**63 - 1, 2**63 - 1, 8], np.int64)),
    'negative counts': dict(counts=np.array([12, -3, -3], np.int64)),
    'trees beyond the last': dict(trees=np.array([0, 0, 7], np.int32)),
    'float counts': dict(counts=np.array([0.0, 3.0, 3.0])),
    'meta is no JSON': dict(meta=np.frombuffer(b'[[[[' * 10000, np.uint8)),
    'one more entry': dict(more=np.zeros(1)),
    'no bytes at all': dict(names=b''),
}


@pytest.mark.parametrize('name', sorted(INDEXES))
def test_hostile_indexes_are_not_used(folder, tmp_path, name):
    file = str(tmp_path / 'i.npz')
    good_index(folder, file)
    assert len(read_index(folder, file)[0].names) == 6          # the unchanged one is
    good_index(folder, file, **INDEXES[name])
    done = guarded(read_index, folder, file, allowed=Exception, seconds=5, megabytes=100)
    assert done.error is not None, done.value
    assert [os.path.relpath(p, folder) for p in used(folder,
                                                     file)] == [f'{c}/000{i}.png' for c in 'ab' for i in range(3)]


def test_compressed_index_is_not_unpacked(folder, tmp_path):
    file = str(tmp_path / 'i.npz')
    np.savez_compressed(file, **{k: np.zeros(10**8, np.uint8) for k in ('meta', 'names')})
    done = guarded(read_index, folder, file, allowed=Exception, seconds=2, megabytes=20)
    assert 'compressed' in str(done.error)


# ------------------------------------------------------------------------------------------------- packed files

@pytest.fixture
def packed_file(tmp_path):
    pytest.importorskip('lmdb')
    rng = np.random.RandomState(0)
    images = [rng.bytes(n) for n in (1, 700, 3000, 5000, 0, 12, 30000, 4080, 8176, 4096) * 20]
    file = str(tmp_path / 'p.lmdb')
    packed.write_packed(file, [images], [f'n{i}' for i in range(len(images))], np.arange(len(images)) % 3,
                        ['a', 'b', 'c'])
    return file, images


def test_own_reader_agrees_with_lmdb(packed_file):
    import lmdb
    file, _ = packed_file
    ours = LmdbFile(file)
    with lmdb.open(file, subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        stored = dict(transaction.cursor())
        assert ours.meta.entries == env.stat()['entries'] == len(stored) == 204
        assert ours.meta.last_page == env.info()['last_pgno'] and ours.meta.page_size == env.stat()['psize']
        assert env.stat()['depth'] > 1                  # with inner pages
    for key, value in stored.items():
        assert ours.get(key) == value
    for key in (b'', b'a', b'i', b'i' + bytes(9), b'j', b'zz', b'\xff' * 500):
        assert ours.get(key) is None


def read_all(file):
    """How many images cannot be read."""
    dataset, unreadable = build_dataset({'name': 'PackedImages', 'dataroot': file, 'return_label': True}), 0
    for i in range(len(dataset)):
        try:
            dataset.read_bytes(i)
        except ImageReadError:
            unreadable += 1
    return unreadable


def lmdb_places(data):
    """Bytes that the structure rests on: both descriptions, and heads, offsets and entries of all trees' pages."""
    found = [*range(10, 12), *range(16, 152), *range(4106, 4108), *range(4112, 4248)]
    for page in range(8192, len(data), 4096):
        if struct.unpack_from('<H', data, page + 10)[0] in (1, 2) and struct.unpack_from('<Q', data,
                                                                                         page)[0] == page // 4096:
            count = (struct.unpack_from('<H', data, page + 12)[0] - 16) // 2
            offsets = struct.unpack_from(f'<{count}H', data, page + 16)
            found += [page + k for k in (10, 12, 13, 16, 17, 18, 19)]
            found += [page + at + k for at in offsets for k in (0, 2, 4, 6)]
    return found


def test_packed_files_with_any_changed_number(packed_file, tmp_path):
    """Page numbers, offsets, lengths and counts set to extremes: refused or read, without a crash."""
    file, _ = packed_file
    whole = open(file, 'rb').read()
    rng = np.random.RandomState(1)
    places = lmdb_places(whole)
    refusals = 0
    for at in rng.choice(places, 250):
        changed = bytearray(whole)
        value = [b'\xff\xff', b'\0\0', b'\x01\0', b'\xff\x7f', bytes(rng.randint(0, 256, 2).tolist())][rng.randint(5)]
        changed[at:at + 2] = value
        with open(tmp_path / 'changed', 'wb') as f:
            f.write(changed)
        done = guarded(read_all, str(tmp_path / 'changed'), allowed=DataError, seconds=10, megabytes=100)
        refusals += done.error is not None or done.value > 0
    assert refusals > 50


def test_places_and_counts_out_of_range(packed_file, tmp_path):
    import lmdb
    file, _ = packed_file
    for key, value, match in ((b'places', np.full((200, 2), 2**32 - 1, '<u4').tobytes(), None),
                              (b'passl', b'{"format": "passl packed images", "version": 1, "count": 1' + b'0' * 300
                               + b', "labelled": true, "classes": ["a"]}', 'damaged'),
                              (b'passl',
                               b'{"format": "passl packed images", "version": 1, "count": 200, "labelled": true, '
                               b'"classes": [[], {}, 3]}', 'damaged'),
                              (b'passl', b'[' * 3000, 'damaged'),
                              (b'labels', np.full(200, 2**31 - 1, '<i4').tobytes(), 'damaged'),
                              (b'labels', np.full(200, -1, '<i4').tobytes(), 'damaged'),
                              (b'names', b'\0' * 10**6, 'damaged')):
        other = str(tmp_path / 'other')
        with open(file, 'rb') as a, open(other, 'wb') as b:
            b.write(a.read())
        with lmdb.open(other, subdir=False, lock=False, map_size=2**26) as env, env.begin(write=True) as transaction:
            transaction.put(key, value)
        done = guarded(read_all, other, allowed=DataError, seconds=5, megabytes=100)
        assert (done.error is None) == (match is None) and (match or '') in str(done.error)
        os.remove(other)


def test_a_packed_file_cut_while_it_is_read_is_an_error_not_the_end(packed_file):
    """LMDB's map would end the process with SIGBUS here."""
    file, images = packed_file
    dataset = build_dataset({'name': 'PackedImages', 'dataroot': file})
    assert dataset.read_bytes(6)[0] == images[6]
    with open(file, 'r+b') as f:
        f.truncate(8192)
    with pytest.raises(ImageReadError, match='cannot be read'):
        dataset.read_bytes(199)


def test_a_value_longer_than_its_page(packed_file, tmp_path):
    file, _ = packed_file
    whole, key = bytearray(open(file, 'rb').read()), b'i' + bytes(8)
    at = whole.find(key)
    while at >= 0:
        whole[at - 8:at - 6] = b'\xff\x7f'
        at = whole.find(key, at + 1)
    (tmp_path / 'long').write_bytes(whole)
    with pytest.raises(ImageReadError, match='leaves its page'):
        build_dataset({'name': 'PackedImages', 'dataroot': str(tmp_path / 'long')}).read_bytes(0)


def test_pages_in_a_circle(packed_file, tmp_path):
    file, _ = packed_file
    whole = bytearray(open(file, 'rb').read())
    root = LmdbFile(file).meta.root
    offset, = struct.unpack_from('<H', whole, root * 4096 + 16)
    count = (struct.unpack_from('<H', whole, root * 4096 + 12)[0] - 16) // 2
    for offset in struct.unpack_from(f'<{count}H', whole, root * 4096 + 16):
        struct.pack_into('<HHH', whole, root * 4096 + offset, root, 0, 0)
    (tmp_path / 'circle').write_bytes(whole)
    refused(LmdbFile(str(tmp_path / 'circle')).get, b'passl', errors=FormatError, match='circle')


# ------------------------------------------------------------------------------------------------- CIFAR and logs

@pytest.mark.parametrize('name', sorted(hostile.calls('x')))
def test_cifar_batches(tmp_path, name):
    canary = tmp_path / 'canary'
    for body in hostile.places(hostile.calls(canary)[name]).values():
        guarded(_read_batch, hostile.pickled(body, protocol=2), 'data_batch_1', allowed=DataError, seconds=5)
        assert not canary.exists()


def test_cifar_archive_with_foreign_names_and_sizes(tmp_path):
    """Only the base names that are looked for are read; nothing is unpacked to the disk."""
    file = tmp_path / 'in' / 'cifar-10-python.tar.gz'
    file.parent.mkdir()
    with tarfile.open(file, 'w:gz') as tar:
        for name in ('../../canary', '/canary', 'cifar-10-batches-py/data_batch_1'):
            info = tarfile.TarInfo(name)
            info.size = 10
            tar.addfile(info, io.BytesIO(b'x' * 10))
        link = tarfile.TarInfo('cifar-10-batches-py/data_batch_2')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
    refused(build_dataset, {'name': 'CIFAR10', 'dataroot': str(file)}, errors=DataError, match='lacks data_batch_2')
    assert os.listdir(tmp_path) == ['in'] and os.listdir(file.parent) == [file.name]


LINES = ['{"iteration": ' + '9' * 5000 + '}', '[' * 5000, '{"iteration": [1], "mode": "train"}',
         '{"iteration": {}, "loss": 1}',
         '{"iteration": 1, "mode": [], "loss": 1}', '{"iteration": 1, "mode": "train", "loss": "abc"}', '"x"', 'null',
         '{"iteration": 1, "mode": "train", "loss": [1]}', '{"iteration": 1e999, "mode": "train"}',
         '{"iteration": "1"}',
         '{"iteration": true, "mode": "train", "loss": 1}', '\0', '{"iteration": 2, "mode": "val", "acc1": {"a": 1}}']


def test_logs_with_lines_of_others(tmp_path, monkeypatch):
    """Only lines that are records of this project are drawn."""
    from passl.utils import plots
    drawn = []
    monkeypatch.setattr(plots, '_save', lambda figure, path: drawn.append(figure))
    (tmp_path / 'config.yaml').write_text('a: &a [x]\nb: [*a, *a]\n<<: {model: {K: 3}}\n!!python/name:os.system : 1\n')
    log = tmp_path / 'log.jsonl'
    log.write_text('\n'.join(LINES))
    with pytest.raises(DataError, match='no logged step'):
        plot_loss(str(log), 'x.png')
    log.write_text('\n'.join(LINES + ['{"mode": "train", "iteration": 1, "loss": 2.5, "lr": 0.1}',
                                      '{"mode": "train", "iteration": 2, "loss": "nan", "lr": 0.1}']))
    plot_loss(str(log), 'x.png')
    assert [line.get_ydata()[0] for line in drawn[0].axes[0].lines] == [2.5, 2.5]


def test_the_guard_sees_what_the_reader_does_and_nothing_else(tmp_path):
    """Threads and garbage that tests before have left may write and remove files meanwhile; the reader may not."""
    stop, wrote = threading.Event(), threading.Event()

    def write():
        while not stop.wait(0.001):
            (tmp_path / 'other').write_text('x')
            wrote.set()

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            os.mkdir(tmp_path / 'garbage')

    def reads():
        wrote.clear()
        assert wrote.wait(60)
        gc.collect()
        return 'read'

    def starts_a_thread():
        thread = threading.Thread(target=os.mkdir, args=(tmp_path / 'new',))
        thread.start()
        thread.join()
    other = threading.Thread(target=write)
    other.start()
    try:
        Garbage()
        assert guarded(reads).value == 'read' and (tmp_path / 'garbage').exists()
        for does_more in (lambda: os.mkdir(tmp_path / 'mine'), starts_a_thread):
            with pytest.raises(AssertionError, match='did more than read.*os.mkdir'):
                guarded(does_more)
    finally:
        stop.set()
        other.join()
