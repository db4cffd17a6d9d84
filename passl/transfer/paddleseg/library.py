"""The door to PaddleSeg: imports it, mends it and registers our parts."""

from types import ModuleType

from ...utils.errors import PasslError
from ...utils.logger import get_logger
from ...utils.paddle_env import require_paddle

TRIED = '2.8.0'


class PaddleSegMissingError(PasslError, ImportError):
    """PaddleSeg is not installed, or cannot be imported."""


def load() -> ModuleType:
    """Import PaddleSeg, mended and with our backbones, models and transforms registered; returns the module.

    Calling it again changes nothing.

    Raises:
        PaddleSegMissingError: it is not installed or does not import; says which environment works.
        PaddleMissingError: Paddle is not installed.
    """
    require_paddle()
    try:
        import paddleseg
    except ImportError as e:
        raise PaddleSegMissingError(
            f'PaddleSeg cannot be imported ({e}). Install it beside Paddle, in an environment of its own since it '
            "needs an old OpenCV and numpy 1: in the clone pip install -e '.[cpu,seg]'   (or: pip install "
            "'paddleseg==2.8.0' 'numpy<2')") from None
    if paddleseg.__version__ != TRIED:
        get_logger().warning('PaddleSeg %s: this project was tried with %s only.', paddleseg.__version__, TRIED)
    from paddleseg.cvlibs import manager

    from . import fcn, mends, resnet, transforms
    mends.apply()
    for registry, parts in ((manager.BACKBONES, resnet.PLAIN), (manager.MODELS, [fcn.DilatedFCN]),
                            (manager.TRANSFORMS, [transforms.ClassBalancedCrop])):
        for part in parts:
            if part.__name__ not in registry.components_dict:
                registry.add_component(part)
    return paddleseg
