"""Differentiable layers on channels-last CPU tensors [N, H, W, C], computed by oneDNN (see `passl.modules.cpu.onednn`).

They take the parameters and settings of ordinary Conv2D, BatchNorm2D and MaxPool2D layers, which stay as
they are. Values, gradients and running statistics are those of these layers to the rounding of the tensors' type,
float32 or bfloat16. As with every PyLayer of Paddle, one forward pass allows one backward pass.
"""

import functools
import logging
import os
import platform
import sys
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from . import onednn

SWITCH = 'PASSL_ONEDNN'


@functools.lru_cache(None)
def why_not() -> str:
    """'' if the layers below can be used in this process, else the reason (a text for the log).

    The environment variable PASSL_ONEDNN=0 turns them off.
    """
    if os.environ.get(SWITCH, '1').strip().lower() in ('0', 'false', 'off'):
        return f'{SWITCH} is off'
    if sys.platform != 'linux' or platform.machine() not in ('x86_64', 'AMD64'):
        return 'made for Linux on x86-64'
    try:
        onednn.library()
        wrong = _wrong()
    except (OSError, onednn.OneDNNError, AttributeError) as e:
        wrong = str(e)
    if wrong:
        logging.getLogger('passl').warning('oneDNN is not used: %s', wrong)
    return wrong


def _wrong():
    """Compare one small convolution, and exp, with Paddle's: '' or what is wrong. A library whose interface differs
    from what `onednn` expects is noticed here and not in somebody's results."""
    got, want = trial(paddle.float32)
    with paddle.no_grad():
        powers = want.clone()
        onednn.exp(int(want.size)).forward_(powers)
        differences = {'convolution': got - want, 'exp': powers - want.exp()}
        worst = {name: float(d.abs().max()) for name, d in differences.items()}
    return ', '.join(f"its {name} differs from Paddle's by {d}" for name, d in worst.items() if not d < 1e-4)


def trial(dtype: Any) -> tuple[paddle.Tensor, paddle.Tensor]:
    """(result of a small convolution in this type, Paddle's in float32)."""
    with paddle.no_grad():
        x = paddle.cos(paddle.arange(2 * 5 * 4 * 3, dtype='float32')).reshape([2, 3, 5, 4])
        w = paddle.sin(paddle.arange(4 * 3 * 3 * 3, dtype='float32')).reshape([4, 3, 3, 3])
        kernel = onednn.convolution((2, 3, 5, 4), (4, 3, 3, 3), (2, 1), (1, 1), dtype)
        got = kernel.forward(to_channels_last(x, dtype), w)
        return from_channels_last(got), F.conv2d(x, w, stride=[2, 1], padding=1)


def suits(x: paddle.Tensor) -> bool:
    """True for a tensor that these layers compute."""
    return (paddle.in_dynamic_mode() and x.place.is_cpu_place() and x.dtype == paddle.float32 and x.ndim == 4
            and x.size > 0 and not why_not())


def ordinary(net: nn.Layer) -> bool:
    """True if all convolutions and norms of `net` are ones that these functions stand for, and it has no hooks."""
    return all(not layer._forward_pre_hooks and not layer._forward_post_hooks
               and _KNOWN.get(type(layer), _unknown)(layer)
               for layer in net.sublayers())


def _unknown(layer):
    return len(layer._sub_layers) > 0 or not layer._parameters      # a container, or a layer that only computes


def _ordinary_conv(layer):
    return (layer.bias is None and layer._groups == 1
            and layer._padding_mode == 'zeros' and layer._data_format == 'NCHW'
            and layer._padding_algorithm == 'EXPLICIT' and len(layer._updated_padding) == 2
            and layer.weight.dtype == paddle.float32)


def _ordinary_norm(layer):
    return (layer.weight is not None and layer.bias is not None and layer._use_global_stats is None
            and layer._data_format == 'NCHW' and layer.weight.dtype == paddle.float32)


