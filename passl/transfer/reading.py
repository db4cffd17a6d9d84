"""Images of commands that have no config: read in the range of --value-range; doubts and unreadable ones are said."""

from collections.abc import Iterable, Sequence
from typing import Optional

import numpy as np

from ..datasets.image import read_image
from ..utils.config.kinds import Range, mistake
from ..utils.errors import ConfigError, DataError
from ..utils.logger import get_logger


_SHOWN = 3


def leave_out(reasons: Iterable[str], count: int) -> None:
    """Warn of the images, of `count`, that cannot be read, by the reason of each. Raises DataError if all cannot."""
    bad = list(reasons)
    if not bad:
        return
    said = [reason.rstrip('.') for reason in bad[:_SHOWN]] + ['...'] * (len(bad) > _SHOWN)
    text = f"{len(bad)} of {count} images cannot be read: {'; '.join(said)}."
    if len(bad) == count:
        raise DataError(text)
    get_logger().warning('%s They are left out.', text)


def check_range(value_range: Optional[Sequence[float]]) -> None:
    """Raises ConfigError unless it is None or (low, high)."""
    wrong = '' if value_range is None else mistake(Range, list(value_range))
    if wrong:
        raise ConfigError(f'--value-range {wrong}')


class Reader:
    """Reads image files.

    Args:
        value_range: (low, high): black and white in files of more than 8 bits; None: what the kind of file means.
    """

    def __init__(self, value_range: Optional[Sequence[float]] = None) -> None:
        self.value_range = value_range
        self._told: set[str] = set()

    def __call__(self, path: str) -> np.ndarray:
        """uint8 [H, W, 3], RGB. Raises ImageReadError."""
        return read_image(path, self.value_range, self.doubt)

    def doubt(self, kind: str, sentence: str) -> None:
        """Logs the first doubt of each kind, as a training does."""
        if kind not in self._told:
            self._told.add(kind)
            get_logger().warning('%s Here the flag is --value-range LOW HIGH. (Told once, for the first such file.)',
                                 sentence)
