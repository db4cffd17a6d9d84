"""Registry and builder of backbones."""

from ...utils.config.registry import Registry, build_from_config

BACKBONES = Registry('backbone')


def build_backbone(cfg, where='model.backbone', **given):
    """Build the backbone that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, BACKBONES, where, **given)
