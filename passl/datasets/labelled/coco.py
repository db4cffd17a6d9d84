"""COCO: boxes, instances, and masks of classes made from instances."""

import os
from typing import Optional, Union

import numpy as np

from ...utils.errors import ConfigError, DataError
from ...utils.logger import get_logger
from ..image import ImageReadError, shown
from ..image_list import paths_in
from ..list_lines import other_name
from .base import IGNORE, MAX_CLASSES, LabelledImages, Segmentation
from .boxes import COCO_BOX, Detection
from .coco_json import CocoFile
from .layout import check_all_exist, check_root, check_text, entries_of, inside, layout_error, missing_in
from .registry import DETECTION, SEGMENTATION

TREE = ('train2017/*.jpg      val2017/*.jpg      (or images/<split>/, or images/)',
        'annotations/instances_train2017.json      annotations/instances_val2017.json')


def open_tree(root: Union[str, os.PathLike], split: str, images: Optional[str], annotations: Optional[str],
              kind: str = 'coco', outlines: bool = True) -> tuple[str, str, CocoFile]:
    """(root, folder of the images, CocoFile). Raises DataError for another layout."""
    split = check_text(split, 'split')
    root = check_root(root, TREE, [annotations or 'annotations'], kind)
    path = inside(root, annotations or os.path.join('annotations', f'instances_{split}.json'), 'annotations')
    if not os.path.isfile(path):
        names = [n[10:-5] for n in entries_of(os.path.dirname(path))
                 if n.startswith('instances_') and n.endswith('.json')]
        raise layout_error(root, f'The file {shown(path)} is missing.', TREE,
                           f"Splits that are there: {', '.join(names) or 'none'}. Another file: annotations=FILE.")
    file = CocoFile(path, outlines)
    # the names in some files begin with the folder, so that root itself is the place
    choices = [images] if images else [split, os.path.join('images', split), 'images', '.']
    tops = [p for p in (inside(root, c, 'images') for c in choices) if os.path.isdir(p)]
    if not tops or not images and tops == [inside(root, '.', 'images')] and not _has_first(tops[0], file):
        raise layout_error(root, f"There is no folder {' and no '.join(shown(c) for c in choices if c != '.')}.", TREE,
                           'Give the folder of the images, below root, with images=FOLDER.')
    return root, next((p for p in tops if _has_first(p, file)), tops[0]), file


def _has_first(top, file):
    return bool(file.names) and (os.path.isfile(image_paths(top, file)[0]) or bool(other_name(top, file.names[0], {})))


def image_paths(top: str, file: CocoFile) -> list[str]:
    """Paths of the images of a CocoFile below the folder `top`. Raises DataError for a name that leads out of it."""
    try:
        return paths_in(top, file.names, file.path)
    except DataError as e:
        raise DataError(str(e).replace('list_file: ', '').split(' Mend the list')[0]) from None


class _CocoTree(LabelledImages):
    """What both data sets take from the file and the folder."""

    def _open(self, root, split, images, annotations, outlines=True):
        self.root, self.top, self.file = open_tree(root, split, images, annotations, outlines=outlines)
        self.ids = [str(i) for i in self.file.image_ids]
        self._find_images()
        unsized = [k for k, size in enumerate(self.file.sizes) if not any(size)]
        for k in unsized:
            self.file.sizes[k] = self.load_image(k).shape[:2]
        if unsized:
            get_logger().warning('%s tells no size of %d images: it was taken from the images.', shown(self.file.path),
                                 len(unsized))

    def _find_images(self):
        """Set `images`; names that other systems have written are replaced by those of the files."""
        self.images, listed, said = image_paths(self.top, self.file), {}, []
        for k in missing_in(self.images):
            name, other = self.file.names[k], other_name(self.top, self.file.names[k], listed)
            if other:
                self.file.names[k] = other[0]
                said.append(f'{shown(name)} {other[1]}')
        if said:
            get_logger().warning('%s: %d names of images are not those of the files, first: %s. The files were found.',
                                 shown(self.file.path), len(said), said[0])
            self.images = image_paths(self.top, self.file)
            if len(set(self.images)) < len(self.images):
                raise DataError(f'{shown(self.file.path)}: two images are the same file once their names are read as '
                                'those of files. Give each a file of its own.')
        check_all_exist(self.images, 'images', self.root, TREE, f'They are named by {shown(self.file.path)}.')

    def files(self, index: int) -> list[str]:
        return [*super().files(index), self.file.path]

    def _mask_of(self, index, number):
        try:
            return self.file.segments.mask(number, self.file.sizes[index])
        except DataError as e:
            raise ImageReadError(f'{shown(self.file.path)}: annotation {number}: {e}.') from None


