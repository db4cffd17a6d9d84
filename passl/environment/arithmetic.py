"""Versions, and the operators of a training computed on this device and held against numpy or float64.

Every check gives (state, words), see `passl.environment.words`.
"""

import os
from typing import Any, Optional
from numpy.typing import ArrayLike

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..modeling import build_backbone
from ..solver import build_optimizer
from ..utils.numerics import as_array
from .paddle_facts import capability, machine_code
from .words import NO, NOT_HERE, OK

TF32_FROM, FLOAT16_FROM, BFLOAT16_FROM = 80, 70, 80     # compute capabilities, times 10
# Deviations |got - wanted| / |wanted| that are right (in float32, with TF32's 10 bits of mantissa). Measured for the
# step: 4e-6 in float32, up to 8e-3 where rounding turns a ReLU; 0.09 - 0.11 with TF32 emulated in the convolutions.
OPERATOR, STEP = (2e-5, 2e-3), (3e-2, 0.35)


def gpu_code() -> Optional[int]:
    """Compute capability times 10 of the GPU in use, or None."""
    if not paddle.get_device().startswith('gpu'):
        return None
    p = paddle.device.cuda.get_device_properties(int(paddle.get_device().partition(':')[2] or 0))
    return 10 * p.major + p.minor


def tf32() -> set[str]:
    """{'convolutions', 'matrix products'} that run in TF32 on the device in use."""
    code = gpu_code()
    if code is None or code < TF32_FROM or os.environ.get('NVIDIA_TF32_OVERRIDE') == '0':
        return set()
    core = paddle.base.core
    switches = {'convolutions': 'get_cudnn_switch', 'matrix products': 'get_cublas_switch'}
    return {name for name, ask in switches.items() if getattr(core, ask, lambda: True)()}


def deviation(got: ArrayLike, wanted: ArrayLike) -> float:
    """|got - wanted| / |wanted| in float64; inf if anything is no number."""
    got, wanted = (np.asarray(x, 'float64') for x in (got, wanted))
    value = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    return float(value) if np.isfinite(value) else float('inf')


def judged(values: dict[str, float], limits: dict[str, float], what: str) -> tuple[str, str]:
    """(state, words) of deviations: {name: value} held against {name: largest that is right}."""
    text = ', '.join(f'{name} {value:.1e} (limit {limits[name]:.0e})' for name, value in values.items())
    if all(value <= limits[name] for name, value in values.items()):
        return OK, f'off by {text}'
    return NO, f'{what} is wrong here: off by {text}. Trainings on this device would be wrong: use another build of ' \
               'Paddle or another driver, and report this block.'


def versions() -> tuple[str, str]:
    """NumPy, Paddle and OpenCV exchange arrays. (That Paddle is new enough is asked before any check.)"""
    import cv2
    for kind in ('float32', 'float64', 'int64', 'uint8', 'bool'):
        array = np.arange(6).reshape(2, 3).astype(kind)
        if not np.array_equal(paddle.to_tensor(array).numpy(), array):
            return NO, (f'NumPy {np.__version__} and Paddle {paddle.__version__} do not exchange {kind} arrays: '
                        "pip install 'numpy<2'")
    image = np.arange(48, dtype='uint8').reshape(4, 4, 3)
    if not np.array_equal(cv2.flip(image, 1), image[:, ::-1]):
        return NO, f'OpenCV {cv2.__version__} and NumPy {np.__version__} do not fit: reinstall opencv-python'
    return OK, f'Paddle {paddle.__version__}, NumPy {np.__version__} and OpenCV {cv2.__version__} fit together'


