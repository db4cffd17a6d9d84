"""Pascal VOC: VOC2007, VOC2012 and the larger 'aug' set of masks."""

import os
import re
from typing import Optional, Union

from ...utils.errors import DataError
from ...utils.logger import get_logger
from ..folder import check_folder
from ..image import shown
from .base import ClassNames, Segmentation, read_class_names
from .layout import check_root, check_text, entries_of, find_images, inside, layout_error, read_ids
from .masks import ClassMapping
from .registry import SEGMENTATION

CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
           'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
TREE = ('JPEGImages/<id>.jpg                    (or images; any ending of an image)',
        'Annotations/<id>.xml                   boxes (or annotations)',
        'SegmentationClass/<id>.png             masks (palette PNG)',
        'SegmentationClassAug/<id>.png          not part of VOC: built from SBD',
        'ImageSets/Segmentation/<split>.txt     ids, one per line', 'ImageSets/Main/<split>.txt, <class>_<split>.txt',
        'all of it in VOCdevkit/VOC2012 or directly in root')
_AUG = ('SegmentationClassAug is not part of VOC2012: build it from the Semantic Boundaries Dataset (SBD), with the '
        'ids of all images in ImageSets/Segmentation/trainaug.txt, or those that train.txt lacks in aug.txt; '
        "docs/LABELLED_DATA.md says how. Without it use split='train'.")
_YEAR = re.compile(r'VOC\d{4}')


def open_voc(root: Union[str, os.PathLike], split: str, *marks: tuple[str, ...]) -> list[str]:
    """[the folder VOC2007, VOC2012 ... of VOC data, the name of the split, the names of `marks` in that folder].

    Args:
        root: that folder, or VOCdevkit, in which it lies. Of several years the last one is taken.
        split: name of the split, or FOLDER/SPLIT, such as VOC2007/trainval, where FOLDER lies in `root` or beside it.
        marks: what the folder must hold; each a tuple of names, of which the first that is there is taken.

    Raises:
        DataError: another layout.
    """
    folder, _, split = check_text(split, 'split').rpartition('/')
    root = check_folder(root, 'root')
    if folder:
        beside = os.path.dirname(os.path.abspath(root)) if _YEAR.fullmatch(os.path.basename(os.path.abspath(root))) \
            else root
        inner = next((p for p in (inside(root, folder, 'split'), inside(beside, folder, 'split')) if os.path.isdir(p)),
                     None)
        if inner is None:
            raise layout_error(root, f"There is no folder {shown(folder)} for the split '{folder}/{split}'.", TREE,
                               'Give VOCdevkit, or a folder in it, as root.')
        root = inner
    elif not _holds(root, marks):
        years = [n[:-1] for n in entries_of(root) if _YEAR.fullmatch(n[:-1]) and _holds(os.path.join(root, n), marks)]
        if len(years) > 1:
            get_logger().warning("%s holds %s: %s is read. For another one use split: '%s/%s'.", shown(root),
                                 ', '.join(years), years[-1], years[0], split)
        root = os.path.join(root, years[-1]) if years else root
    names = [next((n for n in mark if os.path.exists(inside(root, n, 'path'))), mark[0]) for mark in marks]
    return [check_root(root, TREE, names, 'voc'), split, *names]


def _holds(folder, marks):
    return all(any(os.path.exists(os.path.join(folder, name)) for name in mark) for mark in marks)


def list_path(root: str, folder: str, split: str, way_out: str = '') -> str:
    """The file ImageSets/<folder>/<split>.txt. Raises DataError with the splits that are there."""
    check_text(split, 'split')
    path = inside(root, os.path.join('ImageSets', folder, split + '.txt'), 'split')
    if not os.path.isfile(path):
        lists = [n[:-4] for n in entries_of(os.path.join(root, 'ImageSets', folder))
                 if n.endswith('.txt') and '_' not in n]
        raise layout_error(root, f'The list {shown(path)} is missing.', TREE,
                           way_out or f"Lists that are there: {', '.join(lists) or 'none'}.")
    return path


@SEGMENTATION.register(name='voc')
class VocSegmentation(Segmentation):
    """Masks of VOC2007 and VOC2012: 20 classes behind 'background', palette PNGs, 255 at the borders of objects.

    Args:
        root, split: see `open_voc`. The splits are lists in ImageSets/Segmentation: 'train', 'val', 'trainval' or,
            with the masks made from SBD, 'trainaug', which without a list of its own is 'train' and then 'aug'.
        masks: folder of the masks; None: 'SegmentationClass', and for images of splits whose name holds 'aug' that
            have no mask there, 'SegmentationClassAug'.
        classes: names of other classes, background included, or a file of them; None: those of VOC.
        exif: see LabelledImages. mapping: see FolderSegmentation.

    Raises:
        DataError: another layout, no such list, or files that it names are missing.
    """

    kind = 'voc'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'train', masks: Optional[str] = None,
                 classes: Optional[ClassNames] = None, exif: bool = True,
                 mapping: Optional[ClassMapping] = None) -> None:
        root, split, *_ = open_voc(root, split, ('JPEGImages',), ('ImageSets/Segmentation',))
        super().__init__(root, split, exif, mapping)
        aug = masks is None and 'aug' in split
        folders = [masks] if masks else ['SegmentationClass', 'SegmentationClassAug'][:1 + aug]
        if not os.path.isdir(inside(root, folders[-1], 'masks')):
            raise layout_error(root, f"There is no folder '{folders[-1]}'.", TREE,
                               _AUG if aug else 'Give the folder of the masks with masks=FOLDER.')
        self.ids, path = _segmentation_ids(root, split, _AUG if aug else '')
        self.images = find_images(root, ['JPEGImages'], self.ids, 'images', TREE, path)
        what = f"masks in '{folders[-1]}'"
        self.masks = find_images(root, folders, self.ids, what, TREE, path)
        self._filled(('background', *CLASSES) if classes is None else read_class_names(classes))


def _segmentation_ids(root, split, way_out):
    """(ids of a split of ImageSets/Segmentation, the list)."""
    def path_of(name):
        return os.path.join(root, 'ImageSets', 'Segmentation', f'{name}.txt')
    if split == 'trainaug' and not os.path.isfile(path_of(split)) and os.path.isfile(path_of('aug')):
        train = _plain_ids(list_path(root, 'Segmentation', 'train'))
        return list(dict.fromkeys(train + _plain_ids(path_of('aug')))), path_of('aug')
    path = list_path(root, 'Segmentation', split, way_out)
    return _plain_ids(path), path


def _plain_ids(path):
    """The ids of a list; one with paths (`/JPEGImages/x.jpg /SegmentationClassAug/x.png`) is refused."""
    ids = read_ids(path)
    odd = next((i for i in ids if i.endswith(('.jpg', '.png'))), None)
    if odd is not None:
        raise DataError(f'{shown(path)} holds {shown(odd)}, which is a file and no id. Expected: one id per line, '
                        'without folder and ending, such as 2007_000032.')
    return ids
