"""Lists of many paths, the scan, and the index of a folder: when it is used, and when it must not be."""

import json
import logging
import os
import pickle
import time

import numpy as np
import pytest

from passl.datasets import build_dataset, index
from passl.datasets.path_list import Names, PathList
from passl.utils.errors import ConfigError, DataError

ODD = ['a b.png', 'zwei\nZeilen.png', '图.png', os.fsdecode(b'\xff\xfe.png'), 'é.png']


def touch(root, *names):
    """Files without content: only names are listed. Waits for the next tick of the file system's clock."""
    time.sleep(0.02)
    for name in names:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').close()


def walked(top):
    """The order that is promised: a folder's own images by name, then its sub-folders by name."""
    names = sorted(os.listdir(top))
    found = [os.path.join(top, n) for n in names if index.is_image_name(n) and not os.path.isdir(os.path.join(top, n))]
    for name in names:
        if os.path.isdir(os.path.join(top, name)) and not name.startswith('.') and name != '__MACOSX':
            found += walked(os.path.join(top, name))
    return found


@pytest.fixture
def settled(monkeypatch):
    """Folders made by the test count as old enough to be trusted."""
    monkeypatch.setattr(index, '_UNSETTLED_NS', -10**18)


@pytest.fixture
def tree(tmp_path):
    root = str(tmp_path / 'tree')
    touch(root, 'b/2.png', 'b/1.JPG', 'a/deep/er/x.png', 'a/deep.png', 'a/9.png', 'b/._1.png', 'b/notes.txt',
          'a/.hidden/1.png', 'a/__MACOSX/1.png', *('c/' + name for name in ODD))
    os.makedirs(os.path.join(root, 'c', 'folder.png'))
    return root


def build(root, file=False, name='UnlabelledFolder', **options):
    return build_dataset({'name': name, 'dataroot': root, 'index': str(file) if file else False, **options})


