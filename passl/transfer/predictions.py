"""Which images a detector or segmenter predicts on: those that can be read, each with a name of its own."""

import os
from collections.abc import Sequence
from typing import Callable

from ..datasets.image import ImageReadError, read_image, shown
from ..utils.errors import DataError
from ..utils.logger import get_logger

_SHOWN = 3


def readable(paths: Sequence[str], root: str, also: Callable[[str], bool] = lambda path: True) -> list[str]:
    """Those of `paths` that can be read, opened one by one: a bad one in the middle would end the predictions there.

    Args:
        root: predictions are named after the paths below it, without the ending.
        also: False for a path that the library itself cannot read.

    Raises:
        DataError: two images whose predictions would get one name, or none that can be read.
    """
    names: dict[str, str] = {}
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, root) if root else path)[0]
        if name in names:
            raise DataError(f'{shown(names[name])} and {shown(path)} differ in their ending only: the prediction of '
                            'one would replace that of the other. Rename one of them.')
        names[name] = path
    good, bad = [], []
    for path in paths:
        try:
            read_image(path)
            if not also(path):
                raise ImageReadError(f'{shown(path)} is of a kind that the library cannot read. Save it as PNG.')
            good.append(path)
        except ImageReadError as e:
            bad.append(str(e))
    if bad:
        more = '; ...' if len(bad) > _SHOWN else ''
        text = f"{len(bad)} of {len(paths)} images cannot be read: {'; '.join(bad[:_SHOWN])}{more}"
        if not good:
            raise DataError(text)
        get_logger().warning('%s They are left out.', text)
    return good
