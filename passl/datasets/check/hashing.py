"""A perceptual hash: images that look alike differ in few of its bits."""

import cv2
import numpy as np

_SIDE, _FREQUENCIES = 32, 8
BLANK_RANGE = 8             # grey levels between the darkest and the brightest part of a blank image


def _cosines():
    """Rows of the discrete cosine transform without the constant one: [_FREQUENCIES, _SIDE]."""
    x = (np.arange(_SIDE) + 0.5) / _SIDE
    return np.cos(np.pi * np.arange(1, _FREQUENCIES + 1)[:, None] * x).astype(np.float32)


_COSINES = _cosines()


def thumbnail(image):
    """uint8 [H, W, 3] -> grey levels, float32 [32, 32]; the shape of the image is not kept."""
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def is_blank(grey):
    """True for a thumbnail that shows nothing: its hash would be chance."""
    return float(grey.max() - grey.min()) < BLANK_RANGE


def perceptual_hash(grey):
    """64 bits of a thumbnail: which of its low frequencies lie above their median. An int.

    The constant one and those along one side only are left out: brightness and plain gradients change them.
    """
    waves = (_COSINES @ grey @ _COSINES.T).ravel()
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes(), 'big')
