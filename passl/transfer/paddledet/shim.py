"""Makes PaddleDetection 2.6.0 importable and trainable on Paddle 2.6 and 3, from outside and as little as possible."""

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ...datasets.image import decode_image, read_image
from ...utils.errors import DataError, PasslError
from ...utils.paddle_env import require_paddle
from ..lost import lost

MISSING = ('PaddleDetection (the package paddledet 2.6.0) is not installed in this Python environment. It pins old '
           'versions of numpy and OpenCV, so it has an environment of its own: bash tools/detection_environment.sh '
           'makes it, see docs/TRANSFER_DETECTION.md.')


def available() -> bool:
    """True if PaddleDetection is installed; nothing is imported."""
    return importlib.util.find_spec('ppdet') is not None


def _joinable(concat):
    """`paddle.concat` that takes 0-D tensors for one element, as Paddle did before 2.5 and PaddleDetection means it."""
    @functools.wraps(concat)
    def wrapper(x, axis=0, name=None, **more):
        if isinstance(x, (list, tuple)):
            x = [t.reshape([1]) if t.ndim == 0 else t for t in x]
        return concat(x, axis, name, **more)
    wrapper.takes_scalars = True
    return wrapper


def _text_size(draw, text, **font):
    """Width and height of a text, as Pillow before 10 gave it and PaddleDetection's pictures need it."""
    return draw.textbbox((0, 0), text, **font)[2:]


def decode(self: Any, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """PaddleDetection's operator `Decode`, with the reader that has checked the images in the place of OpenCV.

    OpenCV of its environment reads fewer kinds, and what it cannot read leaves the run waiting for ever.

    Args:
        sample: has `im_file`, or `image` (bytes); gets `image` uint8 [H, W, 3] RGB, `h`, `w`, `im_shape`,
            `scale_factor`.
    """
    path = sample.pop('im_file', 'image')
    try:
        image = decode_image(sample['image'], path) if 'image' in sample else read_image(path)
    except DataError as e:
        lost.note(e)
        image = np.zeros((int(sample.get('h') or 64), int(sample.get('w') or 64), 3), np.uint8)
    if sample.get('keep_ori_im'):
        sample['ori_image'] = image[..., ::-1]          # BGR, as OpenCV gives it
    sample['image'] = image
    sample['h'], sample['w'] = image.shape[:2]
    sample['im_shape'] = np.array(image.shape[:2], np.float32)
    sample['scale_factor'] = np.array([1., 1.], np.float32)
    return sample


def import_ppdet() -> ModuleType:
    """Import PaddleDetection, with our components registered in it.

    `paddle.concat` is replaced in this process: PaddleDetection 2.6.0 joins counts of boxes that have no dimension
    since Paddle 2.5. Calls that Paddle accepts by itself give what they gave before. Pillow gets its `textsize` back.

    Returns:
        The module `ppdet`.

    Raises:
        PasslError: it is not installed; the message says how to make the environment.
    """
    paddle: Any = require_paddle()
    if not available():
        raise PasslError(MISSING)
    if not getattr(paddle.concat, 'takes_scalars', False):
        paddle.concat = paddle.tensor.concat = _joinable(paddle.concat)
    from PIL import ImageDraw, ImageFile
    if not hasattr(ImageDraw.ImageDraw, 'textsize'):
        setattr(ImageDraw.ImageDraw, 'textsize', _text_size)
    logging.getLogger('ppdet').propagate = False
    try:
        import ppdet
        import ppdet.engine     # registers its components  # noqa: F401
        from ppdet.data.transform.operators import Decode
        Decode.apply = decode
        ImageFile.LOAD_TRUNCATED_IMAGES = False     # PaddleDetection lets Pillow fill up damaged files
        from . import modules   # registers ours  # noqa: F401
    except ImportError as e:
        raise PasslError(f'PaddleDetection is installed but cannot be imported: {e}. Make its environment again: '
                         'bash tools/detection_environment.sh') from e
    return ppdet


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """In this context PaddleDetection downloads nothing: neither data sets nor weights nor fonts."""
    from ppdet.utils import download

    def refuse(url, *args, **kwargs):
        raise PasslError(f"PaddleDetection wanted to download '{url}'. Nothing is downloaded here: give the data with "
                         '--data and the weights with --pretrained or --weights.')
    before = download._download
    download._download = refuse
    try:
        yield
    finally:
        download._download = before
