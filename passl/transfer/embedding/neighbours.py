"""A sheet of images with those that are nearest to them by their features."""

import os
from collections.abc import Sequence
from typing import Callable, Union

import numpy as np
from PIL import Image, ImageDraw

from ...utils.files import whole_file
from ...utils.misc import evenly
from ..probes.features import unit_length

_CHUNK = 8192
_TILE, _GAP, _LINE, _LONGEST = 104, 6, 13, 17


def nearest(features: np.ndarray, queries: Union[Sequence[int], np.ndarray],
            count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` images that are most similar to each of some, without itself.

    Args:
        features: [images, C], read in parts.
        queries: numbers of images.

    Returns:
        (numbers int64 [queries, count], cosine similarity [queries, count]), the most similar first.
    """
    wanted = unit_length(np.asarray(features[np.asarray(queries)], np.float32))
    similarity = np.concatenate([wanted @ unit_length(np.asarray(features[i:i + _CHUNK], np.float32)).T
                                 for i in range(0, len(features), _CHUNK)], axis=1)
    similarity[np.arange(len(queries)), queries] = -np.inf
    found = np.argsort(-similarity, axis=1, kind='stable')[:, :count]
    return found, np.take_along_axis(similarity, found, axis=1)


def draw_neighbours(path: str, features: np.ndarray, names: Sequence[str], load: Callable[[int], np.ndarray],
                    queries: int = 8, count: int = 6) -> None:
    """Write the sheet, a PNG: a row for each of some images spread over the set, itself first.

    Args:
        features: [images, C]; names: of the images.
        load: load(i) -> uint8 [H, W, 3].
    """
    rows = evenly(len(names), queries)
    found, similarity = nearest(features, rows, min(count, len(names) - 1))
    side, height = _TILE + _GAP, _TILE + 2 * _LINE + _GAP
    sheet = Image.new('RGB', (2 * _GAP + side * (1 + found.shape[1]), _GAP + height * len(rows)), 'white')
    pen = ImageDraw.Draw(sheet)
    for r, (row, others, near) in enumerate(zip(rows, found, similarity)):
        for c, (i, text) in enumerate([(row, 'image')] + [(i, f'cosine {s:.3f}') for i, s in zip(others, near)]):
            x, y = _GAP + c * side + _GAP * (c > 0), _GAP + r * height
            tile = Image.fromarray(load(int(i)))
            tile.thumbnail((_TILE, _TILE))
            sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
            if c == 0:
                pen.rectangle((x - 2, y - 2, x + _TILE + 1, y + _TILE + 1), outline=(31, 78, 156), width=2)
            pen.text((x, y + _TILE + 1), text, fill=(31, 78, 156) if c == 0 else (70, 70, 70))
            pen.text((x, y + _TILE + _LINE), _short(names[i]), fill=(70, 70, 70))
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with whole_file(path) as f:
        sheet.quantize(128).save(f, format='PNG', optimize=True)


def _short(name):
    """Folder and beginning of a name, in letters that every font of Pillow has."""
    folder, file = os.path.split(name)
    folder = os.path.basename(folder)
    text = f'{folder[:_LONGEST - 4]}/{file}' if folder else file
    return text[:_LONGEST].encode('ascii', 'replace').decode()
