"""Annotation files of Pascal VOC, read by a parser that takes nothing else than elements and text."""

import math
import os
from typing import Optional, Union
from xml.parsers import expat

from ...utils.errors import DataError
from ..image import shown
from ..text import read_text

MAX_BYTES = 2**22               # the largest of VOC has some 20 kB
MAX_DEPTH = 16
MAX_OBJECTS = 10**4
# size of the image, objects: see `parse_annotation`
Annotation = tuple[Optional[tuple[int, int]], list[tuple[str, list[float], bool]]]
_MAX_TEXT = 500
_DIFFICULT = {'': False, '0': False, 'false': False, 'unspecified': False, '1': True, 'true': True}
_BOX = ('xmin', 'ymin', 'xmax', 'ymax')
_SIZE = {f'annotation/size/{k}': k for k in ('width', 'height')}
_OBJECT = 'annotation/object'
# the parts of a body (object/part) have names and boxes of their own, which are none of the object's
_FIELDS = {f'{_OBJECT}/name': 'name', f'{_OBJECT}/difficult': 'difficult',
           **{f'{_OBJECT}/bndbox/{k}': k for k in _BOX}}


class _Refused(Exception):
    """Ends the parsing with a reason."""


class _Reader:
    def __init__(self) -> None:
        self.path: list[str] = []
        self.text: list[str] = []
        self.size: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []

    def doctype(self, *_: object) -> None:
        # entities: files to be read, and texts that grow to gigabytes
        raise _Refused('it holds a DOCTYPE, which declares entities and which no annotation of VOC has. Remove that '
                       'line')

    def start(self, name: str, _: dict[str, str]) -> None:
        self.path.append(name)
        if len(self.path) > MAX_DEPTH:
            raise _Refused(f'its elements are nested more than {MAX_DEPTH} deep')
        if len(self.path) == 1 and name != 'annotation':
            raise _Refused(f'it begins with <{name[:50]}>, not with <annotation>')
        if len(self.path) == 2 and name == 'object':
            self.objects.append({})
            if len(self.objects) > MAX_OBJECTS:
                raise _Refused(f'it holds more than {MAX_OBJECTS} objects')
        self.text = []

    def characters(self, text: str) -> None:
        if sum(map(len, self.text)) + len(text) <= _MAX_TEXT:
            self.text.append(text)

    def end(self, _: str) -> None:
        path, text = '/'.join(self.path), ''.join(self.text).strip()
        self.path.pop()
        self.text = []
        if path not in _SIZE and path not in _FIELDS:
            return
        target, key = (self.size, _SIZE[path]) if path in _SIZE else (self.objects[-1], _FIELDS[path])
        if key in target:
            raise _Refused(f'<{key}> stands twice')
        target[key] = text


def _number(fields, key, where):
    try:
        value = float(fields[key])
    except KeyError:
        raise _Refused(f'{where} has no <{key}>') from None
    except ValueError:
        raise _Refused(f'{where}: <{key}> is {fields[key][:50]!r}, no number') from None
    if not math.isfinite(value) or abs(value) > 10**6:
        raise _Refused(f'{where}: <{key}> is {fields[key][:50]!r}, no coordinate of a pixel')
    return value


def parse_annotation(text: str, name: object = 'annotation') -> Annotation:
    """What an annotation file says.

    Args:
        text: str.
        name: for messages.

    Returns:
        ((height, width) or None where the file does not tell, [(class name, [xmin, ymin, xmax, ymax], difficult)]);
        the numbers are those of the file.

    Raises:
        DataError: no XML, a DOCTYPE, another root element, a missing or wrong number.
    """
    reader = _Reader()
    parser = expat.ParserCreate('utf-8')
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(text.encode('utf-8', 'surrogatepass'), True)
        objects = []
        for k, fields in enumerate(reader.objects, 1):
            where = f'object {k}'
            if not fields.get('name'):
                raise _Refused(f'{where} has no <name>')
            box = [_number(fields, key, where) for key in _BOX]
            hard = fields.get('difficult', '0')
            if hard.lower() not in _DIFFICULT:
                raise _Refused(f'{where}: <difficult> is {hard[:50]!r}, neither 0 nor 1')
            objects.append((fields['name'], box, _DIFFICULT[hard.lower()]))
        size = None
        if reader.size:
            size = int(_number(reader.size, 'height', 'size')), int(_number(reader.size, 'width', 'size'))
            size = size if min(size) > 0 else None          # some tools write 0 x 0
        return size, objects
    except expat.ExpatError as e:
        raise DataError(f'{shown(name)} is no valid XML: {e}.') from None
    except _Refused as e:
        raise DataError(f'{shown(name)} cannot be used: {e}.') from None


def read_annotation(path: Union[str, os.PathLike]) -> Annotation:
    """`parse_annotation` of a file of at most MAX_BYTES. Raises DataError."""
    return parse_annotation(read_text(path, MAX_BYTES), path)
