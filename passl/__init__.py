"""PASSL for DenseCL: self-supervised pre-training for dense prediction in PaddlePaddle.

Importing this package is light: it needs neither Paddle nor OpenCV. The sub-packages
``passl.modeling``, ``passl.datasets``, ``passl.engine`` ... import Paddle when they are used.
"""

from typing import Any

__version__ = '1.2.0'


def __getattr__(name: str) -> Any:
    """`passl.pretrain`, read from where it is when it is asked for."""
    if name == 'pretrain':
        from .planning.command import pretrain
        return pretrain
    raise AttributeError(f"module 'passl' has no attribute '{name}'")
