"""Pascal VOC: VOC2007, VOC2012 and the larger 'aug' set of masks."""

import os

from ...utils.errors import DataError
from ..image import shown
from ..image_list import paths_in
from .base import Segmentation, read_class_names
from .layout import check_all_exist, check_root, check_text, inside, layout_error, read_ids
from .registry import SEGMENTATION

CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
           'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
TREE = ('JPEGImages/<id>.jpg', 'Annotations/<id>.xml                   boxes', 'SegmentationClass/<id>.png             '
        'masks (palette PNG)', 'SegmentationClassAug/<id>.png          not part of VOC: built from SBD',
        'ImageSets/Segmentation/<split>.txt     ids, one per line', 'ImageSets/Main/<split>.txt, <class>_<split>.txt')
_AUG = ('SegmentationClassAug is not part of VOC2012: build it from the Semantic Boundaries Dataset (SBD), with the '
        "ids in ImageSets/Segmentation/trainaug.txt; docs/LABELLED_DATA.md says how. Without it use split='train'.")


def list_path(root, folder, split, way_out=''):
    """The file ImageSets/<folder>/<split>.txt. Raises DataError with the splits that are there."""
    check_text(split, 'split')
    path = inside(root, os.path.join('ImageSets', folder, split + '.txt'), 'split')
    if not os.path.isfile(path):
        top = os.path.join(root, 'ImageSets', folder)
        lists = sorted(n[:-4] for n in os.listdir(top) if n.endswith('.txt') and '_' not in n) \
            if os.path.isdir(top) else []
        raise layout_error(root, f'The list {shown(path)} is missing.', TREE,
                           way_out or f"Lists that are there: {', '.join(lists) or 'none'}.")
    return path


def files_of(root, folder, ids, ending, list_file):
    """Paths `folder/<id><ending>`. Raises DataError for ids that lead out of the folder."""
    return paths_in(os.path.join(root, folder), [i + ending for i in ids], list_file)


@SEGMENTATION.register(name='voc')
class VocSegmentation(Segmentation):
    """Masks of VOC2007 and VOC2012: 20 classes behind 'background', palette PNGs, 255 at the borders of objects.

    Args:
        root: the folder VOC2007 or VOC2012 (not VOCdevkit).
        split: 'train', 'val', 'trainval' or, with the masks made from SBD, 'trainaug': a list in
            ImageSets/Segmentation.
        masks: folder of the masks; None: 'SegmentationClassAug' for splits whose name holds 'aug', else
            'SegmentationClass'.
        classes: names of other classes, background included, or a file of them; None: those of VOC.
        exif: see LabelledImages.

    Raises:
        DataError: another layout, no such list, or files that it names are missing.
    """

    kind = 'voc'

    def __init__(self, root, split='train', masks=None, classes=None, exif=True):
        aug = masks is None and 'aug' in check_text(split, 'split')
        masks = masks or ('SegmentationClassAug' if aug else 'SegmentationClass')
        root = check_root(root, TREE, ['JPEGImages', 'ImageSets/Segmentation'], self.kind)
        super().__init__(root, split, exif)
        if not os.path.isdir(inside(root, masks, 'masks')):
            raise layout_error(root, f"There is no folder '{masks}'.", TREE,
                               _AUG if aug else 'Give the folder of the masks with masks=FOLDER.')
        path = list_path(root, 'Segmentation', split, _AUG if aug else '')
        self.ids = _plain_ids(path)
        self.images = files_of(root, 'JPEGImages', self.ids, '.jpg', path)
        self.masks = files_of(root, masks, self.ids, '.png', path)
        check_all_exist(self.images, 'images', root, TREE, f'They are named by {shown(path)}.')
        check_all_exist(self.masks, f"masks in '{masks}'", root, TREE, f'They are named by {shown(path)}.')
        self._filled(('background', *CLASSES) if classes is None else read_class_names(classes))


def _plain_ids(path):
    """The ids of a list; one with paths (`/JPEGImages/x.jpg /SegmentationClassAug/x.png`) is refused."""
    ids = read_ids(path)
    odd = next((i for i in ids if i.endswith(('.jpg', '.png'))), None)
    if odd is not None:
        raise DataError(f'{shown(path)} holds {shown(odd)}, which is a file and no id. Expected: one id per line, '
                        'without folder and ending, such as 2007_000032.')
    return ids
