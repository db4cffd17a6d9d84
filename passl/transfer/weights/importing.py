"""Import: the backbone in a file of another library as a weight file of this project, proven and certified."""

import numpy as np

from ...utils.weights.checkpoint import load_file, save_file
from ...utils.errors import CheckpointError, suggest
from ...utils.weights import BACKBONES, find_state_dict, prefixes, select_prefix
from . import certificate
from .exporting import as_float32, backbone, check_equal, check_place, place, put
from .independent import Network
from .names import (Arch, check_complete, check_exists, first_short, nearest_arch, refuse_unless_empty,
                    table)
from .proof import INDEPENDENT, compare, images, source_maps

# Several libraries use torchvision's names; the first that fits is taken.
LIBRARIES = ('passl', 'torchvision', 'detectron2', 'paddleseg', 'paddleclas', 'paddledet', 'mmseg', 'timm', 'lightly')
_HEADS = ('fc.', 'head.', 'neck.', 'classifier.', 'queue', 'prototypes.', 'encoder_')
# parts that follow another one and are not meant when both are there
_FOLLOWERS = ('encoder_k', 'momentum', 'teacher', 'target', 'ema')


def import_weights(source, output, library=None, prefix=None, overwrite=False):
    """Write the backbone in `source` with this project's names, for `--pretrained`, and the certificate beside it.

    Args:
        source: `.pth` of the authors, torchvision, mmpretrain, MoCo, timm or lightly, detectron2's `.pkl`, `.pd` and
            `.pdparams` of PASSL, PaddleSeg, PaddleClas and PaddleDetection, `.safetensors`.
        output: `.pdparams` or `.safetensors`.
        library: whose names they are, one of LIBRARIES; None: it is recognised.
        prefix: what stands before the backbone's names; None: it is found.
        overwrite: replace an existing output and certificate.

    Returns:
        The certificate, a dict.

    Raises:
        CheckpointError: as in `export_weights`.
    """
    check_place(output, overwrite, source, ('.pdparams', '.safetensors'))
    content = load_file(source)
    where = f"'{source}'"
    named = find_state_dict(content, where)
    library, prefix = recognise(named, where, library, prefix)
    theirs = {n: v for n, v in select_prefix(named, prefix).items()
              if not n.startswith(_HEADS) and not n.endswith('num_batches_tracked')}
    arch, state = rename(theirs, library, where)
    state = as_float32(state, where)
    with place(output) as path:
        save_file(state, path)
        check_equal(path, state)
        net = backbone(arch, load_file(path), f"'{path}'")
        found = Network(as_float32(theirs, where), library, where).maps(images())
        record = compare(found, source_maps(net), INDEPENDENT, where)
        counts = {'matched': len(state), 'total': len(state), 'in_the_file': len(named),
                  'read_back': 'equal bit for bit'}
        made = certificate.make('import', library, source, prefix.rstrip('.') or 'the whole file', arch, counts, record,
                                content)
        return put(path, output, made)


def _anchor(library):
    """A tensor that every ResNet of the library has, whatever its depth."""
    return table(Arch(18, library == 'paddleseg'), library)['layer1.0.conv1.weight']


def _leaf(library):
    """The name that tells Paddle's statistics from torch's."""
    return table(Arch(18, library == 'paddleseg'), library)['layer1.0.bn1._mean']


def recognise(named, where, library=None, prefix=None):
    """(library, prefix) of the backbone among the names of a file; what is given is only checked.

    Raises:
        CheckpointError: nothing fits, or several parts do.
    """
    if library is not None and library not in LIBRARIES:
        raise CheckpointError(f"--from '{library}' is not known. {suggest(library, LIBRARIES)}")
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
    for candidate in (library,) if library else LIBRARIES:
        found = [p for p in _prefixes(named, candidate) if prefix is None or p == prefix]
        leading = [p for p in found if not any(word in p for word in _FOLLOWERS)] or found
        # a checkpoint of PASSL has the query encoder a second time, as `backbone.`
        leading = [p for best in BACKBONES for p in leading if p in (best, 'module.' + best)][:1] or leading
        if len(leading) > 1:
            below = ', '.join(p or '(nothing)' for p in leading)
            raise CheckpointError(f'{where} holds several backbones, below {below}. '
                                  'Choose one with --prefix.')
        if leading:
            return _refine(named, leading[0], candidate) if library is None else candidate, leading[0]
    asked = (f" as '{library}' names it" if library else '') + (f" below '{prefix}'" if prefix else '')
    raise CheckpointError(f'{where} holds no ResNet backbone{asked}. Its names begin with '
                          f'{", ".join(prefixes(named)[:20])}. Known are: {", ".join(LIBRARIES)}.')


def _prefixes(named, library):
    """What stands before the names of `library` in the file, '' included."""
    anchor, leaf = _anchor(library), _leaf(library)
    found = [n[:-len(anchor)] for n in named if n == anchor or n.endswith('.' + anchor)]
    return sorted(p for p in found if p + leaf in named)


def _refine(named, prefix, library):
    """mmpretrain's deep stem has a name of its own; the rest of its names are torchvision's. timm has vd too."""
    if library != 'torchvision':
        return library
    if prefix + 'stem.0.weight' in named:
        return 'mmseg'
    return 'timm' if prefix + 'conv1.0.weight' in named else 'torchvision'


def rename(theirs, library, where):
    """(Arch, {our name: array}) of a backbone in the names of `library`.

    Raises:
        CheckpointError: with the lists of what is missing, left over or of another shape.
    """
    arch = nearest_arch(theirs, library, where)
    check_exists(arch, library)
    names = table(arch, library)
    extra = first_short(arch, library)
    if any(n in theirs for n in extra) and not _is_identity(theirs, extra):
        raise CheckpointError(f"{where} has a trained convolution on the first shortcut ({', '.join(sorted(extra))}), "
                              f"which {arch.name} here and in the other libraries has not. It cannot be imported.")
    missing = [n for n in names.values() if n not in theirs]
    left = sorted(set(theirs) - set(names.values()) - set(extra))
    refuse_unless_empty(where, arch, len(names), missing, left)
    state = {ours: theirs[name] for ours, name in names.items()}
    check_complete(state, arch, where)
    return arch, state


def _is_identity(theirs, extra):
    return all(n in theirs and np.array_equal(theirs[n], v) for n, v in extra.items())
