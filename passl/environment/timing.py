"""What an accelerator's steps take, and whether the host waits where it need not."""

import time

import numpy as np
import paddle

from ..modeling import build_model
from ..solver import build_optimizer
from .words import NOT_HERE, OK

SIDE, COVER = 2048, 0.1         # side of a matrix product that keeps the device busy, for so many seconds
SLOW = 5.0                      # seconds: a step that takes longer is not repeated


def synchronize() -> None:
    """Wait for the device."""
    paddle.zeros([1]).numpy()
    if paddle.get_device().startswith('gpu'):
        paddle.device.cuda.synchronize()


def copies() -> tuple[str, str]:
    """Does the host wait when it hands a small array to a device that is busy?"""
    a, small = paddle.ones([SIDE, SIDE]), np.arange(64)
    a.matmul(a)
    synchronize()
    start = time.perf_counter()
    a.matmul(a)
    synchronize()
    repeats = max(1, min(500, int(COVER / (time.perf_counter() - start))))
    start = time.perf_counter()
    for _ in range(repeats):
        product = a.matmul(a)
    given = time.perf_counter()
    paddle.to_tensor(small)
    copied = time.perf_counter()
    synchronize()
    end = time.perf_counter()
    del product
    busy = end - given
    if busy < 0.3 * (end - start):
        return NOT_HERE, 'not measured: the host gives work no faster than this device does it'
    share = (copied - given) / busy
    words = f'a copy of 512 bytes behind {1e3 * busy:.0f} ms of work took the host {1e3 * (copied - given):.1f} ms'
    return OK, words + (': it waits for the device (this costs speed only)' if share > 0.5 else ': it does not wait')


def speed(method: str, depth: int = 50, side: int = 224, images: int = 32, keys: int = 65536,
          steps: int = 8) -> tuple[str, str]:
    """Steps per second of a method on random images that lie on the device: the loader is left out."""
    width = 512 if depth < 50 else 2048
    neck = {'DenseCL': 'DenseCLNeck', 'MoCo': 'NonLinearNeckV1'}[method]
    model = build_model({'name': method, 'K': keys, 'backbone': {'name': 'ResNet', 'depth': depth},
                         'neck': {'name': neck, 'in_channels': width, 'hid_channels': width, 'out_channels': 128},
                         'head': {'name': 'ContrastiveHead', 'temperature': 0.2}})
    optimizer = build_optimizer({'name': 'Momentum', 'weight_decay': 1e-4}, 0.03, model)
    views = [paddle.randn([images, 3, side, side]) for _ in range(2)]
    model.with_metrics = False

    def step():
        model.update_key_encoder()
        out = model(*views, mode='train')
        out['loss'].backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        model.flush_queues()
        model.step += 1
    for _ in range(3):
        start = time.perf_counter()
        step()
        synchronize()
        if time.perf_counter() - start > SLOW:
            return NOT_HERE, f'not measured: the first step took {time.perf_counter() - start:.0f} s'
    start = time.perf_counter()
    for _ in range(steps):
        step()
    host = time.perf_counter() - start
    synchronize()
    whole = time.perf_counter() - start
    return OK, (f'{steps / whole:.2f} steps/s ({images * steps / whole:.0f} images/s; ResNet-{depth}, {side} px, '
                f'{images} images, float32); of {1e3 * whole / steps:.0f} ms per step the host is busy or waiting '
                f'{1e3 * host / steps:.0f} ms')
