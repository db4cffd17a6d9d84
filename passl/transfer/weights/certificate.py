"""The certificate beside a written file: what it is, where it comes from, and how it was checked."""

import hashlib
import json
import os
import platform
from typing import Any, Union

import numpy as np

from ... import __version__
from ...utils.config import load_config
from ...utils.errors import PasslError
from ...utils.weights.names import Arch
from ...utils.misc import IMAGENET_MEAN, IMAGENET_STD
from .proof import version

VERSION = 1
_IMAGENET = {'scale': 1 / 255, 'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}


def path_of(output: Union[str, os.PathLike]) -> str:
    """The certificate's path: `<output>.json`."""
    return f'{os.fspath(output).rstrip(os.sep)}.json'


def sha256(path: Union[str, os.PathLike]) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for block in iter(lambda: f.read(2**20), b''):
            digest.update(block)
    return digest.hexdigest()


def files(path: str) -> list[dict[str, Any]]:
    """[{file, bytes, sha256}] of a file, or of the files in a folder."""
    names = [path] if os.path.isfile(path) else [os.path.join(path, n) for n in sorted(os.listdir(path))]
    return [{'file': os.path.basename(n), 'bytes': os.path.getsize(n), 'sha256': sha256(n)} for n in names]


def make(direction: str, library: str, source: str, encoder: str, arch: Arch, tensors: dict[str, Any],
         proof: dict[str, Any], content: Any) -> dict[str, Any]:
    """The certificate as a dict; `output` is added when the file lies in its place.

    Args:
        direction: 'export' or 'import'.
        library: the target or the origin.
        source: path of the file that was read; `content`: what it holds.
        encoder: which part of it, for example 'query' or 'key'.
        tensors: dict of counts.
        proof: what `proof.compare` gave.
    """
    return {'certificate': VERSION, 'direction': direction, 'library': library, 'source': files(source),
            'encoder': encoder, 'architecture': arch.name, 'depth': arch.depth, 'stem': arch.stem, 'tensors': tensors,
            'proof': proof, 'input': expected_input(content, source),
            'versions': {'passl': __version__, 'paddle': version('paddlepaddle') or version('paddlepaddle-gpu'),
                         'numpy': np.__version__,
                         'python': platform.python_version()}}


def write(certificate: dict[str, Any], path: str) -> None:
    """Write it as JSON."""
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(certificate, f, indent=2)
        f.write('\n')


def expected_input(content: Any, source: str) -> dict[str, Any]:
    """What images the backbone was trained on: channel order, scale of the pixels, mean and std.

    They stand in the config that a checkpoint of this project holds, or in the run folder's config.yaml; other files
    do not tell, so ImageNet's are stated, as assumed.
    """
    told = 'the config in the checkpoint'
    cfg = content.get('config') if isinstance(content, dict) else None
    beside = os.path.join(os.path.dirname(os.path.abspath(source)), 'config.yaml')
    if not isinstance(cfg, dict) and os.path.isfile(beside):
        try:
            cfg, told = load_config(beside), 'config.yaml of the run folder'
        except PasslError:
            cfg = None
    found = _find_normalisation(cfg.get('dataloader')) if isinstance(cfg, dict) else None
    if found is None:
        found, told = _IMAGENET, "assumed: ImageNet's, the file does not tell"
    mean, std = (_three(found.get(key, default)) for key, default in (('mean', 0.0), ('std', 1.0)))
    scale = found.get('scale', 1.0)
    return {'channel_order': 'RGB', 'formula': '(pixel * scale - mean) / std, pixels from 0 to 255', 'scale': scale,
            'mean': mean, 'std': std, 'mean_in_pixels': [m / scale for m in mean],
            'std_in_pixels': [s / scale for s in std], 'source': told}


def _find_normalisation(node):
    """The settings of the first NormalizeImage in nested dicts and lists, or None."""
    if isinstance(node, dict):
        if node.get('name') == 'NormalizeImage':
            return node
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        found = _find_normalisation(child)
        if found is not None:
            return found
    return None


def _three(value):
    return [float(v) for v in (value if isinstance(value, (list, tuple)) else [value] * 3)]
