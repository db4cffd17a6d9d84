"""Two augmented views of one image."""

from ...utils.errors import ConfigError
from .compose import build_transforms


class TwoView:
    """image -> (view 1, view 2), drawn independently.

    `transforms` is drawn once for each view; `view_trans1` then continues the first and
    `view_trans2` the second. Without those two, the one recipe is simply drawn twice.

    Args:
        transforms, view_trans1, view_trans2: lists of transforms (mappings or callables) or None.

    Raises:
        ConfigError: only one of view_trans1 and view_trans2 is given.
    """

    def __init__(self, transforms, view_trans1=None, view_trans2=None):
        if (view_trans1 is None) != (view_trans2 is None):
            raise ConfigError('Give both view_trans1 and view_trans2, or neither (then both views use '
                              'transforms).')
        self.shared = build_transforms(transforms, 'transforms')
        self.view1 = build_transforms(view_trans1, 'view_trans1')
        self.view2 = build_transforms(view_trans2, 'view_trans2')

    def __call__(self, img):
        return self.view1(self.shared(img)), self.view2(self.shared(img))
