"""Images and masks in folders, or named in pairs by a list; and the layout of ADE20K."""

import os
from collections.abc import Sequence
from typing import Optional, Union

from ...utils.errors import ConfigError, DataError
from ..image import shown
from ..image_list import paths_in
from ..listing import scan
from ..text import read_lines
from .base import IGNORE, ClassNames, Segmentation, read_class_names
from .layout import check_all_exist, check_root, entries_of, inside, layout_error, read_ids, same_stem
from .masks import ClassMapping
from .registry import SEGMENTATION

FOLDER_TREE = ('images/<split>/*.jpg or *.png', 'masks/<split>/*.png     same names; values are class numbers, 255 is '
               'ignored', 'labels.txt              one class name per line; the first is that of the value 0')
ADE_TREE = ('images/training/*.jpg      images/validation/*.jpg',
            'annotations/training/*.png annotations/validation/*.png   same names; 0 is ignored',
            'objectInfo150.txt          (or labels.txt: one class name per line)')


def stems(top: str) -> dict[str, str]:
    """{name without ending: path} of all images below a folder. Raises DataError where two have the same name."""
    found: dict[str, str] = {}
    for inner, names in scan(top):
        for name in names:
            stem, path = os.path.splitext(os.path.join(inner, name))[0], os.path.join(top, inner, name)
            if stem in found:
                raise same_stem(found[stem], path)
            found[stem] = path
    return found


def class_names(root: str, classes: Optional[ClassNames], tree: Sequence[str]) -> list[str]:
    """Names of `classes` (see `read_class_names`), by default those in `labels.txt` in `root`."""
    if classes is None:
        classes = os.path.join(root, 'labels.txt')
        if not os.path.isfile(classes):
            raise layout_error(root, f'{shown(classes)} is missing.', tree,
                               'Write it, or give the names with classes=[...] or classes=FILE, or classes=NUMBER.')
    return read_class_names(classes)


@SEGMENTATION.register(name='folder')
class FolderSegmentation(Segmentation):
    """`images/<split>/**` and `masks/<split>/**` with the same names, and `labels.txt`.

    Args:
        root: the folder that holds the three.
        split: name of the sub-folders; None: images and masks lie directly in their folders.
        images, masks: names of the two folders below `root`.
        classes: list of names, their number, or a file with one per line, by default `labels.txt` in `root`.
        list_file: a text file with one name (no ending) per line: only these, in this order.
        reduce_zero_label: 0 in a mask is ignored and k is class k - 1, as in ADE20K.
        unpaired: 'error' or 'drop' of images without a mask. Masks without an image are a warning.
        exif: see LabelledImages.
        mapping: pairs [value in the masks, class number or 255 to ignore it] of values that mean something else.

    Raises:
        DataError: another layout, images without a mask, two files of one name, or names that are not there.
    """

    kind, tree, mark_split = 'folder', FOLDER_TREE, True

    def __init__(self, root: Union[str, os.PathLike], split: Optional[str] = 'train', images: str = 'images',
                 masks: str = 'masks', classes: Optional[ClassNames] = None,
                 list_file: Union[None, str, os.PathLike] = None, reduce_zero_label: bool = False,
                 unpaired: str = 'error', exif: bool = True, mapping: Optional[ClassMapping] = None) -> None:
        if not isinstance(reduce_zero_label, bool):
            raise ConfigError(f'reduce_zero_label must be true or false, not {reduce_zero_label!r}.')
        root = check_root(root, self.tree, [images, masks], self.kind)
        super().__init__(root, split, exif, mapping)
        tops = [self._part(root, folder, split, key) for folder, key in ((images, 'images'), (masks, 'masks'))]
        names = self._class_names(classes)
        self._find(tops[0], tops[1], list_file, unpaired)
        mapping = {0: IGNORE, **{k + 1: k for k in range(len(names))}} if reduce_zero_label else None
        self._filled(names, mapping)

    def _part(self, root, folder, split, key):
        folder = inside(root, folder, key)
        top = folder if split is None else inside(folder, split, 'split')
        if not os.path.isdir(top):
            splits = ', '.join(n[:-1] for n in entries_of(folder) if n.endswith('/')) or 'none'
            raise layout_error(root, f"There is no folder {shown(top)}.", self.tree,
                               f'Splits that are there: {splits}. For images directly in {shown(folder)} use '
                               'split=None.')
        return top

    def _class_names(self, classes):
        return class_names(self.root, classes, self.tree)

    def _find(self, image_top, mask_top, list_file, unpaired):
        images, masks = stems(image_top), stems(mask_top)
        if not images:
            raise layout_error(self.root, f'{shown(image_top)} holds no images.', self.tree, 'Put them there.')
        wanted = None
        if list_file is not None:
            wanted = read_ids(os.path.expanduser(str(list_file)))
            unknown = [n for n in wanted if n not in images]
            if unknown:
                raise DataError(f'list_file: {len(unknown)} of {len(wanted)} names in {shown(list_file)} are no images '
                                f'in {shown(image_top)}, first {shown(unknown[0])}. Names stand there without ending.')
        self._pair(images, masks, self.tree, unpaired, wanted)


