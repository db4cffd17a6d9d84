"""Registries and builders of the dense loss's parts. A text, in any case, stands for a part without settings."""

from typing import Any

from ...utils.config.registry import Registry, build_from_config

CORRESPONDENCES = Registry('correspondence')
NEGATIVES = Registry('negatives')


def build_correspondence(cfg: Any, where: str = 'model.correspondence', **given: Any) -> Any:
    """Build the correspondence that `cfg` (`{name, ...arguments}`, or the name) describes."""
    return build_from_config(_named(cfg, CORRESPONDENCES), CORRESPONDENCES, where, **given)


def build_negatives(cfg: Any, where: str = 'model.negatives', **given: Any) -> Any:
    """Build the negatives that `cfg` (`{name, ...arguments}`, or the name) describes."""
    return build_from_config(_named(cfg, NEGATIVES), NEGATIVES, where, **given)


def _named(cfg, registry):
    """`cfg` as a mapping, with its name as it is registered."""
    cfg = {'name': cfg} if isinstance(cfg, str) else cfg
    if not isinstance(cfg, dict) or not isinstance(cfg.get('name'), str):
        return cfg
    known = {name.lower(): name for name in registry.names()}
    return dict(cfg, name=known.get(cfg['name'].lower(), cfg['name']))
