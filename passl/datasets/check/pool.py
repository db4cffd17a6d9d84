"""Looking at many files at once."""

from ..pool import run_all
from .look import CRASH, RECORD, look_at


def look_at_all(paths, workers, advance, function=look_at):
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
