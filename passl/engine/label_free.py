"""The label-free estimate of a training's dense features, on images that are the same at every checkpoint."""

import contextlib
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import paddle

from ..datasets.base import generators_kept
from ..datasets.image import ImageReadError
from ..datasets.preprocess.compose import build_transforms
from ..modules.dense_structure import dense_structure
from ..modules.freeze import quiet
from ..utils.errors import ConfigError
from .doubts import crop_of

if TYPE_CHECKING:
    from .trainer import Trainer

_SMALLEST = 112         # pixels: 4 x 4 cells of a ResNet; fewer are no map whose parts could be grouped
_BATCH = 16


def structure(trainer: 'Trainer', images: int = 64, side: Optional[int] = None) -> dict[str, float]:
    """`dense_structure` of the backbone's last map in eval mode, and 'images', how many could be read.

    Nothing of the training changes: no random number is drawn, and BN's statistics are only used.

    Args:
        images: so many training images, at equal distances in the order of the data set.
        side: of their central squares in pixels; None: that of the training's crops, but 112 at least.
    Raises:
        ConfigError: the data set has no images to look at one by one, or too few for an estimate.
    """
    dataset, model = trainer.train_loader.dataset, trainer.model
    squares = _squares(dataset, images, side or max(crop_of(dataset) or 224, _SMALLEST))
    maps = []
    with quiet(model):
        for first in range(0, len(squares), _BATCH):
            with trainer.auto_cast():
                found = model(paddle.to_tensor(squares[first:first + _BATCH]), mode='extract')
            maps.append(found.astype('float32').flatten(2).transpose([0, 2, 1]).numpy())
    return {**dense_structure(np.concatenate(maps)), 'images': len(squares)}


def _squares(dataset: Any, images: int, side: int) -> np.ndarray:
    """float32 [n, 3, side, side], normalised as in the training."""
    if not hasattr(dataset, 'load') or not hasattr(dataset, 'recipe'):
        raise ConfigError(f'{type(dataset).__name__} has no method load(index) that gives an image.')
    _, normalise = dataset.recipe.split()
    shape = build_transforms([{'name': 'Resize', 'size': side}, {'name': 'CenterCrop', 'size': side}])
    count, found = min(images, len(dataset)), []
    with generators_kept():
        for i in range(count):
            with contextlib.suppress(ImageReadError):       # told when the training meets it
                found.append(normalise(shape(dataset.load(i * len(dataset) // count))))
    if len(found) < 2:
        raise ConfigError(f'{len(found)} of {count} images can be read; an estimate needs 2.')
    return np.stack(found)
