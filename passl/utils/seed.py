"""Seeds: one stable way to mix numbers into a seed, and one call that seeds every generator."""

import random
import sys
from typing import Union

import numpy as np

from .errors import ConfigError


def derive_seed(*numbers: Union[int, np.integer]) -> int:
    """Mix integers into one seed in [0, 2**31).

    The same numbers give the same seed on every machine, Python and NumPy version (NumPy
    promises that of SeedSequence); numbers that differ in one place or in their order give
    unrelated seeds. So `derive_seed(run_seed, epoch, index)` needs no stored generator state.

    Args:
        numbers: integers (Python or NumPy), at least one. Negative ones are allowed.

    Raises:
        ConfigError: no number, or something that is not an integer.
    """
    if not numbers:
        raise ConfigError('derive_seed() needs at least one integer.')
    words = [len(numbers)]              # SeedSequence pads with zeros: without it (1,) == (1, 0)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
            raise ConfigError(f'A seed is made of integers, not {number!r}.')
        number = int(number)
        # A fixed three words each (sign and high part, middle, low) keeps the split unambiguous.
        words += [int(number < 0) | (abs(number) >> 64) << 1, abs(number) >> 32 & 0xffffffff,
                  abs(number) & 0xffffffff]
    return int(np.random.SeedSequence(words).generate_state(1)[0]) & 0x7fffffff


def seed_everything(seed: Union[int, np.integer]) -> None:
    """Seed `random`, NumPy's global generator, and Paddle's if Paddle has been imported.

    Args:
        seed: integer >= 0; 0 is a seed like any other (PASSL took it for 'unseeded').
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"'seed' must be an integer >= 0, not {seed!r}.")
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle = sys.modules.get('paddle')
    if paddle is not None:
        paddle.seed(seed % 2**31)
