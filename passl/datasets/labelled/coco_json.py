"""Files instances_*.json of COCO: read, checked, and packed into arrays."""

import array
import json
import os
from typing import Any, Union

import numpy as np

from ...utils.errors import DataError
from ..image import read_file, shown
from ..text import decode_text
from .rle import check_polygon, check_shape, counts_of_list, counts_of_text, polygon_mask, rle_mask

MAX_ID = 2**53


class Segments:
    """Outlines of objects in few bytes: all corners of all polygons in one block, and the run lengths by number.

    A million polygons as lists of Python numbers would take gigabytes in every worker.
    """

    def __init__(self) -> None:
        self._corners, self._ends = array.array('d'), array.array('q', [0])
        self._first: list[int] = []
        self._runs: dict[int, Union[str, np.ndarray]] = {}

    def add(self, segmentation: Any, size: tuple[int, int]) -> None:
        """Append one object's `segmentation`, which may be None. Raises DataError."""
        self._first.append(len(self._ends) - 1)
        if segmentation is None:
            return
        if isinstance(segmentation, dict):
            self._runs[len(self._first) - 1] = self._run_lengths(segmentation, size)
            return
        if not isinstance(segmentation, list):
            raise DataError('the segmentation is neither a list of polygons nor run lengths with size and counts')
        for points in segmentation:
            self._corners.frombytes(check_polygon(points).tobytes())
            self._ends.append(len(self._corners))

    @staticmethod
    def _run_lengths(segmentation, size):
        if any(size) and segmentation.get('size') != list(size):
            raise DataError(f"the run lengths are of size {str(segmentation.get('size'))[:50]}, but the image is "
                            f'{list(size)} (height, width)')
        counts = segmentation.get('counts')
        if isinstance(counts, str):
            if any(size) and len(counts) > 6 * size[0] * size[1] + 6:
                raise DataError('the run lengths are longer than the mask')
            counts_of_text(counts)
            return counts
        if not isinstance(counts, list):
            raise DataError("the run lengths have no 'counts'")
        return counts_of_list(counts).astype(np.int32)

    def close(self) -> None:
        """Everything is there."""
        self._first.append(len(self._ends) - 1)

    def has(self, number: int) -> bool:
        return number in self._runs or self._first[number + 1] > self._first[number]

    def runs(self, number: int) -> Union[None, str, np.ndarray]:
        """The run lengths of an object, or None if it has polygons."""
        return self._runs.get(number)

    def polygons(self, number: int) -> list[np.ndarray]:
        """float64 [n, 2] of each polygon of an object."""
        return [np.array(self._corners[self._ends[k]:self._ends[k + 1]]).reshape(-1, 2)
                for k in range(self._first[number], self._first[number + 1])]

    def mask(self, number: int, size: tuple[int, int]) -> np.ndarray:
        """bool [height, width] of an object. Raises DataError."""
        runs = self.runs(number)
        return polygon_mask(self.polygons(number), *size) if runs is None else rle_mask(runs, *size)


