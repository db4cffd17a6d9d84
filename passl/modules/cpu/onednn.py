"""The oneDNN library inside Paddle's wheels: convolution, batch norm and max pooling of channels-last CPU tensors.

Paddle's own CPU convolution unfolds every sample and multiplies it alone; oneDNN has kernels for the
processor at hand, which it finds out itself, so that it uses no instruction that the processor lacks.
Only the stable C interface of oneDNN 3 is used, and dense layouts are described by their strides. Tensors are float32
or bfloat16; weights, their gradients and statistics float32.

Everything here works on addresses; `passl.modules.cpu.channels_last` is the differentiable side of it.
"""

import ctypes
import functools
import math
import os
import threading
from typing import Any, Optional, Sequence

import paddle

ANY, FORWARD, INFERENCE, BACKWARD = 1, 64, 96, 128          # layout of the library's choice; kinds of pass
TYPES = {paddle.bfloat16: 2, paddle.float32: 3}
DIRECT, MAX, ADD = 1, 0x1ff, 0x1fff0                        # algorithms of convolution, pooling, binary
RELU_FORWARD, EXP, RELU_OF_RESULT = 0x20, 0x2a, 0x100       # algorithms of elementwise; backward from the result
GLOBAL_STATS, SCALE, SHIFT, RELU = 1, 2, 4, 8               # flags of batch norm
Q_WEIGHTS, Q_DIFF_WEIGHTS, Q_WORKSPACE = 131, 132, 135      # what can be asked of a primitive
SRC, DST, WEIGHTS, MEAN, VARIANCE, GAMMA, BETA, WORKSPACE = 1, 17, 33, 49, 50, 51, 52, 64       # arguments
SRC_1, D_SRC, D_DST, D_WEIGHTS, D_GAMMA, D_BETA = 2, 129, 145, 161, 255, 256
NHWC, OIHW, VECTOR = (0, 2, 3, 1), (0, 1, 2, 3), (0,)       # order of the axes in memory
CACHED = 1024                                               # primitives kept; a ResNet-50 has about 150

_lock = threading.Lock()        # a primitive's memory objects are shared by its calls


class OneDNNError(RuntimeError):
    """The library cannot be used, or refused a call."""


class _Version(ctypes.Structure):
    _fields_ = [('major', ctypes.c_int), ('minor', ctypes.c_int), ('patch', ctypes.c_int)]


class _Argument(ctypes.Structure):
    _fields_ = [('index', ctypes.c_int), ('memory', ctypes.c_void_p)]


