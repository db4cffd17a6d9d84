"""Trade time for memory: forget a part's activations and compute them again in the backward pass."""

import contextlib
from typing import Any, Callable, Optional, Sequence

import paddle
from paddle import nn
from paddle.autograd import PyLayer

_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def recompute(function: Callable[[paddle.Tensor], paddle.Tensor], x: paddle.Tensor,
              layers: Sequence[nn.Layer]) -> paddle.Tensor:
    """`function(x)`, keeping only x for the backward pass, which calls `function` a second time.

    Values, gradients and running statistics are those of the plain call. Where no gradient is wanted (under
    no_grad, or with everything frozen) it is the plain call.

    Args:
        function: Tensor -> Tensor. All parameters that it uses belong to `layers`.
        x: Tensor.
        layers: list of Layers.
    """
    trained = [p for layer in layers for p in layer.parameters() if not p.stop_gradient]
    if not paddle.is_grad_enabled() or (x.stop_gradient and not trained):
        return function(x)
    return _Recompute.apply(x, function, layers, *trained)


class _Recompute(PyLayer):
    """The parameters are inputs like x, so their gradients reach them through the ordinary graph: once per backward
    pass, summed over all uses. (An inner `backward()`, as in Paddle's own recompute, would deliver them once per use,
    which the gradient exchange of DataParallel takes for an error if a layer runs twice, as it does with `bn_splits`.)
    """

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, function: Callable[[paddle.Tensor], paddle.Tensor],
                layers: Sequence[nn.Layer], *trained: paddle.Tensor) -> paddle.Tensor:
        ctx.function, ctx.layers, ctx.trained = function, layers, trained
        ctx.x_trains = not x.stop_gradient
        ctx.precision, ctx.random_state = _precision(), paddle.get_rng_state()
        ctx.x = x                           # not save_for_backward: that one holds x as long as the loss lives
        with paddle.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> tuple[Optional[paddle.Tensor], ...]:   # type: ignore[override]
        x, ctx.x = ctx.x.detach(), None
        x.stop_gradient = not ctx.x_trains
        wanted = [x] * ctx.x_trains + list(ctx.trained)
        with _random_state(ctx.random_state), _keep_statistics(ctx.layers), paddle.enable_grad():
            with paddle.amp.auto_cast(**ctx.precision):
                out = ctx.function(x)
            with paddle.amp.auto_cast(enable=False):
                grads = paddle.grad([out], wanted, [grad.astype(out.dtype)], allow_unused=True)
        return (None,) * (not ctx.x_trains) + tuple(grads)


@contextlib.contextmanager
def _keep_statistics(layers):
    """Batch norm's running statistics stay as they are: the first pass has moved them already."""
    norms = [part for layer in layers for part in layer.sublayers(include_self=True) if isinstance(part, _NORMS)]
    before = [norm._momentum for norm in norms]
    try:
        for norm in norms:
            norm._momentum = 1.0            # running <- 1 running + 0 batch
        yield
    finally:
        for norm, momentum in zip(norms, before):
            norm._momentum = momentum


@contextlib.contextmanager
def _random_state(state):
    now = paddle.get_rng_state()
    paddle.set_rng_state(state)
    try:
        yield
    finally:
        paddle.set_rng_state(now)


def _precision():
    """Arguments of auto_cast that bring back the mixed precision in force (Paddle has no public question for it)."""
    tracer = paddle.base.framework._dygraph_tracer()
    level = str(tracer._amp_level).split('.')[-1]
    if level == 'O0':
        return {'enable': False}
    white, black = tracer._get_amp_op_list()
    return {'enable': True, 'level': level, 'dtype': tracer._amp_dtype, 'custom_white_list': white,
            'custom_black_list': black}
