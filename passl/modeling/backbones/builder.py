"""Registry and builder of backbones."""

from typing import TYPE_CHECKING, Any

from ...utils.config.registry import Registry, build_from_config

if TYPE_CHECKING:
    import paddle

BACKBONES = Registry('backbone')


def build_backbone(cfg: dict[str, Any], where: str = 'model.backbone', **given: Any) -> 'paddle.nn.Layer':
    """Build the backbone that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, BACKBONES, where, **given)
