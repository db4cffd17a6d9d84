"""Several labelled data sets as one, such as VOC2007 and VOC2012."""

import bisect
import os
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np
from paddle.io import Dataset

from ...utils.errors import ConfigError, DataError
from .base import LabelledImages


class Joined(Dataset):
    """The images of `parts` behind each other; `dataset[i]` is what the part gives, with its folder before the id.

    `load_image`, `load_mask` and `target` are those of the parts.

    Args:
        parts: data sets of one task, with the same classes in the same order.

    Raises:
        ConfigError: no parts. DataError: their classes differ, or two hold the same images.
    """

    def __init__(self, parts: Sequence[LabelledImages]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError('Nothing to join: give at least one data set.')
        self.parts: list[Any] = list(parts)         # what else than images they have depends on the task
        self.classes = parts[0].classes
        for part in self.parts[1:]:
            if part.classes != self.classes:
                odd = next((c for c in part.classes if c not in self.classes), 'their order')
                raise DataError(f"'{part.root}' and '{parts[0].root}' have different classes ({len(part.classes)} and "
                                f'{len(self.classes)}; {odd}). Give both the same list with classes=[...].')
        self._starts = [0]
        for part in self.parts:
            self._starts.append(self._starts[-1] + len(part))
        self.root = ', '.join(str(p.root) for p in self.parts)          # for messages
        fronts = [os.path.basename(os.path.abspath(p.root)) for p in self.parts]
        self.ids = [f'{front}/{i}' for front, part in zip(fronts, self.parts) for i in part.ids]
        if len(set(self.ids)) != len(self.ids):
            raise DataError('The same images stand in two of the joined data sets, or their folders have the same name '
                            f"({', '.join(fronts)}). Name each image once.")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def ignore_index(self) -> int:
        return self.parts[0].ignore_index

    def part(self, index: int) -> tuple[Any, int]:
        """(data set, index in it) of an image."""
        if not -len(self) <= index < len(self):
            raise IndexError(f'No image {index} in a data set of {len(self)}.')
        index %= len(self)
        number = bisect.bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def read_in(self, value_range: Optional[Sequence[float]], doubt: Callable[[str, str], object]) -> None:
        """As `LabelledImages.read_in`, of all parts."""
        for part in self.parts:
            part.read_in(value_range, doubt)

    def load_image(self, index: int) -> np.ndarray:
        part, inner = self.part(index)
        return part.load_image(inner)

    def load_mask(self, index: int) -> np.ndarray:
        part, inner = self.part(index)
        return part.load_mask(inner)

    def files(self, index: int) -> list[str]:
        part, inner = self.part(index)
        return part.files(inner)

    def turned(self, index: int) -> bool:
        part, inner = self.part(index)
        return part.turned(inner)

    def reading(self) -> str:
        return ' '.join(part.reading() for part in self.parts)

    def target(self, index: int) -> dict[str, np.ndarray]:
        part, inner = self.part(index)
        return part.target(inner)

    def __len__(self):
        return self._starts[-1]

    def __getitem__(self, index):
        part, inner = self.part(index)
        sample = part[inner]
        return (*sample[:2], self.ids[index % len(self)]) if len(sample) == 3 else sample
