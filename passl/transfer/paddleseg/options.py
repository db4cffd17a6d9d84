"""The flags of `passl transfer-seg`."""

import argparse
from typing import Optional

from ...utils.options import Parser, not_empty, override, positive_int

EXAMPLES = """\
examples:
  fine-tune a pre-trained backbone on own images (images/, masks/, labels.txt):
    %(prog)s -c configs/transfer/seg/custom.yml --pretrained backbone.pdparams --data data/my_seg
  the same from random initialisation, to compare with:
    %(prog)s -c configs/transfer/seg/custom.yml --pretrained none --data data/my_seg --output output_dir/seg_random
  evaluate, and label new images:
    %(prog)s -c FILE --data data/my_seg --evaluate-only --weights output_dir/custom/best_model/model.pdparams
    %(prog)s -c FILE --predict photos --weights output_dir/custom/best_model/model.pdparams
several processes: python -m paddle.distributed.launch [--gpus 0,1,...] tools/transfer_seg.py -c FILE ...
"""


def build_seg_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/transfer_seg.py` and `passl transfer-seg`.

    The namespace has: config_file, override (list of 'path=value'), pretrained, data, output, iters, seed,
    save_interval, log_iters, num_workers, resume, evaluate_only, predict, weights, no_cuda, overwrite. Flags that
    were not given are None, False or [].

    Args:
        prog: program name in the help, for example 'passl transfer-seg'.
    """
    parser = Parser(prog=prog, description='Train, evaluate and use a segmentation model on a pre-trained backbone, '
                                           'with PaddleSeg.', epilog=EXAMPLES)
    parser.add_argument('-c', '--config-file', '--config', metavar='FILE', required=True, type=not_empty,
                        help="PaddleSeg config: one of configs/transfer/seg, or PaddleSeg's own (required)")
    parser.add_argument('-o', '--override', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='change one setting, for example -o batch_size=16; repeatable')
    parser.add_argument('--data', metavar='DIR', type=not_empty, help='root of the data set (sets dataset_root)')
    parser.add_argument('--output', metavar='DIR', type=not_empty,
                        help='run folder (default: output_dir/<name of the config>)')
    parser.add_argument('--overwrite', action='store_true',
                        help='start anew in a folder that holds a run; the former one is moved aside')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    train = parser.add_argument_group('training')
    train.add_argument('--pretrained', metavar='WEIGHTS', type=not_empty,
                       help="backbone weights, all of which must match; 'none': random initialisation")
    train.add_argument('--iters', metavar='N', type=positive_int, help='number of steps (sets iters)')
    train.add_argument('--seed', metavar='N', type=int, default=0, help='of every random number (default: %(default)s)')
    train.add_argument('--save-interval', '--save_interval', metavar='N', type=positive_int, default=None,
                       help='save and evaluate every N steps, and at the end (default: 1000)')
    train.add_argument('--log-iters', '--log_iters', metavar='N', type=positive_int, default=10,
                       help='log every N steps (default: %(default)s)')
    train.add_argument('--num-workers', '--num_workers', metavar='N', type=int, default=2,
                       help='processes that prepare images (default: %(default)s; 0: none)')
    train.add_argument('--resume', '--resume_model', metavar='DIR', type=not_empty,
                       help="continue from a folder iter_N of a former training; 'auto': the newest of the run folder")
    use = parser.add_argument_group('use of a trained model')
    kind = use.add_mutually_exclusive_group()
    kind.add_argument('--evaluate-only', action='store_true', help='evaluate --weights on val_dataset and exit')
    kind.add_argument('--predict', metavar='IMAGES', type=not_empty,
                      help='label an image, or the images of a folder or list, with --weights and exit')
    use.add_argument('--weights', metavar='FILE', type=not_empty, help='model.pdparams that a training wrote')
    return parser
