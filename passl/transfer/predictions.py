"""Which images a detector or segmenter predicts on: those that can be read, each with a name of its own."""

import os
from collections.abc import Sequence
from typing import Callable

from ..datasets.image import ImageReadError, read_image, shown
from ..datasets.pool import run_all
from ..utils.errors import DataError
from ..utils.paddle_env import usable_cores
from .reading import leave_out


def readable(paths: Sequence[str], root: str, also: Callable[[str], bool] = lambda path: True) -> list[str]:
    """Those of `paths` that can be read, opened beforehand: a bad one in the middle would end the predictions there.

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

    def look(path):
        try:
            read_image(path)
            fit = also(path)
        except ImageReadError as e:
            return True, str(e)
        return True, '' if fit else f'{shown(path)} is of a kind that the library cannot read. Save it as PNG.'
    _, bad, killed = run_all(look, paths, usable_cores(), lambda n: None, bool)
    bad.update({k: f'{shown(paths[k])}: {bad[k]}' for k in killed})
    leave_out(bad.values(), len(paths))
    return [path for k, path in enumerate(paths) if k not in bad]
