"""Looking at many files at once."""

from collections.abc import Sequence
from typing import Callable

import numpy as np

from ..pool import run_all
from .look import CRASH, RECORD, look_at


def look_at_all(paths: Sequence[str], workers: int, advance: Callable[[int], object],
                function: Callable[[str], tuple[tuple, str]] = look_at) -> tuple[np.ndarray, dict[int, str]]:
    """Look at every file in worker processes; one that kills its reader is found out.

    Args:
        paths: a sequence of names.
        workers: number of processes.
        advance: called with the number of files that have just been done.
        function: name -> (record, reason); for tests.

    Returns:
        (records [n] of dtype RECORD, {number: reason} of files with one), both independent of the number of workers.
    """
    records, reasons, crashed = run_all(function, paths, workers, advance, RECORD)
    records['state'][crashed] = CRASH
    return records, reasons
