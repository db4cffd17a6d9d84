"""Save a backbone under the names of PaddleClas's ResNet: `passl export --to paddleclas` under PASSL's name.

    python tools/passl2ppclas/convert.py --type res50 --checkpoint epoch_200.pdparams --output r50.pdparams
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.cli import guarded  # noqa: E402
from passl.utils.weights.key_names import RESNET_BLOCKS  # noqa: E402


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--type', default='res50', choices=[f'res{d}' for d in RESNET_BLOCKS],
                        help='the backbone (default: res50)')
    parser.add_argument('--checkpoint', required=True, metavar='FILE',
                        help='checkpoint or weight file: of this project, of PASSL, or a torch .pth')
    parser.add_argument('--output', required=True, metavar='FILE',
                        help='.pdparams file to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing output file')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)

    def run():
        from passl.transfer.weights.command import summary
        from passl.transfer.weights.exporting import export_weights
        made = export_weights(args.checkpoint, 'paddleclas', args.output, overwrite=args.overwrite,
                              depth=int(args.type[3:]))
        sys.stdout.write(summary(made, args.checkpoint, args.output) + '\n')
    return guarded(run)


if __name__ == '__main__':
    sys.exit(main())