def is_used(caplog, root, file, **options):
    """Builds the data set with the index `file`; (whether the index was used, samples)."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, 'passl'):
        samples = list(build(root, file, **options).samples)
    assert samples == list(build(root, **options).samples)
    return any('listed from the index' in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize('labels', [None, [3, 0, 1, 1, 2]])
def test_path_list_is_like_a_list(labels):
    paths = ['r/' + n for n in ODD]
    expected = list(zip(paths, labels)) if labels else paths
    for prefix in ('', 'r/', 'elsewhere/'):
        got = PathList.of(paths, labels, prefix)
        assert got == expected and expected == got and list(got) == expected and len(got) == 5
        assert [got[i] for i in range(-5, 5)] == expected * 2 and got[np.int64(3)] == expected[3]
        for part in (slice(1, 3), slice(None, None, -1), slice(-2, None), slice(4, 1)):
            assert got[part] == expected[part] and isinstance(got[part], list)
        assert expected[2] in got and got.index(expected[2]) == 2 and 'none' not in got and list(reversed(got)) == \
            expected[::-1]
        assert got != expected[:4] and got != expected[:4] + ['x'] and got != 5 and 'first' in repr(got)
        assert pickle.loads(pickle.dumps(got)) == expected
        for wrong in (5, -6):
            with pytest.raises(IndexError):
                got[wrong]
        with pytest.raises(TypeError):
            got['0']


def test_path_list_with_folders_some_of_them_empty():
    got = PathList(Names.of(['1', '2', '3']), Names.of(['x/', 'a/', 'y/', 'b/', 'z/']), [0, 2, 0, 1, 0], [7, 7, 8])
    expected = [('a/1', 7), ('a/2', 7), ('b/3', 8)]
    assert [got[i] for i in range(3)] == list(got) == expected
    empty = PathList.of([])
    assert not empty and empty == [] and list(empty) == [] and empty[:] == [] and repr(empty)
    assert list(PathList.of([''])) == ['']
    with pytest.raises(ValueError, match='zero byte'):
        Names.of(['a', 'b\0c'])


def test_order_is_the_promised_one(tree):
    expected = walked(tree)
    assert len(expected) == 5 + len(ODD) and build(tree).samples == expected == index.list_images(tree)
    folder = build(tree, name='ImageFolder')
    assert folder.classes == ['a', 'b', 'c']
    assert folder.samples == [(p, 'abc'.index(os.path.relpath(p, tree)[0])) for p in expected]
    flat = build([os.path.join(tree, 'c'), os.path.join(tree, 'a')], recursive=False).samples
    assert flat == [p for c in 'ca' for p in walked(os.path.join(tree, c)) if os.path.basename(os.path.dirname(p)) == c]


@pytest.mark.parametrize('name', ['UnlabelledFolder', 'ImageFolder', 'ImageNet'])
def test_index_gives_the_same_samples(tree, tmp_path, settled, caplog, name):
    file = tmp_path / 'new' / 'i.npz'
    assert not is_used(caplog, tree, file, name=name)
    before = file.stat().st_mtime_ns
    assert is_used(caplog, tree, file, name=name) and file.stat().st_mtime_ns == before
    assert '10 images listed' in caplog.text and str(file) in caplog.text and 'index: false' in caplog.text
    assert [f.name for f in file.parent.iterdir()] == ['i.npz'] and len(os.listdir(tree)) == 3


def test_index_made_below_another_name_of_the_working_folder(tree, tmp_path, settled, caplog, monkeypatch):
    file = tmp_path / 'i.npz'
    build(tree, file)
    monkeypatch.chdir(tmp_path)
    assert is_used(caplog, 'tree', file) and build('tree', file).samples[0].startswith('tree' + os.sep)


def change_back_in_time(root):
    """As an archive does that adds a file and then sets the folder's time to the stored one."""
    stat = os.stat(os.path.join(root, 'b'))
    touch(root, 'b/new.png')
    os.utime(os.path.join(root, 'b'), ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {
    'add': lambda root: touch(root, 'b/3.png'),
    'remove': lambda root: os.remove(os.path.join(root, 'b/2.png')),
    'rename': lambda root: os.rename(os.path.join(root, 'b/2.png'), os.path.join(root, 'b/4.png')),
    'nested': lambda root: touch(root, 'a/deep/er/y.png'),
    'new folder': lambda root: touch(root, 'a/deep/new/y.png'),
    'folder away': lambda root: os.rename(os.path.join(root, 'a/deep/er'), os.path.join(root, 'er')),
    'swapped': lambda root: [os.rename(os.path.join(root, a), os.path.join(root, b))
                             for a, b in (('a', 't'), ('b', 'a'), ('t', 'b'))],
    'time set back': change_back_in_time,
}


@pytest.mark.parametrize('name', ['UnlabelledFolder', 'ImageFolder'])
@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_folder_is_scanned_again(tree, tmp_path, settled, caplog, change, name):
    file = tmp_path / 'i.npz'
    build(tree, file, name=name)
    assert is_used(caplog, tree, file, name=name)
    time.sleep(0.02)
    CHANGES[change](tree)
    assert not is_used(caplog, tree, file, name=name)
    assert is_used(caplog, tree, file, name=name)


def test_content_does_not_matter_settings_do(tree, tmp_path, settled, caplog):
    file = tmp_path / 'i.npz'
    build(tree, file)
    with open(os.path.join(tree, 'b', '2.png'), 'w') as f:
        f.write('changed')
    assert is_used(caplog, tree, file)
    assert not is_used(caplog, os.path.join(tree, 'c'), file)
    assert not is_used(caplog, os.path.join(tree, 'c'), file, recursive=False)
    build(tree, file, name='ImageFolder')
    assert not is_used(caplog, tree, file, name='ImageFolder', classes=['c', 'a'])
    assert is_used(caplog, tree, file, name='ImageFolder', classes=['c', 'a'])


def test_a_folder_that_changed_just_now_is_not_trusted(tree, tmp_path, caplog):
    touch(tree, 'a/last.png')
    assert not is_used(caplog, tree, tmp_path / 'i.npz') and not (tmp_path / 'i.npz').exists()


def rewritten(file, **changes):
    with np.load(file) as stored:
        arrays = dict(stored)
    meta = json.loads(arrays['meta'].tobytes())
    meta.update(changes.pop('facts', {}))
    arrays['meta'] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    arrays.update(changes)
    np.savez(file, **arrays)


class Evil:
    def __reduce__(self):
        return os.mkdir, ('pwned',)


def text(block):
    return np.frombuffer(block, np.uint8)


DAMAGE = {
    'empty': lambda f: f.write_bytes(b''),
    'text': lambda f: f.write_bytes(b'no archive'),
    'truncated': lambda f: f.write_bytes(f.read_bytes()[:-40]),
    'one bit': lambda f: f.write_bytes(f.read_bytes().replace(b'9.png', b'8.png')),
    'pickle': lambda f: rewritten(f, names=np.array([Evil()], dtype=object)),
    'pickled file': lambda f: f.write_bytes(pickle.dumps(Evil())),
    'compressed': lambda f: np.savez_compressed(f, **dict(np.load(f))),
    'float': lambda f: rewritten(f, counts=np.ones(9)),
    'too many': lambda f: rewritten(f, counts=np.load(f)['counts'] + 1),
    'negative': lambda f: rewritten(f, counts=np.load(f)['counts'][::-1] * -1),
    'another tree': lambda f: rewritten(f, trees=np.load(f)['trees'] + 1),
    'no end': lambda f: rewritten(f, names=np.load(f)['names'][:-1]),
    'path in a name': lambda f: rewritten(f, names=text(np.load(f)['names'].tobytes().replace(b'deep.', b'dee/.'))),
    'path in a folder': lambda f: rewritten(f, folders=text(np.load(f)['folders'].tobytes().replace(b'deep\0',
                                                                                                    b'b/..\0'))),
    'another version': lambda f: rewritten(f, facts={'version': 0}),
    'no date': lambda f: rewritten(f, facts={'made': None}),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_index_is_ignored_and_made_anew(tree, tmp_path, settled, caplog, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'i.npz'
    build(tree, file)
    rewritten(file)
    assert is_used(caplog, tree, file)              # writing it again as it is does no harm
    DAMAGE[damage](file)
    assert not is_used(caplog, tree, file) and not (tmp_path / 'pwned').exists()
    assert is_used(caplog, tree, file)


def test_wrong_values_and_other_peoples_files(tree, tmp_path, caplog):
    for wrong in (True, 3, None, 'yes', 'list.txt', ['a.npz']):
        with pytest.raises(ConfigError, match='index must be auto, false or'):
            build_dataset({'name': 'UnlabelledFolder', 'dataroot': tree, 'index': wrong})
    np.savez(tmp_path / 'features.npz', x=np.ones(2))
    with pytest.raises(ConfigError, match='is no index'):
        build(tree, tmp_path / 'features.npz')
    assert np.load(tmp_path / 'features.npz')['x'].sum() == 2


def test_missing_folder_is_told_in_spite_of_an_index(tree, tmp_path, settled):
    build(tree, tmp_path / 'i.npz')
    os.rename(tree, tree + '2')
    with pytest.raises(DataError, match='no folder'):
        build(tree, tmp_path / 'i.npz')


def cached(root):
    return build_dataset({'name': 'ImageFolder', 'dataroot': root}).samples


def test_auto_keeps_slow_scans_only_and_only_in_the_cache_folder(tree, tmp_path, settled, caplog, monkeypatch):
    cache = tmp_path / 'cache'
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
    cached(tree)
    assert not cache.exists()
    monkeypatch.setattr(index, '_SLOW_SECONDS', 0)
    first = cached(tree)
    files = os.listdir(cache / 'passl')
    assert len(files) == 1
    touch(tree, 'd/1.png')                          # another class: the same file is made anew
    assert len(cached(tree)) == len(first) + 1 and os.listdir(cache / 'passl') == files
    with caplog.at_level(logging.INFO, 'passl'):
        assert len(cached(tree)) == len(first) + 1
    assert caplog.text.count('listed from the index') == 1
    build_dataset({'name': 'ImageFolder', 'dataroot': tree, 'classes': ['a']})
    assert len(os.listdir(cache / 'passl')) == 2


def test_unwritable_places(tree, tmp_path, settled, caplog, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    monkeypatch.setattr(index, '_SLOW_SECONDS', 0)
    assert cached(tree) == cached(tree) and not caplog.records          # nothing above 'debug'
    build(tree, tmp_path / 'file' / 'i.npz')
    assert 'cannot be written' in caplog.text                           # asked for: said
