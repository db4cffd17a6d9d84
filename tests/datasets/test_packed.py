"""Packed files: the same samples as the folder's, complete or not there, and no trust in foreign ones."""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import sys
import time

import cv2
import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataloader, build_dataset, packed
from passl.utils.errors import ConfigError, DataError

VIEW = [{'name': 'RandomResizedCrop', 'size': 16}, {'name': 'RandomHorizontalFlip'}, {'name': 'ToTensor'}]
ODD = os.fsdecode(b'new\nline \xff.png')


@pytest.fixture(scope='session')
def tool(project_root):
    path = os.path.join(project_root, 'tools', 'pack_dataset.py')
    spec = importlib.util.spec_from_file_location('pack_dataset', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, make_images):
    root = tmp_path / 'folder'
    make_images(root, 4, classes=['b', 'a', '图'], size=(20, 28))
    os.makedirs(root / 'a' / 'deep')
    for name in ('z.jpg', ODD):
        shutil.copy(root / 'a' / '0000.png', root / 'a' / 'deep' / name)
    return str(root)


def pack(tool, folder, *words):
    """(exit code, the file) of the tool."""
    output = os.path.join(os.path.dirname(folder), 'p.pack')
    return tool.main([folder, '--output', output, *words]), output


def build(name, dataroot, **options):
    return build_dataset({'name': name, 'dataroot': dataroot, **options})


def remains(folder):
    return sorted(n for n in os.listdir(os.path.dirname(folder)) if n != 'folder')


def test_labelled_equals_image_folder(tool, folder, capsys):
    code, file = pack(tool, folder, '--labelled', '--check')
    assert code == 0 and remains(folder) == ['p.pack'] and '14 images of 3 classes' in capsys.readouterr().out
    ours = build('PackedImages', file, return_label=True)
    theirs = build('ImageFolder', folder)
    assert ours.classes == theirs.classes == ['a', 'b', '图'] and len(ours) == 14
    assert ours.samples == [(os.path.relpath(path, folder), label) for path, label in theirs.samples]
    for i in range(-1, 14):
        assert ours.read_bytes(i)[0] == theirs.read_bytes(i)[0] and ours.label(i) == theirs.label(i)
    np.testing.assert_array_equal(ours.load(3), theirs.load(3))
    with pytest.raises(IndexError):
        ours.load(14)


@pytest.mark.parametrize('flat', [False, True])
def test_unlabelled_gives_the_same_two_views_for_the_same_seeds(tool, folder, make_images, flat):
    make_images(folder, 3)
    code, file = pack(tool, folder, '--unlabelled', *['--flat'] * flat, '--threads', '1')
    views = dict(return_two_sample=True, view_trans1=VIEW, view_trans2=VIEW, transforms=[])
    ours = build('PackedImages', file, **views)
    theirs = build('UnlabelledFolder', folder, recursive=not flat, **views)
    assert code == 0 and len(ours) == len(theirs) == (3 if flat else 17) and ours.num_classes == 0
    for i in range(len(ours)):
        for a, b in zip(ours[SampleKey(i, 5)], theirs[SampleKey(i, 5)]):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match='packed without labels'):
        build('PackedImages', file, return_label=True)


def test_bad_images_are_replaced_by_the_same_others(tool, folder):
    for name in ('b/0001.png', 'a/0002.png'):
        open(os.path.join(folder, name), 'w').close()
    code, file = pack(tool, folder, '--unlabelled')
    ours, theirs = (build(n, d, max_bad=0.5) for n, d in (('PackedImages', file), ('UnlabelledFolder', folder)))
    assert code == 0
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours[SampleKey(i, 0)][0], theirs[SampleKey(i, 0)][0])
    assert ours.num_bad == theirs.num_bad == 2


def test_check_names_what_is_bad_and_writes_nothing(tool, folder, capsys):
    with open(os.path.join(folder, 'b', '0001.png'), 'r+b') as f:
        f.truncate(60)
    code, _ = pack(tool, folder, '--unlabelled', '--check')
    error = capsys.readouterr().err
    assert code == 2 and '1 images cannot be decoded' in error and '0001.png' in error and remains(folder) == []


def test_short_side_shrinks_the_larger_ones_only(tool, folder, make_images):
    before = build('UnlabelledFolder', folder)
    scene = cv2.GaussianBlur(before.load(2).repeat(8, 0).repeat(8, 1), (0, 0), 8)
    cv2.imwrite(os.path.join(folder, '0.png'), scene[..., ::-1])
    code, file = pack(tool, folder, '--unlabelled', '--short-side', '50', '--quality', '98')
    ours = build('PackedImages', file)
    assert code == 0 and ours.samples[0] == '0.png' and ours.load(0).shape == (50, 70, 3)
    expected = cv2.resize(scene, (70, 50), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.load(0).astype(int) - expected).mean() < 2
    assert all(ours.read_bytes(i + 1)[0] == before.read_bytes(i)[0] for i in range(len(before)))


