"""Packed files: the same samples as the folder's, complete or not there, and no trust in foreign ones."""

import gc
import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataloader, build_dataset, packed
from passl.utils.errors import ConfigError, DataError

lmdb = pytest.importorskip('lmdb')
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
    output = os.path.join(os.path.dirname(folder), 'p.lmdb')
    return tool.main([folder, '--output', output, *words]), output


def build(name, dataroot, **options):
    return build_dataset({'name': name, 'dataroot': dataroot, **options})


def remains(folder):
    return sorted(n for n in os.listdir(os.path.dirname(folder)) if n != 'folder')


def test_labelled_equals_image_folder(tool, folder, capsys):
    code, file = pack(tool, folder, '--labelled', '--check')
    assert code == 0 and remains(folder) == ['p.lmdb'] and '14 images of 3 classes' in capsys.readouterr().out
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


def test_classes_choose(tool, folder, tmp_path):
    (tmp_path / 'names.txt').write_text('图\nb\n', encoding='utf-8')
    _, file = pack(tool, folder, '--labelled', '--classes', str(tmp_path / 'names.txt'))
    ours = build('PackedImages', file, return_label=True)
    assert ours.classes == ['图', 'b'] and [k for _, k in ours.samples] == [0] * 4 + [1] * 4


def test_refusals_of_the_tool(tool, folder, capsys):
    assert pack(tool, folder, '--labelled')[0] == 0
    before = os.stat(os.path.join(os.path.dirname(folder), 'p.lmdb'))
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
    assert os.stat(os.path.join(os.path.dirname(folder), 'p.lmdb')).st_mtime_ns == before.st_mtime_ns
    assert remains(folder) == ['p.lmdb']


