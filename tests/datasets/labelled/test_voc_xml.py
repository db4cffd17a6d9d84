"""The reader of VOC's XML: values, and files made to do harm."""

import random
import time

import pytest

from passl.datasets.labelled.voc_xml import MAX_BYTES, parse_annotation, read_annotation
from passl.utils.errors import DataError, PasslError
from tests.datasets.labelled.render import Scene, voc_xml
from tests.security.guard import guarded

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

GOOD = voc_xml(Scene(3), 'x', difficult=(1,))


def test_values():
    size, objects = parse_annotation(GOOD)
    scene = Scene(3)
    assert size == (48, 64) and [d for _, _, d in objects] == [False, True, False]
    assert [b for _, b, _ in objects] == [[x0 + 1, y0 + 1, x1, y1] for x0, y0, x1, y1 in scene.boxes]
    assert parse_annotation('<annotation/>') == (None, [])
    text = '<?xml version="1.0" encoding="GBK"?>\n<annotation><object><name> 狗 </name><bndbox><xmin>1</xmin>' \
           '<ymin>2.5</ymin><xmax> 3 </xmax><ymax>4</ymax></bndbox></object></annotation>'
    assert parse_annotation(text) == (None, [('狗', [1, 2.5, 3, 4], False)])


BILLION = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + ''.join(
    f'<!ENTITY {c} "{"&" + b + ";" * 1}{("&" + b + ";") * 9}">' for b, c in zip('abcdefghi', 'bcdefghij')) + \
    ']><annotation><object><name>&j;</name></object></annotation>'


@pytest.mark.parametrize('text, said', [
    (BILLION, 'DOCTYPE'),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>',
     'DOCTYPE'),
    ('<!DOCTYPE annotation SYSTEM "http://example.com/x.dtd"><annotation/>', 'DOCTYPE'),
    ('<annotation>&x;</annotation>', 'no valid XML: undefined entity'),
    ('<annotation>' + '<a>' * 10**5, 'nested more than 16'),
    ('<annotation>' + '<object/>' * 10001 + '</annotation>', 'more than 10000 objects'),
    ('', 'no valid XML'), ('<annotation>', 'no valid XML'), ('<html/>', 'begins with <html>'),
    ('<annotation/><annotation/>', 'no valid XML'),
    (GOOD.replace('<name>', '<title>').replace('</name>', '</title>'), 'object 1 has no <name>'),
    (GOOD.replace('<xmin>', '<x>').replace('</xmin>', '</x>'), 'object 1 has no <xmin>'),
    (GOOD.replace('<xmin>', '<xmin>nan</xmin><xmin>', 1), '<xmin> stands twice'),
    (GOOD.replace('<xmin>', '<xmin>x', 1), "<xmin> is 'x.*no number"),
    (GOOD.replace('<xmin>', '<xmin>9999999', 1), 'no coordinate'),
    (GOOD.replace('<width>64', '<width>nan'), 'no coordi'),
    (GOOD.replace('<difficult>0', '<difficult>2', 1), 'neither 0 nor 1'),
])
def test_what_is_refused(text, said):
    began = time.process_time()
    with pytest.raises(DataError, match=said):
        parse_annotation(text, 'a.xml')
    assert time.process_time() - began < 2


def test_files_are_bounded(tmp_path):
    path = tmp_path / 'a.xml'
    for data, said in ((b'<annotation>' + b' ' * MAX_BYTES, 'bytes, more than'),
                       ('<annotation>狗'.encode('gbk'), "no UTF-8.*As GBK line 1 would read '<annotation>狗'"),
                       (b'\xff\xfe<\0a\0\0', 'no utf-16')):
        path.write_bytes(data)
        with pytest.raises(DataError, match=said):
            read_annotation(str(path))
    with pytest.raises(DataError, match='cannot be read'):
        read_annotation(str(tmp_path / 'none.xml'))
    path.write_text('<annotation><folder>' + 'x' * (MAX_BYTES - 100) + '</folder></annotation>')
    assert read_annotation(str(path)) == (None, [])


PIECES = ['<object>', '</object>', '<name>', '</name>', 'dog', '<bndbox>', '</bndbox>', '<xmin>', '</xmin>', '7', '-1',
          'nan', '<size>', '&amp;', '&#0;', '&x;', '<!DOCTYPE a>', '<![CDATA[', ']]>', '<!--', '-->', '<?x?>',
          '\0', '\ud800',
          'é', '<a b="1"', '/>', '<annotation>']


def test_changed_files_give_values_or_an_error_of_ours(tmp_path):
    rng, fine, path = random.Random(5), 0, str(tmp_path / 'a.xml')
    for _ in range(500):
        text = GOOD
        for _ in range(rng.choice([1, 1, 2, 5])):
            k = rng.randrange(len(text) + 1)
            text = text[:k] + rng.choice(['', ' ', '9', *PIECES]) + text[k + rng.choice([0, 0, 0, 1, 40]):]
        with open(path, 'wb') as f:
            f.write(text.encode('utf-8', 'surrogatepass'))
        fine += guarded(read_annotation, path, allowed=PasslError, seconds=5, megabytes=100).error is None
    assert 0 < fine < 400


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map(''.join))
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_any_text(text):
    for whole in (text, f'<annotation>{text}</annotation>'):
        try:
            size, objects = parse_annotation(whole)
            assert isinstance(objects, list)
        except PasslError:
            pass
