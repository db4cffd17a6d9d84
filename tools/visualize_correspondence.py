"""Draw which cells of two views of one image a backbone takes for the same thing (DenseCL, section 3.3).

Cells are matched by the highest cosine similarity of the backbone's features.
  python tools/visualize_correspondence.py CKPT -c configs/densecl/densecl_r50.yaml --image photo.jpg --output c.png
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import guarded  # noqa: E402
from passl.utils.errors import ConfigError  # noqa: E402
from passl.utils.misc import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from passl.utils.options import Parser, not_empty, positive_int  # noqa: E402

MEAN, STD = [255 * v for v in IMAGENET_MEAN], [255 * v for v in IMAGENET_STD]


def build_parser():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', metavar='CKPT', type=not_empty,
                        help="checkpoint or backbone weights; 'none': a randomly initialised backbone")
    parser.add_argument('-c', '--config-file', metavar='FILE', required=True, type=not_empty,
                        help='config of the run (its model.backbone is built)')
    parser.add_argument('--image', metavar='FILE', required=True, type=not_empty, help='image to draw')
    parser.add_argument('--output', metavar='PNG', required=True, type=not_empty, help='file to write')
    parser.add_argument('--size', type=positive_int, default=224, help='side of the views (default: %(default)s)')
    parser.add_argument('--top', type=positive_int, default=12, help='matches to draw (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='another seed, other views (default: %(default)s)')
    return parser


def make_views(path, size, seed, value_range=None):
    """Two augmented views of an image, uint8 [size, size, 3]."""
    from passl.datasets import preprocess, read_image
    from passl.utils.seed import seed_everything
    seed_everything(seed)
    recipe = [{'name': 'RandomResizedCrop', 'size': size, 'scale': [0.4, 1.0]},
              {'name': 'ColorJitter', 'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
              {'name': 'RandomHorizontalFlip'}]
    return preprocess.TwoView(recipe)(read_image(path, value_range))


def run(args):
    from passl.modeling import build_backbone
    from passl.datasets.preprocess import build_transforms
    from passl.modules.correspondence import match
    from passl.utils.config import load_config
    from passl.utils.logger import setup_logger
    from passl.utils.plots import plot_correspondence
    import paddle

    logger = setup_logger()
    cfg = load_config(args.config_file)
    backbone_cfg = (cfg.get('model') or {}).get('backbone')
    dataset = ((cfg.get('dataloader') or {}).get('train') or {}).get('dataset') or {}
    if not backbone_cfg:
        raise ConfigError(f"'{args.config_file}' has no model.backbone to draw the matches of.")
    weights = None if args.checkpoint == 'none' else args.checkpoint
    views = make_views(args.image, args.size, args.seed, dataset.get('value_range'))
    paddle.seed(args.seed)
    backbone = build_backbone(dict(backbone_cfg, pretrained=weights), 'model.backbone')
    backbone.eval()
    normalise = build_transforms([{'name': 'Transpose'}, {'name': 'Normalize', 'mean': MEAN, 'std': STD}])
    with paddle.no_grad():
        maps = [backbone(paddle.to_tensor(normalise(v)).unsqueeze(0)) for v in views]
    index, similarity = match(maps[0].flatten(2), maps[1].flatten(2))
    plot_correspondence(*views, index[0].numpy(), similarity[0].numpy(), args.output,
                        grid1=tuple(maps[0].shape[2:]), grid2=tuple(maps[1].shape[2:]), top=args.top)
    logger.info('Wrote %s', args.output)


def main(argv=None):
    """The command; returns its exit code."""
    return guarded(run, build_parser().parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
