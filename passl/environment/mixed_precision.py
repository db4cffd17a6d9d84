"""Mixed precision with the project's own settings: one small network, a few steps."""

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..engine.amp import build_amp
from ..modules.cpu import bfloat16
from ..solver import build_optimizer
from ..solver.optimizer import load_optimizer_state, optimizer_state
from .arithmetic import deviation, step_of_resnet
from .words import NO, NOT_HERE, OK

NEAR, RESUMED = 0.03, 0.02      # relative: a loss in half precision to that in float32; two runs of the same step
NEAR_STEP = 0.6                 # a step of 8 images; measured: 0.35 (bfloat16), unrelated steps differ by 1.4

NOT_HALF = 'mixed precision is not on here, whatever is set: a convolution computes in float32. Set use_amp: false'


def batch(seed: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Images [16, 3, 32, 32] and labels [16]."""
    rng = np.random.RandomState(seed)
    return paddle.to_tensor(rng.randn(16, 3, 32, 32).astype('float32')), paddle.to_tensor(rng.randint(0, 8, 16))


class _Training:
    """A small network with what `AMP` asks for."""

    def __init__(self, level: str, dtype: str) -> None:
        cfg: dict[str, Any] = {'use_amp': True, 'AMP': {'level': level, 'dtype': dtype},
                               'optimizer': {'name': 'Momentum'}}
        self.dtype, (self.auto_cast, self.scaler, decorate) = dtype, build_amp(cfg)
        rng = np.random.RandomState(0)
        self.model = nn.Sequential(nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), nn.BatchNorm2D(8),
                                   nn.ReLU(), nn.Conv2D(8, 16, 3, stride=2, padding=1), nn.Flatten(),
                                   nn.Linear(16 * 64, 8))
        for p in self.model.parameters():
            if p.ndim > 1:
                p.set_value((rng.randn(*p.shape) / np.sqrt(np.prod(p.shape[1:] if p.ndim == 4 else p.shape[:1])))
                            .astype('float32'))
        self.optimizer = decorate(self.model, build_optimizer({**cfg['optimizer'], 'weight_decay': 1e-4}, 0.05,
                                                              self.model))

    def loss(self, seed: int) -> paddle.Tensor:
        """Loss of a batch, 0-D."""
        x, y = batch(seed)
        with self.auto_cast():
            out = self.model(x)
        return F.cross_entropy(out.astype('float32'), y)

    def is_half(self) -> bool:
        """Whether a convolution computes in the type that was asked for. (Of one without bias: where a bias is added,
        Paddle may go back to float32.)"""
        with self.auto_cast(), paddle.no_grad():
            return self.model[0](batch(0)[0]).dtype == getattr(paddle, self.dtype)

    def step(self, seed: int, times: float = 1.0) -> float:
        loss = self.loss(seed)
        self.scaler.scale(loss * times).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad(set_to_zero=False)
        return float(loss)

    def weights(self) -> np.ndarray:
        """All weights in float32, one vector: the masters where there are some."""
        masters = optimizer_state(self.optimizer, self.model)['master_weights']
        parts = [masters[n] if n in masters else p.astype('float32').numpy()
                 for n, p in self.model.named_parameters() if not p.stop_gradient]
        return np.concatenate([np.asarray(p, 'float64').ravel() for p in parts])


def under_o1(dtype: str) -> tuple[str, str]:
    """Steps under O1; in float16 one whose gradients overflow, which must be skipped."""
    run = _Training('O1', dtype)
    with paddle.no_grad():
        loss = run.loss(0)
        x, y = batch(0)
        wanted = F.cross_entropy(run.model(x), y)
    if not run.is_half():
        return NO, NOT_HALF
    if not abs(float(loss) - float(wanted)) <= NEAR * float(wanted):
        return NO, f'the loss is {float(loss):.4f}, in float32 {float(wanted):.4f}: use_amp: false'
    start = run.weights()
    run.step(0)
    first = run.weights()
    if not np.isfinite(first).all() or (first == start).all():
        return NO, 'the first step does not move the weights: use_amp: false'
    if dtype == 'float16':
        run.step(1, times=1e38)
        if not (run.weights() == first).all():
            return NO, 'a step whose gradients overflow changes the weights: use AMP.dtype: bfloat16 or use_amp: false'
    run.step(2)
    if not np.isfinite(run.weights()).all() or (run.weights() == first).all():
        return NO, 'the steps do not go on after the first: use_amp: false'
    return OK, 'steps move the weights' + ('; one with a forced overflow is skipped' if dtype == 'float16' else '')


def under_o2(dtype: str) -> tuple[str, str]:
    """A step under O2, the optimizer's state into a new one, and the next step on both."""
    first, second = _Training('O2', dtype), _Training('O2', dtype)
    if not first.is_half():
        return NO, NOT_HALF
    first.step(0)
    middle = first.weights()
    second.model.set_state_dict(first.model.state_dict())
    load_optimizer_state(second.optimizer, second.model, optimizer_state(first.optimizer, first.model))
    if first.scaler.is_enable():
        second.scaler.load_state_dict(first.scaler.state_dict())
    for run in (first, second):
        run.step(1)
    moved = first.weights() - middle
    if not moved.any():
        return NO, 'the second step does not move the weights: use AMP.level: O1'
    off = deviation(second.weights() - middle, moved)
    if not off <= RESUMED:
        return NO, f'after a resume the next step is off by {off:.1e} of its length: use AMP.level: O1'
    return OK, f'the step after a resume is that of the run that went on (off by {off:.1e}, limit {RESUMED:.0e})'


def on_cpu() -> tuple[str, str]:
    """A step of ResNet-18 in bfloat16 on this CPU, against float32."""
    why_not = bfloat16.why_not()
    if why_not:
        return NOT_HERE, f'use_amp: true trains in float32 here: {why_not}'
    wanted_loss, wanted = step_of_resnet('float32')
    with bfloat16.used():
        loss, change = step_of_resnet('float32')
    values = {'loss': abs(loss - wanted_loss) / wanted_loss, 'change of the weights': deviation(change, wanted)}
    if loss == wanted_loss:
        return NO, NOT_HALF
    if not (values['loss'] <= NEAR and values['change of the weights'] <= NEAR_STEP):
        return NO, f'a step of ResNet-18 is off by {values}: use_amp: false'
    return OK, ('AMP.dtype: bfloat16 computes ResNets in it, off float32 by '
                + ', '.join(f'{name} {value:.1e}' for name, value in values.items()))
