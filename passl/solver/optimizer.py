"""Optimizers under PASSL's names; state saved by the names that the model's state dict has."""

import re
from typing import Any, Optional

import numpy as np
import paddle
from paddle import optimizer as opt

from ..utils.config.kinds import Flag, NotNegative, Positive, Share
from ..utils.errors import CheckpointError, PasslError
from .builder import OPTIMIZERS

for _optimizer in (opt.SGD, opt.AdamW, opt.RMSProp):
    OPTIMIZERS.register(_optimizer)


class _InOneCall(opt.Optimizer):
    """Guards `use_multi_tensor`: Paddle pairs parameters with gradients by position then, and one that has no gradient
    in some step would silently take its neighbour's."""

    _use_multi_tensor: bool                 # Paddle's own
    _parameter_list: list[paddle.Tensor]
    _names_of_the_first_step: list[str]

    def step(self) -> None:
        if self._use_multi_tensor:
            present = [p.name for p in self._parameter_list if p.grad is not None]
            if self.__dict__.setdefault('_names_of_the_first_step', present) != present:
                changed = sorted(set(present) ^ set(self._names_of_the_first_step))
                raise PasslError("'optimizer.use_multi_tensor' needs gradients of the same parameters in every step, "
                                 f'but {len(changed)} of {len(self._parameter_list)} had one in the first step and not '
                                 f'now, or the other way round: {changed[:3]}. Set optimizer.use_multi_tensor: false.')
        super().step()


@OPTIMIZERS.register()
class Adam(_InOneCall, opt.Adam):
    __doc__ = opt.Adam.__doc__


@OPTIMIZERS.register()
class Momentum(_InOneCall, opt.Momentum):
    """SGD with momentum: v <- mu v + (g + wd w), w <- w - lr v.

    Args:
        learning_rate, parameters, grad_clip: given by the builder.
        momentum: mu.
        weight_decay: wd, on everything unless `optimizer.exclude_from_weight_decay` says otherwise.
        use_nesterov: Nesterov's variant.
        multi_precision: keep float32 copies of weights in half precision (AMP level O2 sets it).
        use_multi_tensor: update all parameters in one call, to the same numbers. For GPUs, where a call per
            parameter is a kernel of its own; on a CPU it gains nothing.
    """

    def __init__(self, learning_rate: Any, parameters: Any, momentum: Share = 0.9,
                 weight_decay: Optional[NotNegative] = None, use_nesterov: Flag = False, grad_clip: Any = None,
                 multi_precision: Flag = False, use_multi_tensor: Flag = False) -> None:
        super().__init__(learning_rate, momentum, parameters, use_nesterov=use_nesterov, weight_decay=weight_decay,
                         grad_clip=grad_clip, multi_precision=multi_precision, use_multi_tensor=use_multi_tensor)


@OPTIMIZERS.register()
class LarsMomentumOptimizer(opt.Momentum):
    """LARS (You et al. 2017) as SimCLR uses it, on top of SGD with momentum.

    Each tensor's gradient g + wd w is scaled by lars_coeff |w| / (|g + wd w| + epsilon);
    tensors of one dimension (biases, BN) and those of `exclude_from_weight_decay` are neither scaled
    nor decayed. `grad_clip` acts before all of this.

    Args:
        learning_rate, parameters, grad_clip: given by the builder.
        momentum: mu.
        lars_coeff: trust coefficient.
        lars_weight_decay: wd.
        epsilon: guards the division.
    """

    def __init__(self, learning_rate: Any, parameters: Any, momentum: Share = 0.9, lars_coeff: Positive = 0.001,
                 lars_weight_decay: NotNegative = 0.0, epsilon: NotNegative = 0.0, grad_clip: Any = None) -> None:
        super().__init__(learning_rate, momentum, parameters)
        self._lars = (lars_coeff, lars_weight_decay, epsilon)
        self._clip_first = grad_clip

    @paddle.no_grad()
    def step(self) -> None:
        pairs = [(p, p.grad) for p in self._parameter_list if not p.stop_gradient and p.grad is not None]
        if self._clip_first is not None:
            pairs = self._clip_first(pairs)
        for p, grad in pairs:
            if p.ndim > 1 and getattr(p, 'regularizer', None) is None:
                grad = self._scaled(p, grad)
            paddle.assign(grad, output=p.grad)
        super().step()

    def _scaled(self, p, grad):
        coeff, decay, epsilon = self._lars
        grad = grad + decay * p
        weight_norm, grad_norm = p.norm(), grad.norm()
        known = (weight_norm > 0).astype(p.dtype) * (grad_norm > 0).astype(p.dtype)     # else the ratio is 1
        ratio = coeff * weight_norm / (grad_norm + epsilon + (1 - known))
        return grad * (known * ratio + (1 - known))


