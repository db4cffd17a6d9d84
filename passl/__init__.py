"""PASSL for DenseCL: self-supervised pre-training for dense prediction in PaddlePaddle.

Importing this package is light: it needs neither Paddle nor OpenCV. The sub-packages
``passl.modeling``, ``passl.datasets``, ``passl.engine`` ... import Paddle when they are used.
"""

import importlib
from typing import Any

__version__ = '1.2.0'


_FUNCTIONS = {'pretrain': '.planning.command', 'list_models': '.planning.models',
              'embed': '.transfer.embedding.work', 'load_backbone': '.transfer.probes.sources'}


def __getattr__(name: str) -> Any:
    """`passl.pretrain` and the others, read from where they are when they are asked for."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name], __name__), name)
    raise AttributeError(f"module 'passl' has no attribute '{name}'")
