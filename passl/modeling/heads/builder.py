"""Registry and builder of heads."""

from ...utils.config.registry import Registry, build_from_config

HEADS = Registry('head')


def build_head(cfg, where='model.head', **given):
    """Build the head that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, HEADS, where, **given)
