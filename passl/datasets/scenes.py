"""Rendering of the embedded data set: textured objects on a quiet background.

The class is the pair (shape, texture). Everything else is drawn at random and tells nothing about it:
places, sizes, rotations, scale of the texture, tints, background, light and grain. So the mean colour
or the raw pixels of an image hardly help, while features that see edges and patterns do. The objects
of a scene are tinted, turned and scaled independently: besides light and background their class is
what two crops share, so that a few hundred steps of contrastive learning show an effect. A scene
depends on (seed, index) only; NumPy's RandomState keeps its stream across versions.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..utils.seed import derive_seed

SHAPES = ('disc', 'star')
TEXTURES = ('striped', 'checked', 'dotted', 'ringed', 'plain')
CLASSES = tuple(f'{t}_{s}' for t in TEXTURES for s in SHAPES)

_SHIFT = 4                      # fillPoly takes 1/16 pixels
_grids: dict[int, Sequence[np.ndarray]] = {}


def _grid(size):
    """Pixel centres (x, y) as two float32 [size, size] in [0, 1]; kept for the next scene."""
    if size not in _grids:
        c = ((np.arange(size) + 0.5) / size).astype(np.float32)
        _grids[size] = np.meshgrid(c, c)
    return _grids[size]


def _outline(shape, radius):
    """Corner points [n, 2] around the origin."""
    if shape == 'disc':
        angles = np.arange(48) * (2 * np.pi / 48)
        radii = np.full(48, 0.86 * radius)      # so that both shapes cover about the same area
    else:
        angles = np.arange(10) * (2 * np.pi / 10)
        radii = np.where(np.arange(10) % 2, 0.5 * radius, 1.15 * radius)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _fill(points, size):
    """Coverage of a polygon: float32 [size, size] in [0, 1]; points in units of the image side."""
    canvas = np.zeros((size, size), np.uint8)
    corners = np.rint((points * size - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [corners], 255, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def _texture(name, u, v, period):
    """Pattern in [0, 1] over object coordinates u, v (units of the image side)."""
    k = np.float32(2 * np.pi / period)
    if name == 'striped':
        wave = np.sin(k * u)
    elif name == 'checked':
        wave = 2 * np.sin(k * u * 0.5) * np.sin(k * v * 0.5)
    elif name == 'dotted':
        wave = np.cos(k * u) + np.cos(k * v) - 0.6
    elif name == 'ringed':
        wave = np.sin(k * 0.8 * np.sqrt(u * u + v * v))
    else:
        return np.full_like(u, 0.5)
    return np.clip(wave * 2.5 + 0.5, 0, 1)      # soft-edged


def _tint(rng):
    """A colour offset [3] of luminance 0."""
    t = rng.uniform(-30, 30, 3)
    return t - t @ (0.299, 0.587, 0.114)


def _two_colours(rng):
    """A dark and a light colour [3] in [0, 255], tinted at random: greyscale keeps the texture."""
    dark, light = rng.uniform(20, 60) + _tint(rng), rng.uniform(190, 235) + _tint(rng)
    return dark.astype(np.float32), light.astype(np.float32)


def _background(rng, size):
    """Smooth light and shade, slightly tinted, with weak random grain: float32 [size, size, 3]."""
    base = cv2.resize(rng.uniform(83, 173, (3, 3)).astype(np.float32), (size, size),
                      interpolation=cv2.INTER_CUBIC)
    grain = rng.randint(6, 20)
    noise = cv2.resize(rng.uniform(-1, 1, (grain, grain)).astype(np.float32), (size, size),
                       interpolation=cv2.INTER_CUBIC)
    base += noise * np.float32(rng.uniform(2, 6))
    return base[..., None] + rng.uniform(-15, 15, 3).astype(np.float32)


def _places(rng):
    """Centres and radii of up to eight objects that overlap little."""
    chosen = []
    for _ in range(rng.randint(6, 9)):
        for _ in range(12):
            radius = rng.uniform(0.16, 0.23)
            centre = rng.uniform(0.8 * radius, 1 - 0.8 * radius, 2)
            if all(np.hypot(*(centre - c)) > 0.9 * (radius + r) for c, r in chosen):
                chosen.append((centre, radius))
                break
    return chosen


def _draw_object(rng, img, texture, shape, centre, radius):
    """Paint one object into `img`; returns its coverage."""
    size = len(img)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cover = _fill(_outline(shape, radius) @ turn + centre, size)
    x, y = _grid(size)
    phase = rng.uniform(0, 2 * np.pi)               # the pattern's direction is not the outline's
    c, s = np.float32(np.cos(phase)), np.float32(np.sin(phase))
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    pattern = _texture(texture, c * dx + s * dy, c * dy - s * dx, rng.uniform(0.10, 0.13))[..., None]
    dark, light = _two_colours(rng)
    img += cover[..., None] * (dark + pattern * (light - dark) - img)
    return cover


def render_scene(index: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, int, np.ndarray]:
    """Render scene number `index`.

    Args:
        index: from 0 on; its class is `index % 10`.
        size: side in pixels; the same scene at every size (up to sampling).
        seed: another seed gives other scenes.

    Returns:
        image: uint8 [size, size, 3], RGB.
        label: int, position in CLASSES.
        mask: uint8 [size, size], label + 1 on the object, 0 elsewhere.
    """
    rng = np.random.RandomState(derive_seed(seed, index))
    label = index % len(CLASSES)
    texture, shape = TEXTURES[label // len(SHAPES)], SHAPES[label % len(SHAPES)]

    img = _background(rng, size)
    mask = np.zeros((size, size), np.uint8)
    for centre, radius in _places(rng):
        cover = _draw_object(rng, img, texture, shape, centre, radius)
        mask[cover > 0.5] = label + 1

    x, y = _grid(size)
    gain = rng.uniform(0.75, 1.2) + rng.uniform(-0.25, 0.25) * (x - 0.5) + rng.uniform(-0.25,
                                                                                       0.25) * (y - 0.5)
    img *= gain[..., None].astype(np.float32)
    img += rng.standard_normal((size, size, 1)).astype(np.float32) * np.float32(rng.uniform(1, 4))
    image = np.clip(np.rint(img), 0, 255).astype(np.uint8)
    return image, label, mask