def generation() -> tuple[str, str]:
    """The GPU's generation against the machine code in this build, and what it can compute in."""
    code, codes = gpu_code(), machine_code()
    if code is None:
        return NOT_HERE, f'the device is {paddle.get_device()}, no GPU'
    types = ', '.join([f"{name} {'yes' if code >= first else 'no'}" for name, first in
                       (('float16', FLOAT16_FROM), ('bfloat16', BFLOAT16_FROM))])
    text = f'compute capability {capability(code)}; mixed precision: {types}'
    # code for x.y runs on x.z, z >= y
    if codes and not any(c // 10 == code // 10 and c <= code for c in codes):
        return NO, (f"{text}; this Paddle {paddle.__version__} has machine code for "
                    f"{', '.join(map(capability, codes))} only: install a build for this GPU, see docs/INSTALL.md")
    return OK, text


def tf32_in_use() -> tuple[str, str]:
    """Which operators round their operands to TF32: an explanation, no fault."""
    if gpu_code() is None:
        return NOT_HERE, 'computes in float32 throughout'
    used = tf32()
    if not used:
        return OK, 'off: computes in float32 throughout'
    return OK, (f"on for {' and '.join(sorted(used))}: fast, with 10 bits of mantissa (relative error 5e-4 each); "
                'NVIDIA_TF32_OVERRIDE=0 in the environment turns it off')


def convolution() -> tuple[str, str]:
    """Value and both gradients of a strided 3 x 3 convolution."""
    rng = np.random.RandomState(0)
    x, w, dy = rng.randn(4, 16, 9, 9), rng.randn(24, 16, 3, 3), rng.randn(4, 24, 5, 5)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y, dw, dp = np.zeros(dy.shape), np.zeros(w.shape), np.zeros(padded.shape)
    for i in range(3):
        for j in range(3):
            window = (slice(None), slice(None), slice(i, i + 9, 2), slice(j, j + 9, 2))
            y += np.einsum('nchw,oc->nohw', padded[window], w[:, :, i, j])
            dw[:, :, i, j] = np.einsum('nchw,nohw->oc', padded[window], dy)
            dp[window] += np.einsum('nohw,oc->nchw', dy, w[:, :, i, j])
    tx, tw = (paddle.to_tensor(a.astype('float32'), stop_gradient=False) for a in (x, w))
    out = F.conv2d(tx, tw, stride=2, padding=1)
    out.backward(paddle.to_tensor(dy.astype('float32')))
    values = {'value': deviation(out.numpy(), y), 'gradients': max(deviation(as_array(tx.grad), dp[:, :, 1:-1, 1:-1]),
                                                                   deviation(as_array(tw.grad), dw))}
    return judged(values, dict.fromkeys(values, OPERATOR['convolutions' in tf32()]), 'the convolution')


def batch_norm() -> tuple[str, str]:
    """Value, gradients and running statistics of a batch norm."""
    rng = np.random.RandomState(0)
    x, dy = 3 * rng.randn(8, 6, 5, 5) + 2, rng.randn(8, 6, 5, 5)
    axes, n = (0, 2, 3), 8 * 25
    mean, var = x.mean(axes), x.var(axes)
    shape = (1, -1, 1, 1)
    scale = (1 / np.sqrt(var + 1e-5)).reshape(shape)
    unit = (x - mean.reshape(shape)) * scale
    dx = scale * (dy - dy.sum(axes, keepdims=True) / n - unit * (dy * unit).sum(axes, keepdims=True) / n)
    layer: Any = nn.BatchNorm2D(6)
    tx = paddle.to_tensor(x.astype('float32'), stop_gradient=False)
    out = layer(tx)
    out.backward(paddle.to_tensor(dy.astype('float32')))
    values = {'value': deviation(out.numpy(), unit),
              'gradients': max(deviation(as_array(tx.grad), dx), deviation(layer.bias.grad.numpy(), dy.sum(axes)),
                               deviation(layer.weight.grad.numpy(), (dy * unit).sum(axes))),
              'statistics': max(deviation(layer._mean.numpy(), 0.1 * mean), min(     # devices differ in the divisor
                  deviation(layer._variance.numpy(), 0.9 + 0.1 * v) for v in (var, var * n / (n - 1))))}
    return judged(values, dict.fromkeys(values, OPERATOR[0]), 'batch norm')


def step_of_resnet(kind: Any) -> tuple[float, np.ndarray]:
    """(loss, change of what trains as one vector) of a step of Momentum at ResNet-18 in `kind`, on 8 images of 64 px;
    always from the same start."""
    rng = np.random.RandomState(0)
    net = nn.Sequential(build_backbone({'name': 'ResNet', 'depth': 18}), nn.AdaptiveAvgPool2D(1), nn.Flatten(),
                        nn.Linear(512, 16))
    trained = [p for p in net.parameters() if not p.stop_gradient]
    for p in trained:
        if p.ndim > 1:
            p.set_value((rng.randn(*p.shape) * np.sqrt(2 / np.prod(p.shape[1:] if p.ndim == 4 else p.shape[:1])))
                        .astype('float32'))
    if kind != 'float32':
        net.to(dtype=kind)
    optimizer = build_optimizer({'name': 'Momentum', 'weight_decay': 1e-4}, 0.1, net)
    x, y = rng.randn(8, 3, 64, 64).astype(kind), rng.randint(0, 16, 8)
    before = [p.numpy().ravel() for p in trained]
    loss = F.cross_entropy(net(paddle.to_tensor(x)), paddle.to_tensor(y))
    loss.backward()
    optimizer.step()
    return float(loss), np.concatenate([p.numpy().ravel() for p in trained]) - np.concatenate(before)


def resnet_step() -> tuple[str, str]:
    """Forward, backward and Momentum of a ResNet-18 on this device, against float64 on the CPU."""
    device = paddle.get_device()
    loss, change = step_of_resnet('float32')
    paddle.set_device('cpu')
    try:
        wanted_loss, wanted = step_of_resnet('float64')
    finally:
        paddle.set_device(device)
    rough = bool(tf32())
    return judged({'loss': abs(loss - wanted_loss) / wanted_loss, 'change of the weights': deviation(change, wanted)},
                  {'loss': (1e-4, 1e-2)[rough], 'change of the weights': STEP[rough]}, 'a training step of ResNet-18')
