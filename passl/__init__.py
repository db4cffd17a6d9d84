"""PASSL for DenseCL: self-supervised pre-training for dense prediction in PaddlePaddle.

Importing this package is light: it needs neither Paddle nor OpenCV. The sub-packages
``passl.modeling``, ``passl.datasets``, ``passl.engine`` ... import Paddle when they are used.
"""

import importlib
from typing import Any

__version__ = '1.2.0'


def __getattr__(name: str) -> Any:
    """`passl.pretrain`, read from where it is when it is asked for."""
    if name == 'pretrain':
        return importlib.import_module('.planning.command', __name__).pretrain
    raise AttributeError(f"module 'passl' has no attribute '{name}'")
