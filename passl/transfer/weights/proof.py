"""The proof that a file computes what its source computes, and what is said about it."""

import logging
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ...utils.weights.checkpoint import load_file
from ...utils.errors import CheckpointError
from ...utils.weights.names import Arch
from ...utils.weights import find_state_dict
from . import libraries
from .independent import Network

if TYPE_CHECKING:
    import paddle

# Largest difference relative to the largest value of a stage. Rounding of float32 gives about 2e-6; a transposed
# kernel, exchanged statistics or a tensor in the wrong place give 1e-3 and more.
TOLERANCE = 1e-4
SIZE = (75, 101)        # odd and not square, so that padding, rounding of sizes and the order of the axes count
INDEPENDENT = 'independent forward pass (numpy, float64)'
ONLY_RUN = ('onnx', 'paddle-inference')     # no named tensors to read: the runtime is the only judge


def images() -> np.ndarray:
    """The fixed input, normalised already: float32 [2, 3, 75, 101]."""
    return np.random.RandomState(0).standard_normal((2, 3, *SIZE)).astype(np.float32)


def source_maps(net: 'paddle.nn.Layer') -> list[np.ndarray]:
    """The four stages of our backbone in eval mode for `images()`: list of float32 arrays [2, C, h, w]."""
    import paddle
    net.eval()
    with paddle.no_grad():
        return [m.numpy() for m in net.stages(paddle.to_tensor(images()))]


def prove(target: str, path: str, arch: Arch, maps: Sequence[np.ndarray], kind: str = 'auto') -> dict[str, Any]:
    """Compute the stages from the written file alone and compare them with the source's.

    Args:
        target: whose file it is, a key of `formats.TARGETS`.
        path: the file, or the folder of a static model.
        arch: Arch.
        maps: what `source_maps` gave.
        kind: 'library' (the library's own model), 'independent' (numpy, see `independent`), or 'auto': the library
            if it is installed.

    Returns:
        dict for the certificate.

    Raises:
        CheckpointError: the file does not load completely, or computes something else.
    """
    found, by, skipped = None, None, None
    if target in libraries.JUDGES and (kind != 'independent' or target in ONLY_RUN):
        found, by, skipped = _by_library(target, path, arch, kind == 'library' or target in ONLY_RUN)
    elif kind == 'library':
        raise CheckpointError(f"There is no proof by the library for '{target}' here. Use --proof independent.")
    if found is None:
        found = Network(find_state_dict(load_file(path), f"'{path}'"), target, f"'{path}'").maps(images())
    record = compare(found, maps, by or INDEPENDENT, f"'{path}'")
    return {**record, 'library_not_used': skipped} if skipped else record


def compare(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], by: str, what: str) -> dict[str, Any]:
    """The comparison of maps as a dict for the certificate; `found` may hold the last of the `wanted` stages only.

    Raises:
        CheckpointError: `what` computes something else.
    """
    stages = list(range(6 - len(found), 6))
    absolute, relative = zip(*(_difference(a, b) for a, b in zip(found, wanted[-len(found):])))
    worst = max(relative) if all(r == r for r in relative) else float('nan')
    if not worst <= TOLERANCE:          # nan fails too
        raise CheckpointError(f"The features of {what} differ from the source's by {worst:.2g} of their largest value "
                              f'(allowed: {TOLERANCE:g}; judged by: {by}). Stages C{stages[0]} to C5: '
                              f'{", ".join(f"{r:.2g}" for r in relative)}. It is not a true copy.')
    return {'by': by, 'stages': stages, 'max_absolute_deviation': max(absolute), 'max_relative_deviation': worst,
            'relative_deviation_per_stage': list(relative), 'tolerance_relative': TOLERANCE,
            'input': f'standard normal, seed 0, 2 x 3 x {SIZE[0]} x {SIZE[1]}'}


def _difference(found, wanted):
    """(largest absolute difference, the same relative to the largest value); nan or inf if they cannot be compared."""
    if np.shape(found) != np.shape(wanted):
        return float('inf'), float('inf')
    absolute = float(np.abs(np.asarray(found, np.float64) - wanted).max())
    return absolute, absolute / max(float(np.abs(wanted).max()), 1e-30)


def _by_library(target, path, arch, required):
    """(maps, who, None), or (None, None, why not) where the library cannot be asked and is not `required`."""
    judge, package = libraries.JUDGES[target]
    try:
        found = judge(path, arch, images())
        return found, f'library: {package} {version(package)}', None
    except CheckpointError:
        raise
    except (ImportError, libraries.MissingLibrary) as e:
        why = f'{package} is not installed' if isinstance(e, ModuleNotFoundError) else str(e)
    except Exception as e:          # a library that does not work with this Paddle or numpy is no reason to stop
        why = f'{package} failed: {type(e).__name__}: {e}'
        logging.getLogger('passl').warning('%s. The file is checked without it.', why)
    if required:
        raise CheckpointError(f"The proof by the library of '{target}' cannot be had: {why}. "
                              f"Install it (pip install {package}).")
    return None, None, why


def version(package: str) -> Optional[str]:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
