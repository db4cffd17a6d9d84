"""The former place of `passl.utils.distributed.dist`."""

from .distributed.dist import *  # noqa: F401,F403
