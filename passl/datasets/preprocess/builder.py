"""Registry and builder of transforms."""

from ...utils.config.registry import Registry, build_from_config

TRANSFORMS = Registry('transform')


def build_transform(cfg, where='transforms', **given):
    """Build the transform that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, TRANSFORMS, where, **given)
