"""Registry and builder of hooks."""

from ..utils.registry import Registry, build_from_config

HOOKS = Registry('hook')


def build_hook(cfg, where='custom_config', **given):
    """Build the hook that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, HOOKS, where, **given)
