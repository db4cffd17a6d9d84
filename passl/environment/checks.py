"""The checks that run in one process, by name."""

import functools
from typing import Callable

from ..utils.errors import ConfigError
from . import arithmetic, method, mixed_precision, timing
from .words import NO, NOT_HERE, REFUSED, in_words


def guarded(function: Callable[[], tuple[str, str]], otherwise: str) -> Callable[[], tuple[str, str]]:
    """`function`, whose exceptions become outcomes. What the project refuses at the start is no failure.

    Args:
        function: gives (state, words).
        otherwise: what to do about an error that is not known.
    """
    @functools.wraps(function)
    def outcome():
        try:
            return function()
        except ConfigError as e:
            return REFUSED, in_words(e)
        except Exception as e:
            return NO, in_words(e, otherwise)
    return outcome


def measured(name: str) -> tuple[str, str]:
    """Outcome of `timing.speed`: a GPU too small for the usual batch is no fault."""
    try:
        return timing.speed(name)
    except MemoryError:         # Paddle's, too
        return NOT_HERE, 'not measured: 32 images do not fit into the memory that is free here; use smaller batches'


def amp(check: str, dtype: str) -> Callable[[], tuple[str, str]]:
    """`check` of `mixed_precision` for a type."""
    return lambda: getattr(mixed_precision, check)(dtype)


CHECKS = {name: guarded(function, otherwise) for otherwise, group in {
    'Trainings would fail here: report this block.': {
        'versions': arithmetic.versions,
        'GPU generation': arithmetic.generation,
        'TF32': arithmetic.tf32_in_use,
        'convolution': arithmetic.convolution,
        'batch norm': arithmetic.batch_norm,
        'ResNet-18 step': arithmetic.resnet_step,
        'momentum update': method.momentum_update,
        'queue': method.queue,
        'contrastive loss': method.loss,
        'collapsed features': method.collapsed,
        'small copies': timing.copies,
        'speed of MoCo v2': lambda: measured('MoCo'),
        'speed of DenseCL': lambda: measured('DenseCL')},
    'Train in float32: use_amp: false.': {
        'AMP O1 float16': amp('under_o1', 'float16'),
        'AMP O1 bfloat16': amp('under_o1', 'bfloat16'),
        'mixed precision': mixed_precision.on_cpu},
    'Use AMP.level: O1, or use_amp: false.': {
        'AMP O2 float16': amp('under_o2', 'float16'),
        'AMP O2 bfloat16': amp('under_o2', 'bfloat16')},
}.items() for name, function in group.items()}
