"""The command `passl embed`. Importing this module needs no Paddle."""

import argparse
from typing import Optional

from ...utils.options import Parser, not_empty
from ..probes.options import add_value_range, image_side

EXAMPLES = """\
examples:
  %(prog)s run/backbone.pdparams data/my_images --output features.npz --neighbours neighbours.png
  %(prog)s run/backbone.pdparams data/my_images --dense --stage 3 --float16 --output maps.npz
In Python: found = numpy.load('features.npz'); found['names'], found['features']
"""


def build_embed_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/embed.py` and `passl embed`.

    The namespace has: weights, images (list), output, dense, stage, image_size, float16, value_range (or None), depth
    (or None), neighbours (or None), overwrite, no_cuda.
    """
    parser = Parser(prog=prog, description='Write the features of images, with their names, to a file of NumPy arrays.',
                    epilog=EXAMPLES)
    parser.add_argument('weights', metavar='WEIGHTS', type=not_empty,
                        help="checkpoint or weight file of a ResNet 18 to 152, or 'random' (with --depth)")
    parser.add_argument('images', metavar='IMAGES', nargs='+', type=not_empty,
                        help='folder (with all below it), image file, or text file with an image per line')
    parser.add_argument('--output', metavar='NPZ', required=True, type=not_empty, help='file to write, ending in .npz')
    parser.add_argument('--dense', action='store_true',
                        help='a vector for each cell of the map (default: one for each image, the mean of the map)')
    parser.add_argument('--stage', type=int, choices=(1, 2, 3, 4), default=4,
                        help='whose output is taken (default: %(default)s, the last)')
    parser.add_argument('--image-size', metavar='N', type=image_side, default=224,
                        help='side of the squares that the backbone sees (default: %(default)s)')
    parser.add_argument('--float16', action='store_true', help='half precision: a file of half the size')
    add_value_range(parser)
    parser.add_argument('--depth', type=int, choices=(18, 34, 50, 101, 152), help="of 'random'")
    parser.add_argument('--neighbours', metavar='PNG', type=not_empty,
                        help='also draw some images with those that are nearest to them')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    return parser


def run_embed(args: argparse.Namespace) -> int:
    """Carry out `passl embed`; 0."""
    from .work import embed
    embed(**vars(args))
    return 0