def test_a_range_of_values_goes_into_the_shrunken_ones(tool, tmp_path, capsys):
    deep = np.add.outer(np.arange(80), np.arange(90)).astype(np.uint16) * 24
    (tmp_path / 'd').mkdir()
    cv2.imwrite(str(tmp_path / 'd' / 'a.png'), deep)
    largest = []
    for name, more in (('none', ()), ('given', ('--value-range', '0', '4095'))):
        output = str(tmp_path / f'{name}.pack')
        assert tool.main([str(tmp_path / 'd'), '--unlabelled', '--output', output, '--short-side', '40', *more]) == 0
        assert ('value_range: [0, 4095]}' in capsys.readouterr().out) is bool(more)
        largest.append(build_dataset({'name': 'PackedImages', 'dataroot': output}).load(0).max())
    assert largest[0] < 18 and largest[1] > 240


def test_classes_choose(tool, folder, tmp_path):
    (tmp_path / 'names.txt').write_text('图\nb\n', encoding='utf-8')
    _, file = pack(tool, folder, '--labelled', '--classes', str(tmp_path / 'names.txt'))
    ours = build('PackedImages', file, return_label=True)
    assert ours.classes == ['图', 'b'] and [k for _, k in ours.samples] == [0] * 4 + [1] * 4


def test_refusals_of_the_tool(tool, folder, capsys):
    assert pack(tool, folder, '--labelled')[0] == 0
    before = os.stat(os.path.join(os.path.dirname(folder), 'p.pack'))
    for words, match in [(['--labelled'], 'exists and is not overwritten'),
                         (['--unlabelled', '--output', os.path.join(folder, 'no', 'p')], 'no folder'),
                         (['--unlabelled', '--output', os.path.join(folder, 'q'), '--flat'], 'holds no images')]:
        assert pack(tool, folder, *words)[0] == 2 and match in capsys.readouterr().err
    for words in [], ['--labelled', '--unlabelled'], ['--labelled', '--flat'], ['--unlabelled', '--quality', '9'], \
            ['--unlabelled', '--classes', 'x'], ['--unlabelled', '--short-side', '0'], \
            ['--unlabelled', '--short-side', '9', '--quality', '101'], ['--unlabelled', '--recursive', '--flat']:
        with pytest.raises(SystemExit) as e:
            pack(tool, folder, *words)
        assert e.value.code == 2
    assert os.stat(os.path.join(os.path.dirname(folder), 'p.pack')).st_mtime_ns == before.st_mtime_ns
    assert remains(folder) == ['p.pack']


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def batches(error):
        yield [b'1', b'2']
        if error:
            raise error

    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (DataError('x'), DataError), (None, DataError),
                            (OSError(28, 'No space left on device'), DataError)):
        with pytest.raises(expected):
            packed.write_packed(str(tmp_path / 'p'), batches(error), ['1', '2', '3'])
        assert os.listdir(tmp_path) == []


def pack_slowly(tool, folder, connection):
    """Body of a process."""
    real = tool.Packer.prepare

    def slow(self, index):
        if index == 6:
            connection.send('now')
        if index >= 6:
            time.sleep(0.5)
        return real(self, index)
    tool.BATCH, tool.Packer.prepare = 2, slow
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(pack(tool, folder, '--unlabelled')[0])


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_packing_leaves_no_finished_file(tool, folder, number):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    child = context.Process(target=pack_slowly, args=(tool, folder, theirs))
    child.start()
    theirs.close()
    assert ours.recv() == 'now'
    assert [n.startswith('.p.pack.') and n.endswith('.tmp') for n in remains(folder)] == [True]
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    output = os.path.join(os.path.dirname(folder), 'p.pack')
    assert not os.path.exists(output)
    if number != signal.SIGKILL:
        assert remains(folder) == []
        return
    partial = os.path.join(os.path.dirname(folder), remains(folder)[0])
    with pytest.raises(DataError, match='not completed'):
        build('PackedImages', partial)


def read_in_child(dataset, numbers, connection):
    dataset = pickle.loads(dataset) if isinstance(dataset, bytes) else dataset
    connection.send([dataset.read_bytes(i)[0] for i in numbers])


def test_two_processes_read_at_once(tool, folder):
    """One has the open file of its parent, one gets the data set pickled, as a process that is not forked does."""
    _, file = pack(tool, folder, '--unlabelled')
    ours, other = build('PackedImages', file), build('PackedImages', file)
    expected = [other.read_bytes(i)[0] for i in range(14)]          # open already when the processes start
    context, children, ends = multiprocessing.get_context('fork'), [], []
    for k, dataset in enumerate((ours, pickle.dumps(ours))):
        end, theirs = context.Pipe()
        children.append(context.Process(target=read_in_child, args=(dataset, range(k, 14, 2), theirs)))
        children[-1].start()
        theirs.close()
        ends.append(end)
    assert [end.recv() for end in ends] == [expected[0::2], expected[1::2]]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert [ours.read_bytes(i)[0] for i in range(14)] == expected


