"""Folders of images and masks: the generic layout, and that of ADE20K."""

import os

from ...utils.errors import ConfigError, DataError
from ..image import shown
from ..listing import scan
from .base import IGNORE, Segmentation, read_class_names
from .layout import check_root, entries_of, inside, layout_error, read_ids, read_text
from .registry import SEGMENTATION

FOLDER_TREE = ('images/<split>/*.jpg or *.png', 'masks/<split>/*.png     same names; values are class numbers, 255 is '
               'ignored', 'labels.txt              one class name per line; the first is that of the value 0')
ADE_TREE = ('images/training/*.jpg      images/validation/*.jpg',
            'annotations/training/*.png annotations/validation/*.png   same names; 0 is ignored',
            'objectInfo150.txt          (or labels.txt: one class name per line)')


def stems(top):
    """{name without ending: path} of all images below a folder. Raises DataError where two have the same name."""
    found = {}
    for inner, names in scan(top):
        for name in names:
            stem, path = os.path.splitext(os.path.join(inner, name))[0], os.path.join(top, inner, name)
            if stem in found:
                raise DataError(f'{shown(found[stem])} and {shown(path)} differ in their ending only: it is not clear '
                                'whose mask is meant. Rename one of them.')
            found[stem] = path
    return found


@SEGMENTATION.register(name='folder')
class FolderSegmentation(Segmentation):
    """`images/<split>/**` and `masks/<split>/**` with the same names, and `labels.txt`.

    Args:
        root: the folder that holds the three.
        split: name of the sub-folders; None: images and masks lie directly in their folders.
        images, masks: names of the two folders below `root`.
        classes: list of names, or a file with one per line, by default `labels.txt` in `root`.
        list_file: a text file with one name (no ending) per line: only these, in this order.
        reduce_zero_label: 0 in a mask is ignored and k is class k - 1, as in ADE20K.
        exif: see LabelledImages.

    Raises:
        DataError: another layout, an image without mask or the reverse, or names that are not there.
    """

    kind, tree, mark_split = 'folder', FOLDER_TREE, True

    def __init__(self, root, split='train', images='images', masks='masks', classes=None, list_file=None,
                 reduce_zero_label=False, exif=True):
        if not isinstance(reduce_zero_label, bool):
            raise ConfigError(f'reduce_zero_label must be true or false, not {reduce_zero_label!r}.')
        root = check_root(root, self.tree, [images, masks], self.kind)
        super().__init__(root, split, exif)
        tops = [self._part(root, folder, split, key) for folder, key in ((images, 'images'), (masks, 'masks'))]
        names = self._class_names(classes)
        self._pair(*tops, list_file)
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
        if classes is None:
            classes = os.path.join(self.root, 'labels.txt')
            if not os.path.isfile(classes):
                raise layout_error(self.root, f'{shown(classes)} is missing.', self.tree,
                                   'Write it, or give the names with classes=[...] or classes=FILE.')
        return read_class_names(classes)

    def _pair(self, image_top, mask_top, list_file):
        images, masks = stems(image_top), stems(mask_top)
        if not images:
            raise layout_error(self.root, f'{shown(image_top)} holds no images.', self.tree, 'Put them there.')
        wanted = list(images)
        if list_file is not None:
            wanted = read_ids(os.path.expanduser(str(list_file)))
            unknown = [n for n in wanted if n not in images]
            if unknown:
                raise DataError(f'list_file: {len(unknown)} of {len(wanted)} names in {shown(list_file)} are no images '
                                f'in {shown(image_top)}, first {shown(unknown[0])}. Names stand there without ending.')
        bare = [n for n in wanted if n not in masks]
        if bare:
            raise layout_error(self.root, f'{len(bare)} of {len(wanted)} images have no mask in {shown(mask_top)}, '
                               f'first {shown(images[bare[0]])}.', self.tree,
                               'Add the masks, or name the images that have one with list_file=FILE.')
        if list_file is None and len(masks) > len(images):
            alone = next(n for n in masks if n not in images)
            raise layout_error(self.root, f'{len(masks) - len(images)} masks have no image in {shown(image_top)}, '
                               f'first {shown(masks[alone])}.', self.tree,
                               'Add the images, or name those to use with list_file=FILE.')
        self.ids, self.images, self.masks = wanted, [images[n] for n in wanted], [masks[n] for n in wanted]


@SEGMENTATION.register(name='ade20k')
class Ade20kSegmentation(FolderSegmentation):
    """`images/{training,validation}` and `annotations/{training,validation}`, as in ADEChallengeData2016.

    0 in a mask means 'other objects' and is ignored; k is class k - 1 (`reduce_zero_label=False`: k is class k). The
    class names are those in `objectInfo150.txt`, which is part of the download, or in `labels.txt`.

    Args: see FolderSegmentation.
    """

    kind, tree = 'ade20k', ADE_TREE

    def __init__(self, root, split='training', images='images', masks='annotations', classes=None, list_file=None,
                 reduce_zero_label=True, exif=True):
        super().__init__(root, split, images, masks, classes, list_file, reduce_zero_label, exif)

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
    lines = [line.split('\t') for line in read_text(path).splitlines()[1:] if line.strip()]
    for k, columns in enumerate(lines):
        if len(columns) < 2 or columns[0].strip() != str(k + 1):
            raise DataError(f"{shown(path)}: line {k + 2} does not begin with {k + 1} and a tab. Take the file from "
                            'the download, or give classes=FILE.')
    # several names of one class are separated by commas; the first is enough, where it is no other class's
    names = [columns[-1].strip() for columns in lines]
    short = [n.split(',')[0].strip() for n in names]
    return read_class_names([s if short.count(s) == 1 else n for s, n in zip(short, names)])
