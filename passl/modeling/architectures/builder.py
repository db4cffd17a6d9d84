"""Registry and builder of models: builds the parts first and hands them to the constructor."""

from typing import TYPE_CHECKING, Any, Optional
from .base import Architecture

from ...utils.errors import ConfigError
from ...utils.config.registry import Registry, accepted_arguments, build_from_config
from ..backbones.builder import build_backbone
from ..dense.builder import build_correspondence, build_negatives
from ..heads.builder import build_head
from ..necks.builder import build_neck

if TYPE_CHECKING:
    import paddle

MODELS = Registry('model')

PART_BUILDERS = {'backbone': build_backbone, 'neck': build_neck, 'head': build_head,
                 'correspondence': build_correspondence, 'negatives': build_negatives}


def build_model(cfg: Optional[dict[str, Any]], where: str = 'model') -> Architecture:
    """Build the model that `cfg` (`{name, backbone, neck, head, ...arguments}`) describes."""
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with 'name', 'backbone', ..., not {cfg!r}.")
    head = cfg.get('head') or {}
    if cfg.get('T') is not None and head.get('temperature', cfg['T']) != cfg['T']:
        raise ConfigError(f"'{where}.T' is {cfg['T']} and '{where}.head.temperature' is {head['temperature']}: they "
                          'mean the same. Keep one of them.')
    parts = {k: build(cfg[k], f'{where}.{k}') for k, build in PART_BUILDERS.items() if cfg.get(k) is not None}
    check_widths(parts, cfg, where)
    check_parts(parts, cfg, where)
    rest = {k: v for k, v in cfg.items() if k not in PART_BUILDERS}
    return build_from_config(rest, MODELS, where, **parts)


def check_widths(parts: 'dict[str, paddle.nn.Layer]', cfg: dict[str, Any], where: str) -> None:
    """Every part must take what the part before it gives, as far as they say so (`in_channels`, `out_channels`)."""
    chain = [k for k in PART_BUILDERS if k in parts]
    for giver, taker in zip(chain, chain[1:]):
        gives, takes = getattr(parts[giver], 'out_channels', None), getattr(parts[taker], 'in_channels', None)
        if gives is not None and takes is not None and gives != takes:
            raise ConfigError(f"'{where}.{taker}.in_channels' is {takes}, but {cfg[giver]['name']} gives {gives} "
                              f'channels. Set -o {where}.{taker}.in_channels={gives}')


def check_parts(parts: dict[str, Any], cfg: dict[str, Any], where: str) -> None:
    """The model must take every part that the config gives it."""
    if cfg.get('name') in MODELS:
        names, _, anything = accepted_arguments(MODELS.get(cfg['name']))
        for key in set(parts) - names:
            if not anything:
                raise ConfigError(f"'{where}.{key}' is given, but {cfg['name']} has no {key}. Remove it.")
