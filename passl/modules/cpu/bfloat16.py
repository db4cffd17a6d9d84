"""Mixed precision on a CPU: ResNets in bfloat16, where the processor multiplies it faster (AMX, AVX-512 BF16 of AMD).

A bfloat16 is the upper half of a float32: the same range, so that no loss has to be scaled, and 8 significant bits.
From the images to the last map all tensors are bfloat16; sums within the kernels, statistics, weights and gradients of
weights are float32, and so is whatever is not a ResNet.
"""

import contextlib
import functools
import logging
from typing import Iterator

import paddle

from ...utils.paddle_env import cpu_flags
from . import channels_last, onednn

AMX, AVX512_BF16 = 0xfef, 0xe7      # sets of instructions, as oneDNN's bits
_on = False


@functools.lru_cache(None)
def why_not() -> str:
    """'' if ResNets can compute in bfloat16 in this process and gain by it, else the reason (a text for the log)."""
    return channels_last.why_not() or why_not_on(onednn.library().instructions(), cpu_flags()[0]) or _wrong()


def why_not_on(instructions: int, vendor: str) -> str:
    """The same of a processor of this vendor with these sets of instructions; docs/PERFORMANCE.md has the figures.

    By name, not by a trial: a run that goes on must compute as it began.
    """
    short = instructions & AVX512_BF16 == AVX512_BF16
    if instructions & AMX == AMX or short and vendor == 'AuthenticAMD':
        return ''
    if short:
        return "it has AVX-512 BF16, with which bfloat16 is faster than float32 on AMD's only, and no AMX"
    return 'it has no units for bfloat16 (AMX, or AVX-512 BF16 of AMD)'


def _wrong():
    got, want = channels_last.trial(paddle.bfloat16)
    worst = float((got - want).abs().max() / want.abs().max())
    return '' if worst < 2**-6 else f"its convolution in bfloat16 is off by {worst:.1e}"    # measured: 2e-3


@contextlib.contextmanager
def used() -> Iterator[None]:
    """Within it ResNets compute in bfloat16 (only to be entered if `why_not()` is '')."""
    global _on
    before, _on = _on, True
    try:
        yield
    finally:
        _on = before


def is_on() -> bool:
    return _on


@functools.lru_cache(None)
def tell_unsuited() -> None:
    """Warn, once, that a network does not take part."""
    logging.getLogger('passl').warning(
        'use_amp: true: this ResNet computes in float32, because it has hooks or layers that only Paddle computes.')
