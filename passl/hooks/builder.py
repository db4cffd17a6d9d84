"""Registry and builder of hooks."""

from typing import Any

from ..utils.errors import ConfigError
from ..utils.config.registry import Registry, build_from_config
from .hook import Hook

HOOKS = Registry('hook')


def build_hook(cfg: dict[str, Any], where: str = 'custom_config', **given: Any) -> Hook:
    """Build the hook that `cfg` (`{name, ...arguments}`) describes."""
    hook = build_from_config(cfg, HOOKS, where, **given)
    if not isinstance(hook, Hook):
        raise ConfigError(f"'{where}.name': {cfg['name']} is no hook; derive it from passl.hooks.Hook.")
    return hook