_KNOWN = {nn.Conv2D: _ordinary_conv, nn.BatchNorm2D: _ordinary_norm, nn.Linear: lambda layer: True}


def to_channels_last(x: paddle.Tensor, dtype: Any = paddle.float32) -> paddle.Tensor:
    """[N, C, H, W] -> [N, H, W, C] of this type, in which the layers then compute: float32 or bfloat16."""
    return _typed(_dense(x.transpose([0, 2, 3, 1])), dtype)


def from_channels_last(x: paddle.Tensor) -> paddle.Tensor:
    """[N, H, W, C] -> [N, C, H, W] in float32."""
    return _typed(x, paddle.float32).transpose([0, 3, 1, 2])


def conv(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    """What the Conv2D `layer` (without bias) makes of x [N, H, W, C]."""
    x = _dense(x)
    w = layer.weight
    kernel = onednn.convolution(_shape(x), tuple(w.shape), tuple(layer._stride), tuple(layer._updated_padding),
                                x.dtype, tuple(layer._dilation))
    if not paddle.is_grad_enabled():
        return kernel.forward(x, w)
    return _Convolution.apply(x, w, kernel)


def norm(layer: nn.BatchNorm2D, x: paddle.Tensor, relu: bool = False,
         add: Optional[paddle.Tensor] = None) -> paddle.Tensor:
    """What the BatchNorm2D `layer` makes of x [N, H, W, C], running statistics included.

    Args:
        relu: ReLU after it.
        add: [N, H, W, C] that is added before the ReLU.
    """
    x = _dense(x)
    given = not layer.training
    kernel = onednn.batch_norm(_shape(x), layer._epsilon, given, relu and add is None, x.dtype)
    if add is not None:
        add, join = _dense(add), onednn.add_relu(int(x.size), x.dtype)
    with paddle.no_grad():
        mean = layer._mean if given else paddle.empty_like(layer._mean)
        variance = layer._variance if given else paddle.empty_like(layer._variance)
    if not paddle.is_grad_enabled():
        assert layer.weight is not None and layer.bias is not None          # see _ordinary_norm
        y, _ = kernel.forward(x, layer.weight, layer.bias, mean, variance)
        if add is not None:
            join.forward_(y, add)
    elif add is None:
        y = _BatchNorm.apply(x, layer.weight, layer.bias, mean, variance, kernel)
    else:
        y = _BatchNormAddReLU.apply(x, layer.weight, layer.bias, mean, variance, add, kernel, join)
    if not given:
        with paddle.no_grad():
            for running, batch in ((layer._mean, mean), (layer._variance, variance)):
                running.scale_(layer._momentum)
                running.add_(batch * (1 - layer._momentum))
    return y


def max_pool(kernel_size: int, stride: int, padding: int, x: paddle.Tensor) -> paddle.Tensor:
    """Max pooling of x [N, H, W, C] with a square window."""
    x = _dense(x)
    kernel = onednn.max_pool(_shape(x), kernel_size, stride, padding, x.dtype)
    return _MaxPool.apply(x, kernel) if paddle.is_grad_enabled() else kernel.forward(x)[0]


def avg_pool(layer: nn.AvgPool2D, x: paddle.Tensor) -> paddle.Tensor:
    """What the AvgPool2D `layer` makes of x [N, H, W, C], by Paddle's own operator, which wants float32."""
    y = F.avg_pool2d(_typed(_dense(x), paddle.float32), layer.ksize, layer.stride, layer.padding,
                     ceil_mode=layer.ceil_mode, exclusive=layer.exclusive, divisor_override=layer.divisor,
                     data_format='NHWC')
    return _typed(y, x.dtype)


def fork(x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """(x, x) for two uses, whose gradients are added here if x is bfloat16: Paddle 2.6 cuts such a sum off."""
    return (x, x) if x.dtype == paddle.float32 or not paddle.is_grad_enabled() else _Fork.apply(x)


def _shape(x):
    """(N, C, H, W) of a channels-last x."""
    n, h, w, c = x.shape
    return n, c, h, w


def _dense(x):
    return x if x.is_contiguous() else x.contiguous()


def _typed(x, dtype):
    return x if x.dtype == dtype else _Cast.apply(_dense(x), dtype)


def _take(ctx):
    """What forward kept, given away: else it would live as long as the loss does."""
    kept, ctx.kept = ctx.kept, None
    return kept


class _Cast(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, dtype: Any) -> paddle.Tensor:
        ctx.back = onednn.cast(int(x.size), dtype, x.dtype)
        return onednn.cast(int(x.size), x.dtype, dtype).forward(x)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> paddle.Tensor:
        return ctx.back.forward(_dense(dy))


class _Fork(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        return x.view(x.shape), x.view(x.shape)         # an input itself may not be given back

    @staticmethod
    def backward(ctx: Any, da: paddle.Tensor, db: paddle.Tensor) -> paddle.Tensor:
        return onednn.add(int(da.size), da.dtype).forward(_dense(da), _dense(db))


class _Convolution(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, w: paddle.Tensor, kernel: onednn.Convolution) -> paddle.Tensor:
        ctx.kept, ctx.kernel = (x, w), kernel
        ctx.wanted = not x.stop_gradient, not w.stop_gradient
        return kernel.forward(x, w)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[Optional[paddle.Tensor], ...]:     # type: ignore[override]
        (x, w), dy = _take(ctx), _dense(dy)
        return (ctx.kernel.grad_x(w, dy) if ctx.wanted[0] else None,
                ctx.kernel.grad_w(x, dy) if ctx.wanted[1] else None)


class _BatchNorm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, gamma: paddle.Tensor, beta: paddle.Tensor, mean: paddle.Tensor,
                variance: paddle.Tensor, kernel: onednn.BatchNorm) -> paddle.Tensor:
        y, mask = kernel.forward(x, gamma, beta, mean, variance)
        ctx.kept, ctx.kernel = (x, gamma, mean, variance, mask), kernel
        ctx.wanted = [not t.stop_gradient for t in (x, gamma, beta)]
        return y

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[Optional[paddle.Tensor], ...]:     # type: ignore[override]
        grads = ctx.kernel.backward(*_take(ctx), _dense(dy))
        return (*[g if wanted else None for g, wanted in zip(grads, ctx.wanted)], None, None)


class _BatchNormAddReLU(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, gamma: paddle.Tensor, beta: paddle.Tensor, mean: paddle.Tensor,
                variance: paddle.Tensor, add: paddle.Tensor, kernel: onednn.BatchNorm,
                join: onednn.AddReLU) -> paddle.Tensor:
        y, _ = kernel.forward(x, gamma, beta, mean, variance)
        join.forward_(y, add)
        # the result without its graph: with it, graph and result would hold each other for ever
        ctx.kept, ctx.kernel, ctx.join = (x, gamma, mean, variance, y.detach()), kernel, join
        ctx.wanted = [not t.stop_gradient for t in (x, gamma, beta, add)]
        return y

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[Optional[paddle.Tensor], ...]:     # type: ignore[override]
        x, gamma, mean, variance, y = _take(ctx)
        dy = ctx.join.backward(y, _dense(dy))
        grads = ctx.kernel.backward(x, gamma, mean, variance, None, dy)
        dx, dgamma, dbeta, dadd = [g if wanted else None for g, wanted in zip((*grads, dy), ctx.wanted)]
        return dx, dgamma, dbeta, None, None, dadd


class _MaxPool(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, kernel: onednn.MaxPool) -> paddle.Tensor:
        y, winners = kernel.forward(x)
        ctx.kept, ctx.kernel = (winners,), kernel
        return y

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> paddle.Tensor:
        return ctx.kernel.backward(*_take(ctx), _dense(dy))
