"""The flags of `passl visualize` and `passl plot`. Needs no Paddle."""

import argparse
from typing import Optional

from ..utils.options import Parser, not_empty, positive_int

OF_DATA, OF_NETWORK = ('views', 'schedule'), ('matches', 'maps', 'neighbours', 'embedding')
METHODS = {'pca': 'PCA', 'tsne': 't-SNE', 'umap': 'UMAP'}
EXAMPLES = """\
examples:
  everything about a run, into <run folder>/pictures:
    %(prog)s runs/first
  what the network will see, and its learning rate, before training:
    %(prog)s configs/densecl/densecl_r50.yaml --output pictures
  weights on images of your own; 'random' in their place is a network that has learned nothing:
    %(prog)s backbone.pdparams --images data/photos --output pictures
"""


def _pictures(text):
    known = OF_DATA + OF_NETWORK
    words = [w.strip() for w in text.split(',') if w.strip()]
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"unknown picture '{word}'; known: {', '.join(known)}")
    if not words:
        raise argparse.ArgumentTypeError(f"'{text}' names no picture; known: {', '.join(known)}")
    return words


def _side(text):
    side = positive_int(text)
    if side % 32:
        raise argparse.ArgumentTypeError(f"'{text}' must be a multiple of 32: the last stage divides the side by 32")
    return side


def build_plot_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/plot_log.py` and `passl plot`; the namespace has: run, output."""
    parser = Parser(prog=prog, description='Draw loss, accuracy and learning rate of a run as a PNG.')
    parser.add_argument('run', metavar='RUN', type=not_empty, help='run folder, or its log.jsonl')
    parser.add_argument('--output', metavar='PNG', type=not_empty,
                        help='file to write (default: loss.png in the run folder)')
    return parser


def build_visualize_parser(prog: Optional[str] = None) -> Parser:
    """Parser of `tools/visualize.py` and `passl visualize`.

    The namespace has: source, images, pictures (list or None), iteration, count, side, stage, embedding, seed, depth,
    output, no_cuda.
    """
    parser = Parser(prog=prog, description='Draw what a network sees and what it has learned, as PNG files.',
                    epilog=EXAMPLES)
    parser.add_argument('source', metavar='SOURCE', type=not_empty,
                        help="run folder, config (.yaml), weight file, or the word 'random'")
    parser.add_argument('--images', metavar='DIR', type=not_empty,
                        help='folder of images (default: those of the run or config)')
    parser.add_argument('--pictures', metavar='LIST', type=_pictures,
                        help=f'of {",".join(OF_DATA + OF_NETWORK)} (default: all that SOURCE allows)')
    parser.add_argument('--iteration', metavar='N', type=positive_int,
                        help='of a run: the checkpoint of this iteration (default: the newest)')
    parser.add_argument('--count', metavar='N', type=positive_int, default=60,
                        help='images for neighbours and embedding (default: %(default)s)')
    parser.add_argument('--side', metavar='N', type=_side,
                        help='side of the input (default: 448, and at most 2 x the crops of the training)')
    parser.add_argument('--stage', type=int, choices=(1, 2, 3, 4), default=4,
                        help='whose features matches, neighbours and embedding compare (default: 4, the last)')
    parser.add_argument('--embedding', choices=tuple(METHODS), default='pca',
                        help="tsne and umap need pip install -e '.[embedding]' (default: %(default)s)")
    parser.add_argument('--seed', metavar='N', type=int, default=0, help='another seed, other views (default: 0)')
    parser.add_argument('--depth', type=int, choices=(18, 34, 50, 101, 152), help="of the ResNet of 'random'")
    parser.add_argument('--output', metavar='DIR', type=not_empty,
                        help='folder for the pictures (default: pictures in the run folder, else output_dir/pictures)')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    return parser