# Under AMP O2 Paddle names the slots after the float32 copy of the weight: `<weight>_fp32_master_<number>_velocity_0`.
# The number counts copies of that name in a process.
_OF_MASTER, _MASTER = re.compile(r'^fp32_master_\d+'), 'fp32_master_0'


def _structured_names(model):
    """{Paddle's automatic parameter name: name in the state dict}, of the parameters that train."""
    return {p.name: n for n, p in model.named_parameters() if not p.stop_gradient}


def optimizer_state(optimizer: opt.Optimizer, model: paddle.nn.Layer) -> dict[str, Any]:
    """State of `optimizer` keyed by structured names.

    Paddle keys it by automatic names (`conv2d_0.w_0_velocity_0`) that depend on how many layers the
    process built before; these here depend on the model alone.

    Returns:
        {'name': class name, 'slots': {parameter: {slot: array}}, 'master_weights': {parameter: array}}
    """
    names = _structured_names(model)
    by_length = sorted(names, key=len, reverse=True)
    out: dict[str, Any] = {'name': type(optimizer).__name__,
                           'slots': {n: {} for n in names.values()}, 'master_weights': {}}
    for key, value in optimizer.state_dict().items():
        if key == 'LR_Scheduler':
            continue
        if key == 'master_weights':
            out['master_weights'] = {names[k]: _array(v) for k, v in value.items()}
            continue
        owner = next((n for n in by_length if key.startswith(n + '_')), None)
        if owner is None:
            raise CheckpointError(f"Optimizer state '{key}' belongs to no parameter of the model; cannot save it.")
        slot = _OF_MASTER.sub(_MASTER, key[len(owner) + 1:])
        out['slots'][names[owner]][slot] = _array(value)
    return out


def load_optimizer_state(optimizer: opt.Optimizer, model: paddle.nn.Layer, state: dict[str, Any]) -> None:
    """Put back what `optimizer_state` gave, in any process.

    Raises:
        CheckpointError: the state is of another model or optimizer.
    """
    mine = type(optimizer).__name__
    if state.get('name', mine) != mine:
        raise CheckpointError(f"The optimizer state is of {state['name']}, but 'optimizer.name' is {mine}. Resume with "
                              'the config of the run, or use --load to take the weights only.')
    automatic = {n: a for a, n in _structured_names(model).items()}
    slots, masters = state.get('slots', {}), state.get('master_weights', {})
    unknown = sorted(set(slots) - set(automatic))
    missing = sorted(set(automatic) - set(slots)) if slots else []
    if unknown or missing:
        raise CheckpointError(f'The optimizer state does not fit this model: {len(unknown)} unknown parameters '
                              f'{unknown[:3]}, {len(missing)} without state {missing[:3]}. Resume with the config of '
                              'the run, or use --load to take the weights only.')
    flat: dict[str, Any] = {f'{automatic[n]}_{slot}': paddle.to_tensor(np.asarray(v))
                            for n, s in slots.items() for slot, v in s.items()}
    for key, value in flat.items():     # Paddle keeps the name for its look-up of accumulators
        value.name = key
    if masters:
        flat['master_weights'] = {automatic[n]: paddle.to_tensor(np.asarray(v)) for n, v in masters.items()}
        for name, value in flat['master_weights'].items():      # whose name the slots of half-precision weights have
            value.name = f'{name}_{_MASTER}'
    schedule = optimizer.state_dict().get('LR_Scheduler')      # Paddle insists on it; restored elsewhere
    if schedule is not None:
        flat['LR_Scheduler'] = schedule
    optimizer.set_state_dict(flat)


def _array(value):
    return value.numpy() if hasattr(value, 'numpy') else np.asarray(value)
