"""Pack a folder of images into one file for the data set PackedImages: see --help.

    python tools/pack_dataset.py data/my_images --unlabelled --output my_images.pack

The images keep their bytes, names and order, so that a run reads the same samples as from the folder. The file
appears under its name when it is complete, never before.
"""

import argparse
import concurrent.futures
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import guarded  # noqa: E402
from passl.utils.options import number  # noqa: E402
from passl.utils.paddle_env import require_paddle  # noqa: E402

BATCH = 64                  # images in memory at a time
SHOWN = 10                  # bad files that are named


def build_parser():
    parser = argparse.ArgumentParser(prog='pack_dataset.py', description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('folder', metavar='FOLDER', help='folder of images')
    parser.add_argument('--output', metavar='FILE', required=True,
                        help='file to write, such as NAME.pack; must not exist')
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument('--labelled', action='store_true', help='one sub-folder per class, as ImageFolder reads it')
    kind.add_argument('--unlabelled', action='store_true', help='all images below the folder, as UnlabelledFolder')
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument('--recursive', action='store_true', help='also look into sub-folders (the default)')
    depth.add_argument('--flat', action='store_true', help='with --unlabelled: leave out sub-folders')
    parser.add_argument('--classes', metavar='FILE', help='with --labelled: pack these classes only (a name per line)')
    parser.add_argument('--short-side', type=int, metavar='N',
                        help='shrink images with a longer short side to N pixels and store them as JPEG; this changes '
                             'the samples (default: the files stay as they are)')
    parser.add_argument('--quality', type=int, metavar='Q', help='of these JPEGs, 1 - 100 (default: 95)')
    parser.add_argument('--value-range', metavar=('LOW', 'HIGH'), nargs=2, type=number,
                        help='value_range of your config, for files of more than 8 bits; --short-side bakes it in')
    parser.add_argument('--check', action='store_true', help='decode every image; write nothing if one is unreadable')
    parser.add_argument('--threads', type=int, default=8, metavar='N',
                        help='files read at the same time (default: %(default)s)')
    return parser


def check_arguments(parser, args):
    """Leave with exit code 2 where flags do not go together."""
    if args.labelled and args.flat:
        parser.error('--flat needs --unlabelled: with --labelled the classes are sub-folders.')
    if args.classes and not args.labelled:
        parser.error('--classes needs --labelled.')
    if args.quality is not None and args.short_side is None:
        parser.error('--quality needs --short-side: without it the files stay as they are.')
    for flag, value, low, high in (('--short-side', args.short_side, 1, 65535), ('--quality', args.quality, 1, 100),
                                   ('--threads', args.threads, 1, 256)):
        if value is not None and not low <= value <= high:
            parser.error(f'{flag} is {value}; it must be from {low} to {high}.')


def shrink(data, image, side, quality):
    """JPEG bytes of `image` (uint8 [H, W, 3] RGB) with the short side `side`; `data` itself if it is not longer."""
    import cv2
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= side:
        return data
    size = max(side, round(width * side / short)), max(side, round(height * side / short))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


class Packer:
    """Reads, checks and shrinks the images of `dataset`; `bad` collects what cannot be decoded."""

    def __init__(self, dataset, args):
        self.dataset, self.args, self.bad = dataset, args, []

    def prepare(self, index):
        """The bytes to store for image `index`."""
        from passl.datasets.image import ImageReadError, decode_image
        data, name = self.dataset.read_bytes(index)
        if self.args.check or self.args.short_side:
            try:
                image = decode_image(data, name, value_range=self.dataset.value_range, doubt=self.dataset.note_doubt)
            except ImageReadError as e:         # stored as it is: the data set deals with it, as in the folder
                self.bad.append(str(e))
                return data
            if self.args.short_side:
                return shrink(data, image, self.args.short_side, self.args.quality or 95)
        return data

    def batches(self):
        """Yields lists of bytes in the order of the data set, with a progress bar."""
        from tqdm import tqdm
        with concurrent.futures.ThreadPoolExecutor(self.args.threads) as pool, \
                tqdm(total=len(self.dataset), unit=' images', desc='packing', file=sys.stderr) as bar:
            for start in range(0, len(self.dataset), BATCH):
                batch = list(pool.map(self.prepare, range(start, min(start + BATCH, len(self.dataset)))))
                if not (self.bad and self.args.check):      # nothing will be kept: only look for more of them
                    yield batch
                bar.update(len(batch))
        self.report()

    def report(self):
        from passl.utils.errors import DataError
        text = '\n'.join(f'  {line}' for line in self.bad[:SHOWN]) + '\n  ...' * (len(self.bad) > SHOWN)
        if self.bad and self.args.check:
            raise DataError(f'{len(self.bad)} images cannot be decoded, so nothing was written. Mend or remove them, '
                            f'or pack without --check (a run replaces them by others):\n{text}')
        if self.bad:
            sys.stderr.write(f'{len(self.bad)} images cannot be decoded and are stored as they are:\n{text}\n')


def run(args):
    require_paddle()
    from passl.datasets import build_dataset        # Paddle takes SIGTERM when it is imported, so it comes first
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # an exception removes the unfinished file
    from passl.datasets.packed import check_output, write_packed
    from passl.utils.logger import setup_logger

    setup_logger()
    check_output(args.output)               # before a long listing
    if args.labelled:
        config = {'name': 'ImageFolder', 'dataroot': args.folder, 'classes': args.classes}
    else:
        config = {'name': 'UnlabelledFolder', 'dataroot': args.folder, 'recursive': not args.flat}
    dataset = build_dataset(dict(config, value_range=args.value_range), 'pack_dataset')
    labels = [label for _, label in dataset.samples] if args.labelled else None
    paths = (path for path, _ in dataset.samples) if args.labelled else dataset.samples
    folder = os.path.expanduser(args.folder)
    names = [os.path.relpath(path, folder) for path in paths]
    write_packed(args.output, Packer(dataset, args).batches(), names, labels, dataset.classes)
    size = os.path.getsize(args.output)
    more = f', value_range: {args.value_range}' if args.value_range else ''
    sys.stdout.write(f'{len(dataset)} images{f" of {dataset.num_classes} classes" if args.labelled else ""} in '
                     f'{args.output} ({size / 2**20:.1f} MiB). Use it with\n'
                     f'  dataset: {{name: PackedImages, dataroot: {os.path.abspath(args.output)}{more}}}\n')


def main(argv=None):
    """The command; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    before = signal.getsignal(signal.SIGTERM)
    try:
        return guarded(run, args)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


if __name__ == '__main__':
    sys.exit(main())
