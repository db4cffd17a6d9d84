"""Lists of many paths, and what a folder gives as images."""

import logging
import os
import pickle

import numpy as np
import pytest

from passl.datasets import build_dataset
from passl.datasets.listing import is_image_name, list_trees
from passl.datasets.path_list import Names, PathList
from passl.utils.errors import ConfigError

ODD = ['a b.png', 'zwei\nZeilen.png', '图.png', os.fsdecode(b'\xff\xfe.png'), 'é.png']


def touch(root, *names):
    """Files without content: only names are listed."""
    for name in names:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'w').close()


def walked(top):
    """The order that is promised: a folder's own images by name, then its sub-folders by name."""
    names = sorted(os.listdir(top))
    found = [os.path.join(top, n) for n in names if is_image_name(n) and not os.path.isdir(os.path.join(top, n))]
    for name in names:
        if os.path.isdir(os.path.join(top, name)) and not name.startswith('.') and name != '__MACOSX':
            found += walked(os.path.join(top, name))
    return found


@pytest.fixture
def tree(tmp_path):
    root = str(tmp_path / 'tree')
    touch(root, 'b/2.png', 'b/1.JPG', 'a/deep/er/x.png', 'a/deep.png', 'a/9.png', 'b/._1.png', 'b/notes.txt',
          'a/.hidden/1.png', 'a/__MACOSX/1.png', *('c/' + name for name in ODD))
    os.makedirs(os.path.join(root, 'c', 'folder.png'))
    return root


def build(root, name='UnlabelledFolder', **options):
    return build_dataset({'name': name, 'dataroot': root, **options})


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
    assert len(expected) == 5 + len(ODD) and build(tree).samples == expected == list_trees([tree])[0]
    folder = build(tree, name='ImageFolder')
    assert folder.classes == ['a', 'b', 'c']
    assert folder.samples == [(p, 'abc'.index(os.path.relpath(p, tree)[0])) for p in expected]
    flat = build([os.path.join(tree, 'c'), os.path.join(tree, 'a')], recursive=False).samples
    assert flat == [p for c in 'ca' for p in walked(os.path.join(tree, c)) if os.path.basename(os.path.dirname(p)) == c]


def test_a_setting_of_older_runs_is_told_and_changes_nothing(tree, caplog):
    for name, value in (('UnlabelledFolder', 'auto'), ('ImageFolder', False), ('ImageNet', 'names.npz')):
        caplog.clear()
        with caplog.at_level(logging.INFO, 'passl'):
            dataset = build_dataset({'name': name, 'dataroot': tree, 'index': value})
        assert dataset.samples == build(tree, name=name).samples
        assert "'dataloader.train.dataset.index' is a setting of older versions without effect" in caplog.text
    with pytest.raises(ConfigError, match="Synthetic has no setting 'index'"):
        build_dataset({'name': 'Synthetic', 'index': 'auto'})
