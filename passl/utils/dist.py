"""The former place of `passl.utils.distributed.dist`: the same module under another name."""

import sys

from .distributed import dist

sys.modules[__name__] = dist
