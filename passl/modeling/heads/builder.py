"""Registry and builder of heads."""

from typing import TYPE_CHECKING, Any

from ...utils.config.registry import Registry, build_from_config

if TYPE_CHECKING:
    import paddle

HEADS = Registry('head')


def build_head(cfg: dict[str, Any], where: str = 'model.head', **given: Any) -> 'paddle.nn.Layer':
    """Build the head that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, HEADS, where, **given)