def test_workers_of_the_loader_give_the_batches_of_the_folder(tool, folder):
    _, file = pack(tool, folder, '--labelled')
    batches = []
    for name, root, workers in (('ImageFolder', folder, 0), ('PackedImages', file, 2)):
        cfg = dict(loader=dict(num_workers=workers), sampler=dict(batch_size=4, shuffle=True, drop_last=True),
                   dataset=dict(name=name, dataroot=root, return_label=True, return_two_sample=True, transforms=VIEW))
        loader = build_dataloader(cfg, seed=3)
        loader.batch_sampler.set_epoch(1)
        batches.append([[t.numpy() for t in batch] for batch in loader])
    assert len(batches[0]) == 3
    for a, b in zip(*batches):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


def parts(file):
    """(bytes of the images, the index's line of JSON, what follows it) of a packed file."""
    whole = open(file, 'rb').read()
    start, = struct.unpack_from('<Q', whole, 16)
    line, _, rest = whole[start:].partition(b'\n')
    return whole[64:start], line, rest


def put_together(file, images, line, rest):
    """Write a file of these parts, with a checksum that is right."""
    index = line + b'\n' + rest
    head = struct.pack('<16sQQ32s', b'PASSL packed 2\n\0', 64 + len(images), len(index), hashlib.sha256(index).digest())
    with open(file, 'wb') as f:
        f.write(head + images + index)


def header(**changes):
    return json.dumps({'count': 14, 'labelled': True, 'classes': ['a', 'b', 'c'], **changes}).encode()


def test_the_form_is_the_documented_one(tool, folder):
    _, file = pack(tool, folder, '--labelled')
    theirs = build('ImageFolder', folder)
    images, line, rest = parts(file)
    files = [theirs.read_bytes(i)[0] for i in range(14)]
    assert images == b''.join(files) and json.loads(line) == {'count': 14, 'labelled': True,
                                                              'classes': theirs.classes}
    assert np.frombuffer(rest, '<u8', 15).tolist() == np.cumsum([64, *map(len, files)]).tolist()
    assert np.frombuffer(rest, '<i4', 14, 120).tolist() == [label for _, label in theirs.samples]
    assert rest[176:] == b''.join(os.fsencode(os.path.relpath(p, folder)) + b'\0' for p, _ in theirs.samples)
    put_together(file, images, line, rest)
    assert build('PackedImages', file).samples.fingerprint() == theirs.samples.__class__.of(
        [os.path.relpath(p, folder) for p, _ in theirs.samples], theirs.samples._labels).fingerprint()


FOREIGN = {
    'another mark': (lambda w: b'PASSL packed 9\n\0' + w[16:], 'another version of the format'),
    'unfinished': (lambda w: bytes(64) + w[64:], 'not completed'),
    'empty': (lambda w: b'', 'no file of packed images'),
    'short': (lambda w: w[:50], 'no file of packed images'),
    'text': (lambda w: b'hello' * 5000, 'no file of packed images'),
    'cut': (lambda w: w[:-1], r'truncated: \d+ of \d+ bytes'),
    'cut in the images': (lambda w: w[:900], 'truncated'),
    'longer': (lambda w: w + b'x', 'damaged: its parts do not fit'),
    'one bit of the index': (lambda w: w[:-9] + bytes([w[-9] ^ 1]) + w[-8:], 'another checksum'),
    'LMDB': (lambda w: bytes(10) + b'\x08\0' + bytes(4) + b'\xde\xc0\xef\xbe\1\0\0\0' + bytes(8192),
             "was packed by an older version, as LMDB; pack the folder again: python tools/pack_dataset.py FOLDER"),
}


def test_files_of_another_kind_and_damaged_ones(tool, folder):
    _, file = pack(tool, folder, '--labelled')
    whole = open(file, 'rb').read()
    for name, (change, match) in FOREIGN.items():
        with open(file, 'wb') as f:
            f.write(change(whole))
        with pytest.raises(DataError, match=match) as e:
            build('PackedImages', file)
        assert '\n' not in str(e.value), name


def test_what_is_no_file(folder, tmp_path):
    for root, match in ((folder, 'is a folder'), (tmp_path / 'none', 'does not exist')):
        with pytest.raises(DataError, match=match):
            build('PackedImages', str(root))
    with pytest.raises(ConfigError, match='must be the name'):
        build('PackedImages', 3)


def changed(rest, at, kind, value):
    rest = bytearray(rest)
    struct.pack_into(kind, rest, at, value)
    return bytes(rest)


