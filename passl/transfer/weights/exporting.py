"""Export: the backbone of a checkpoint as a file of another library, proven and certified."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ...utils.weights.checkpoint import load_file
from ...utils.errors import CheckpointError
from ...utils.files import settle
from ...utils.weights.extract import check_output
from ...utils.weights.safetensors_file import bfloat16_to_float32
from ...utils.weights import backbone_weights, find_state_dict, load_into, prefixes, select_prefix, weights_in
from ...utils.weights.load import check_finite
from . import certificate, formats
from ...utils.weights.names import Arch, check_complete, check_exists, nearest_arch
from .proof import ONLY_RUN, prove, source_maps

if TYPE_CHECKING:
    import paddle

ENCODERS = {'q': 'query', 'k': 'key'}
_KEY_PREFIXES = ('encoder_k.0.', 'encoder_k.module.0.', 'encoder_k.')
_STATIC_FILES = {'model.pdmodel', 'model.json', 'model.pdiparams', 'model.pdiparams.info'}


def export_weights(checkpoint: str, target: str, output: str, encoder: str = 'q', overwrite: bool = False,
                   proof: str = 'auto', depth: Optional[int] = None) -> dict[str, Any]:
    """Write the backbone of `checkpoint` for the library `target`, prove it, and write the certificate beside it.

    Args:
        checkpoint: any file that `load_file` reads.
        target: a key of `formats.TARGETS`.
        output: the file (for paddle-inference: the folder) to write.
        encoder: 'q' or 'k': the query encoder's backbone, or the key encoder's.
        overwrite: replace an existing output and certificate.
        proof: see `proof.prove`.
        depth: the depth that the caller expects, or None.

    Returns:
        The certificate, a dict.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape, the library has no such network, the proof
            fails, or a file cannot be read or written. Nothing is then left under the name `output`.
    """
    check_place(output, overwrite, checkpoint, formats.TARGETS[target].endings)
    content = load_file(checkpoint)
    where = f"'{checkpoint}'"
    state = encoder_weights(weights_in(content, checkpoint), encoder, where)
    arch = nearest_arch(state, 'passl', where)
    if depth not in (None, arch.depth):
        raise CheckpointError(f'{where} holds a {arch.name}, not a ResNet-{depth}. Give the type that fits: '
                              f'--type res{arch.depth}.')
    check_complete(state, arch, where)
    check_exists(arch, target if target not in ONLY_RUN else 'passl')
    state = as_float32(state, where)
    net = backbone(arch, state, where)
    maps = source_maps(net)
    with place(output) as path:
        counts = _write(target, path, net, state, arch)
        record = prove(target, path, arch, maps, proof)
        made = certificate.make('export', target, checkpoint, ENCODERS[encoder], arch, counts, record, content)
        made['use'] = formats.TARGETS[target].use
        return put(path, output, made)


def _write(target, path, net, state, arch):
    """Write the file; what the certificate says about the tensors."""
    total = {'matched': len(state), 'total': len(state)}
    if target == 'onnx':
        formats.write_onnx(net, path)
        return total
    if target == 'paddle-inference':
        formats.write_static(net, path)
        return total
    tensors, added = formats.convert(state, arch, target)
    formats.write(target, path, tensors)
    check_equal(path, tensors)
    return {**total, 'added': len(added), 'written': len(tensors), 'read_back': 'equal bit for bit'}


def check_equal(path: str, tensors: dict[str, np.ndarray]) -> None:
    """CheckpointError unless the file holds exactly these arrays, bit for bit."""
    back = find_state_dict(load_file(path), f"'{path}'")
    wrong = [n for n in set(back) | set(tensors) if n not in back or n not in tensors
             or back[n].dtype != tensors[n].dtype or not np.array_equal(back[n], tensors[n])]
    if wrong:
        raise CheckpointError(f"'{path}' does not hold what was written to it: {', '.join(sorted(wrong)[:10])}. "
                              'Is the disk sound?')


def encoder_weights(state: dict[str, np.ndarray], encoder: str, where: str) -> dict[str, np.ndarray]:
    """The backbone's tensors in our names, of the query encoder ('q') or the key encoder ('k').

    Raises:
        CheckpointError: there is none.
    """
    if encoder == 'q':
        return backbone_weights(state, where)
    for prefix in _KEY_PREFIXES:
        found = select_prefix(state, prefix)
        if any(n in found for n in ('conv1.weight', 'conv1.0.weight')):
            return {n: v for n, v in found.items() if not n.startswith('fc.')}
    raise CheckpointError(f"{where} has no key encoder. It has: {', '.join(prefixes(state))}. Take a whole checkpoint "
                          'of MoCo or DenseCL, or --encoder q.')


def as_float32(state: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """{name: array} in float32.

    Raises:
        CheckpointError: a tensor holds no numbers, or nan or inf.
    """
    found = {}
    for name, value in state.items():
        value = bfloat16_to_float32(value) if value.dtype == np.uint16 else np.asarray(value)
        if value.dtype.kind != 'f':
            raise CheckpointError(f"{where}: '{name}' is of the type {value.dtype}, which no weights have.")
        found[name] = np.ascontiguousarray(value, np.float32)
    check_finite(found, where)
    return found


def backbone(arch: Arch, state: dict[str, np.ndarray], where: str) -> 'paddle.nn.Layer':
    """Our model with these weights, on the CPU."""
    from ...engine.device import select_device
    from ...modeling import build_backbone
    select_device('cpu')
    net = build_backbone({'name': 'ResNet_vd' if arch.vd else 'ResNet', 'depth': arch.depth})
    load_into(net, state, 'backbone', source=where)
    return net


def check_place(output: str, overwrite: bool, source: str, endings: Sequence[str]) -> None:
    """CheckpointError if the output or its certificate cannot be written."""
    check_output(output, overwrite, source, tuple(endings))
    if not overwrite and os.path.exists(certificate.path_of(output)):
        raise CheckpointError(f"'{certificate.path_of(output)}', the place of the certificate, exists already. Choose "
                              'another name, or add --overwrite.')
    if os.path.isdir(output):
        others = sorted(set(os.listdir(output)) - _STATIC_FILES)
        if others:
            raise CheckpointError(f"--output '{output}' is a folder with other files ({', '.join(others[:5])}); it "
                                  'would be replaced as a whole. Choose another name.')


@contextlib.contextmanager
def place(output: str) -> Iterator[str]:
    """A path of the same name in a fresh folder beside the output; the folder is removed at the end.

    So a file is proven before it appears, and an older one stays if the proof fails.
    """
    output = os.path.abspath(output)
    folder = os.path.dirname(output)
    try:
        os.makedirs(folder, exist_ok=True)
        work = tempfile.mkdtemp(prefix='.passl-', dir=folder)
    except OSError as e:
        raise CheckpointError(f"Cannot write '{output}': {e.strerror or e}. Choose another place.") from e
    try:
        yield os.path.join(work, os.path.basename(output))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def put(path: str, output: str, made: dict[str, Any]) -> dict[str, Any]:
    """Move the proven file and its certificate to where they belong; the certificate."""
    made['output'] = certificate.files(path)
    output, beside = os.path.abspath(output), certificate.path_of(os.path.abspath(output))
    try:
        certificate.write(made, path + '.json')
        if os.path.isdir(output):
            shutil.rmtree(output)
        settle(path, output)
        settle(path + '.json', beside)
    except OSError as e:
        raise CheckpointError(f"Cannot write '{output}': {e.strerror or e}. Choose another place.") from e
    return made
