"""Registry and builder of models: builds the parts first and hands them to the constructor."""

from ...utils.errors import ConfigError
from ...utils.registry import Registry, build_from_config
from ..backbones.builder import build_backbone
from ..heads.builder import build_head
from ..necks.builder import build_neck

MODELS = Registry('model')

PART_BUILDERS = {'backbone': build_backbone, 'neck': build_neck, 'head': build_head}


def build_model(cfg, where='model'):
    """Build the model that `cfg` (`{name, backbone, neck, head, ...arguments}`) describes."""
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with 'name', 'backbone', ..., not {cfg!r}.")
    parts = {k: build(cfg[k], f'{where}.{k}') for k, build in PART_BUILDERS.items() if cfg.get(k) is not None}
    rest = {k: v for k, v in cfg.items() if k not in PART_BUILDERS}
    return build_from_config(rest, MODELS, where, **parts)
