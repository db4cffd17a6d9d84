"""Transforms that hold other transforms: Compose and RandomApply."""

import random

from ...utils.errors import ConfigError
from .builder import TRANSFORMS, build_transform
from .checks import probability


def build_transforms(recipe, where='transforms'):
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


def moves_pixels(transform):
    """False for a transform that says by an attribute `moves_pixels` that it leaves every pixel in its place."""
    return bool(getattr(transform, 'moves_pixels', True))


@TRANSFORMS.register()
class Compose:
    """Apply `transforms` (mappings or callables) one after the other."""

    def __init__(self, transforms):
        if any(not callable(t) for t in transforms):
            transforms = build_transforms(transforms, 'Compose.transforms').transforms
        self.transforms = list(transforms)

    def __call__(self, img):
        for transform in self.transforms:
            img = transform(img)
        return img

    @property
    def moves_pixels(self):
        return any(moves_pixels(t) for t in self.transforms)

    def __len__(self):
        return len(self.transforms)

    def __repr__(self):
        return f'Compose({[type(t).__name__ for t in self.transforms]})'


@TRANSFORMS.register()
class RandomApply:
    """Apply the whole list `transforms` with probability `p`, otherwise nothing."""

    def __init__(self, transforms, p=0.5):
        self.transform = build_transforms(transforms, 'RandomApply.transforms')
        self.p = probability('RandomApply', 'p', p)

    @property
    def moves_pixels(self):
        return moves_pixels(self.transform)

    def __call__(self, img):
        return self.transform(img) if random.random() < self.p else img