@DETECTION.register(name='coco')
class CocoDetection(_CocoTree, Detection):
    """Boxes and instances from instances_<split>.json. Classes are numbered from 0 in the order of the categories' ids.

    Args:
        root: the folder that holds `annotations` and the folder of the images.
        split: 'train2017' or 'val2017', or what another set calls its parts.
        images: folder of the images below `root`; None: `<split>`, `images/<split>`, `images` or `root` itself.
        annotations: the file below `root`; None: annotations/instances_<split>.json.
        masks: add the masks of the objects.
        bad_boxes: 'drop' or 'error' for boxes without area or outside the image.
        exif: see LabelledImages.

    Attributes:
        category_ids: number of each class in the file, which COCO's evaluation asks for.
        top: the folder of the images.

    Raises:
        DataError: another layout, missing images, or a file that is not in COCO's format.
    """

    kind, form = 'coco', COCO_BOX

    def __init__(self, root: Union[str, os.PathLike], split: str = 'train2017', images: Optional[str] = None,
                 annotations: Optional[str] = None, masks: bool = False, bad_boxes: str = 'drop',
                 exif: bool = True) -> None:
        super().__init__(str(root), split, exif, masks, bad_boxes)
        self._open(root, split, images, annotations, masks)
        self.classes, self.category_ids = self.file.classes, self.file.category_ids
        self._objects = []                  # numbers in the file of the objects that are kept
        for k, found in enumerate(self.file.objects):
            objects, numbers = [], []
            for number, (x, y, w, h), label, crowd in found:
                box = self._dropped.check((x, y, x + w, y + h), self.file.sizes[k], self.ids[k],
                                          f'{shown(self.file.path)}: annotation {number} ({self.classes[label]})',
                                          (x, y, w, h))
                if box is None:
                    continue
                if masks and not self.file.segments.has(number):
                    raise DataError(f"{shown(self.file.path)}: annotation {number} has no 'segmentation'. For boxes "
                                    'alone use masks=False (transfer-det: a Faster R-CNN config).')
                objects.append((box, label, crowd, False))
                numbers.append(number)
            self._add_image(self.file.sizes[k], objects)
            self._objects.append(np.array(numbers, np.int64))
        self.file.objects = None            # arrays hold them now
        self._filled()

    def objects_of(self, index: int) -> np.ndarray:
        """Numbers in the file, from 0 on, of the objects of `target(index)`."""
        return self._objects[self._number(index)]

    def annotation_name(self, index: int) -> str:
        return f'its entry in {shown(self.file.path)}'

    def load_masks(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        masks = np.zeros((len(self._objects[index]), *size), bool)
        for k, number in enumerate(self._objects[index]):
            masks[k] = self._mask_of(index, int(number))
        return masks


@SEGMENTATION.register(name='coco')
class CocoSegmentation(_CocoTree, Segmentation):
    """Masks of classes, painted from the instances: 0 is background, then the categories in the order of their ids.

    Large objects are painted first, so that small ones in front of them stay visible. Crowds (`iscrowd`) are coarse:
    they are 255 where no single object lies.

    Args:
        root, split, images, annotations: see CocoDetection.
        exif: see LabelledImages.

    Raises:
        DataError: as CocoDetection; an object without `segmentation`; more than 253 categories.
    """

    kind = 'coco'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'train2017', images: Optional[str] = None,
                 annotations: Optional[str] = None, exif: bool = True) -> None:
        super().__init__(str(root), split, exif)
        self._open(root, split, images, annotations)
        if len(self.file.classes) >= MAX_CLASSES:
            raise DataError(f'{shown(self.file.path)} has {len(self.file.classes)} categories; masks of 8 bits hold '
                            f'background and {MAX_CLASSES - 1}.')
        if 'background' in self.file.classes:
            raise ConfigError(f"{shown(self.file.path)} has a category 'background', which is what pixels without an "
                              'object are called. Rename it.')
        bare = next((o[0] for found in self.file.objects for o in found if not self.file.segments.has(o[0])), None)
        if bare is not None:
            raise DataError(f"{shown(self.file.path)}: annotation {bare} has no 'segmentation': masks cannot be made "
                            'from boxes. Use build_detection.')
        self._filled(['background', *self.file.classes])

    def load_mask(self, index: int) -> np.ndarray:
        index = self._number(index)
        mask, painted = np.zeros(self.file.sizes[index], np.uint8), []
        for number, _, label, crowd in self.file.objects[index]:
            one = self._mask_of(index, number)
            painted.append((not crowd, -np.count_nonzero(one), number, one, IGNORE if crowd else label + 1))
        for *_, one, value in sorted(painted, key=lambda p: p[:3]):
            mask[one] = value
        return mask

    def mask_name(self, index: int) -> str:
        return f'its entry in {shown(self.file.path)}'
