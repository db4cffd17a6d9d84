"""What can be named: backbones, methods and shipped configs."""

import os

from .command import BACKBONES, METHODS, configs_folder


def list_models() -> dict[str, list[str]]:
    """Names for the commands and configs, sorted.

    Returns:
        {'backbones': of `passl pretrain --backbone`, 'methods': of its `--method`,
        'backbone_classes', 'architectures': what `model.backbone.name` and `model.name` of a config may be, own parts
        that were registered included, 'configs': shipped files, as `passl train -c` takes them in a clone}

    Raises:
        ConfigError: the configs are not there. PaddleMissingError: Paddle is not.
    """
    from ..modeling.architectures import MODELS
    from ..modeling.backbones import BACKBONES as CLASSES
    top = configs_folder()
    files = [os.path.relpath(os.path.join(folder, name), os.path.dirname(top)) for folder, _, names in os.walk(top)
             if '_base_' not in folder for name in names if name.endswith('.yaml')]
    return {'backbones': sorted(BACKBONES), 'methods': sorted(METHODS), 'backbone_classes': CLASSES.names(),
            'architectures': MODELS.names(), 'configs': sorted(files)}
