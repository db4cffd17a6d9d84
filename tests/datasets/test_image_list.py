"""Lists of images as other programs write them: what the message says of the line."""

import logging
import os

import pytest

from passl.datasets.image_list import ImageList, looks_like, other_name
from passl.utils.errors import DataError


@pytest.fixture
def root(tmp_path, make_images):
    folder = tmp_path / 'imgs'
    make_images(folder, 3)
    for k, old in enumerate(sorted(os.listdir(folder))):
        os.rename(folder / old, folder / f'p {k}.jpg' if k == 2 else folder / f'p{k}.jpg')
    return folder


def listed(root, text, encoding='utf-8'):
    file = root.parent / 'list.txt'
    file.write_bytes(text.encode(encoding))
    return ImageList(root, file, return_label=True)


@pytest.mark.parametrize('text, said', [
    ('p0.jpg,0\np1.jpg,1', "a table .CSV.: write a blank in place of ','"),
    ('p0.jpg;cat\np1.jpg;dog', "write a blank in place of ';'"), ('"p0.jpg",0', 'names in quotes'),
    ("'p0.jpg' 0\n'p1.jpg' 1", 'names in quotes'), ('p0.jpg cat\np1.jpg dog', "the label 'cat': labels are whole"),
    ('p0.jpg\tcat', "the label 'cat'"), ('p0.jpg -1\np1.jpg 0', "the label '-1'"), ('p0.jpg 1.0', "the label '1.0'"),
    ('filename label\np0.jpg 0', 'the head of a table: remove'), ('# mine\np0.jpg 0', 'a comment'),
    ('p0.jpg 0 1\np1.jpg 1 1', 'several labels'), ('0 p0.jpg\n1 p1.jpg', 'a number before the name: write'),
    ('.\\p0.jpg 0', r"has backslashes: write '/' .'p0.jpg' is there"), ('P0.JPG 0', 'differs in capital letters'),
    ('/p0.jpg 0', "take the '/' in front away"), ('imgs/p0.jpg 0', 'The names begin with the folder: use dataroot: .*'),
    ('none.jpg 0', 'must be relative to dataroot'), ('p0.jpg 0\np0.jpg 1', 'gives the image .p0.jpg. two labels')])
def test_what_a_line_looks_like(root, text, said):
    with pytest.raises(DataError, match=said):
        listed(root, text)


def test_gbk(root):
    for text, said in (('图.jpg 0', "In GBK it would be '图.jpg'"), ('训练.jpg 0', "line 1 would read '训练.jpg 0'")):
        with pytest.raises(DataError, match=said):
            listed(root, text, 'gbk')
    os.rename(root / 'p1.jpg', root / '图.jpg')
    with pytest.raises(DataError, match="was written in GBK.*'图.jpg' is there"):
        listed(root, '图.jpg 0', 'gbk')
    assert listed(root, '图.jpg 0', 'utf-16').samples[0] == (str(root / '图.jpg'), 0)


def test_usual_lists_say_nothing_and_odd_ones_are_told(root, caplog):
    usual = 'p0.jpg', 'p0.jpg 0', 'a b/p 2.jpg 7', 'ä, b.png 3', '2020 01 p.jpg 0'
    assert [looks_like(line) for line in usual] == [''] * len(usual)
    logging.getLogger('passl').addHandler(caplog.handler)
    try:
        assert len(listed(root, 'p 2.jpg 0\np0.jpg\t1')) == 2 and not caplog.records
        assert len(listed(root, 'p0.jpg 1\np1.jpg 2\np0.jpg 1')) == 3
    finally:
        logging.getLogger('passl').removeHandler(caplog.handler)
    said = ' '.join(r.getMessage() for r in caplog.records)
    assert 'names 1 images more than once' in said and 'no image the label 0' in said


def test_names_of_files_in_fact(tmp_path):
    (tmp_path / 'A' / 'b').mkdir(parents=True)
    for name in ('A/b/c.png', 'x.png', 'X.png'):
        (tmp_path / name).touch()
    found = {name: other_name(str(tmp_path), name, {}) for name in (
        'a/B/C.PNG', 'A\\b\\c.png', '/A/b/c.png', 'X.PNG', 'A/b', '../x.png', 'A/b/c.png', 'C:\\x.png', 'none')}
    assert {k: v and v[0] for k, v in found.items()} == {
        'a/B/C.PNG': 'A/b/c.png', 'A\\b\\c.png': 'A/b/c.png', '/A/b/c.png': 'A/b/c.png', 'X.PNG': None, 'A/b': None,
        '../x.png': None, 'A/b/c.png': None, 'C:\\x.png': None, 'none': None}