LIST_TREE = ('<split>.txt             one pair per line: image mask, both below root; a tab or a blank between them',
             'labels.txt              one class name per line; the first is that of the value 0')


@SEGMENTATION.register(name='list')
class ListSegmentation(Segmentation):
    """Pairs that a text file names: `image mask` per line, relative to `root`; and `labels.txt`.

    Args:
        root: the folder that the names are relative to.
        split: the list is `<split>.txt` in `root`.
        list_file: another list.
        separator: what stands between the two names; None: a tab in lines that have one, else blanks.
        classes: see FolderSegmentation.
        allow_outside: names may lead out of `root`.
        exif: see LabelledImages.
        mapping: pairs [value in the masks, class number or 255 to ignore it] of values that mean something else.

    Raises:
        DataError: no such list, lines of another form, an image twice, or files that are missing.
    """

    kind = 'list'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'train',
                 list_file: Union[None, str, os.PathLike] = None, separator: Optional[str] = None,
                 classes: Optional[ClassNames] = None, allow_outside: bool = False, exif: bool = True,
                 mapping: Optional[ClassMapping] = None) -> None:
        if not isinstance(allow_outside, bool):
            raise ConfigError(f'allow_outside must be true or false, not {allow_outside!r}.')
        if separator is not None and (not isinstance(separator, str) or not separator):
            raise ConfigError(f'separator must be the text between the two names, not {separator!r}.')
        root = check_root(root, LIST_TREE, [], self.kind)
        super().__init__(root, split, exif, mapping)
        path = os.path.expanduser(str(list_file)) if list_file else inside(root, f'{split}.txt', 'split')
        if not os.path.isfile(path):
            raise layout_error(root, f'The list {shown(path)} is missing.', LIST_TREE,
                               'Write it, or name another one with list_file=FILE.')
        pairs = _read_pairs(path, separator)
        self.ids = [image for image, _ in pairs]
        self.images, self.masks = (paths_in(root, names, path, allow_outside) for names in zip(*pairs))
        for paths, what in ((self.images, 'images'), (self.masks, 'masks')):
            check_all_exist(paths, what, root, LIST_TREE, f'They are named by {shown(path)}. Mend the list, or add '
                            'the files.')
        self._filled(class_names(root, classes, LIST_TREE))


def _read_pairs(path, separator):
    """[(image, mask)] of the lines of a list."""
    pairs, seen = [], set()
    for number, line in read_lines(path):
        words = [w.strip() for w in line.split(separator or ('\t' if '\t' in line else None))]
        if len(words) != 2 or not all(words):
            raise DataError(f'{shown(path)}: line {number} ({line[:80]!r}) is no pair: expected the names of an image '
                            'and of its mask. Names with blanks need a tab between the two, or separator=TEXT.')
        if words[0] in seen:
            raise DataError(f'{shown(path)} names {shown(words[0])} twice. Remove one of the two lines.')
        seen.add(words[0])
        pairs.append(tuple(words))
    if not pairs:
        raise DataError(f'{shown(path)} names no images. Expected: an image and its mask per line.')
    return pairs


@SEGMENTATION.register(name='ade20k')
class Ade20kSegmentation(FolderSegmentation):
    """`images/{training,validation}` and `annotations/{training,validation}`, as in ADEChallengeData2016.

    0 in a mask means 'other objects' and is ignored; k is class k - 1 (`reduce_zero_label=False`: k is class k). The
    class names are those in `objectInfo150.txt`, which is part of the download, or in `labels.txt`.

    Args: see FolderSegmentation.
    """

    kind, tree = 'ade20k', ADE_TREE

    def __init__(self, root: Union[str, os.PathLike], split: Optional[str] = 'training', images: str = 'images',
                 masks: str = 'annotations', classes: Optional[ClassNames] = None,
                 list_file: Union[None, str, os.PathLike] = None, reduce_zero_label: bool = True,
                 unpaired: str = 'error', exif: bool = True, mapping: Optional[ClassMapping] = None) -> None:
        super().__init__(root, split, images, masks, classes, list_file, reduce_zero_label, unpaired, exif, mapping)

    def _class_names(self, classes):
        info = os.path.join(self.root, 'objectInfo150.txt')
        if classes is None and os.path.isfile(info):
            return _object_info(info)
        if classes is None and not os.path.isfile(os.path.join(self.root, 'labels.txt')):
            raise layout_error(self.root, f"{shown(info)} and labels.txt are missing.", self.tree,
                               'Give the names of the classes with classes=[...] or classes=FILE.')
        return super()._class_names(classes)


def _object_info(path):
    """Names in objectInfo150.txt: tab-separated columns with a head line, the last one is the name."""
    lines = [line.split('\t') for _, line in read_lines(path)[1:]]
    for k, columns in enumerate(lines):
        if len(columns) < 2 or columns[0].strip() != str(k + 1):
            raise DataError(f"{shown(path)}: line {k + 2} does not begin with {k + 1} and a tab. Take the file from "
                            'the download, or give classes=FILE.')
    # several names of one class are separated by commas; the first is enough, where it is no other class's
    names = [columns[-1].strip() for columns in lines]
    short = [n.split(',')[0].strip() for n in names]
    return read_class_names([s if short.count(s) == 1 else n for s, n in zip(short, names)])
