"""The arguments of every picture of a network, from its backbone and images: for the command and for a run."""

import functools
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from ..datasets.preprocess.two_view import Views
from ..utils.errors import ConfigError
from ..utils.seed import derive_seed
from . import look

PAIRS, ROWS = 4, 4          # of images in the pictures of matches and of maps
SHARED, TRIES = 0.4, 20     # there must be something to match: this share of the larger crop


class Scene:
    """The fixed images that pictures show, and how they enter the network.

    Args:
        images: [(index, uint8 [H, W, 3])], as of `look.some_images`.
        recipe: of two views (or of one: then there are no matches), without layout and normalisation.
        normalise: the Normalisation that was taken off it.
        seed: of the views' random draws, `derive_seed(seed, index)` each.
        side: of the input; default: `look.side_of`.
    """

    def __init__(self, images: Sequence[tuple[int, np.ndarray]], recipe: Views, normalise: Any, seed: int,
                 side: Optional[int] = None) -> None:
        own, self.crop = look.side_of(recipe)
        self.images, self.recipe, self.normalise, self.seed = images, recipe, normalise, seed
        self.side = side or own

    @property
    def input(self) -> str:
        """Words on the size of the input."""
        times = f', {self.side / self.crop:g} x the crops of the training' if self.crop else ''
        return f'Input {self.side} x {self.side} px{times}. '

    def views(self) -> dict[str, Any]:
        """Of `drawing.views`."""
        size = f' of {self.crop} x {self.crop} px' if self.crop else ''
        return dict(look.view_sheet(self.images, self.recipe, self.seed), title='What the network sees',
                    note=f'Each image with its crops, and beside it the views{size} as they enter the network, before '
                         'normalisation.')

    @functools.cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first views, second views: uint8 [N, side, side, 3], places [N, 2, 6]); needs a recipe that can be followed.

        Raises:
            ConfigError: it cannot be followed, or makes one view.
        """
        if len(self.recipe) != 2:
            raise ConfigError('Matches need two views of an image, and the recipe makes one: give images with --images '
                              'and weights as SOURCE.')
        self.recipe.check_places()
        recipe = look.enlarged(self.recipe, self.side)
        drawn = [self._pair(recipe, index, image) for index, image in self.images[:PAIRS]]
        return (np.stack([views[0] for views, _, _ in drawn]), np.stack([views[1] for views, _, _ in drawn]),
                np.stack([where for _, _, where in drawn if where is not None]))

    def _pair(self, recipe, index, image):
        """The first of TRIES draws of an image's views that share enough of what they show; else the last."""
        for attempt in range(TRIES):
            drawn = look.views_of(recipe, image, derive_seed(self.seed, index, attempt))
            if look.shared(drawn[2]) >= SHARED:
                break
        return drawn

    def matches(self, net: Any, name: str, stage: int = 4) -> dict[str, Any]:
        """Of `drawing.matches`: pairs of views and the features of a stage."""
        first, second, where = self.pairs
        features = np.stack([look.maps_of(net, x, self.normalise, (stage,))[0] for x in (first, second)], axis=1)
        true, valid = look.true_cells(where, *features.shape[2:4])
        return {'first': shown(first), 'second': shown(second), 'features': features, 'true': true, 'valid': valid,
                'title': f'{name}: cells taken for the same: {{}}',
                'note': f'{self.input}{features.shape[2]} x {features.shape[3]} cells{_of(net, stage)}. '
                        f'The views share {SHARED:.0%} or more.'}

    def maps(self, net: Any, name: str) -> dict[str, Any]:
        """Of `drawing.maps`: whole images and the features of each stage."""
        squares = self.squares(ROWS)
        stages = look.STAGES if hasattr(net, 'stages') else (4,)
        found = look.maps_of(net, squares, self.normalise, stages)
        names = [f'layer{s}' for s in stages] if len(found) > 1 else ['map']
        return {'images': shown(squares), 'stages': dict(zip(names, found)),
                'title': f'{name}: what is alike to the network', 'note': self.input.strip()}

    def neighbours(self, net: Any, name: str, labels: Optional[np.ndarray] = None, stage: int = 4) -> dict[str, Any]:
        """Of `drawing.neighbours`; `labels`: class numbers of the images."""
        squares = self.squares()
        features, = look.maps_of(net, squares, self.normalise, (stage,))
        return {'images': shown(squares), 'features': features, 'labels': labels,
                'title': f'{name}: neighbours.', 'note': f'{self.input}Among {len(squares)} images, by the cosine of '
                f'features ({features.shape[1]} x {features.shape[2]} cells{_of(net, stage)}, and their mean).'}

    def squares(self, count: Optional[int] = None) -> np.ndarray:
        """The central squares of the first `count` images, uint8 [N, side, side, 3]."""
        return np.stack([look.square(image, self.side) for _, image in self.images[:count]])


def _of(net, stage):
    return f' of layer{stage}' if hasattr(net, 'stages') else ''


def shown(images: np.ndarray, side: int = 224) -> np.ndarray:
    """Images as large as a picture shows them."""
    return images if images.shape[1] <= side else np.stack([look.square(image, side) for image in images])