class _Library:
    """The loaded library with one engine and one stream."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        self.c.dnnl_version.restype = ctypes.POINTER(_Version)
        self.c.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        self.c.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        v = self.c.dnnl_version().contents
        self.version = f'{v.major}.{v.minor}.{v.patch}'
        if v.major != 3:
            raise OneDNNError(f'oneDNN is {self.version}; version 3 is needed')
        self.engine, self.stream = ctypes.c_void_p(), ctypes.c_void_p()
        self.call('engine_create', ctypes.byref(self.engine), 1, ctypes.c_size_t(0))
        self.call('stream_create', ctypes.byref(self.stream), self.engine, 1)

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self.c, 'dnnl_' + name)(*args)
        if status != 0:
            raise OneDNNError(f'oneDNN {self.version}: {name} gave status {status}')

    def instructions(self) -> int:
        """Bits of `dnnl_cpu_isa_t`: what processor and system offer, less what ONEDNN_MAX_CPU_ISA takes away."""
        return self.c.dnnl_get_effective_cpu_isa()

    def made(self, name: str, *args: Any) -> ctypes.c_void_p:
        """The handle that `name` writes through its first argument."""
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle), *args)
        return handle


@functools.lru_cache(None)
def library() -> _Library:
    """The library of the installed Paddle. OSError: there is none; OneDNNError: it cannot be used."""
    return _Library(os.path.join(os.path.dirname(paddle.__file__), 'libs', 'libdnnl.so.3'))


def _dims(values):
    return (ctypes.c_int64 * 12)(*values)


@functools.lru_cache(CACHED)
def _described(shape, order, dtype=paddle.float32):
    """Descriptor of a tensor [shape] of this type whose axes lie in memory in this order; None: as the library likes.
    Never destroyed while it can be in use: a few hundred bytes each, as many as there are shapes."""
    lib = library()
    if order is None:
        return lib.made('memory_desc_create_with_tag', len(shape), _dims(shape), TYPES[dtype], ANY)
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis], step = step, step * shape[axis]
    return lib.made('memory_desc_create_with_strides', len(shape), _dims(shape), TYPES[dtype], _dims(strides))


class _Primitive:
    """One computation and the memory objects of its arguments.

    Args:
        kind: name of the C function that describes it; args: that function's arguments after the handle.
    """

    def __init__(self, kind: str, *args: Any) -> None:
        self.lib = library()
        self.memory: dict[int, ctypes.c_void_p] = {}
        self.descriptor = self.lib.made(kind + '_primitive_desc_create', *args)
        self.handle = self.lib.made('primitive_create', self.descriptor)

    def bind(self, arguments: dict[int, ctypes.c_void_p]) -> '_Primitive':
        """Describe the arguments by {index: descriptor}."""
        self.memory = {k: self.lib.made('memory_create', d, self.lib.engine, None) for k, d in arguments.items()}
        self.arguments = (_Argument * len(self.memory))(*[_Argument(k, m.value) for k, m in self.memory.items()])
        return self

    def queried(self, what: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.lib.c.dnnl_primitive_desc_query_md(self.descriptor, what, 0))

    def run(self, tensors: dict[int, paddle.Tensor]) -> None:
        """Compute with {index: dense Tensor}."""
        with _lock:
            for k, tensor in tensors.items():
                self.lib.call('memory_set_data_handle', self.memory[k], ctypes.c_void_p(tensor.data_ptr()))
            self.lib.call('primitive_execute', self.handle, self.lib.stream, len(self.arguments), self.arguments)

    def __del__(self):
        for memory in self.memory.values():
            self.lib.c.dnnl_memory_destroy(memory)
        if hasattr(self, 'handle'):
            self.lib.c.dnnl_primitive_destroy(self.handle)
            self.lib.c.dnnl_primitive_desc_destroy(self.descriptor)


def _buffer(lib, descriptor):
    """An uninitialised Tensor of the descriptor's size."""
    return paddle.empty([(lib.c.dnnl_memory_desc_get_size(descriptor) + 3) // 4], 'float32')


_Reorder = tuple[Optional[_Primitive], ctypes.c_void_p]         # primitive, None if there is nothing to do; its target


def _reorder(source, target):
    engine = library().engine
    return _Primitive('reorder', source, engine, target, engine, None).bind({SRC: source, DST: target})


class Convolution:
    """Convolution of one shape, without bias, in the three forms that training needs.

    Args:
        x, w: shapes (N, C, H, W) and (O, C, k_h, k_w); stride, pad, dilation: two numbers each.
        dtype: of the tensors [N, H, W, C]. Weights [O, C, k_h, k_w] and their gradients are float32 in any case.
    """

    def __init__(self, x: tuple[int, ...], w: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...],
                 dtype: Any, dilation: tuple[int, ...] = (1, 1)) -> None:
        self.lib = lib = library()
        self.dtype = dtype
        size = [(x[2 + i] + 2 * pad[i] - dilation[i] * (w[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
        self.out, self.x_shape, self.w_shape = [x[0], *size, w[0]], [x[0], x[2], x[3], x[1]], list(w)
        self.x, self.y = _described(x, NHWC, dtype), _described((x[0], w[0], *size), NHWC, dtype)
        self.plain, self.free, self.diff = _described(w, OIHW), _described(w, None, dtype), _described(w, None)
        self.stride, self.pad = stride, pad
        self.window = (_dims(stride), _dims([d - 1 for d in dilation]), _dims(pad), _dims(pad))
        # where the weights outweigh small maps, oneDNN's own gradient in bfloat16 takes three to five times as long
        self.swap = (dtype == paddle.bfloat16 and size[0] * size[1] <= 16 and w[2] * w[3] > 1
                     and math.prod(w) > math.prod(x) and tuple(dilation) == (1, 1))
        self.fwd = _Primitive('convolution_forward', lib.engine, FORWARD, DIRECT, self.x, self.free, None, self.y,
                              *self.window, None)
        inner = self.fwd.queried(Q_WEIGHTS)
        self.fwd.bind({SRC: self.x, WEIGHTS: inner, DST: self.y})
        self.pack = self._reorder(self.plain, inner)

    def _reorder(self, source, target):
        """(primitive or None if both are alike, target)."""
        return None if self.lib.c.dnnl_memory_desc_equal(source, target) else _reorder(source, target), target

    @functools.cached_property
    def bwd_data(self) -> tuple[_Primitive, _Reorder]:
        p = _Primitive('convolution_backward_data', self.lib.engine, DIRECT, self.x, self.free, self.y, *self.window,
                       self.fwd.descriptor, None)
        inner = p.queried(Q_WEIGHTS)
        return p.bind({D_SRC: self.x, WEIGHTS: inner, D_DST: self.y}), self._reorder(self.plain, inner)

    @functools.cached_property
    def swapped(self) -> '_SwappedConvolution':
        return _SwappedConvolution(self.x_shape, self.w_shape, self.out, self.stride, self.pad, self.dtype)

    @functools.cached_property
    def bwd_weights(self) -> tuple[_Primitive, _Reorder, ctypes.c_void_p]:
        p = _Primitive('convolution_backward_weights', self.lib.engine, DIRECT, self.x, self.diff, None, self.y,
                       *self.window, self.fwd.descriptor, None)
        inner = p.queried(Q_DIFF_WEIGHTS)
        return p.bind({SRC: self.x, D_WEIGHTS: inner, D_DST: self.y}), self._reorder(inner, self.plain), inner

    def _packed(self, w, pack):
        primitive, inner = pack
        if primitive is None:
            return w
        packed = _buffer(self.lib, inner)
        primitive.run({SRC: w, DST: packed})
        return packed

    def forward(self, x: paddle.Tensor, w: paddle.Tensor) -> paddle.Tensor:
        y = paddle.empty(self.out, self.dtype)
        self.fwd.run({SRC: x, WEIGHTS: self._packed(w, self.pack), DST: y})
        return y

    def grad_x(self, w: paddle.Tensor, dy: paddle.Tensor) -> paddle.Tensor:
        primitive, pack = self.bwd_data
        dx = paddle.empty(self.x_shape, self.dtype)
        primitive.run({D_SRC: dx, WEIGHTS: self._packed(w, pack), D_DST: dy})
        return dx

    def grad_w(self, x: paddle.Tensor, dy: paddle.Tensor) -> paddle.Tensor:
        if self.swap:
            return self.swapped.grad_w(x, dy)
        primitive, (unpack, _), inner = self.bwd_weights
        dw = paddle.empty(self.w_shape, 'float32')
        packed = dw if unpack is None else _buffer(self.lib, inner)
        primitive.run({SRC: x, D_WEIGHTS: packed, D_DST: dy})
        if unpack is not None:
            unpack.run({SRC: packed, DST: dw})
        return dw


class _SwappedConvolution:
    """The gradient of a convolution's weights as a convolution: of x, whose channels are the samples and whose samples
    are the channels, with dy as the weights, a stride apart, to [C, k_h, k_w, O]."""

    def __init__(self, x: Sequence[int], w: Sequence[int], y: Sequence[int], stride: Sequence[int], pad: Sequence[int],
                 dtype: Any) -> None:
        (n, h, w_, c), (o, _, *k), (_, *size, _) = x, w, y
        self.lib, self.dtype = library(), dtype
        self.w_shape, self.x_shape, self.out = w, [c, h, w_, n], [c, *k, o]
        src, dst = _described((c, n, h, w_), NHWC, dtype), _described((c, o, *k), NHWC)
        end = [k[i] + (size[i] - 1) * stride[i] - s - pad[i] for i, s in enumerate((h, w_))]
        self.conv = _Primitive('convolution_forward', self.lib.engine, INFERENCE, DIRECT, src,
                               _described((o, n, *size), None, dtype), None, dst, _dims([1, 1]),
                               _dims([s - 1 for s in stride]), _dims(pad), _dims(end), None)
        self.inner = self.conv.queried(Q_WEIGHTS)
        self.conv.bind({SRC: src, WEIGHTS: self.inner, DST: dst})
        self.turn_x = _reorder(_described((c, n, h, w_), (1, 2, 3, 0), dtype), src)
        self.turn_dy = _reorder(_described((o, n, *size), (1, 2, 3, 0), dtype), self.inner)
        self.turn_dw = _reorder(dst, _described((c, o, *k), (1, 0, 2, 3)))

    def grad_w(self, x: paddle.Tensor, dy: paddle.Tensor) -> paddle.Tensor:
        turned, weights = paddle.empty(self.x_shape, self.dtype), _buffer(self.lib, self.inner)
        out, dw = paddle.empty(self.out, 'float32'), paddle.empty(self.w_shape, 'float32')
        self.turn_x.run({SRC: x, DST: turned})
        self.turn_dy.run({SRC: dy, DST: weights})
        self.conv.run({SRC: turned, WEIGHTS: weights, DST: out})
        self.turn_dw.run({SRC: out, DST: dw})
        return dw


class BatchNorm:
    """Batch norm of one shape (N, C, H, W), with the batch's statistics or given ones, and with or without ReLU."""

    def __init__(self, x: tuple[int, ...], epsilon: float, given: bool, relu: bool, dtype: Any) -> None:
        self.lib = lib = library()
        self.dtype = dtype
        self.shape, self.channels, self.relu = [x[0], x[2], x[3], x[1]], x[1], relu
        self.x, self.c = _described(x, NHWC, dtype), _described((x[1],), VECTOR)
        self.epsilon = ctypes.c_float(epsilon)
        self.flags = SCALE | SHIFT | (GLOBAL_STATS if given else 0) | (RELU if relu else 0)
        self.fwd = _Primitive('batch_normalization_forward', lib.engine, FORWARD, self.x, self.x, self.epsilon,
                              self.flags, None)
        self.mask = self.fwd.queried(Q_WORKSPACE)           # where ReLU let through
        self.shared = {SRC: self.x, MEAN: self.c, VARIANCE: self.c, GAMMA: self.c}
        if relu:
            self.shared[WORKSPACE] = self.mask
        self.fwd.bind({**self.shared, DST: self.x, BETA: self.c})

    @functools.cached_property
    def bwd(self) -> _Primitive:
        p = _Primitive('batch_normalization_backward', self.lib.engine, BACKWARD, self.x, self.x, self.x, self.epsilon,
                       self.flags, self.fwd.descriptor, None)
        return p.bind({**self.shared, D_DST: self.x, D_SRC: self.x, D_GAMMA: self.c, D_BETA: self.c})

    def forward(self, x: paddle.Tensor, gamma: paddle.Tensor, beta: paddle.Tensor, mean: paddle.Tensor,
                variance: paddle.Tensor) -> tuple[paddle.Tensor, Optional[paddle.Tensor]]:
        """(y, mask or None); `mean` and `variance` are read if they are given ones, else written."""
        y = paddle.empty(self.shape, self.dtype)
        mask = _buffer(self.lib, self.mask) if self.relu else None
        tensors = {SRC: x, GAMMA: gamma, BETA: beta, MEAN: mean, VARIANCE: variance, DST: y}
        self.fwd.run(tensors if mask is None else {**tensors, WORKSPACE: mask})
        return y, mask

    def backward(self, x: paddle.Tensor, gamma: paddle.Tensor, mean: paddle.Tensor, variance: paddle.Tensor,
                 mask: Optional[paddle.Tensor],
                 dy: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """(dx, dgamma, dbeta)."""
        dx = paddle.empty(self.shape, self.dtype)
        dgamma, dbeta = paddle.empty([self.channels], 'float32'), paddle.empty([self.channels], 'float32')
        tensors = {SRC: x, GAMMA: gamma, MEAN: mean, VARIANCE: variance, D_DST: dy, D_SRC: dx, D_GAMMA: dgamma,
                   D_BETA: dbeta}
        self.bwd.run(tensors if mask is None else {**tensors, WORKSPACE: mask})
        return dx, dgamma, dbeta


class MaxPool:
    """Max pooling of one shape (N, C, H, W) with a k x k window; `winners` remembers what was the largest."""

    def __init__(self, x: tuple[int, ...], kernel: int, stride: int, pad: int, dtype: Any) -> None:
        self.lib = lib = library()
        self.dtype = dtype
        size = [(s + 2 * pad - kernel) // stride + 1 for s in x[2:]]
        over = [max(0, (o - 1) * stride + kernel - s - pad) for o, s in zip(size, x[2:])]
        self.out, self.x_shape = [x[0], *size, x[1]], [x[0], x[2], x[3], x[1]]
        self.x, self.y = _described(x, NHWC, dtype), _described((x[0], x[1], *size), NHWC, dtype)
        self.window = (_dims([stride] * 2), _dims([kernel] * 2), _dims([0, 0]), _dims([pad] * 2), _dims(over))
        self.fwd = _Primitive('pooling_forward', lib.engine, FORWARD, MAX, self.x, self.y, *self.window, None)
        self.winners = self.fwd.queried(Q_WORKSPACE)
        self.fwd.bind({SRC: self.x, DST: self.y, WORKSPACE: self.winners})

    @functools.cached_property
    def bwd(self) -> _Primitive:
        p = _Primitive('pooling_backward', self.lib.engine, MAX, self.x, self.y, *self.window, self.fwd.descriptor,
                       None)
        return p.bind({D_DST: self.y, D_SRC: self.x, WORKSPACE: self.winners})

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        y, winners = paddle.empty(self.out, self.dtype), _buffer(self.lib, self.winners)
        self.fwd.run({SRC: x, DST: y, WORKSPACE: winners})
        return y, winners

    def backward(self, winners: paddle.Tensor, dy: paddle.Tensor) -> paddle.Tensor:
        dx = paddle.empty(self.x_shape, self.dtype)
        self.bwd.run({D_DST: dy, D_SRC: dx, WORKSPACE: winners})
        return dx


class AddReLU:
    """max(x + y, 0) of one shape [n], and what its gradient lets through."""

    def __init__(self, n: int, dtype: Any) -> None:
        lib, self.dtype = library(), dtype
        d = _described((n,), VECTOR, dtype)
        relu, attributes = lib.made('post_ops_create'), lib.made('primitive_attr_create')
        zero = ctypes.c_float(0)
        lib.call('post_ops_append_eltwise', relu, RELU_FORWARD, zero, zero)
        lib.call('primitive_attr_set_post_ops', attributes, relu)
        self.fwd = _Primitive('binary', lib.engine, ADD, d, d, d, attributes).bind({SRC: d, SRC_1: d, DST: d})
        lib.call('primitive_attr_destroy', attributes)
        lib.call('post_ops_destroy', relu)
        hint = _Primitive('eltwise_forward', lib.engine, FORWARD, RELU_OF_RESULT, d, d, zero, zero, None)
        self.bwd = _Primitive('eltwise_backward', lib.engine, RELU_OF_RESULT, d, d, d, zero, zero, hint.descriptor,
                              None).bind({DST: d, D_DST: d, D_SRC: d})

    def forward_(self, x: paddle.Tensor, y: paddle.Tensor) -> None:
        """Write the result over x."""
        self.fwd.run({SRC: x, SRC_1: y, DST: x})

    def backward(self, result: paddle.Tensor, d: paddle.Tensor) -> paddle.Tensor:
        dx = paddle.empty(d.shape, self.dtype)
        self.bwd.run({DST: result, D_DST: d, D_SRC: dx})
        return dx


class Add:
    """x + y of one shape [n]."""

    def __init__(self, n: int, dtype: Any) -> None:
        d, self.dtype = _described((n,), VECTOR, dtype), dtype
        self.primitive = _Primitive('binary', library().engine, ADD, d, d, d, None).bind({SRC: d, SRC_1: d, DST: d})

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        out = paddle.empty(x.shape, self.dtype)
        self.primitive.run({SRC: x, SRC_1: y, DST: out})
        return out


class Cast:
    """n numbers of one type in another, to the nearest (Paddle 2.6 cuts off)."""

    def __init__(self, n: int, source: Any, target: Any) -> None:
        self.dtype = target
        self.primitive = _reorder(_described((n,), VECTOR, source), _described((n,), VECTOR, target))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = paddle.empty(x.shape, self.dtype)
        self.primitive.run({SRC: x, DST: out})
        return out


class Exp:
    """exp of n numbers, in place, to 2e-7 relative."""

    def __init__(self, n: int) -> None:
        d, zero = _described((n,), VECTOR), ctypes.c_float(0)
        self.primitive = _Primitive('eltwise_forward', library().engine, FORWARD, EXP, d, d, zero, zero,
                                    None).bind({SRC: d, DST: d})

    def forward_(self, x: paddle.Tensor) -> None:
        self.primitive.run({SRC: x, DST: x})


exp = functools.lru_cache(CACHED)(Exp)
add = functools.lru_cache(CACHED)(Add)
cast = functools.lru_cache(CACHED)(Cast)
add_relu = functools.lru_cache(CACHED)(AddReLU)
convolution = functools.lru_cache(CACHED)(Convolution)
batch_norm = functools.lru_cache(CACHED)(BatchNorm)
max_pool = functools.lru_cache(CACHED)(MaxPool)
