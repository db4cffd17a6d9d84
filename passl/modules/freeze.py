"""Parameters that do not train, and networks that rest from it."""

import contextlib
from collections.abc import Iterator

import paddle


def freeze_(layer: paddle.nn.Layer) -> None:
    """Take every parameter of `layer` out of training (no gradient). Statistics of BN are not
    touched: a layer whose BN must stay fixed too also needs `eval()`."""
    for p in layer.parameters():
        p.stop_gradient = True


def is_frozen(layer: paddle.nn.Layer) -> bool:
    """True if no parameter of `layer` trains."""
    return all(p.stop_gradient for p in layer.parameters())


@contextlib.contextmanager
def quiet(model: paddle.nn.Layer) -> Iterator[None]:
    """Inside, `model` is in eval mode without gradients; afterwards each layer is in the mode that it was in."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for layer, training in modes:
            layer.training = training
