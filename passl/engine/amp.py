"""Mixed precision."""

import contextlib
from typing import Any, Callable

import paddle

from ..modules.cpu import bfloat16
from ..utils.errors import ConfigError
from ..utils.logger import get_logger

AutoCast = Callable[[], contextlib.AbstractContextManager[None]]
Decorate = Callable[[paddle.nn.Layer, paddle.optimizer.Optimizer], paddle.optimizer.Optimizer]

# With O2 the weights are in half precision, and the update writes them and their float32 copies: what has a GPU kernel
# for that in Paddle 2.6.2 (read in its registry; LARS scales gradients by itself, from float32 weights).
O2_OPTIMIZERS = {'float16': ('Momentum', 'SGD', 'Adam', 'AdamW'), 'bfloat16': ('SGD', 'Adam', 'AdamW')}
_CAPABILITY = {'float16': 7, 'bfloat16': 8}     # of a GPU; below it auto_cast warns and goes on in float32


class LossScaler(paddle.amp.GradScaler):
    """Paddle's GradScaler, which at an overflow asks for the float of an array [1]: NumPy 2.4 refuses that."""

    def _update(self):
        if not self.is_enable():
            return
        self._scale = self._scale.reshape([])
        try:
            super()._update()
        finally:
            self._scale = self._scale.reshape([1])


def _supported(dtype):
    if paddle.get_device().startswith('gpu') and paddle.device.cuda.get_device_capability()[0] < _CAPABILITY[dtype]:
        return False
    return getattr(paddle.amp, f'is_{dtype}_supported')()


def _on_cpu(level, dtype, lists):
    """Whether ResNets compute in bfloat16 on this CPU; the log says so, or why they do not."""
    why_not = ('AMP.dtype is float16; on a CPU only bfloat16 can be had: -o AMP.dtype=bfloat16' if dtype == 'float16'
               else bfloat16.why_not())
    if why_not:
        get_logger().warning('use_amp: true has no effect on this CPU (%s); training in float32.', why_not)
        return False
    get_logger().info('Mixed precision on the CPU: ResNets compute in bfloat16, everything else in float32.')
    unused = ['AMP.level: O2'] * (level == 'O2') + [f'AMP.auto_cast.{name}' for name, ops in lists.items() if ops]
    if unused:
        get_logger().warning('%s: only on a GPU; here weights stay float32, and the operators are those of the ResNet.',
                             ', '.join(unused))
    return True


def build_amp(cfg: dict[str, Any]) -> tuple[AutoCast, LossScaler, Decorate]:
    """(context factory, GradScaler, decorate(model, optimizer)) of `use_amp` and `AMP`.

    With `use_amp: false` the same three with mixed precision switched off. On the CPU Paddle has none; there ResNets
    compute in bfloat16, where the processor gains by it (`passl.modules.cpu.bfloat16`), else all is float32, and told.
    `decorate` is to be called with the built optimizer before its first step.
    The context surrounds the whole forward pass, so the key branch runs in half precision too, under O2 from float32
    weights; the losses switch it off for themselves.

    Raises:
        ConfigError: contradicting operator lists, a type that this GPU does not have, or (by
            `decorate`) an optimizer that has no kernel for it.
    """
    amp = dict(cfg.get('AMP') or {})
    cast = dict(amp.pop('auto_cast', None) or {})
    level = cast.get('level') or amp.pop('level', None) or 'O1'
    dtype = cast.get('dtype') or amp.pop('dtype', None) or 'float16'
    amp.pop('level', None), amp.pop('dtype', None)
    lists = {k: cast.get(k) for k in ('custom_white_list', 'custom_black_list')}
    both = sorted(set(lists['custom_white_list'] or ()) & set(lists['custom_black_list'] or ()))
    if both:
        raise ConfigError(f"'AMP.auto_cast': {', '.join(both)} is in custom_white_list and in custom_black_list. "
                          'Remove it from one of them.')
    enable = bool(cfg.get('use_amp')) and cast.get('enable', True) is not False
    on_cpu = enable and paddle.get_device() == 'cpu' and _on_cpu(level, dtype, lists)
    enable = enable and paddle.get_device() != 'cpu'
    if enable and not _supported(dtype):
        raise ConfigError(f"'AMP.dtype' is {dtype}, which this device does not support. Use "
                          f"{'float16' if dtype == 'bfloat16' else 'another device'}, or use_amp: false.")

    def auto_cast():
        if not enable:
            return bfloat16.used() if on_cpu else contextlib.nullcontext()
        return paddle.amp.auto_cast(enable=True, level=level, dtype=dtype, **lists)

    if 'scale_loss' in amp:
        amp['init_loss_scaling'] = float(amp.pop('scale_loss'))
    scaler = LossScaler(enable=enable and dtype == 'float16', **amp)

    def decorate(model, optimizer):
        if not (enable and level == 'O2'):
            return optimizer
        name = type(optimizer).__name__
        if name not in O2_OPTIMIZERS[dtype]:
            raise ConfigError(f"'AMP.level' O2 with {dtype} and optimizer {name}: Paddle has no such update on a GPU. "
                              f"Use AMP.level: O1, or one of {', '.join(O2_OPTIMIZERS[dtype])}.")
        # The key encoder stays in float32: at m = 0.999 an EMA in half precision would stand still.
        trained = getattr(model, 'encoder_q', model)
        _, optimizer = paddle.amp.decorate(models=trained, optimizers=optimizer, level='O2', dtype=dtype)
        return optimizer

    return auto_cast, scaler, decorate
