"""Registry and builder of necks."""

from typing import TYPE_CHECKING, Any

from ...utils.config.registry import Registry, build_from_config

if TYPE_CHECKING:
    import paddle

NECKS = Registry('neck')


def build_neck(cfg: dict[str, Any], where: str = 'model.neck', **given: Any) -> 'paddle.nn.Layer':
    """Build the neck that `cfg` (`{name, ...arguments}`) describes."""
    return build_from_config(cfg, NECKS, where, **given)
