"""Exponential moving average of one network's weights in another (MoCo, section 3.2)."""

import copy
import functools
import logging
from typing import Iterable, Optional

import numpy as np
import paddle


def trainable_pairs(source: paddle.nn.Layer, target: paddle.nn.Layer) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
    """[(parameter of `source`, parameter of `target`)] for every parameter that trains in `source`.

    Paddle keeps BN's running statistics among the parameters (as not trainable): they are left
    out, because the target network measures its own.
    """
    theirs = dict(target.named_parameters())
    return [(p, theirs[name]) for name, p in source.named_parameters() if not p.stop_gradient]


@paddle.no_grad()
def ema_update_(pairs: Iterable[tuple[paddle.Tensor, paddle.Tensor]], m: float) -> None:
    """k <- m k + (1 - m) q, in place, for every (q, k) of `pairs`.

    Args:
        pairs: list of (query tensor, key tensor) of equal shape.
        m: momentum, 0 .. 1.
    """
    for q, k in pairs:
        k.scale_(m)
        k.add_((q if q.dtype == k.dtype else q.astype(k.dtype)) * (1.0 - m))


def _fused_update_(queries, keys, scratch, m):
    """As `ema_update_`, of lists of tensors of one type, in one call: an Adam step of many parameters.

    Its first moment, m1 <- beta1 m1 + (1 - beta1) gradient, is the key. The parameters and second moments that it
    also writes (at a rate of 0) are `scratch`: (parameters, second moments, rate, power of a beta), see `_scratch`.
    """
    parameters, moments, rate, power = scratch
    n = len(keys)
    more = ([None], [False]) if paddle.__version__ >= '3' else ([], [])         # AMSGrad's, since Paddle 3
    paddle._C_ops.merged_adam_(parameters, queries, [rate] * n, keys, moments, *more[0], [power] * n, [power] * n, None,
                               float(m), 0.5, 1.0, False, True, *more[1])


def _scratch(keys):
    """What `_fused_update_` writes beside the keys: all parameters use the same memory, one after the other."""
    memory = [paddle.zeros([max(int(np.prod(k.shape)) for k in keys)], dtype=keys[0].dtype) for _ in range(2)]
    parameters, moments = ([whole._slice(0, int(np.prod(k.shape))) for k in keys] for whole in memory)
    return parameters, moments, paddle.zeros([1]), paddle.full([1], 0.5)


@functools.lru_cache(None)
@paddle.no_grad()
def _fused_works():
    """Whether this Paddle's call does what `_fused_update_` needs: it is not part of the public interface."""
    queries, keys = ([paddle.full([3], v), paddle.full([2, 2], 2 * v)] for v in (1.0, 5.0))
    try:
        _fused_update_(queries, keys, _scratch(keys), 0.75)
        return all(float((k - want).abs().max()) < 1e-6 for k, want in zip(keys, (4.0, 8.0)))
    except Exception as e:      # another signature, no such kernel on this device: then parameter by parameter
        logging.getLogger('passl').debug('The momentum update goes parameter by parameter: %s', e)
        return False


class WeightAverage:
    """`target`'s trained weights follow those of `source`: k <- m k + (1 - m) q, in one call for all of them.

    (One buffer for all weights with the parameters as its slices would do it too, but Paddle copies the whole
    buffer whenever one of its slices is read, as in saving.)

    Args:
        source, target: layers whose parameters have equal names and shapes.
    """

    def __init__(self, source: paddle.nn.Layer, target: paddle.nn.Layer) -> None:
        self.source, self.target = source, target
        _fused_works()              # here, and not in a step: it reads from the device
        self._everything: Optional[list[paddle.Tensor]] = None
        self._arranged_for: Optional[list[tuple[bool, paddle.dtype]]] = None
        self._fused: Optional[tuple[list[paddle.Tensor], list[paddle.Tensor], tuple]] = None
        self._single: list[tuple[paddle.Tensor, paddle.Tensor]] = []

    def __deepcopy__(self, memo):
        return type(self)(copy.deepcopy(self.source, memo), copy.deepcopy(self.target, memo))

    @paddle.no_grad()
    def update(self, m: float) -> None:
        """One step of the average with momentum m, 0 .. 1."""
        if self._everything is None:
            self._everything = self.source.parameters() + self.target.parameters()
        state = [(p.stop_gradient, p.dtype) for p in self._everything]         # freezing and amp.decorate change it
        if state != self._arranged_for:
            self._arrange()
            self._arranged_for = state
        if self._fused:
            _fused_update_(*self._fused, m)
        ema_update_(self._single, m)

    def _arrange(self):
        pairs = trainable_pairs(self.source, self.target)
        fused = [pair for pair in pairs if all(p.dtype == paddle.float32 for p in pair)] if _fused_works() else []
        chosen = {id(k) for _, k in fused}
        self._single = [(q, k) for q, k in pairs if id(k) not in chosen]
        queries, keys = [q for q, _ in fused], [k for _, k in fused]
        self._fused = (queries, keys, _scratch(keys)) if keys else None
