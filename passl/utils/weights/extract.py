"""Takes one part of a checkpoint, usually the backbone, into a file of its own. Needs no Paddle."""

import argparse
import logging
import os
from typing import Optional, Union

from .checkpoint import save_file
from ..errors import CheckpointError
from .key_names import describe
from .load import backbone_weights, check_finite, load_weights, prefixes, select_prefix

_ENDINGS = ('.pdparams', '.safetensors')


def run_extract(args: argparse.Namespace) -> None:
    """Carry out `passl extract-weight`."""
    extract_weight(args.checkpoint, args.output, args.prefix, args.remove_prefix, args.overwrite)


def extract_weight(ckpt: str, output: str, prefix: str = 'backbone', remove_prefix: bool = False,
                   overwrite: bool = False) -> str:
    """Save the weights below `prefix` of a checkpoint as a flat {name: array}.

    Args:
        ckpt: any file that `load_file` reads; a torch `.pth` is converted to Paddle's names and layout.
        output: `.pdparams` or `.safetensors` file.
        prefix: 'backbone' stands for the backbone however the file calls it (`encoder_q.0`,
            `backbone`, ..., or no prefix at all); anything else is taken literally ('encoder_k.0').
        remove_prefix: write `conv1.weight` in place of `backbone.conv1.weight`.
        overwrite: replace an existing `output`.

    Returns:
        One sentence for the log.

    Raises:
        CheckpointError: nothing below `prefix`, `output` exists, or a file cannot be read or written.
    """
    check_output(output, overwrite, ckpt)
    state = load_weights(ckpt)
    prefix = prefix.rstrip('.')
    if prefix == 'backbone':
        found = backbone_weights(state, f"'{ckpt}'")
    else:
        found = select_prefix(state, prefix)
        if not found:
            raise CheckpointError(f"'{ckpt}' has no weights below '{prefix}'. "
                                  f"It has: {', '.join(prefixes(state))}.")
    check_finite(found, f"'{ckpt}'")
    front = '' if remove_prefix or not prefix else prefix + '.'
    named = {front + name: value for name, value in found.items()}
    save_file(named, output)
    kind = describe(found)
    size = sum(value.nbytes for value in named.values()) / 2**20
    text = (f"Wrote {len(named)} tensors{f' of {kind}' if kind else ''} ({size:.1f} MiB) from '{ckpt}' "
            f"to '{output}', with names like '{next(iter(named))}'.")
    logging.getLogger('passl').info('%s', text)
    return text


def check_output(output: Union[str, os.PathLike[str], None], overwrite: bool, source: Optional[str] = None,
                 endings: tuple[str, ...] = _ENDINGS) -> None:
    """Say before the work what would fail after it.

    Args:
        endings: those that the file's name may have; ('',) means that a folder is written.

    Raises:
        CheckpointError: no name, another ending, a folder, a file that exists (unless `overwrite`), or the source
            itself.
    """
    if not output:
        raise CheckpointError('Where to? Give --output FILE.pdparams (or FILE.safetensors).')
    output = os.fspath(output)
    if not output.endswith(endings):
        raise CheckpointError(f"--output '{output}' must end in {' or '.join(endings)}.")
    if os.path.isdir(output) and '' not in endings:
        raise CheckpointError(f"--output '{output}' is a folder. Name a file in it.")
    if os.path.exists(output):
        if source is not None and os.path.exists(source) and os.path.samefile(output, source):
            raise CheckpointError(f"--output '{output}' is the checkpoint itself. Choose another name.")
        if not overwrite:
            raise CheckpointError(f"'{output}' exists already. Choose another name, or add --overwrite.")