def test_room_grows(monkeypatch, tmp_path):
    monkeypatch.setattr(packed, '_FIRST_SIZE', 2**16)
    images = [os.urandom(50000 + i) for i in range(40)]
    packed.write_packed(str(tmp_path / 'p'), [images[:30], images[30:]], [f'{i}' for i in range(40)])
    ours = build('PackedImages', str(tmp_path / 'p'))
    assert [ours.read_bytes(i)[0] for i in range(40)] == images and ours.samples[39] == '39'


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def batches(error):
        yield [b'1', b'2']
        if error:
            raise error

    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (DataError('x'), DataError), (None, DataError)):
        with pytest.raises(expected):
            packed.write_packed(str(tmp_path / 'p'), batches(error), ['1', '2', '3'])
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_packing_leaves_no_finished_file(folder, project_root, number):
    script = ("import os, sys, time; sys.path.insert(0, 'tools'); import pack_dataset as p\n"
              "p.BATCH, real = 2, p.Packer.prepare\n"
              "def slow(self, index):\n"
              "    if index == 6: print('now', flush=True)\n"
              "    if index >= 6: time.sleep(0.5)\n"
              "    return real(self, index)\n"
              "p.Packer.prepare = slow\n"
              "sys.exit(p.main(sys.argv[1:]))")
    output = os.path.join(os.path.dirname(folder), 'p.lmdb')
    child = subprocess.Popen([sys.executable, '-c', script, folder, '--unlabelled', '--output', output],
                             cwd=project_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == 'now\n'
    assert [n.startswith('.p.lmdb.') and n.endswith('.tmp') for n in remains(folder)] == [True]
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert not os.path.exists(output)
    if number != signal.SIGKILL:
        assert remains(folder) == []
        return
    partial = os.path.join(os.path.dirname(folder), remains(folder)[0])
    with pytest.raises(DataError, match='not completed|truncated|damaged'):
        build('PackedImages', partial)


def read_in_child(dataset, numbers, queue):
    queue.put([dataset.read_bytes(i)[0] for i in numbers])


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_two_processes_read_at_once(tool, folder, method):
    _, file = pack(tool, folder, '--unlabelled')
    ours, other = build('PackedImages', file), build('PackedImages', file)
    expected = [other.read_bytes(i)[0] for i in range(14)]          # open already when the processes start
    context = multiprocessing.get_context(method)
    queues = [context.SimpleQueue() for _ in range(2)]
    children = [context.Process(target=read_in_child, args=(ours, range(k, 14, 2), q)) for k, q in enumerate(queues)]
    for child in children:
        child.start()
    got = [q.get() for q in queues]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert got == [expected[0::2], expected[1::2]]
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


def edit(file, key, value):
    env = lmdb.open(file, subdir=False, lock=False)
    with env.begin(write=True) as transaction:
        transaction.put(key, value) if value is not None else transaction.delete(key)
    env.close()


def header(**changes):
    return json.dumps({'format': 'passl packed images', 'version': 1, 'count': 14, 'labelled': True,
                       'classes': ['a', 'b', 'c'], **changes}).encode()


def key(index):
    return b'i' + index.to_bytes(8, 'big')


@pytest.mark.parametrize('change, match', [
    ([b'passl', header()], None),
    ([b'passl', None], 'not completed'),
    ([b'passl', header(format='other')], 'none of tools/pack_dataset'),
    ([b'passl', header(version=2)], 'version 2'),
    ([b'passl', header(count=13)], 'do not fit'),
    ([b'passl', header(classes=['a'])], 'do not fit'),
    ([b'passl', header(classes=None)], 'do not fit|damaged'),
    ([b'passl', pickle.dumps({})], 'damaged'),
    ([b'passl', b'[]'], 'none of tools'),
    ([b'labels', b'123'], 'damaged'),
    ([b'labels', None], 'damaged'),
    ([b'names', b'a\0'], 'do not fit'),
    ([b'places', b'12345678'], 'do not fit'),
    ([b'places', b'12345'], 'damaged'),
    ([key(13), None], 'do not fit'),
])
def test_damaged_and_foreign_contents(tool, folder, change, match):
    _, file = pack(tool, folder, '--labelled')
    edit(file, *change)
    if match is None:
        assert len(build('PackedImages', file)) == 14
        return
    with pytest.raises(DataError, match=match):
        build('PackedImages', file)


def test_files_of_another_kind(tool, folder, tmp_path):
    _, file = pack(tool, folder, '--labelled')
    whole = open(file, 'rb').read()
    for size, match in ((0, 'no file of packed images'), (50, 'no file of packed images'), (9000, 'truncated'),
                        (len(whole) - 5000, 'truncated')):
        (tmp_path / 'cut').write_bytes(whole[:size])
        with pytest.raises(DataError, match=match):
            build('PackedImages', str(tmp_path / 'cut'))
    (tmp_path / 'text').write_text('hello' * 5000)
    for root, match in ((tmp_path / 'text', 'no file of packed images'), (folder, 'is a folder'),
                        (tmp_path / 'none', 'does not exist')):
        with pytest.raises(DataError, match=match):
            build('PackedImages', str(root))
    with pytest.raises(ConfigError, match='must be the name'):
        build('PackedImages', 3)


def test_places_are_where_the_bytes_are_and_wrong_ones_do_no_harm(tmp_path):
    rng = np.random.RandomState(0)
    images = [rng.bytes(n) for n in (1, 700, 3000, 5000, 0, 12, 300000, 4080, 8176, 4096)]
    file = str(tmp_path / 'p')
    packed.write_packed(file, [images[:6], images[6:]], [f'{i}' for i in range(10)])
    ours, whole = build('PackedImages', file), open(file, 'rb').read()
    for (first, pages), image in zip(ours._places.tolist(), images):
        assert image in whole[first * 4096:(first + pages) * 4096] and pages <= len(image) // 4096 + 2
    del ours
    gc.collect()                    # data sets of one file share their reader
    edit(file, b'places', np.full((10, 2), 2**32 - 1, '<u4').tobytes())
    ours = build('PackedImages', file)
    assert [ours.read_bytes(i)[0] for i in range(10)] == images


def test_an_image_that_is_gone_is_replaced(tool, folder):
    _, file = pack(tool, folder, '--unlabelled')
    edit(file, key(2), None)
    edit(file, b'extra', b'')                                   # keeps the number of entries
    ours = build('PackedImages', file, max_bad=0.5)
    assert ours[SampleKey(2, 0)][0].shape == (3, 20, 28) and ours.num_bad == 1
    with pytest.raises(DataError, match='missing in the file'):
        build('PackedImages', file, on_error='raise')[2]


def test_names_are_labels_only(tmp_path, folder):
    with open(os.path.join(folder, 'a', '0000.png'), 'rb') as f:
        image = f.read()
    packed.write_packed(str(tmp_path / 'p'), [[image]], ['/etc/../nowhere/x.png'])
    ours = build('PackedImages', str(tmp_path / 'p'))
    assert ours.samples == ['/etc/../nowhere/x.png'] and ours.load(0).shape == (20, 28, 3)


def test_without_lmdb_the_command_is_named(tool, folder, monkeypatch, capsys):
    _, file = pack(tool, folder, '--unlabelled')
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    assert len(build('PackedImages', file)) == 14               # reading needs no package
    assert pack(tool, folder, '--unlabelled')[0] == 2
    error = capsys.readouterr().err
    assert 'pip install lmdb' in error and ".[pack]" in error


def test_a_file_packed_again_is_read_anew(tool, folder):
    _, file = pack(tool, folder, '--unlabelled')
    first = build('PackedImages', file)
    os.remove(file)
    time.sleep(0.02)
    os.remove(os.path.join(folder, 'a', '0000.png'))
    pack(tool, folder, '--unlabelled')
    assert len(build('PackedImages', file)) == 13 and len(first) == 14 and first.load(13).shape == (20, 28, 3)
