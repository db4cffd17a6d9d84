"""Weights of whole ResNets with values that show every mistake: nothing is zero, one, or the same twice."""

import contextlib
import functools
import types

import numpy as np
import pytest
from paddle import nn
from paddle.vision.models import resnet as vision

from passl.modeling.backbones import ResNet, resnet_vd
from passl.transfer.weights import proof
from passl.utils.weights import names
from passl.utils.weights.names import Arch, shapes
from passl.utils.weights.checkpoint import save_file

R18, R50, R101, V18, V50 = Arch(18), Arch(50), Arch(101), Arch(18, True), Arch(50, True)


def state_of(arch, seed=0):
    """{our name: float32 array} of a backbone; the maps stay near 1 through all depths. A dict of one's own."""
    return dict(_state(arch, seed, shapes(arch)['bn1.weight']))


@functools.lru_cache(8)
def _state(arch, seed, width):
    rng, found = np.random.default_rng([seed, arch.depth, arch.vd]), {}
    last = f'bn{3 if arch.bottleneck else 2}.weight'
    for name, shape in shapes(arch).items():
        if len(shape) == 4:
            value = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:]))**0.5)
        elif name.endswith(('weight', '_variance')):
            value = rng.uniform(0.7, 1.3, shape) * (0.4 if name.endswith(last) else 1)
        else:
            value = rng.standard_normal(shape) * 0.1
        found[name] = value.astype(np.float32)
        found[name].setflags(write=False)
    return found


def small_images(monkeypatch, height=37, width=52):
    """Let the proof work on smaller images: tests need the comparison, not the margin."""
    monkeypatch.setattr(proof, 'SIZE', (height, width))


def narrow_networks(monkeypatch):
    """Every ResNet has an eighth of its channels: the same tensors by name, with a sixtieth of the numbers."""
    def narrow(*channels):
        return [c if c == 3 else c // 8 for c in channels]      # the image's three stay

    thin = types.SimpleNamespace(**{
        **vars(nn), 'Conv2D': lambda c_in, c_out, *more, **options: nn.Conv2D(*narrow(c_in, c_out), *more, **options),
        'BatchNorm2D': lambda channels: nn.BatchNorm2D(*narrow(channels))})
    wide = names.parts
    monkeypatch.setattr(names, 'parts', lambda arch: [
        p._replace(shape=(*narrow(*p.shape[:2]), *p.shape[2:])) for p in wide(arch)])
    for module in (vision, resnet_vd):
        monkeypatch.setattr(module, 'nn', thin)
    monkeypatch.setattr(ResNet, 'out_channels', property(lambda net: net.wide // 8,
                                                         lambda net, value: setattr(net, 'wide', value)), raising=False)
    small_images(monkeypatch)


@contextlib.contextmanager
def narrow():
    """`narrow_networks` in this context, for fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        narrow_networks(patch)
        yield


def save_checkpoint(path, arch, **more):
    """Write a checkpoint of DenseCL: query encoder (seed 0), ResNet-18's key encoder (seed 1), a neck, a queue."""
    full = {'queue': np.ones((2, 4), np.float32), 'encoder_q.1.mlp.0.weight': np.ones((2, 2), np.float32)}
    full.update({'encoder_q.0.' + k: v for k, v in state_of(arch).items()})
    if arch == R18:
        full.update({'encoder_k.0.' + k: v for k, v in state_of(arch, 1).items()})
    save_file({'epoch': 1, 'state_dict': full, **more}, path)
    return str(path)
