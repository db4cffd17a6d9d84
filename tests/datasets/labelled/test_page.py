"""The page on labelled data: its Python and its checks run, on data sets in the layouts that it shows."""

import os
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from passl import cli
from tests.datasets.labelled.render import (Scene, render_coco, render_folder, render_voc, voc_xml, write_file,
                                            write_image)
from tests.test_docs import FENCE, read


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    render_folder('data/my_masks')
    render_voc('data/VOC2012')
    render_coco('data/coco')
    scene = Scene(1)
    write_image('data/cells/images/a.jpg', scene.image)
    write_file('data/cells/annotations/a.xml', voc_xml(scene, 'a', ('', 'RBC', 'WBC')))
    write_file('data/cells/train.txt', 'a\n')
    write_file('data/cells/label_list.txt', 'Platelets\nRBC\nWBC\n')
    os.makedirs('data/numbers')
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [9, 9, 9]], np.uint8)
    write_image('data/coloured/a.png', colours[[[0, 1, 2], [3, 2, 1]]])


def blocks(kind):
    return [text for language, text in FENCE.findall(read('docs/LABELLED_DATA.md')) if language == kind]


def test_python_of_the_page(data):
    assert len(blocks('python')) == 3
    for text in blocks('python'):
        names = {}
        exec(compile(text, 'LABELLED_DATA.md', 'exec'), names)
        if 'masks' in names:
            assert names['mask'].shape == (48, 64) and names['image'].shape == (48, 64, 3)
            assert names['counts'][1:] == (21, 255, 4) and names['labels'].shape == (20,)
            assert names['numbers_in_the_file'] == [1, 3, 18] and names['shapes'].ndim == 3
        if 'left_out' in names:
            assert names['left_out'] == [] and names['boxes'].classes == ['Platelets', 'RBC', 'WBC']
    written = np.asarray(Image.open('data/numbers/a.png'))
    assert written.tolist() == [[0, 1, 2], [255, 2, 1]]


def test_checks_of_the_page(data, capsys):
    lines = [shlex.split(x) for text in blocks('bash') for x in text.splitlines() if 'check_data' in x]
    assert [cli.check_main(words[2:]) for words in lines] == [0, 0, 0]
    assert os.path.isfile('masks.json') and capsys.readouterr().out.count('No problems.') == 3


def test_options_of_the_page_exist():
    from passl.datasets.labelled.registry import DETECTION, SEGMENTATION
    from passl.utils.config.registry import accepted_arguments
    known = set()
    for table in (SEGMENTATION, DETECTION):
        for kind in table.names():
            known |= accepted_arguments(table.get(kind))[0]
    rows = re.findall(r'^\| (`\w+=.*?) \|', read('docs/LABELLED_DATA.md'), re.M)
    named = {name for row in rows for name in re.findall(r'`(\w+)=', row)}
    assert len(named) >= 9 and named <= known
    text = read('docs/LABELLED_DATA.md')
    assert all(f'| `{kind}` |' in text for kind in SEGMENTATION.names())
