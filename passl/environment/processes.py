"""The checks of two processes, started through Paddle's launcher as a training would be."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Iterator

from .child import surroundings
from .words import NO, NOT_HERE, OK, advised, last_error

NAMES = ('exchange', 'gathers', 'no_sync', 'lost process')
LIMIT = 100             # seconds for all of them, with the start
PAIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'pair.py')


def launch_command(device: str, gpus: int, folder: str) -> list[str]:
    """The launcher's command line for two processes."""
    where = ['--nproc_per_node', '2']
    if gpus:            # by the numbers that a user would give, which are those of CUDA_VISIBLE_DEVICES
        visible = [v for v in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if v.strip()]
        where = ['--devices', ','.join((visible or ['0', '1'])[:2])]
    return [sys.executable, '-m', 'paddle.distributed.launch', *where, '--log_dir', os.path.join(folder, 'log'),
            PAIR, folder, device]


def outcomes(device: str, on_cpu: bool, gpus: int) -> Iterator[tuple[str, str, str]]:
    """Run two processes.

    Args:
        device: as in `child.results`.
        on_cpu: the device is the CPU.
        gpus: number of GPUs that Paddle sees.
    Yields:
        (name, state, words) for each of NAMES.
    """
    if not on_cpu and device == '' and gpus < 2:
        yield ('two processes', NOT_HERE, 'there is one GPU; two processes can be tried on the CPU: passl env --check '
               '--no-cuda')
        return
    with tempfile.TemporaryDirectory(prefix='passl_env_') as folder:
        how = _run(launch_command(device, 0 if on_cpu else gpus, folder), folder)
        ranks = [_told(os.path.join(folder, f'rank{r}.jsonl')) for r in range(2)]
        log = _log(folder)
    starts = [r.get('start') for r in ranks]
    for state, words in filter(None, starts):
        if state != OK:
            yield 'two processes', NO, words
            return
    if None in starts:
        yield 'two processes', NO, advised(f'they do not start: {how}: {last_error(log)}', log)
        return
    for name in NAMES:
        told = [r.get(name) for r in (ranks[:1] if name == NAMES[-1] else ranks)]
        wrong = [words for state, words in filter(None, told) if state == NO]
        if wrong:
            yield name, NO, wrong[0]
        elif None in told:
            yield name, NO, f'process {told.index(None)} did not get to the end of it: {how}'
        else:
            yield name, *told[0]


def _run(command, folder):
    """Run the launcher; how it ended, in words."""
    with open(os.path.join(folder, 'launcher'), 'w') as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=surroundings())
        try:
            return f'the launcher ended with exit code {process.wait(LIMIT)}'
        except subprocess.TimeoutExpired:
            return f'it was ended after {LIMIT} s'
        finally:
            process.terminate()             # it ends its processes
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _told(path):
    """{name: (state, words)} of a process."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {name: (state, words) for name, state, words in map(json.loads, f)}


def _log(folder):
    """What the processes and the launcher wrote last."""
    text = ''
    for name in ('launcher', 'log/workerlog.0', 'log/workerlog.1'):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, errors='replace') as f:
                text += f.read()[-8000:]
    return text
