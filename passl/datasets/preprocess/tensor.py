"""Transforms at the end of a recipe: axis order and normalisation."""

from typing import Annotated, Any, Callable, Literal, Optional, Sequence

import cv2
import numpy as np

from ...utils.config.kinds import Check, Text, is_number, is_whole
from ...utils.errors import ConfigError
from .builder import TRANSFORMS
from .checks import Axes, PerChannel, PositivePerChannel

Order = Annotated[Sequence[int], Check('a permutation of 0, 1, 2', lambda v: isinstance(v, (list, tuple)) and all(
    is_whole(n) for n in v) and sorted(v) == [0, 1, 2])]
Scale = Annotated[float, Check('a number (1.0/255.0 without quotes is one)', is_number)]
NoSwap = Annotated[bool, Check('false or left out: images are RGB already, it would swap red and blue',
                               lambda v: v is False)]


@TRANSFORMS.register()
class Transpose:
    """Reorder the axes.

    Args:
        order: (2, 0, 1) turns HWC into CHW.
    """

    def __init__(self, order: Order = (2, 0, 1)) -> None:
        self.order = tuple(order)
        self.moves_pixels = self.order.index(0) > self.order.index(1)       # rows and columns change places

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(img.transpose(self.order))


@TRANSFORMS.register()
class ToRGB:
    """Nothing to do: images are read as RGB. Kept because PASSL's recipes name it.

    Args:
        mode, return_type: as in PASSL's recipes; they change nothing.
    """

    moves_pixels = False

    def __init__(self, mode: Literal['RGB'] = 'RGB', return_type: Text = 'numpy') -> None:
        pass

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return img


@TRANSFORMS.register()
class ToTensor:
    """uint8 HWC -> float32 in [0, 1]; an array still, which the loader makes a Tensor of.

    Args:
        data_format: order of the axes afterwards.
    """

    moves_pixels = False

    def __init__(self, data_format: Axes = 'CHW') -> None:
        self.order = (2, 0, 1) if data_format == 'CHW' else (0, 1, 2)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return np.divide(img.transpose(self.order), np.float32(255), dtype=np.float32, order='C')


def _per_channel(value):
    return np.asarray(value if isinstance(value, (list, tuple)) else [value] * 3, np.float64)


@TRANSFORMS.register()
class NormalizeImage:
    """(img * scale - mean) / std as float32, per channel.

    Args:
        scale: 1.0/255.0 maps levels to [0, 1]; None is 1.
        mean, std: one number or three, in the units after scaling.
        data_format: 'CHW' or 'HWC'; None finds the axis with 3 channels (CHW if both have 3).
        to_rgb: must stay False, images are RGB already.
    """

    moves_pixels = False

    def __init__(self, scale: Optional[Scale] = None, mean: PerChannel = 0.0, std: PositivePerChannel = 1.0,
                 data_format: Optional[Axes] = None, to_rgb: NoSwap = False) -> None:
        deviation = _per_channel(std)
        # one multiplication and one subtraction per pixel
        self.factor = ((1.0 if scale is None else scale) / deviation).astype(np.float32)
        self.offset = (_per_channel(mean) / deviation).astype(np.float32)
        self.data_format = data_format

    def __call__(self, img: np.ndarray) -> np.ndarray:
        chw = self.data_format == 'CHW' or (self.data_format is None and img.shape[0] == 3)
        planes = img if chw else img.transpose(2, 0, 1)
        if planes.shape[0] != 3:
            raise ConfigError(f'{type(self).__name__}: no axis with 3 channels in an image of shape '
                              f'{img.shape}.')
        out = np.empty(img.shape, np.float32)
        target = out if chw else out.transpose(2, 0, 1)
        for c in range(3):
            np.multiply(planes[c], self.factor[c], out=target[c], casting='unsafe')
            target[c] -= self.offset[c]
        return out


