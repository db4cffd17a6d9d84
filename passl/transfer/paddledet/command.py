"""The command line of `passl transfer-det` and `tools/transfer_det.py`. Needs neither Paddle nor PaddleDetection."""

import argparse
from collections.abc import Iterable
from typing import Any, Optional

from ...utils.options import Parser, not_empty, override, positive_int

EXAMPLES = """\
examples:
  train on your own boxes in COCO json, from pre-trained weights, then evaluate:
    %(prog)s -c configs/transfer/det/faster_rcnn_r18_fpn_custom.yml --pretrained FILE --data data/my_detection
  evaluate a trained detector again:
    %(prog)s -c FILE --evaluate-only --weights output_dir/NAME/model_final.pdparams --data data/my_detection
  draw its predictions:
    %(prog)s -c FILE --predict photo.jpg --weights output_dir/NAME/model_final.pdparams
several processes: python -m paddle.distributed.launch [--gpus 0,1,...] tools/transfer_det.py -c FILE ...
PaddleDetection has an environment of its own: bash tools/detection_environment.sh
"""


class _Parser(Parser):
    """Ends with exit code 2 also where flags do not go together."""

    def parse_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Any:
        found = super().parse_args(args, namespace)
        if bool(found.weights) != bool(found.evaluate_only or found.predict):
            self.error('--evaluate-only and --predict need --weights FILE' if not found.weights else
                       '--weights goes with --evaluate-only or --predict; a training starts from --pretrained')
        if not found.weights and not found.pretrained:
            self.error('a training needs --pretrained WEIGHTS (or: --pretrained none)')
        return found


def build_transfer_det_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/transfer_det.py` and `passl transfer-det`.

    The namespace has: config_file, override (list), pretrained, data, output, iters, evaluate_only, predict, weights,
    threshold, no_cuda, overwrite.

    Args:
        prog: program name in the help, for example 'passl transfer-det'.
    """
    parser = _Parser(prog=prog, description='Fine-tune a detector on pre-trained weights with PaddleDetection, '
                                            'evaluate it, or draw its predictions.', epilog=EXAMPLES)
    parser.add_argument('-c', '--config-file', metavar='FILE', required=True, type=not_empty,
                        help="config in PaddleDetection's format (required)")
    parser.add_argument('-o', '--override', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='change one setting, for example -o LearningRate.base_lr=0.005; repeatable')
    parser.add_argument('--pretrained', metavar='WEIGHTS', type=not_empty,
                        help='backbone weights: a checkpoint, extracted weights, or a file with the names of '
                             "PaddleDetection; 'none' trains from scratch")
    parser.add_argument('--data', metavar='FOLDER', type=not_empty,
                        help="data folder (replaces the config's dataset_dir)")
    parser.add_argument('--output', metavar='DIR', type=not_empty,
                        help='run folder (default: output_dir/<name of the config>)')
    parser.add_argument('--iters', metavar='N', type=positive_int,
                        help="train so many iterations; the steps of the schedule move along (default: the config's)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument('--evaluate-only', action='store_true', help='evaluate --weights and exit')
    kind.add_argument('--predict', metavar='IMAGES', type=not_empty,
                      help='draw predictions on an image or a folder of them')
    parser.add_argument('--weights', metavar='FILE', type=not_empty, help='trained detector, for the two above')
    parser.add_argument('--threshold', metavar='SCORE', type=float, default=0.5,
                        help='least score of a drawn prediction (default: %(default)s)')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    parser.add_argument('--overwrite', action='store_true',
                        help='start anew in a folder that holds a run; the former one is moved aside')
    return parser
