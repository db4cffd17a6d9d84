"""Cityscapes: photographs of streets with fine masks of 19 classes."""

import os
from typing import Union

from ...utils.errors import ConfigError, DataError
from ..image import shown
from ..listing import scan
from .base import IGNORE, Segmentation
from .layout import check_root, entries_of, inside, layout_error
from .registry import SEGMENTATION

TREE = ('leftImg8bit/<split>/<city>/<id>_leftImg8bit.png', 'gtFine/<split>/<city>/<id>_gtFine_labelIds.png   (or '
        '_gtFine_labelTrainIds.png)', '<split> is train or val')
# number in labelIds -> name; the classes are numbered 0 - 18 in this order, all other numbers are ignored
LABEL_IDS = {7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole', 19: 'traffic light',
             20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car',
             27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle'}
_ALL_IDS = range(34)
_IMAGE = '_leftImg8bit.png'


@SEGMENTATION.register(name='cityscapes')
class CityscapesSegmentation(Segmentation):
    """leftImg8bit and gtFine. The 34 numbers of labelIds become the 19 classes of the benchmark, the rest is 255.

    Args:
        root: the folder that holds leftImg8bit and gtFine.
        split: 'train' or 'val' (the masks of 'test' are not published).
        labels: 'labelIds' (as downloaded), 'labelTrainIds' (made from them by the authors' scripts), or 'auto':
            labelIds if they are there.
        unpaired: see FolderSegmentation.
        exif: see LabelledImages.

    Raises:
        DataError: another layout, or missing files.
    """

    kind = 'cityscapes'

    def __init__(self, root: Union[str, os.PathLike], split: str = 'train', labels: str = 'auto',
                 unpaired: str = 'error', exif: bool = True) -> None:
        if labels not in ('auto', 'labelIds', 'labelTrainIds'):
            raise ConfigError(f"labels must be 'auto', 'labelIds' or 'labelTrainIds', not {labels!r}.")
        root = check_root(root, TREE, ['leftImg8bit', 'gtFine'], self.kind)
        super().__init__(root, split, exif)
        if split == 'test':
            raise DataError("The masks of Cityscapes' test split are not published: its files say 'ignore' everywhere. "
                            "Use split='val'.")
        top = inside(root, os.path.join('leftImg8bit', split), 'split')
        if not os.path.isdir(top):
            there = ', '.join(n[:-1] for n in entries_of(os.path.dirname(top)) if n.endswith('/'))
            raise layout_error(root, f'There is no folder {shown(top)}.', TREE,
                               f"Splits that are there: {there or 'none'}.")
        images = {}
        for inner, names in scan(top):
            for name in names:
                if not name.endswith(_IMAGE):
                    raise DataError(f"{shown(os.path.join(top, inner, name))} does not end in '{_IMAGE}'. Keep other "
                                    "images out of leftImg8bit.")
                images[os.path.join(inner, name[:-len(_IMAGE)])] = os.path.join(top, inner, name)
        if not images:
            raise layout_error(root, f'{shown(top)} holds no images.', TREE,
                               'Unpack leftImg8bit_trainvaltest.zip there.')
        found = _masks(os.path.join(root, 'gtFine', split))
        if labels == 'auto':
            labels = 'labelIds' if found['labelIds'] or not found['labelTrainIds'] else 'labelTrainIds'
        if not found[labels]:
            raise layout_error(root, f"There are no masks ({labels}) in {shown(os.path.join(root, 'gtFine', split))}.",
                               TREE, 'Unpack gtFine_trainvaltest.zip there.')
        self._pair(images, found[labels], TREE, unpaired)
        mapping = None
        if labels == 'labelIds':
            mapping = {k: IGNORE for k in _ALL_IDS}
            mapping.update({value: k for k, value in enumerate(LABEL_IDS)})
        self._filled(LABEL_IDS.values(), mapping)


def _masks(top):
    """{'labelIds': {id: path}, 'labelTrainIds': {id: path}} of the masks below a folder."""
    found = {'labelIds': {}, 'labelTrainIds': {}}
    for inner, names in scan(top) if os.path.isdir(top) else ():
        for name in names:
            for labels, paths in found.items():
                ending = f'_gtFine_{labels}.png'
                if name.endswith(ending):
                    paths[os.path.join(inner, name[:-len(ending)])] = os.path.join(top, inner, name)
    return found
