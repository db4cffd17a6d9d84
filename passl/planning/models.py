"""What can be named: backbones, methods and shipped configs."""

import os

from .command import METHODS
from .config import BACKBONES, bases_folder


def list_models() -> dict[str, list[str]]:
    """Names for the commands and configs, sorted.

    Returns:
        {'backbones': of `passl pretrain --backbone`, 'methods': of its `--method`,
        'backbone_classes', 'architectures': what `model.backbone.name` and `model.name` of a config may be, own parts
        that were registered included, 'configs': the files of a clone, as `passl train -c` takes them; none in a wheel}

    Raises:
        PaddleMissingError: Paddle is not there.
    """
    from ..modeling.architectures import MODELS
    from ..modeling.backbones import BACKBONES as CLASSES
    top = os.path.dirname(bases_folder())
    shipped = os.walk(top) if os.path.basename(top) == 'configs' else ()
    files = [os.path.relpath(os.path.join(folder, name), os.path.dirname(top)) for folder, _, names in shipped
             if '_base_' not in folder for name in names if name.endswith('.yaml')]
    return {'backbones': sorted(BACKBONES), 'methods': sorted(METHODS), 'backbone_classes': CLASSES.names(),
            'architectures': MODELS.names(), 'configs': sorted(files)}
