"""Registry and builder of necks."""

from ...utils.config.registry import Registry, build_from_config

NECKS = Registry('neck')


def build_neck(cfg, where='model.neck', **given):
    """Build the neck that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, NECKS, where, **given)
