"""PASSL for DenseCL: self-supervised pre-training for dense prediction in PaddlePaddle.

Importing this package is light: it needs neither Paddle nor OpenCV. The sub-packages
``passl.modeling``, ``passl.datasets``, ``passl.engine`` ... import Paddle when they are used.
"""

__version__ = '1.2.0'
