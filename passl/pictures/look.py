"""What is drawn of a data set and a network, as NumPy arrays: views with their places, squares, features."""

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, Optional

import cv2
import numpy as np
import paddle

from ..datasets.base import seeded
from ..datasets.image import ImageReadError
from ..datasets.preprocess.compose import Compose
from ..datasets.preprocess.two_view import Views, places
from ..modules.correspondence import cells_at
from ..utils.errors import DataError
from ..utils.misc import CELL, evenly
from ..utils.seed import derive_seed

# a map of 14 x 14 cells, but no more than so many times the crops of the training: what a short training knows at its
# own size is lost farther off
SIDE, TIMES = 448, 2
FINEST = 56                     # cells along a side that are kept of a map
STAGES = (1, 2, 3, 4)


def some_images(dataset: Any, count: int) -> list[tuple[int, np.ndarray]]:
    """[(index, uint8 [H, W, 3])] of `count` images that lie evenly over a data set; unreadable ones are passed over.

    Raises:
        DataError: none can be read.
    """
    found = []
    for index in evenly(len(dataset), count):
        for candidate in range(int(index), min(int(index) + 10, len(dataset))):
            with contextlib.suppress(ImageReadError):
                found.append((candidate, dataset.load(candidate)))
                break
    if not found:
        raise DataError('No image of the data set could be read for the pictures.')
    return found


def side_of(recipe: Views) -> tuple[int, int]:
    """(side of the pictures' input, side of the training's crops or 0 if the recipe does not begin with one)."""
    crop = max(recipe.crops[0].size) if recipe.crops else 0
    side = min(SIDE, TIMES * crop) if crop else SIDE
    return max(CELL, side // CELL * CELL), crop


def enlarged(recipe: Views, side: int) -> Views:
    """The same recipe with crops of another side; it draws the same random numbers."""
    chains = []
    for chain in recipe.chains:
        crop = copy.copy(chain.transforms[0])
        crop.size = (side, side)
        chains.append(Compose([crop, *chain.transforms[1:]]))
    return Views(chains)


def views_of(recipe: Views, image: np.ndarray, seed: int) -> tuple[tuple[Any, ...], Any, Optional[np.ndarray]]:
    """(views, boxes or None, places or None) as a sample of this seed has them; the random generators stay as they are.

    Args:
        seed: as `derive_seed(key.seed, key.index)` of a SampleKey.
    """
    with seeded(seed):
        if recipe.crops is None:
            return recipe(image), None, None
        boxes = recipe.draw(*image.shape[:2])
        views, flips = recipe.follow(image, boxes)
    return views, boxes, places(boxes, image.shape[:2], flips)


def shared(where: Any) -> float:
    """The area that two crops share, as a share of the larger one's; `where`: [2, 6], as of `places`."""
    (top, left, h, w), (top2, left2, h2, w2) = np.asarray(where, float)[:, :4]
    height = min(top + h, top2 + h2) - max(top, top2)
    width = min(left + w, left2 + w2) - max(left, left2)
    return max(0.0, height) * max(0.0, width) / max(h * w, h2 * w2)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """The largest central square of an image, resized to `side`."""
    short = min(image.shape[:2])
    top, left = (image.shape[0] - short) // 2, (image.shape[1] - short) // 2
    how = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
    return cv2.resize(image[top:top + short, left:left + short], (side, side), interpolation=how)


def boxed(image: np.ndarray, side: int) -> tuple[np.ndarray, float, int, int]:
    """(the whole image in the middle of a white square, scale, left, top of it there)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    out[top:top + small.shape[0], left:left + small.shape[1]] = small
    return out, scale, left, top


def view_sheet(images: Sequence[tuple[int, np.ndarray]], recipe: Views, seed: int, side: int = 160) -> dict[str, Any]:
    """Arrays of `drawing.views`: the views that samples of `seed` have in the first epoch's kind of draw.

    Args:
        images: as of `some_images`.
        recipe: without layout and normalisation (`Views.split`): views are uint8.
    """
    originals, boxes, views = [], [], []
    for index, image in images:
        shown, drawn, _ = views_of(recipe, image, derive_seed(seed, index))
        original, scale, left, top = boxed(image, side)
        originals.append(original)
        boxes.append([(x * scale + left, y * scale + top, w * scale, h * scale) for y, x, h, w in drawn or ()])
        views.append([boxed(v, side)[0] for v in shown[:2]])
    return {'originals': np.stack(originals), 'boxes': np.array(boxes if boxes[0] else []),
            'first': np.stack([v[0] for v in views]),
            'second': np.stack([v[1] for v in views]) if len(views[0]) > 1 else np.zeros(0)}


def true_cells(where: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(cell of the second view at the place of each of the first, whether it lies in the second view).

    Args:
        where: float32 [N, 2, 6], as of `preprocess.two_view.places`.
    """
    index, valid = cells_at(paddle.to_tensor(where), rows, columns, 1e9)
    return index.numpy(), valid.numpy()


def maps_of(net: Any, images: np.ndarray, normalise: Any, stages: Sequence[int] = (4,)) -> list[np.ndarray]:
    """float16 [N, rows, columns, channels] of each stage; of a backbone without stages, of its last map.

    Args:
        images: uint8 [N, H, W, 3]; they pass the network one by one, for its memory.
        normalise: uint8 [H, W, 3] -> float32 [3, H, W].
    """
    found = []
    for image in images:
        x = paddle.to_tensor(normalise(image)).unsqueeze(0)
        maps = net.stages(x, stages) if hasattr(net, 'stages') else [net(x)]
        found.append([_kept(m.astype('float32')) for m in maps])
    return [np.concatenate(stage) for stage in zip(*found)]


def _kept(x):
    """A map [1, C, h, w] as float16 [1, h, w, C] of length at most 1 per cell, averaged down to FINEST cells."""
    if max(x.shape[2:]) > FINEST:
        x = paddle.nn.functional.adaptive_avg_pool2d(x, [min(FINEST, n) for n in x.shape[2:]])
    x = x / x.norm(axis=1, keepdim=True).max().clip(min=1e-12)
    return x.transpose([0, 2, 3, 1]).numpy().astype(np.float16)
