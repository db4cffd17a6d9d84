"""ImageNet-1k and its 100-class subset."""

from typing import Any

from ..utils.config.kinds import Flag
from ..utils.errors import DataError
from .builder import DATASETS
from .folder import ImageFolder, Path


@DATASETS.register()
class ImageNet(ImageFolder):
    """`dataroot` is ILSVRC2012/train or ILSVRC2012/val with one folder per class (n01440764 ...).

    A `val` folder as downloaded is flat: sort it into class folders first, or use ImageList
    with a text file of `name label` lines. The number of classes is not checked, so
    subsets work. `return_label` is off by default.
    """

    def __init__(self, dataroot: Path, return_label: Flag = False, **views: Any) -> None:
        super().__init__(dataroot, return_label, **views)


@DATASETS.register()
class ImageNet100(ImageNet):
    """100 classes of ImageNet: a folder of exactly 100 classes, or `classes` names 100 of 1000.

    There are several such subsets in use; none is built in. Arguments: see ImageFolder.

    Raises:
        DataError: not 100 classes.
    """

    def _filled(self):
        super()._filled()
        if self.num_classes != 100:
            raise DataError(f"ImageNet100: '{self.dataroot}' has {self.num_classes} classes, not 100. Name the 100 "
                            'with classes: FILE (one folder name per line).')
