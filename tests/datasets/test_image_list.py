"""Lists of images in other encodings, with odd labels, and with names as other systems write them."""

import logging
import os

import pytest

from passl.datasets.image_list import ImageList
from passl.datasets.list_lines import other_name
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


def test_gbk(root):
    with pytest.raises(DataError, match="line 1 would read '训练.jpg 0'"):
        listed(root, '训练.jpg 0', 'gbk')
    os.rename(root / 'p1.jpg', root / '图.jpg')
    with pytest.raises(DataError, match="was written in GBK.*'图.jpg' is there"):
        listed(root, '图.jpg 0', 'gbk')
    assert listed(root, '图.jpg 0', 'utf-16').samples[0] == (str(root / '图.jpg'), 0)


def test_usual_lists_say_nothing_and_odd_ones_are_told(root, caplog):
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
