"""The former place of `passl.utils.config.registry`."""

from .config.registry import *  # noqa: F401,F403
