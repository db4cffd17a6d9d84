"""Superpixels of an image, and what of them a view shows."""

import typing
from typing import Annotated, Any, NamedTuple, Optional

import cv2
import numpy as np

from ..utils.config.kinds import NotNegative, Positive, Text, mistake, whole_from
from ..utils.errors import ConfigError, suggest

MOST = 16           # numbers 0 to 15: four bits
CELLS = 64          # a label map is CELLS x CELLS, whatever the shape of its image: places are fractions
PACKED = (CELLS, CELLS // 2)        # of uint8; the even column in the lower half of a byte
VIEW = 32           # a view's map is VIEW x VIEW
_SIDE = 128         # pixels of the longer side of what SLIC sees


Segments = Annotated[int, whole_from(2, MOST)]


class Regions(NamedTuple):
    """Settings of the superpixels (SLIC of scikit-image), `dataset.regions` in a config.

    SLIC is asked for `segments` regions and mostly makes fewer. Where it makes more it is asked for fewer until there
    are at most `segments`. Each is connected and has at least one pixel: an image of few pixels has few regions.

    Args:
        segments: 2 to 16.
        compactness: how much nearness counts against colour; higher is squarer.
        sigma: width of the Gaussian that smooths the image first, in pixels of the shrunk image (longer side 128).
        cache: file that keeps them, or folder for it; None: see `Carries.carry`.
    """

    segments: Segments = MOST
    compactness: Positive = 10.0
    sigma: NotNegative = 1.0
    cache: Optional[Text] = None

    @classmethod
    def of(cls, settings: dict[str, Any], where: str) -> 'Regions':
        """From a mapping in a config; ConfigError that begins with `where`."""
        given = {k: v for k, v in settings.items() if v is not None}
        kinds = typing.get_type_hints(cls, include_extras=True)
        for key, value in given.items():
            if key not in kinds:
                raise ConfigError(f"'{where}.{key}': unknown setting. {suggest(key, kinds)}")
            wrong = mistake(kinds[key], value)
            if wrong:
                raise ConfigError(f"'{where}.{key}' {wrong}")
        return cls(**given)

    def record(self) -> dict[str, Any]:
        """What of the settings, and of this file, decides about the numbers."""
        return {'segments': self.segments, 'compactness': float(self.compactness), 'sigma': float(self.sigma),
                'side': _SIDE, 'cells': CELLS}


def require_slic() -> None:
    """ConfigError without scikit-image."""
    try:
        import skimage.segmentation  # noqa: F401
    except ImportError as e:
        raise ConfigError('Regions of images need scikit-image, which cannot be imported here: pip install '
                          f"scikit-image, or in the clone pip install -e '.[regions]' ({e})") from None


def superpixels(img: np.ndarray, settings: Regions) -> np.ndarray:
    """The region of every pixel: uint8 [h, w], numbers 0 to at most settings.segments - 1, without gaps.

    Args:
        img: uint8 [H, W, 3]; h, w are its sides shrunk (never enlarged) to 128 at most.
        settings: Regions.
    """
    from skimage.segmentation import slic
    height, width = img.shape[:2]
    scale = _SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        img = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
    for segments in range(settings.segments, 0, -1):
        labels = slic(img, n_segments=segments, compactness=settings.compactness, sigma=settings.sigma, start_label=0)
        if labels.max() < settings.segments:
            break
    return labels.astype(np.uint8)


def packed_map(labels: np.ndarray) -> np.ndarray:
    """The label map that is kept: uint8 [64, 32], labels [h, w] at the centres of 64 x 64 cells, two to a byte."""
    rows, columns = (((np.arange(CELLS) + 0.5) / CELLS * side).astype(int) for side in labels.shape)
    cells = labels[rows[:, None], columns]
    return cells[:, ::2] | cells[:, 1::2] << 4


_CENTRES = CELLS * (np.arange(VIEW) + 0.5) / VIEW


def _seen(start, length, mirrored):
    """The cells at the centres of a view's rows or columns."""
    cells = np.minimum((CELLS * start + length * _CENTRES).astype(np.intp), CELLS - 1)
    return cells[::-1] if mirrored else cells


def regions_of_views(packed: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What the views of an image show of its regions: uint8 [views, 32, 32].

    Args:
        packed: as `packed_map` gives it. places: float32 [views, 6], see `preprocess.two_view.places`.
    """
    cells = np.empty((CELLS, CELLS), np.uint8)
    np.bitwise_and(packed, 15, out=cells[:, ::2])
    np.right_shift(packed, 4, out=cells[:, 1::2])
    out = np.empty((len(places), VIEW, VIEW), np.uint8)
    for view, (top, left, height, width, across, down) in zip(out, places.tolist()):
        # a quarter of the time of one index with two arrays
        np.take(cells[_seen(top, height, down)], _seen(left, width, across), 1, out=view, mode='clip')
    return out