def read_json(path: Union[str, os.PathLike]) -> dict[str, Any]:
    """The dict in a JSON file. Raises DataError."""
    text = decode_text(read_file(path), path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DataError(f'{shown(path)} is no valid JSON: {str(e)[:200]}.') from None
    if not isinstance(content, dict):
        raise DataError(f'{shown(path)}: it holds no images, annotations and categories, but a '
                        f'{type(content).__name__}.')
    return content


def _number(value: Any) -> Union[None, int, float]:
    """A number from 0 digits on: as it stands, or as the text that some programs write; None for anything else."""
    if isinstance(value, str) and len(value) < 30:
        try:
            value = float(value)
        except ValueError:
            return None
    if type(value) is float and value.is_integer():         # False for nan and inf
        return int(value)
    return value if type(value) in (int, float) else None


class CocoFile:
    """The content of an instances_*.json. Numbers may be texts or fractions; ids of annotations are not read.

    Args:
        path: the file.
        outlines: read the segmentations, too; False: an outline that cannot be used is no fault.

    Attributes:
        names: file names of the images. image_ids, sizes: their numbers, and (height, width), 0 where none is told.
        classes, category_ids: names and numbers of the categories, in the order of the numbers.
        objects: for every image the list of (number of the object, box [x, y, w, h], class, crowd).
        segments: Segments of all objects, if `outlines`. areas: of the objects in the file, 0 where it is none.
    """

    def __init__(self, path: str, outlines: bool = True) -> None:
        self.path, self.outlines = path, outlines
        content = read_json(path)
        self._take_images(self._part(content, 'images'))
        self._take_categories(self._part(content, 'categories'))
        self._take_annotations(self._part(content, 'annotations'))

    def _fail(self, text):
        raise DataError(f'{shown(self.path)}: {text}.')

    def _part(self, content, key):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            known = ', '.join(shown(k)[1:-1] for k in list(content)[:10])
            self._fail(f"'{key}' is missing or no list of objects (there are: {known or 'none'}). Expected: a file "
                       'such as instances_train2017.json; captions and image_info files have no objects')
        return entries

    def _id(self, entry, key, where):
        value = entry.get(key)
        if type(value) is not int:
            value = _number(value)
        if type(value) is not int or abs(value) > MAX_ID:
            self._fail(f"{where}: '{key}' is {str(entry.get(key))[:50]!r}, no whole number")
        return value

    def _text(self, entry, key, where):
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip() or '\0' in value:
            self._fail(f"{where}: '{key}' is {str(value)[:50]!r}, no name")
        return value

    def _take_images(self, entries):
        self.names, self.image_ids, self.sizes = [], [], []
        for k, entry in enumerate(entries):
            where = f'image {k}'
            self.image_ids.append(self._id(entry, 'id', where))
            self.names.append(self._text(entry, 'file_name', where))
            size = [0 if entry.get(key) is None else _number(entry[key]) for key in ('height', 'width')]
            try:
                if None in size or any(size) or 'height' in entry and entry['height'] is not None:
                    check_shape(*size)
            except DataError as e:
                self._fail(f'{where} ({shown(self.names[-1])}): {e}')
            self.sizes.append(tuple(size))
        self._at = {number: k for k, number in enumerate(self.image_ids)}
        if len(self._at) != len(entries):
            self._fail('two images have the same id')
        if len(set(self.names)) != len(entries):
            self._fail('two images have the same file_name')

    def _take_categories(self, entries):
        found = {}
        for k, entry in enumerate(entries):
            number, name = self._id(entry, 'id', f'category {k}'), self._text(entry, 'name', f'category {k}')
            if number in found or name in found.values():
                self._fail(f'category {k}: id {number} or name {shown(name)} stands twice')
            found[number] = name
        if not found:
            self._fail('there are no categories')
        self.category_ids = sorted(found)
        self.classes = [found[i] for i in self.category_ids]
        self._class_of = {number: k for k, number in enumerate(self.category_ids)}

    def _take_annotations(self, entries):
        self.objects, self.segments, self.areas = [[] for _ in self.names], Segments(), array.array('d')
        for k, entry in enumerate(entries):
            where = f"annotation {k} (id {str(entry.get('id'))[:20]})"
            image = self._at.get(self._id(entry, 'image_id', where))
            label = self._class_of.get(self._id(entry, 'category_id', where))
            if image is None or label is None:
                self._fail(f"{where} belongs to image {entry['image_id']} and category {entry['category_id']}, of "
                           "which one is not listed")
            crowd = entry.get('iscrowd') or 0
            crowd = crowd if isinstance(crowd, bool) else _number(crowd)
            if crowd not in (0, 1):
                self._fail(f"{where}: 'iscrowd' is {str(entry['iscrowd'])[:50]!r}, neither 0 nor 1")
            if self.outlines:
                try:
                    self.segments.add(entry.get('segmentation') or None, self.sizes[image])
                except DataError as e:
                    self._fail(f'{where}: {e}')
            area = _number(entry.get('area'))
            self.areas.append(area if area is not None and 0 < area < 10**12 else 0)
            self.objects[image].append((k, self._box(entry.get('bbox'), where), label, bool(crowd)))
        self.segments.close()

    def _box(self, box, where):
        found = [_number(v) for v in box] if isinstance(box, list) and len(box) == 4 else None
        if found is None or any(v is None or not abs(v) <= 10**6 for v in found):
            self._fail(f"{where}: 'bbox' is {str(box)[:80]}, no [x, y, width, height] in pixels")
        return found
