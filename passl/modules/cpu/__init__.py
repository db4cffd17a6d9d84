"""Kernels for a CPU, from the oneDNN library inside Paddle's wheels. Nothing imports them but who computes on a CPU."""

from .. import kernels
from . import bfloat16, channels_last, onednn, resnet


def register() -> None:
    """Let the loss and the backbones of this process find them (see `passl.modules.kernels`)."""
    kernels.register(exp_=_exp_of, resnet=_resnet_of)


def convolutions() -> str:
    """Whose they are, for the log."""
    why_not = channels_last.why_not()
    return f"Paddle's kernels ({why_not})" if why_not else f'oneDNN {onednn.library().version}'


def _exp_of(x):
    """exp in place; Paddle's own takes a third of the loss's time."""
    if x.place.is_cpu_place() and x.is_contiguous() and x.size > 0 and not channels_last.why_not():
        return onednn.exp(int(x.size)).forward_
    return None


def _resnet_of(net, x):
    if not resnet.suits(net, x):
        if bfloat16.is_on():
            bfloat16.tell_unsuited()
        return None
    return resnet.half if bfloat16.is_on() else resnet
