"""ImageNet-1k and its 100-class subset."""

from ..utils.errors import DataError
from .builder import DATASETS
from .folder import ImageFolder


@DATASETS.register()
class ImageNet(ImageFolder):
    """`dataroot` is ILSVRC2012/train or ILSVRC2012/val with one folder per class (n01440764 ...).

    A `val` folder as downloaded is flat: sort it into class folders first, or use ImageList
    with a text file of `name label` lines. The number of classes is not checked, so
    subsets work. Arguments: see ImageFolder; `return_label` is off by default.
    """

    def __init__(self, dataroot, return_label=False, return_two_sample=False, transforms=None, view_trans1=None,
                 view_trans2=None, classes=None, on_error='replace', max_bad=0.1):
        super().__init__(dataroot, return_label, return_two_sample, transforms, view_trans1, view_trans2, classes,
                         on_error, max_bad)


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
