"""Whose names a file has: the library, and what stands before the backbone's names. For every command the same."""

from typing import Collection, Iterable, Optional, TypeVar

import numpy as np

from ..errors import CheckpointError, suggest
from .names import Arch, table

T = TypeVar('T')

# Several libraries use torchvision's names; the first that fits is taken.
LIBRARIES = ('passl', 'torchvision', 'detectron2', 'paddleseg', 'paddleclas', 'paddledet', 'mmseg', 'timm', 'lightly')
# Most wanted first: the query encoder is what a method trains.
BACKBONES = ('encoder_q.0.', 'backbone.', 'encoder.0.', 'encoder_q.', 'encoder.', 'model.', '')
# parts that follow another one and are not meant when both are there
_FOLLOWERS = ('encoder_k', 'momentum', 'teacher', 'target', 'ema')


def prefixes(state: Iterable[str], depth: int = 2) -> list[str]:
    """The first parts of the names, for messages: ['encoder_k.0', 'encoder_q.0', 'queue', ...]."""
    parts = [k.split('.') for k in state]
    return sorted({'.'.join(p[:depth]) if len(p) > depth + 1 else p[0] for p in parts})


def identify(named: Collection[str], where: str, library: Optional[str] = None, prefix: Optional[str] = None,
             as_read: bool = False) -> tuple[str, str]:
    """(library, prefix) of the backbone among the names of a file; what is given is only checked.

    Args:
        named: {name: array}.
        where: the file, for messages.
        library, prefix: what the user says of it, or None.
        as_read: the names have been through `passl.utils.weights.load_weights`, which gives all Paddle's leaves.

    Raises:
        CheckpointError: nothing fits, or several parts do.
    """
    if library is not None and library not in LIBRARIES:
        raise CheckpointError(f"--from '{library}' is not known. {suggest(library, LIBRARIES)}")
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
    for candidate in (library,) if library else LIBRARIES:
        found = [p for p in _prefixes(named, candidate, as_read) if prefix is None or p == prefix]
        if any(p.startswith('student.') for p in found):      # DINO's authors evaluate, and publish, the teacher
            found = [p for p in found if p.startswith('teacher.')] or found
        leading = [p for p in found if not any(word in p for word in _FOLLOWERS)] or found
        # a checkpoint of PASSL has the query encoder a second time, as `backbone.`
        leading = [p for best in BACKBONES for p in leading if p in (best, 'module.' + best)][:1] or leading
        leading = leading[:1] if _same(named, leading) else leading
        if len(leading) > 1:
            below = ', '.join(p or '(nothing)' for p in leading)
            raise CheckpointError(f'{where} holds several backbones, below {below}. '
                                  'Choose one with --prefix.')
        if leading:
            return _refine(named, leading[0], candidate) if library is None else candidate, leading[0]
    asked = (f" as '{library}' names it" if library else '') + (f" below '{prefix}'" if prefix else '')
    raise CheckpointError(f'{where} holds no ResNet backbone{asked}. Its names begin with '
                          f'{", ".join(prefixes(named)[:20])}. Known are: {", ".join(LIBRARIES)}.')


def _same(named, found):
    """Whether the same tensors stand below all of the prefixes, as where two parts of a model share a network."""
    if not isinstance(named, dict):
        return False
    first, *others = [select(named, prefix) for prefix in found] or [{}]
    return all(first.keys() == other.keys() and all(np.array_equal(first[n], other[n]) for n in first)
               for other in others)


def select(state: dict[str, T], prefix: str) -> dict[str, T]:
    """The entries whose name begins with `prefix`, without it."""
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def _prefixes(named, library, as_read):
    """What stands before the names of `library` in the file, '' included."""
    names = table(Arch(18, library == 'paddleseg'), library, as_read)
    # a tensor that every ResNet has, whatever its depth, and one that tells Paddle's statistics from torch's
    anchor, leaf = names['layer1.0.conv1.weight'], names['layer1.0.bn1._mean']
    found = [n[:-len(anchor)] for n in named if n == anchor or n.endswith('.' + anchor)]
    return sorted(p for p in found if p + leaf in named)


def of_backbone(state: dict[str, T], library: str) -> dict[str, T]:
    """The entries of `state` (the backbone's prefix is off) that lie in parts which the library's ResNets have.

    What a method has beside its backbone is called otherwise: fc, projection_head, prototypes, predictor, queue, ...
    """
    known = {name.partition('.')[0] for vd in (False, True) for name in table(Arch(50, vd), library).values()}
    return {name: value for name, value in state.items() if name.partition('.')[0] in known}


def _refine(named, prefix, library):
    """mmpretrain's deep stem has a name of its own; the rest of its names are torchvision's. timm has vd too."""
    if library in ('passl', 'torchvision') and prefix + 'stem.0.weight' in named:
        return 'mmseg'
    return 'timm' if library == 'torchvision' and prefix + 'conv1.0.weight' in named else library
