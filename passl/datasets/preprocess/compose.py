"""Transforms that hold other transforms: Compose and RandomApply."""

import random
from typing import Any, Callable, Sequence, Union

from ...utils.config.kinds import Share
from ...utils.errors import ConfigError
from .builder import TRANSFORMS, build_transform

Recipe = Union[None, dict, Callable, Sequence]


def build_transforms(recipe: Recipe, where: str = 'transforms') -> 'Compose':
    """A callable that applies `recipe` in order.

    Args:
        recipe: None (nothing is done), one transform or a list of them; each a mapping
            `{name, ...arguments}` or an already built callable.
        where: dotted path in the config, for messages.

    Raises:
        ConfigError: an entry is neither a mapping nor a callable, or does not fit its transform.
    """
    if recipe is None:
        recipe = []
    if isinstance(recipe, Compose):
        return recipe
    if isinstance(recipe, dict) or callable(recipe):
        recipe = [recipe]
    if not isinstance(recipe, (list, tuple)):
        raise ConfigError(f"'{where}' must be a list of transforms, not {recipe!r}.")
    steps = []
    for i, step in enumerate(recipe):
        if isinstance(step, str):       # `- Transpose` for `- name: Transpose`
            step = {'name': step}
        steps.append(step if callable(step) else build_transform(step, f'{where}.{i}'))
    return Compose(steps)


def moves_pixels(transform: Any) -> bool:
    """False for a transform that says by an attribute `moves_pixels` that it leaves every pixel in its place."""
    return bool(getattr(transform, 'moves_pixels', True))


@TRANSFORMS.register()
class Compose:
    """Apply transforms one after the other.

    Args:
        transforms: list of mappings or callables.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        if any(not callable(t) for t in transforms):
            transforms = build_transforms(transforms, 'Compose.transforms').transforms
        self.transforms: list[Any] = list(transforms)

    def __call__(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img

    @property
    def moves_pixels(self) -> bool:
        return any(moves_pixels(t) for t in self.transforms)

    def __len__(self):
        return len(self.transforms)

    def __repr__(self):
        return f'Compose({[type(t).__name__ for t in self.transforms]})'


@TRANSFORMS.register()
class RandomApply:
    """Apply a whole list, or nothing.

    Args:
        transforms: list of mappings or callables.
        p: probability that they are applied.
    """

    def __init__(self, transforms: Any, p: Share = 0.5) -> None:
        self.transform = build_transforms(transforms, 'RandomApply.transforms')
        self.p = p

    @property
    def moves_pixels(self) -> bool:
        """Whether any of the transforms does."""
        return moves_pixels(self.transform)

    def __call__(self, img: Any) -> Any:
        return self.transform(img) if random.random() < self.p else img
