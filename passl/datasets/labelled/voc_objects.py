"""Pascal VOC: boxes of objects, and several labels per image."""

import os
from typing import Optional, Union

import numpy as np

from ...utils.errors import ConfigError, DataError, suggest
from ..image import ImageReadError, shown
from ..image_list import paths_in
from ..text import read_lines
from .base import ClassNames, LabelledImages, read_class_names
from .boxes import Detection
from .layout import check_all_exist, find_images, inside, layout_error
from .masks import read_mask
from .registry import DETECTION, MULTILABEL
from .voc import CLASSES, TREE, _plain_ids, list_path, open_voc
from .voc_xml import read_annotation

LABEL_LIST = 'label_list.txt'


@DETECTION.register(name='voc')
class VocDetection(Detection):
    """Boxes from the XML files of VOC, or of another set in this format; `annotations` has the files' paths.

    Args:
        root, split: see `open_voc`. The splits are lists in ImageSets/Main, with `masks` in ImageSets/Segmentation,
            or `<split>.txt` in the folder itself.
        images, annotations: names of the two folders; None: JPEGImages or images, Annotations or annotations.
        list_file: list of ids below the folder in place of those.
        classes: names of the classes, or a file of them below the folder; None: those in label_list.txt in the folder
            or in `root`, else the 20 of VOC.
        one_based: the first pixel is number 1 and the last one belongs to the box, as in VOC. False: corners count
            from 0 and the ends do not belong to it.
        masks: add masks of the objects, from SegmentationObject, where number k is the object k of the XML file.
        bad_boxes: 'drop' or 'error' for boxes without area (the corners in the file are equal or exchanged) or
            outside the image.
        exif: see LabelledImages.

    Raises:
        DataError: another layout, missing files, an XML file that is none, or an object of no class.
    """

    kind = 'voc'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'trainval', images: Optional[str] = None,
                 annotations: Optional[str] = None, list_file: Optional[str] = None,
                 classes: Optional[ClassNames] = None, one_based: bool = True, masks: bool = False,
                 bad_boxes: str = 'drop', exif: bool = True) -> None:
        if not isinstance(one_based, bool):
            raise ConfigError(f'one_based must be true or false, not {one_based!r}.')
        given = root
        root, split, images, annotations = open_voc(
            root, split, (images,) if images else ('JPEGImages', 'images'),
            (annotations,) if annotations else ('Annotations', 'annotations'))
        super().__init__(root, split, exif, masks, bad_boxes)
        self.classes = _class_names(classes, root, os.path.expanduser(str(given)))
        path = self._list(list_file)
        self.ids = _plain_ids(path)
        self.images = find_images(root, [images], self.ids, 'images', TREE, path)
        self.annotations = paths_in(os.path.join(root, annotations), [i + '.xml' for i in self.ids], path)
        check_all_exist(self.annotations, 'annotation files', root, TREE, f'They are named by {shown(path)}.')
        self._numbers: list[np.ndarray] = []            # of the objects that are kept, in their files, from 1 on
        known = {name: k for k, name in enumerate(self.classes)}
        for image_id, file in zip(self.ids, self.annotations):
            self._add(image_id, file, known, one_based)
        self._filled()
        if masks:
            self.masks = find_images(root, ['SegmentationObject'], self.ids, 'masks of objects', TREE, path)

    def _list(self, list_file):
        if list_file is not None:
            return inside(self.root, list_file, 'list_file')
        own = inside(self.root, f'{self.split}.txt', 'split')
        kind = 'Segmentation' if self.with_masks else 'Main'
        there = os.path.isfile(os.path.join(self.root, 'ImageSets', kind, f'{self.split}.txt'))
        return own if os.path.isfile(own) and not there else list_path(self.root, kind, self.split)

    def _add(self, image_id, file, known, one_based):
        size, found = read_annotation(file)
        objects, numbers = [], []
        for number, (name, (x0, y0, x1, y1), difficult) in enumerate(found, 1):
            if name not in known:
                raise DataError(f"{shown(file)}: object {number} is {shown(name)}, which is none of the {len(known)} "
                                f'classes. {suggest(name, known)} Give the names with classes=[...] or classes=FILE.')
            where = f'{shown(file)}: object {number} ({name})'
            if one_based and min(x0, y0) < 1 and min(x0, y0) > -1:
                raise DataError(f'{where} begins at ({x0:g}, {y0:g}), but VOC counts pixels from 1. Corners that count '
                                'from 0 need one_based=False.')
            # equal corners are one pixel in VOC's way of counting, but a slip of the mouse in fact
            shift = 1 if one_based and x1 > x0 and y1 > y0 else 0
            box = self._dropped.check((x0 - shift, y0 - shift, x1, y1), size, image_id, where)
            if box is not None:
                objects.append((box, known[name], False, difficult))
                numbers.append(number)
        self._add_image(size, objects)
        self._numbers.append(np.array(numbers, np.int64))

    def objects_of(self, index: int) -> np.ndarray:
        """Numbers in the XML file, from 1 on, of the objects of `target(index)`."""
        return self._numbers[self._number(index)]

    def files(self, index: int) -> list[str]:
        index = self._number(index)
        return [*super().files(index), self.annotations[index], *([self.masks[index]] if self.with_masks else [])]

    def annotation_name(self, index: int) -> str:
        return f'its annotation {shown(self.annotations[index])}'

    def load_masks(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        path = self.masks[index]
        mask, numbers = read_mask(path, self.max_pixels), self._numbers[index]
        if mask.shape != size:
            raise ImageReadError(f'{shown(path)} has {mask.shape[1]} x {mask.shape[0]} pixels, but its image has '
                                 f'{size[1]} x {size[0]}.')
        return mask[None] == numbers[:, None, None]


def _class_names(classes, root, given):
    if classes is None:
        files = (os.path.join(folder, LABEL_LIST) for folder in (root, given))
        classes = next((path for path in files if os.path.isfile(path)), CLASSES)
    elif isinstance(classes, str):
        classes = inside(root, classes, 'classes')
    names = read_class_names(classes)
    if 'background' in names:
        raise DataError(f"{shown(classes)} names the class 'background', of which there are no boxes. Remove it.")
    return names


@MULTILABEL.register(name='voc')
class VocMultilabel(LabelledImages):
    """Which of the 20 classes an image shows, from ImageSets/Main/<class>_<split>.txt.

    `dataset[i]` is (image uint8 [H, W, 3] RGB, int8 [classes]: 1 shown, 0 not shown, -1 only as a difficult object,
    which counts neither way). In the files these are 1, -1 and 0.

    Attributes:
        labels: int8 [images, classes] of all images.

    Args:
        root, split: see `open_voc`. The splits are 'train', 'val', 'trainval' or 'test'.
        classes: names of the classes; None: the 20 of VOC.
        exif: see LabelledImages.

    Raises:
        DataError: another layout, missing files, lines of another form, or lists of different images.
    """

    kind = 'voc'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'trainval', classes: Optional[ClassNames] = None,
                 exif: bool = True) -> None:
        root, split, *_ = open_voc(root, split, ('JPEGImages',), ('ImageSets/Main',))
        super().__init__(root, split, exif)
        self.classes = list(CLASSES) if classes is None else read_class_names(classes)
        path, columns = list_path(root, 'Main', split), []
        self.ids = _plain_ids(path)
        for name in self.classes:
            file = inside(root, os.path.join('ImageSets', 'Main', f'{name}_{split}.txt'), 'classes')
            if not os.path.isfile(file):
                raise layout_error(root, f'The list {shown(file)} is missing.', TREE,
                                   'Every class needs one. Give other names with classes=[...].')
            columns.append(_column(file, self.ids, path))
        self.labels = np.stack(columns, 1)
        self.images = find_images(root, ['JPEGImages'], self.ids, 'images', TREE, path)

    def __getitem__(self, index):
        return self.load_image(index), self.labels[self._number(index)].copy()


def _column(file, ids, split_file):
    """int8 [ids] of one class."""
    found = {}
    for number, line in read_lines(file):
        parts = line.split()
        if len(parts) != 2 or parts[1] not in ('1', '0', '-1') or parts[0] in found:
            raise DataError(f"{shown(file)}: line {number} ({line[:80]!r}) is no 'id label' with the label 1, 0 or -1, "
                            'or names an image again.')
        found[parts[0]] = {'1': 1, '0': -1, '-1': 0}[parts[1]]
    missing = next((i for i in ids if i not in found), None)
    if missing is not None or len(found) != len(ids):
        first = f'; {shown(missing)} is missing in the first' if missing else ''
        raise DataError(f'{shown(file)} and {shown(split_file)} do not name the same images ({len(found)} and '
                        f'{len(ids)}{first}). Take both from the same download.')
    return np.array([found[i] for i in ids], np.int8)
