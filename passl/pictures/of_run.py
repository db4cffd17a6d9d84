"""The pictures that a run draws of itself, in `<run folder>/pictures`."""

import os
from typing import Any, Optional

import numpy as np

from ..datasets.base import ImageDataset
from ..modules.freeze import quiet
from ..utils.errors import ConfigError
from ..utils.seed import derive_seed
from . import drawing, look
from .of_network import Scene
from .painter import Painter

SHEET, NEIGHBOURS = 8, 24       # images of the contact sheet, and of the picture of neighbours


def file_name(kind: str, iteration: int) -> str:
    """matches_0000100.png"""
    return f'{kind}_{iteration:07d}.png'


class RunPictures:
    """The fixed images of a run, and what is drawn of them.

    Nothing of the training changes: the images are read outside of the loader, the generators of random numbers stand
    as before, the network is in eval mode and makes no gradients.

    Raises:
        ConfigError: the data set is not one of images with two views, or its recipe cannot be split.
        DataError: no image can be read.
    """

    def __init__(self, trainer: Any) -> None:
        dataset = trainer.train_loader.dataset
        if not isinstance(dataset, ImageDataset) or len(dataset.recipe) != 2:
            raise ConfigError('the data set does not give two views of images')
        self.dataset, self.folder = dataset, os.path.join(trainer.run_dir, 'pictures')
        os.makedirs(self.folder, exist_ok=True)
        self.recipe, self.normalise = dataset.recipe.split()
        self.seed = derive_seed(trainer.seed, 1)            # the views of the first epoch
        self.scene = Scene(look.some_images(dataset, SHEET), self.recipe, self.normalise, self.seed)
        self.painter = Painter()
        self.start: Optional[float] = None
        self.painter.draw('views', os.path.join(self.folder, 'views.png'), **self.scene.views())

    def take(self, trainer: Any) -> None:
        """Compute the features of this moment, and have them drawn."""
        name, last = f'Iteration {trainer.iteration}', trainer.iteration >= trainer.max_iters
        drawn: dict[str, dict[str, Any]] = {}
        net = trainer.model.backbone
        with quiet(trainer.model), trainer.auto_cast():
            drawn['matches'] = self.scene.matches(net, name)
            drawn['maps'] = self.scene.maps(net, name)
            if last:
                images = look.some_images(self.dataset, NEIGHBOURS)
                more = Scene(images, self.recipe, self.normalise, self.seed)
                drawn['neighbours'] = more.neighbours(net, name)
        matches = drawn['matches']
        if trainer.iteration == 0:
            self.start = drawing.share_right(*(matches[k] for k in ('features', 'true', 'valid')))[0]
        matches['start'] = self.start if self.start is not None and np.isfinite(self.start) else None
        for kind, given in drawn.items():
            self.painter.draw(kind, os.path.join(self.folder, file_name(kind, trainer.iteration)), **given)
