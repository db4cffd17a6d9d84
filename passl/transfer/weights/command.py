"""The commands `passl export` and `passl import`. Importing this module needs no Paddle."""

import argparse
from typing import Any, Optional

from ...utils.logger import get_logger
from ...utils.options import Parser, not_empty

EXPORT_EXAMPLES = """\
examples:
  %(prog)s output_dir/densecl_r50/latest.pdparams --to paddleclas --output r50_clas.pdparams
  %(prog)s output_dir/densecl_r50/latest.pdparams --to detectron2 --output r50.pkl
  %(prog)s backbone.pdparams --to onnx --output r50.onnx
Beside the file a certificate is written, FILE.json: hashes, key count, deviation of the features, expected input.
exit codes: 0 written and proven, 2 not everything fits, or the proof failed; nothing is written then
"""
IMPORT_EXAMPLES = """\
examples:
  %(prog)s densecl_r50_imagenet_200ep.pth --output densecl_r50.pdparams
  %(prog)s model_final.pkl --from detectron2 --output backbone.pdparams
exit codes: as of `export`
"""


def build_export_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/export_weights.py` and `passl export`.

    The namespace has: checkpoint, target, output, encoder, proof, overwrite.
    """
    from .formats import TARGETS
    parser = Parser(prog=prog, description='Write the backbone of a checkpoint for another library, and prove that it '
                                           'computes the same there.', epilog=EXPORT_EXAMPLES)
    parser.add_argument('checkpoint', metavar='CKPT', type=not_empty,
                        help='checkpoint or weight file (.pdparams, PASSL .pd, .pth, .safetensors)')
    parser.add_argument('--to', dest='target', required=True, choices=list(TARGETS), help='the library')
    parser.add_argument('--output', metavar='FILE', required=True, type=not_empty, help='file to write: ' + ', '.join(
        f'{name} {" or ".join(t.endings) if t.endings != ("",) else "(a folder)"}' for name, t in TARGETS.items()))
    parser.add_argument('--encoder', choices=['q', 'k'], default='q',
                        help='query encoder, or key encoder of MoCo and DenseCL (default: %(default)s)')
    parser.add_argument('--proof', choices=['auto', 'library', 'independent'], default='auto',
                        help="who computes the features of the written file: the library's own model, or a forward "
                             'pass in numpy (default: the library, if it is installed)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file and certificate')
    return parser


def build_import_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/import_weights.py` and `passl import`.

    The namespace has: file, output, library, prefix, overwrite.
    """
    from ...utils.weights.identify import LIBRARIES
    parser = Parser(prog=prog, description='Take the backbone out of a weight file of another library, and prove '
                                           'that it computes the same here.', epilog=IMPORT_EXAMPLES)
    parser.add_argument('file', metavar='FILE', type=not_empty, help='.pth, .pkl, .pd, .pdparams or .safetensors')
    parser.add_argument('--output', metavar='FILE', required=True, type=not_empty,
                        help='.pdparams (or .safetensors) to write')
    parser.add_argument('--from', dest='library', choices=LIBRARIES,
                        help='whose names they are (default: they are recognised; authors, MoCo and mmpretrain use '
                             'those of torchvision)')
    parser.add_argument('--prefix', metavar='PREFIX', type=not_empty,
                        help="what stands before the backbone's names, such as encoder_k.0 (default: it is found)")
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file and certificate')
    return parser


def run_export(args: argparse.Namespace) -> int:
    """Carry out `passl export`; 0."""
    from .exporting import export_weights
    log = get_logger()
    made = export_weights(args.checkpoint, args.target, args.output, args.encoder, args.overwrite, args.proof)
    log.info('%s', summary(made, args.checkpoint, args.output))
    log.info('Use: %s', made['use'])
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Carry out `passl import`; 0."""
    from .importing import import_weights
    log = get_logger()
    made = import_weights(args.file, args.output, args.library, args.prefix, args.overwrite)
    log.info('%s', summary(made, args.file, args.output))
    return 0


def summary(made: dict[str, Any], source: str, output: str) -> str:
    """What a certificate says, in two sentences."""
    tensors, proof, expected = made['tensors'], made['proof'], made['input']
    return (f"Wrote {made['architecture']} (stem: {made['stem']}; {made['library']}) from '{source}' to '{output}': "
            f"matched {tensors['matched']} of {tensors['total']} tensors; features differ by "
            f"{proof['max_relative_deviation']:.1e} of the largest value, allowed {proof['tolerance_relative']:g} "
            f"({proof['by']}). Input: {expected['channel_order']}, mean {expected['mean']}, std {expected['std']}, "
            f"scale {expected['scale']:.6g} ({expected['source']}). "
            f"Certificate: '{output.rstrip('/')}.json'.")
