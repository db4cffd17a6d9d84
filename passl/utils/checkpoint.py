"""The former place of `passl.utils.weights.checkpoint`."""

from .weights.checkpoint import *  # noqa: F401,F403
