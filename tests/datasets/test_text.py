"""Texts of any program: read where it is certain what they say, refused in words where not."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.datasets.text import as_gbk, decode_text, read_lines
from passl.utils.errors import DataError

TEXT = '背景\ncat\n狗'


@pytest.mark.parametrize('data', [
    TEXT.encode(), TEXT.encode('utf-8-sig'), TEXT.encode('utf-16'), codecs.BOM_UTF16_BE + TEXT.encode('utf-16-be'),
    TEXT.encode('utf-32'), codecs.BOM_UTF32_BE + TEXT.encode('utf-32-be')])
def test_marks(data):
    assert decode_text(data, 'x') == TEXT


@pytest.mark.parametrize('encoding, declared', [
    ('gbk', 'GBK'), ('gb18030', 'gb2312'), ('big5', 'Big5'), ('shift-jis', 'Shift_JIS'), ('utf-8', 'utf-8'),
    ('utf-16', 'utf-16'), ('utf-16-le', 'UTF-16'), ('utf-16-be', 'UTF-16'), ('utf-8', 'UTF-16'), ('utf-8', 'us-ascii'),
    ('utf-8-sig', 'gbk')])
def test_declared_encodings(encoding, declared):
    text = f"<?xml version='1.0' encoding='{declared}' ?><a>日本</a>"
    assert decode_text(text.encode(encoding), 'x') == text


@pytest.mark.parametrize('data, said', [
    (TEXT.encode('gbk'), "'x' is no UTF-8 text .byte 0, line 1.*As GBK line 1 would read '背景'.*iconv -f GB18030"),
    (b'a\nb\n' + '狗x'.encode('gbk'), "line 3.*As GBK line 3 would read '狗x'"),
    ('café\n'.encode('latin-1'), r'no UTF-8 text .byte 3, line 1.. Save it as UTF-8.$'),
    (b'<?xml version="1.0" encoding="klingon"?><a/>', "declares the encoding 'klingon', which is not known"),
    (b'<?xml version="1.0" encoding="zip"?><a/>', "'zip', which is not known"),
    (b'<?xml version="1.0" encoding="ascii"?>\xff', 'no ascii text'),
    (codecs.BOM_UTF16_LE + b'a', 'no utf-16 text'), (b'a\nb\0c\n', 'line 2 holds a zero byte'), (b'\0', 'zero byte')])
def test_what_is_not_certain_is_refused(data, said):
    with pytest.raises(DataError, match=said):
        decode_text(data, 'x')


def test_lines_end_as_on_any_system(tmp_path):
    (tmp_path / 'a').write_bytes('a b \r\n\r\n c\x0cd\u2028e\rf\n\n'.encode())
    assert read_lines(tmp_path / 'a') == [(1, 'a b'), (3, 'c\x0cd\u2028e'), (4, 'f')]


def test_short_texts_of_gbk_that_are_utf_8():
    name = '图.jpg'.encode('gbk').decode('utf-8')
    assert as_gbk(name) == '图.jpg' and as_gbk('a.jpg') == '' and as_gbk('\udcff') == ''


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda t: t.encode('utf-16', 'surrogatepass')) |
       st.tuples(st.sampled_from([b'<?xml version="1.0" encoding="%s"?>' % e for e in (
           b'gbk', b'utf-16', b'utf-7', b'idna', b'punycode', b'hex', b'rot13', b'undefined', b'x')]),
           st.binary(max_size=20)).map(b''.join))
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_any_bytes_are_a_text_or_an_error_of_ours(data):
    try:
        assert '\0' not in decode_text(data, 'x')
    except DataError as e:
        assert str(e).startswith("'x'")
