"""Transforms at the end of a recipe: axis order and normalisation."""

import numpy as np

from ...utils.errors import ConfigError
from .builder import TRANSFORMS
from .checks import is_number


@TRANSFORMS.register()
class Transpose:
    """Reorder the axes; (2, 0, 1) turns HWC into CHW."""

    def __init__(self, order=(2, 0, 1)):
        if sorted(order) != [0, 1, 2]:
            raise ConfigError(f'Transpose: order must be a permutation of 0, 1, 2, not {order!r}.')
        self.order = tuple(order)

    def __call__(self, img):
        return np.ascontiguousarray(img.transpose(self.order))


@TRANSFORMS.register()
class ToRGB:
    """Nothing to do: images are read as RGB. Kept because PASSL's recipes name it."""

    def __init__(self, mode='RGB', return_type='numpy'):
        if mode != 'RGB':
            raise ConfigError(f"ToRGB: mode '{mode}' is not supported; images are RGB here.")

    def __call__(self, img):
        return img


@TRANSFORMS.register()
class ToTensor:
    """uint8 HWC -> float32 CHW in [0, 1]; an array still, which the loader makes a Tensor of."""

    def __init__(self, data_format='CHW'):
        if data_format not in ('CHW', 'HWC'):
            raise ConfigError(f"ToTensor: data_format must be 'CHW' or 'HWC', not {data_format!r}.")
        self.order = (2, 0, 1) if data_format == 'CHW' else (0, 1, 2)

    def __call__(self, img):
        return np.divide(img.transpose(self.order), np.float32(255), dtype=np.float32, order='C')


def _per_channel(owner, key, value):
    values = [value] * 3 if is_number(value) else value
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(is_number(v) for v in values):
        raise ConfigError(f'{owner}: {key} must be one number or one per channel (3), not {value!r}.')
    return np.asarray(values, np.float64)


@TRANSFORMS.register()
class NormalizeImage:
    """(img * scale - mean) / std as float32, per channel.

    Args:
        scale: 1.0/255.0 maps levels to [0, 1]; None is 1.
        mean, std: one number or three, in the units after scaling.
        data_format: 'CHW' or 'HWC'; None finds the axis with 3 channels (CHW if both have 3).
        to_rgb: must stay False, images are RGB already.
    """

    def __init__(self, scale=None, mean=0.0, std=1.0, data_format=None, to_rgb=False):
        owner = type(self).__name__
        if scale is not None and not is_number(scale):
            raise ConfigError(f'{owner}: scale must be a number, not {scale!r}. 1.0/255.0 without quotes is '
                              'one.')
        std = _per_channel(owner, 'std', std)
        if (std <= 0).any():
            raise ConfigError(f'{owner}: std must be above 0, not {std.tolist()}.')
        if data_format not in (None, 'CHW', 'HWC'):
            raise ConfigError(f"{owner}: data_format must be 'CHW' or 'HWC', not {data_format!r}.")
        if to_rgb:
            raise ConfigError(f'{owner}: images are RGB already; leave to_rgb out, it would swap red and '
                              'blue.')
        # one multiplication and one subtraction per pixel
        self.factor = ((1.0 if scale is None else scale) / std).astype(np.float32)
        self.offset = (_per_channel(owner, 'mean', mean) / std).astype(np.float32)
        self.data_format = data_format

    def __call__(self, img):
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

    def __init__(self, mean=0.0, std=1.0, data_format=None, to_rgb=False):
        super().__init__(None, mean, std, data_format, to_rgb)
