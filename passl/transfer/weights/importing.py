"""Import: the backbone in a file of another library as a weight file of this project, proven and certified."""

from typing import Any, Optional

import numpy as np

from ...utils.errors import CheckpointError
from ...utils.weights import find_state_dict, select_prefix
from ...utils.weights.checkpoint import load_file, save_file
from ...utils.weights.identify import identify, of_backbone
from ...utils.weights.names import (Arch, check_complete, check_exists, first_short, nearest_arch, refuse_unless_empty,
                                    table)
from . import certificate
from .exporting import as_float32, backbone, check_equal, check_place, place, put
from .independent import Network
from .proof import INDEPENDENT, compare, images, source_maps


def import_weights(source: str, output: str, library: Optional[str] = None, prefix: Optional[str] = None,
                   overwrite: bool = False) -> dict[str, Any]:
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
    library, prefix = identify(named, where, library, prefix)
    theirs = {n: v for n, v in of_backbone(select_prefix(named, prefix), library).items()
              if not n.endswith('num_batches_tracked')}
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


def rename(theirs: dict[str, np.ndarray], library: str, where: str) -> tuple[Arch, dict[str, np.ndarray]]:
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
