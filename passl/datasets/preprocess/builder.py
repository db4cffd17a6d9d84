"""Registry and builder of transforms."""

from typing import Any, Callable

from ...utils.config.registry import Registry, build_from_config

TRANSFORMS = Registry('transform')


def build_transform(cfg: dict[str, Any], where: str = 'transforms', **given: Any) -> Callable:
    """Build the transform that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, TRANSFORMS, where, **given)