INDEX = {                       # with a checksum that is right, as only malice makes them
    'fewer': lambda line, rest: (header(count=13), rest),
    'many': lambda line, rest: (b'{"count": 1' + b'0' * 300 + b', "labelled": true, "classes": ["a"]}', rest),
    'none': lambda line, rest: (header(count=0), rest),
    'a float': lambda line, rest: (header(count=14.0), rest),
    'fewer classes': lambda line, rest: (header(classes=['a']), rest),
    'no classes': lambda line, rest: (header(classes=None), rest),
    'classes of other kinds': lambda line, rest: (header(classes=[[], {}, 3]), rest),
    'half a header': lambda line, rest: (b'{"count": 14}', rest),
    'a list': lambda line, rest: (b'[]', rest),
    'a pickle': lambda line, rest: (pickle.dumps({}), rest),
    'deep': lambda line, rest: (b'[' * 100000, rest),
    'no line': lambda line, rest: (b'', b''),
    'first bound': lambda line, rest: (line, changed(rest, 0, '<Q', 0)),
    'falling bounds': lambda line, rest: (line, changed(rest, 16, '<Q', 65)),
    'bound beyond the end': lambda line, rest: (line, changed(rest, 16, '<Q', 2**63)),
    'last bound': lambda line, rest: (line, changed(rest, 112, '<Q', struct.unpack_from('<Q', rest, 112)[0] - 1)),
    'class of no name': lambda line, rest: (line, changed(rest, 120, '<i', 3)),
    'negative class': lambda line, rest: (line, changed(rest, 120, '<i', -1)),
    'a name without end': lambda line, rest: (line, rest + b'x'),
    'more names': lambda line, rest: (line, rest + b'\0' * 10**6),
    'no names': lambda line, rest: (line, rest[:176]),
    'half an array': lambda line, rest: (line, rest[:99]),
}


def test_an_index_that_does_not_fit_is_refused(tool, folder):
    _, file = pack(tool, folder, '--labelled')
    images, line, rest = parts(file)
    for name, change in INDEX.items():
        put_together(file, images, *change(line, rest))
        with pytest.raises(DataError, match='damaged'):
            pytest.fail(f'{name}: {build("PackedImages", file)}')


def test_an_image_that_claims_gigabytes_is_replaced(tmp_path, folder):
    """A file with a hole: long, but of few bytes on the disk."""
    file, size = str(tmp_path / 'p'), 2**30 + 1
    with open(os.path.join(folder, 'a', '0000.png'), 'rb') as f:
        image = f.read()
    packed.write_packed(file, [[image, image]], ['1', '2'])
    images, line, rest = parts(file)
    rest = changed(rest, 16, '<Q', 64 + len(image) + size)
    index = line + b'\n' + rest
    with open(file, 'r+b') as f:
        f.write(struct.pack('<16sQQ32s', b'PASSL packed 2\n\0', 64 + len(image) + size, len(index),
                            hashlib.sha256(index).digest()))
        f.truncate(64 + len(image))
        f.seek(64 + len(image) + size)
        f.write(index)
    ours = build('PackedImages', file, max_bad=0.5)
    assert ours[SampleKey(1, 0)][0].shape == (3, 20, 28) and ours.num_bad == 1
    with pytest.raises(DataError, match='more than 1024 MiB'):
        build('PackedImages', file, on_error='raise')[1]


def test_a_file_that_shrinks_while_it_is_read(tool, folder):
    _, file = pack(tool, folder, '--unlabelled')
    ours = build('PackedImages', file)
    with open(file, 'r+b') as f:
        f.truncate(ours._bounds[13] + 1)
    assert ours.load(12).shape == (20, 28, 3)
    with pytest.raises(DataError, match='shorter than it was'):
        ours.read_bytes(13)


def test_names_are_labels_only(tmp_path, folder):
    with open(os.path.join(folder, 'a', '0000.png'), 'rb') as f:
        image = f.read()
    packed.write_packed(str(tmp_path / 'p'), [[image]], ['/etc/../nowhere/x.png'])
    ours = build('PackedImages', str(tmp_path / 'p'))
    assert ours.samples == ['/etc/../nowhere/x.png'] and ours.load(0).shape == (20, 28, 3)


def test_a_file_packed_again_is_read_anew(tool, folder):
    _, file = pack(tool, folder, '--unlabelled')
    first = build('PackedImages', file)
    os.remove(file)
    os.remove(os.path.join(folder, 'a', '0000.png'))
    pack(tool, folder, '--unlabelled')
    assert len(build('PackedImages', file)) == 13 and len(first) == 14 and first.load(13).shape == (20, 28, 3)
    with pytest.raises(DataError, match='packed anew during the run'):
        pickle.loads(pickle.dumps(first))
