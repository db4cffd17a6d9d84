"""Values that are no numbers: finding, counting and naming them. Needs no Paddle itself: it works on its tensors."""

import functools
from typing import TYPE_CHECKING, Any, Iterable, Sequence

import numpy as np

if TYPE_CHECKING:
    import paddle


def as_array(value: Any) -> np.ndarray:
    """A tensor or array as numpy, half precision as float32 (numpy has no bfloat16)."""
    if hasattr(value, 'numpy'):
        value = value.detach()
        value = (value.astype('float32') if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def bad_count(array: np.ndarray) -> tuple[int, int]:
    """(how many are nan, how many are inf) of a numpy array; (0, 0) for integers."""
    if array.dtype.kind != 'f' or np.isfinite(array).all():
        return 0, 0
    return int(np.isnan(array).sum()), int(np.isinf(array).sum())


def bad_tensors(named: 'Iterable[tuple[str, paddle.Tensor]]') -> dict[str, list[int]]:
    """{name: [nan, inf]} of those in `named` (pairs of name and tensor) that hold one."""
    found = {}
    for name, value in named:
        count = bad_count(as_array(value))
        if any(count):
            found[name] = list(count)
    return found


def describe_bad(found: dict[str, list[int]], limit: int = 4) -> str:
    """One line for `{name: [nan, inf]}`: the number of tensors, and the first few with their counts."""
    parts = [f'{name} ({nan} nan, {inf} inf)' for name, (nan, inf) in list(found.items())[:limit]]
    more = f' and {len(found) - limit} more' if len(found) > limit else ''
    return f'{len(found)}: ' + ', '.join(parts) + more


def gradients_of(model: 'paddle.nn.Layer') -> 'list[tuple[str, paddle.Tensor]]':
    """[(structured name, gradient)] of the parameters that have one."""
    return [(n, p.grad) for n, p in model.named_parameters() if not p.stop_gradient and p.grad is not None]


def sum_of_squares(gradients: 'Iterable[paddle.Tensor]') -> 'paddle.Tensor':
    """float32, 0-D: the sum of squares over all `gradients` (tensors), nan or inf if any value is; nothing is read.

    One reduction per tensor. It is inf also where finite values are beyond 1e19: who reads it must look closer then.
    """
    import paddle
    with paddle.no_grad():
        return paddle.concat([paddle._C_ops.squared_l2_norm(g).astype('float32').reshape([1])
                              for g in gradients]).sum()


def any_nonfinite(gradients: 'Sequence[paddle.Tensor]') -> 'paddle.Tensor':
    """bool Tensor [1]: whether any of `gradients` (tensors) holds nan or inf; nothing is read.

    One operator for all tensors of a type, where `sum_of_squares` is two per tensor: that of the loss scaler, at a
    scale of 1. On a GPU it leaves the values as they are; on a CPU those after the first broken one become 0 or nan.
    """
    import paddle
    with paddle.no_grad():
        found, one = [], paddle.ones([1])
        for kind in dict.fromkeys(g.dtype for g in gradients):
            of_kind = [g for g in gradients if g.dtype == kind]
            found.append(paddle._C_ops.check_finite_and_unscale_(of_kind, one)[-1])
        return functools.reduce(paddle.logical_or, found)
