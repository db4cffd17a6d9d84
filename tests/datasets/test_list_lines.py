"""Lists of other forms: the message says what a line looks like, and the way out that it shows works."""

import logging
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl import cli
from passl.datasets import build_dataset
from passl.datasets.image_list import read_list
from passl.datasets.list_lines import guess_form
from passl.utils.errors import DataError

FORMS = {       # name: (text of the list with files a.png, b c.png, d/e.png in `images`, what is said)
    'csv': ('a.png,0\nd/e.png,1\n',
            'separated by commas (CSV). Write the name first, then a space and the class number: a.png 0'),
    'csv, spaces': ('a.png, 0\nd/e.png, 1\n', 'separated by commas'), 'semicolons': ('a.png;0\n', 'by semicolons'),
    'csv, label first': ('1,a.png\n0,d/e.png\n', 'a.png 1'), 'csv, word': ('a.png,cat\nd/e.png,dog\n', 'by commas'),
    'csv, quotes': ('"a.png",0\n"d/e.png",1\n', 'by commas (CSV)'), 'bars': ('a.png|3\n', 'by bars'),
    'csv, header': ('image,label\na.png,0\n', 'it is a header'),
    'csv, more fields': ('a.png,0,640,480\n', 'by commas'),
    'header': ('filename label\na.png 0\n', 'Line 1: it is a header. Take it out'),
    'comment': ('# mine\na.png 0\n', 'Line 1: it is a comment. Take it out'),
    'comment, slashes': ('// mine\na.png 0\n', 'it is a comment'),
    'words': ('a.png cat\nd/e.png dog\n', "its label 'cat' is a word. Number the classes 0, 1, 2 ... (a.png 0), or"),
    'words, tab': ('a.png\tcat\n', "its label 'cat' is a word"),
    'two words': ('a.png big cat\n', "'big cat' is a word"),
    'quotes': ('"a.png" 0\n"d/e.png" 1\n', 'its name stands in quotes. Take them out: a.png'),
    'single quotes': ("'a.png'\n", 'its name stands in quotes. Take them out: a.png'),
    'two labels': ('a.png 0 1\nd/e.png 0 1\n', '2 numbers stand behind the name; an image has one class'),
    'many labels': ('a.png 0 1 0 1 1\n', '5 numbers stand behind'), 'tabs': ('a.png\t0\t1\n', '2 numbers stand behind'),
    'boxes': ('a.png 10 20 50 60 3\n', '5 numbers stand behind'),
    'negative': ('a.png -1\nd/e.png 0\n', 'Line 1: its label -1 is no whole number from 0 on'),
    'all negative': ('a.png -1\n', 'its label -1'), 'float': ('a.png 0.0\nd/e.png 1.0\n', 'its label 0.0 is no whole'),
    'exponent': ('a.png 1e3\n', 'its label 1e3 is no whole'),
    'numbered': ('0 a.png\n1 d/e.png\n', 'a number stands before the name. Take it out, or put it behind: a.png 0'),
    'masks': ('a.png m.png\n', 'it names two files, as lists of images and masks do'),
    'backslashes': ('d\\e.png 1\n', "its name has backslashes: write '/' ('d/e.png' is there)"),
    'dot backslash': ('.\\a.png\n', "has backslashes: write '/' ('a.png' is there)"),
    'drive': ('C:\\data\\x.png 0\n', 'it is a path of Windows'),
    'drive, known': ('C:\\data\\images\\a.png 0\n', 'Name only what follows dataroot'),
    'root again': ('images/a.png 0\n', 'or give the folder above it as dataroot: a.png'),
    'roots again': ('data/images/d/e.png\n', 'as dataroot: d/e.png'),
    'address': ('https://example.org/x.png\n', 'it is an address'), 'bucket': ('s3://b/x.png\n', 'it is an address'),
    'json': ('{"image": "a.png"}\n', 'it is JSON'),
    'capitals': ('A.PNG 0\n', "differs in capital letters ('a.png' is there)"),
    'no ending': ('a 0\nd/e 1\n', 'a file has nearly this name: a.png'),
    'other ending': ('a.jpg\n', 'a file has nearly this name: a.png'),
    'gbk as utf-8': ('ͼ.png 0\n', 'iconv -f GB18030')}


@pytest.fixture
def root(tmp_path, make_images):
    first, second, third = make_images(tmp_path / 'images', 3)
    os.mkdir(tmp_path / 'images' / 'd')
    for old, new in ((first, 'a.png'), (second, 'b c.png'), (third, 'd/e.png')):
        os.rename(old, tmp_path / 'images' / new)
    return str(tmp_path / 'images')


def open_list(root, text, **options):
    path = os.path.join(os.path.dirname(root), 'list.txt')
    with open(path, 'wb') as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return build_dataset({'name': 'ImageList', 'dataroot': root, 'list_file': path, **options})


@pytest.mark.parametrize('name', FORMS)
def test_the_message_says_what_the_line_looks_like(root, name, capsys):
    text, said = FORMS[name]
    with pytest.raises(DataError) as e:
        open_list(root, text, return_label=True)
    message = str(e.value)
    assert said in message and 'Expected: a name, or a name, a space and the number of its class' in message
    assert 'list.txt' in message and message.count('\n') == 0
    assert cli.check_main([os.path.join(os.path.dirname(root), 'list.txt'), '--root', root]) == 2
    assert said in capsys.readouterr().err


def test_such_names_are_fine_if_the_files_are_there(root):
    for name in ('x,1.png', '"q".png', '0 n.png', 'two words 1.5', 'b\\s.png', '# c.png', 'a.png cat'):
        os.link(os.path.join(root, 'a.png'), os.path.join(root, name))
        assert list(open_list(root, name + '\n').samples) == [os.path.join(root, name)]
        assert open_list(root, name + ' 3\n', return_label=True).label(0) == 3


@pytest.mark.parametrize('code, said', [('utf-16-le', 'is no UTF-8 text'), ('gb18030', 'GB18030'),
                                        ('latin-1', 'is no UTF-8 text')])
def test_other_encodings_are_told(root, code, said):
    text = '图片.png 0\n' if code != 'latin-1' else 'éé.png 0\n'
    with pytest.raises(DataError, match=said) as e:
        open_list(root, text.encode(code))
    assert 'iconv' in str(e.value)


def test_labels_from_one_and_names_twice_are_told(root, caplog):
    with caplog.at_level(logging.WARNING, 'passl'):
        assert open_list(root, 'a.png 1\nd/e.png 2\n', return_label=True).num_classes == 3
    assert 'gives no image the label 0: if its labels begin with 1, subtract 1.' in caplog.text
    with pytest.raises(DataError, match="gives the image 'a.png' two labels"):
        open_list(root, 'a.png 0\na.png 1\nd/e.png 0\n', return_label=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'passl'):
        open_list(root, 'a.png 0\nd/e.png 1\n', return_label=True)
    assert not caplog.text


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=40), st.sampled_from(['', 'a.png', ' a.png ', '"a.png"', 'd\\e.png', '1']), st.text(max_size=9))
def test_no_line_breaks_the_guess(tmp_path_factory, before, name, behind):
    folder = str(tmp_path_factory.getbasetemp())
    line = before + name + behind
    for root in (None, folder):
        assert isinstance(guess_form(line, root), str)
    path = os.path.join(folder, 'l.txt')
    with open(path, 'w', encoding='utf-8', errors='replace', newline='') as f:
        f.write(line + '\nx.png 1\n')
    try:
        names, labels = read_list(path)
    except DataError as e:
        assert 'l.txt' in str(e)
    else:
        assert len(names) == len(labels or names)
