"""Normalisation of uint8 images on the device."""

from typing import Optional, Sequence

import numpy as np
import paddle


class InputNormalize:
    """uint8 Tensor [N, H, W, 3] -> float32 Tensor [N, 3, H, W], normalised per channel.

    In float32: x / divisor, then * factor, then - offset; what is None is left out. These are the operations of
    the transforms NormalizeImage and ToTensor in their order, so the values are equal to the last bit. An input of
    floating point is passed on as it is. No layer: a model that holds it gets no further weights.

    Args:
        factor, offset: one number per channel, both or None.
        divisor: number or None.
    """

    def __init__(self, factor: Optional[Sequence[float]] = None, offset: Optional[Sequence[float]] = None,
                 divisor: Optional[float] = None) -> None:
        self.constants = [None if v is None else np.asarray(v, np.float32) for v in (divisor, factor, offset)]
        self._on_device: dict[str, list[Optional[paddle.Tensor]]] = {}

    def _tensors(self, place):
        """The constants as Tensors there; copied once, not at every step."""
        if str(place) not in self._on_device:
            self._on_device[str(place)] = [None if v is None else paddle.to_tensor(v, place=place)
                                           for v in self.constants]
        return self._on_device[str(place)]

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.is_floating_point():
            return x
        divisor, factor, offset = self._tensors(x.place)
        x = x.astype('float32')
        if divisor is not None:
            x = x / divisor
        if factor is not None:
            x = x * factor - offset
        return x.transpose([0, 3, 1, 2])        # last: channel by channel would read the memory in strides
