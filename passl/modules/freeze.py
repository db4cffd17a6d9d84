"""Parameters that do not train."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import paddle


def freeze_(layer: 'paddle.nn.Layer') -> None:
    """Take every parameter of `layer` out of training (no gradient). Statistics of BN are not
    touched: a layer whose BN must stay fixed too also needs `eval()`."""
    for p in layer.parameters():
        p.stop_gradient = True


def is_frozen(layer: 'paddle.nn.Layer') -> bool:
    """True if no parameter of `layer` trains."""
    return all(p.stop_gradient for p in layer.parameters())