@TRANSFORMS.register()
class Normalize(NormalizeImage):
    """(img - mean) / std as float32, per channel; see NormalizeImage."""

    def __init__(self, mean: PerChannel = 0.0, std: PositivePerChannel = 1.0, data_format: Optional[Axes] = None,
                 to_rgb: NoSwap = False) -> None:
        super().__init__(None, mean, std, data_format, to_rgb)


class Normalisation:
    """The end of a recipe, uint8 [H, W, 3] -> float32 [3, H, W], taken off so that it can run elsewhere.

    Per channel and in float32: x / divisor, then * factor, then - offset; what is None is left out. The values
    are, to the last bit, those of the transforms it stands for.

    Args:
        divisor: number or None.
        factor, offset: float32 [3], both or None.
    """

    def __init__(self, divisor: Optional[float] = None, factor: Optional[np.ndarray] = None,
                 offset: Optional[np.ndarray] = None) -> None:
        self.divisor, self.factor, self.offset = divisor, factor, offset
        values = np.repeat(np.arange(256, dtype=np.float32)[None], 3, 0)
        if divisor is not None:
            values /= np.float32(divisor)
        if factor is not None and offset is not None:
            values *= factor[:, None]
            values -= offset[:, None]
        self.values = values                # [3, 256]: there are only 256 levels

    def __eq__(self, other):
        return isinstance(other, Normalisation) and np.array_equal(self.values, other.values) \
            and self.divisor == other.divisor

    __hash__ = None         # type: ignore[assignment]  # how Python says that there is no hash

    def __call__(self, img: np.ndarray, out: Optional[np.ndarray] = None) -> np.ndarray:
        """[H, W, 3] -> float32 [3, H, W]; written to `out` if given (contiguous)."""
        out = np.empty((3,) + img.shape[:2], np.float32) if out is None else out
        for c in range(3):
            if img.dtype == np.uint8:       # look the level up: one pass
                cv2.LUT(cv2.extractChannel(img, c), self.values[c], out[c])
                continue
            out[c] = img[..., c]            # an own transform may have returned floating point
            if self.divisor is not None:
                out[c] /= np.float32(self.divisor)
            if self.factor is not None and self.offset is not None:
                out[c] *= self.factor[c]
                out[c] -= self.offset[c]
        return out


def split_normalisation(transforms: list[Callable]) -> tuple[list[Callable], Normalisation]:
    """(the transforms before, a Normalisation) of a list that ends in layout and normalisation.

    That is [Transpose, NormalizeImage], [NormalizeImage, Transpose], [ToTensor] or [ToTensor, NormalizeImage],
    with Normalize in the place of NormalizeImage as well.

    Raises:
        ConfigError: it ends otherwise.
    """
    def kind(t):                            # exact types: a derived class may compute anything
        if type(t) in (NormalizeImage, Normalize):
            return 'normalise'
        if type(t) is Transpose and t.order == (2, 0, 1):
            return 'layout'
        return 'tensor' if type(t) is ToTensor and t.order == (2, 0, 1) else None

    last: Any = transforms[-1] if transforms else None
    before: Any = transforms[-2] if len(transforms) > 1 else None
    pair = kind(before), kind(last)
    if pair in (('layout', 'normalise'), ('tensor', 'normalise')) and last.data_format != 'HWC':
        return transforms[:-2], Normalisation(255 if pair[0] == 'tensor' else None, last.factor, last.offset)
    if pair == ('normalise', 'layout') and before.data_format != 'CHW':
        return transforms[:-2], Normalisation(None, before.factor, before.offset)
    if pair[1] == 'tensor':
        return transforms[:-1], Normalisation(255)
    names = ', '.join(type(t).__name__ for t in transforms[-2:]) or 'nothing'
    raise ConfigError(f'The recipe ends in [{names}], not in [Transpose, NormalizeImage], [NormalizeImage, Transpose], '
                      '[ToTensor] or [ToTensor, Normalize].')
