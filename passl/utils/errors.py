"""Errors that are the user's to mend.

Every message names the value, the rule and the way out. The command line prints such an
error as one block without a traceback and exits with code 2.
"""

from difflib import get_close_matches
from typing import Iterable, Sequence


class PasslError(Exception):
    """Base of all errors that a user can mend."""

    exit_code = 2


class ConfigError(PasslError):
    """A config file, an override or a flag is wrong."""


class DataError(PasslError):
    """An image folder, list or file is missing, empty or unreadable."""


class CheckpointError(PasslError):
    """A checkpoint or weight file is missing, damaged, unsafe or does not match."""


class DeviceError(PasslError):
    """The requested device does not exist here."""


class PeerLostError(PasslError):
    """Another process of a distributed run died or hangs; starting the job again may help."""

    exit_code = 75


class PaddleMissingError(PasslError, ImportError):
    """PaddlePaddle is not installed, or is too old."""


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names for a message: 'a, b, ...'."""
    return f"{', '.join(names[:limit])}{', ...' if len(names) > limit else ''}"


def suggest(name: object, known: Iterable[object], limit: int = 20) -> str:
    """One sentence that helps with a misspelt `name`: the nearest known one, or the list.

    Args:
        name: the unknown name.
        known: iterable of the names that would have been accepted.
        limit: list at most so many names when nothing is near.
    """
    known = sorted(str(k) for k in known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    if not known:
        return 'Nothing is known here.'
    more = '' if len(known) <= limit else f', ... ({len(known)} in all)'
    return 'Known: ' + ', '.join(known[:limit]) + more + '.'
