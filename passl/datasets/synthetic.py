"""The embedded data set: `render_scene`, the data set `Synthetic`, and PNG folders of it.

``python -m passl.datasets.synthetic --output DIR`` writes
DIR/{train,val}/<class>/<number>.png and the pixel masks DIR/masks/{train,val}/<class>/<number>.png.
The parts live in scenes.py and rendered.py, so that running this file registers nothing twice.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Optional, Union

import cv2

from ..utils.errors import DataError, PasslError
from ..utils.logger import setup_logger
from ..utils.options import positive_int
from .rendered import SPLITS, Synthetic, split_seed
from .scenes import CLASSES, render_scene

__all__ = ['CLASSES', 'Synthetic', 'main', 'render_dataset', 'render_scene']


def _write_png(path, img):
    ok, data = cv2.imencode('.png', img, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise DataError(f"'{path}' cannot be encoded as PNG.")
    try:
        with open(path, 'wb') as f:         # cv2.imwrite cannot open every name on every system
            f.write(data.tobytes())
    except OSError as e:
        raise DataError(f"'{path}' cannot be written: {e.strerror}.") from None


def render_dataset(root: Union[str, os.PathLike], train: int = 2000, val: int = 500, size: int = 64,
                   seed: int = 0) -> None:
    """Write the images and masks of both splits below `root`, for ImageFolder and for segmentation.

    Existing files of the same names are overwritten (with the same content for the same arguments).

    Raises:
        DataError: `root` cannot be written.
    """
    for split, count in zip(SPLITS, (train, val)):
        for base in (os.path.join(root, split), os.path.join(root, 'masks', split)):
            for name in CLASSES:
                try:
                    os.makedirs(os.path.join(base, name), exist_ok=True)
                except OSError as e:
                    raise DataError(f"'{base}' cannot be created: {e.strerror}.") from None
        for i in range(count):
            img, label, mask = render_scene(i, size, split_seed(seed, split))
            name = os.path.join(CLASSES[label], f'{i:05d}.png')
            _write_png(os.path.join(root, split, name), cv2.cvtColor(img, cv2.COLOR_RGB2BGR))
            _write_png(os.path.join(root, 'masks', split, name), mask)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m passl.datasets.synthetic', allow_abbrev=False,
                                     description='Write the embedded data set as PNG files.')
    parser.add_argument('--output', required=True, help='folder to write to')
    parser.add_argument('--train', type=positive_int, default=2000, help='training images (2000)')
    parser.add_argument('--val', type=positive_int, default=500, help='validation images (500)')
    parser.add_argument('--size', type=int, default=64, choices=range(16, 1025), metavar='N',
                        help='side in pixels, 16 to 1024 (64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    try:
        render_dataset(args.output, args.train, args.val, args.size, args.seed)
    except PasslError as e:
        sys.stderr.write(f'Error: {e}\n')
        return 2
    setup_logger().info("%d + %d images of %d classes in '%s'", args.train, args.val, len(CLASSES),
                        args.output)
    return 0


if __name__ == '__main__':
    sys.exit(main())
