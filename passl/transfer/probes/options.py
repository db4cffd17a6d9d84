"""The flags of `passl evaluate`. Needs no Paddle."""

import argparse
from typing import Optional

from ...utils.options import Parser, not_empty, number, override, positive_int

CLASSIFICATION = ('linear', 'knn', 'svm', 'lowshot', 'finetune')
DENSE = ('linear-seg', 'knn-seg')
TASKS = CLASSIFICATION + DENSE
FORMATS = ('folder', 'list', 'voc', 'cityscapes', 'ade20k', 'coco')

EXAMPLES = """\
examples:
  two backbones and the random start, dense tasks on images/{train,val} and masks/{train,val}:
    %(prog)s --tasks linear-seg,knn-seg --weights a.pdparams b.pdparams random --data data/seg --output out
  classification on train/<class>/ and val/<class>/:
    %(prog)s --tasks linear,knn --weights a.pdparams b.pdparams random --data data/classes --output out
  VOC07, SVM and low-shot:
    %(prog)s --tasks svm,lowshot --weights a.pdparams --data VOCdevkit/VOC2007 --data-format voc \\
      --train-split trainval --val-split test --output out
  was a pre-training worth it? Against the random start and what it started from, in words:
    %(prog)s --worth --weights run/backbone.pdparams --init imagenet.pdparams --data data/classes --output out
The same command again goes on where it was stopped.
"""


def _list_of(read):
    def words(text):
        values = [read(word.strip()) for word in text.split(',') if word.strip()]
        if not values:
            raise argparse.ArgumentTypeError(f"'{text}' names nothing; expected a list with commas")
        if len(set(values)) != len(values):
            raise argparse.ArgumentTypeError(f"'{text}' names something twice")
        return values
    return words


def _task(word):
    if word not in TASKS:
        raise argparse.ArgumentTypeError(f"unknown task '{word}'; known: {', '.join(TASKS)}")
    return word


def _above_0(fits, rule):
    def read(word):
        try:
            value = float(word)
        except ValueError:
            value = 0
        if not (value > 0 and fits(value)):
            raise argparse.ArgumentTypeError(f"'{word}' is {rule}")
        return int(value) if value == int(value) else value
    return read


_percent = _above_0(lambda v: v <= 100, 'no share of the labels: percent, above 0 and up to 100')


def _stage(word):
    if word not in ('1', '2', '3', '4'):
        raise argparse.ArgumentTypeError(f"'{word}' is no stage; they are 1, 2, 3 and 4 (layer1 to layer4)")
    return int(word)


def image_side(text: str) -> int:
    """Argument type: a side of images, a multiple of 32."""
    value = positive_int(text)
    if value < 32 or value % 32:
        raise argparse.ArgumentTypeError(f"'{text}' must be a multiple of 32: the last stage divides the side by 32")
    return value


def add_value_range(parser: argparse._ActionsContainer) -> None:
    """The flag --value-range of the commands that read images without a config."""
    parser.add_argument('--value-range', metavar=('LOW', 'HIGH'), nargs=2, type=number,
                        help='black and white in files of more than 8 bits, as value_range in a config (`passl '
                             'check-data` measures it)')


def build_evaluate_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Parser of `tools/evaluate.py` and `passl evaluate`.

    The namespace has: tasks, weights, names, depth, data, data_format, seg_data, seg_format, option (list),
    train_split, val_split, value_range (or None), worth, init (or None), labels_at (or None), finetune_at, seeds,
    image_size, stages, finetune_steps, knn_patches, output, cache_gb, overwrite, no_cuda.
    """
    parser = Parser(prog=prog, description='Compare pre-trained backbones by tasks on their frozen features, and by '
                                           'fine-tuning on few labels.', epilog=EXAMPLES)
    what = parser.add_argument_group('what is compared')
    what.add_argument('--tasks', metavar='LIST', type=_list_of(_task),
                      help=f'of {",".join(TASKS)} (with --worth: k-NN and linear by default)')
    what.add_argument('--weights', metavar='FILE', nargs='+', required=True, type=not_empty,
                      help="checkpoints or weight files of a ResNet 18 to 152; 'random' is the random start with seed "
                           "0, 'random:1' the one with seed 1")
    what.add_argument('--names', metavar='NAME', nargs='+', type=not_empty, help='names in the table, one per file')
    what.add_argument('--depth', type=int, choices=(18, 34, 50, 101, 152),
                      help='of the random start (default: that of the first file)')
    what.add_argument('--worth', action='store_true',
                      help='say in a sentence for each pair whether the first of --weights is better than the random '
                           'start and the others')
    what.add_argument('--init', metavar='FILE', type=not_empty,
                      help='with --worth: the weights that the training started from')
    data = parser.add_argument_group('data')
    data.add_argument('--data', metavar='DIR', required=True, type=not_empty, help='folder of the data set')
    data.add_argument('--data-format', choices=FORMATS, default='folder',
                      help='layout of --data (default: %(default)s)')
    data.add_argument('--seg-data', metavar='DIR', type=not_empty,
                      help='another folder for the dense tasks (default: --data)')
    data.add_argument('--seg-format', choices=FORMATS, help='layout of --seg-data (default: that of --data)')
    data.add_argument('--option', metavar='KEY=VALUE', action='append', default=[], type=override,
                      help='option of the data set with masks, for example unpaired=drop; repeatable')
    data.add_argument('--train-split', metavar='NAME', type=not_empty,
                      help='default: train; with ade20k training, with coco train2017 or train')
    data.add_argument('--val-split', metavar='NAME', type=not_empty,
                      help='default: val; with ade20k validation, with coco val2017 or val')
    add_value_range(data)
    how = parser.add_argument_group('how')
    how.add_argument('--labels-at', metavar='LIST', type=_list_of(_percent),
                     help='percent of the labels for the dense tasks (default: 1,5,10,100; with --worth 100)')
    how.add_argument('--finetune-at', metavar='LIST', type=_list_of(_percent), default=[1, 10],
                     help='percent of the labels for finetune (default: 1,10)')
    how.add_argument('--seeds', metavar='N', type=positive_int, default=3,
                     help='runs with other choices, starts and orders (default: %(default)s; lowshot always 5)')
    how.add_argument('--image-size', metavar='N', type=image_side, default=128,
                     help='side of the squares that the backbone sees (default: %(default)s)')
    how.add_argument('--stages', metavar='LIST', type=_list_of(_stage), default=[3, 4],
                     help='stages for the dense tasks (default: 3,4)')
    how.add_argument('--finetune-steps', metavar='N', type=positive_int, default=200, help='default: %(default)s')
    how.add_argument('--knn-patches', metavar='N', type=positive_int, default=10000,
                     help='labelled cells that knn-seg keeps (default: %(default)s)')
    how.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    out = parser.add_argument_group('results')
    out.add_argument('--output', metavar='DIR', default='output_dir/evaluate', type=not_empty,
                     help='folder for table, figures and cache (default: %(default)s)')
    out.add_argument('--cache-gb', metavar='X', type=_above_0(lambda v: v < 1e6, 'no size in GiB above 0'), default=8.0,
                     help='bound of the cached features in GiB (default: %(default)s)')
    out.add_argument('--overwrite', action='store_true',
                     help='start anew in a folder that holds results; the former ones are moved aside')
    return parser
