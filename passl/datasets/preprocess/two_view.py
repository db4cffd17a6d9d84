"""From one decoded image to its augmented views."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from ...utils.errors import ConfigError
from .compose import Compose, Recipe, build_transforms, moves_pixels
from .geometric import Box, RandomHorizontalFlip, RandomResizedCrop, RandomVerticalFlip
from .tensor import Normalisation, split_normalisation

_FLIPS = (RandomHorizontalFlip, RandomVerticalFlip)


class Views:
    """image -> tuple of views, one for each chain of transforms.

    Where every chain begins with a RandomResizedCrop, all boxes are drawn before anything else. So the boxes
    can be known before the image is decoded, and the rest of the random numbers do not depend on how it is.

    Args:
        chains: one Compose for each view.

    Attributes:
        crops: the RandomResizedCrop that begins each chain, or None if one begins otherwise.
    """

    def __init__(self, chains: Sequence[Compose]) -> None:
        self.chains = [Compose(c.transforms) for c in chains]
        heads: list[Any] = [c.transforms[0] if c.transforms else None for c in self.chains]
        self.crops: Optional[list[RandomResizedCrop]] = None
        if all(type(h) is RandomResizedCrop for h in heads):        # derived classes may do anything in __call__
            self.crops = heads

    def __len__(self):
        return len(self.chains)

    def __call__(self, img: np.ndarray) -> tuple:
        if self.crops is None:
            return tuple(chain(img) for chain in self.chains)
        return self.cut(img, self.draw(*img.shape[:2]))

    def draw(self, height: int, width: int) -> list[Box]:
        """One random box (top, left, height, width) per view inside an image of that size; needs `crops`."""
        assert self.crops is not None
        return [crop.draw(height, width) for crop in self.crops]

    def reduction(self, height: int, width: int, boxes: Optional[Sequence[Box]] = None) -> int:
        """8, 4, 2 or 1: the largest at which the decoder may shrink an image of that size.

        Every box must keep at least as many pixels as its view has in both directions. Without `boxes` that is
        said of the whole image: 1 means that no box can do better.
        """
        if self.crops is None or any(c.interpolation != 'bilinear' for c in self.crops):
            return 1
        boxes = boxes or [(0, 0, height, width)] * len(self.crops)
        for factor in (8, 4, 2):
            if all(h >= factor * c.size[0] and w >= factor * c.size[1] for (_, _, h, w), c in zip(boxes, self.crops)):
                return factor
        return 1

    def cut(self, img: np.ndarray, boxes: Sequence[Box], reduction: int = 1) -> tuple:
        """The views of an image from the boxes of `draw`; `img` is that image decoded at 1 / reduction."""
        return self.follow(img, boxes, reduction)[0]

    def follow(self, img: np.ndarray, boxes: Sequence[Box],
               reduction: int = 1) -> tuple[tuple[Any, ...], list[list[bool]]]:
        """(views as of `cut`, for each of them [mirrored top-bottom, mirrored left-right])."""
        assert self.crops is not None
        views, flips = [], []
        for chain, crop, box in zip(self.chains, self.crops, boxes):
            view, flipped = crop.cut(img, box, reduction), [False, False]
            for transform in chain.transforms[1:]:
                if type(transform) not in _FLIPS:
                    view = transform(view)
                elif transform.draw():
                    view = transform.mirror(view)
                    flipped[transform.across] ^= True
            views.append(view)
            flips.append(flipped)
        return tuple(views), flips

    def check_places(self) -> None:
        """ConfigError if `places` could not tell where the pixels of a view come from."""
        for number, chain in enumerate(self.chains, 1):
            known = [(RandomResizedCrop,), *[_FLIPS] * len(chain)]
            wrong = [t for n, (t, kinds) in enumerate(zip(chain.transforms, known))
                     if type(t) not in kinds and (n == 0 or moves_pixels(t))]
            if wrong or not len(chain):
                name = getattr(wrong[0], '__name__', type(wrong[0]).__name__) if wrong else 'nothing'
                raise ConfigError(
                    f"The model asks where in the image each view lies. In view {number} '{name}' stands where that "
                    'cannot be followed. A recipe may begin with RandomResizedCrop; behind it may come '
                    'RandomHorizontalFlip, RandomVerticalFlip (by themselves, they have a p) and what leaves every '
                    'pixel in its place. Take the transform out; if it is your own and moves no pixel, write '
                    'moves_pixels = False in its class.')

    def split(self) -> tuple['Views', Normalisation]:
        """(Views without the layout and normalisation at their end, that Normalisation).

        Raises:
            ConfigError: a chain ends otherwise, or the chains normalise differently.
        """
        parts = [split_normalisation(chain.transforms) for chain in self.chains]
        if any(p[1] != parts[0][1] for p in parts):
            raise ConfigError('The views are normalised differently.')
        return Views([Compose(steps) for steps, _ in parts]), parts[0][1]


class TwoView(Views):
    """image -> (view 1, view 2), drawn independently.

    `transforms` is drawn once for each view; `view_trans1` then continues the first and
    `view_trans2` the second. Without those two, the one recipe is simply drawn twice.

    Args:
        transforms, view_trans1, view_trans2: lists of transforms (mappings or callables) or None.

    Raises:
        ConfigError: only one of view_trans1 and view_trans2 is given.
    """

    def __init__(self, transforms: Recipe, view_trans1: Recipe = None, view_trans2: Recipe = None) -> None:
        if (view_trans1 is None) != (view_trans2 is None):
            raise ConfigError('Give both view_trans1 and view_trans2, or neither (then both views use transforms).')
        shared = build_transforms(transforms, 'transforms').transforms
        super().__init__([Compose(shared + build_transforms(view, f'view_trans{i}').transforms)
                          for i, view in enumerate((view_trans1, view_trans2), 1)])


def places(boxes: Sequence[Box], size: Sequence[int], flips: Sequence[Sequence[bool]]) -> np.ndarray:
    """Where views lie: float32 [views, 6].

    Args:
        boxes: (top, left, height, width) of each crop. size: (height, width) of the whole upright image.
        flips: as `Views.follow` gives them.

    Returns:
        top, left, height, width in fractions of the image; then mirrored left-right, top-bottom: 0 or 1.
    """
    height, width = size
    return np.array([(top / height, left / width, h / height, w / width, across, down)
                     for (top, left, h, w), (down, across) in zip(boxes, flips)], np.float32)
