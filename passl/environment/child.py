"""Jobs in a process of their own, so that a crash or a hang inside Paddle becomes a sentence of the process that waits.

The process does the jobs one after the other and writes a line of JSON for each. If it ends or hangs, another one goes
on after the job at which that happened.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from ..utils.paddle_env import require_paddle, tune_cpu
from .words import advised, in_words, last_error

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
START_LIMIT, LIMIT = 120, 90        # seconds for the start (import of Paddle, device) and for each job
# of a job that this process may be part of: the children are none
LAUNCHERS = ('PADDLE_TRAINER', 'PADDLE_MASTER', 'PADDLE_CURRENT_ENDPOINT', 'PADDLE_RANK_IN_NODE', 'PADDLE_LOCAL_',
             'PADDLE_GLOBAL_', 'PADDLE_NNODES', 'FLAGS_selected_', 'MASTER_ADDR', 'MASTER_PORT')


def surroundings() -> dict[str, str]:
    """Environment variables of a child."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    env['PYTHONPATH'] = os.pathsep.join([ROOT] + [p for p in [env.get('PYTHONPATH')] if p])
    return env


class Lost(Exception):
    """The process ended or hangs; the text says how."""


class _Child:
    """One process at work; a context."""

    def __init__(self, kind: str, device: str, jobs: Sequence[str]) -> None:
        self.errors = tempfile.TemporaryFile('w+', errors='replace')
        self.process = subprocess.Popen([sys.executable, '-m', 'passl.environment.child', kind, device, *jobs],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        errors='replace', env=surroundings())
        self.lines: queue.Queue[Optional[str]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def answer(self, limit: float) -> dict[str, Any]:
        """The next line's content; Lost if none comes within `limit` seconds."""
        try:
            line = self.lines.get(timeout=limit)
        except queue.Empty:
            raise Lost(advised(f'gave no answer for {limit} s', self._said())) from None
        if line is None:
            raise Lost(self._end())
        return json.loads(line)

    def _said(self):
        self.errors.seek(0)
        return self.errors.read()[-20000:]

    def _end(self):
        """How the process ended, with the error that it left."""
        code = self.process.wait()
        how = f'exit code {code}'
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f'signal {signal.Signals(-code).name}'
        said = self._said()
        last = last_error(said)
        return advised(f"the process ended with {how}{f': {last}' if last else ''}", said)


def results(kind: str, device: str, jobs: Iterable[str],
            limit: float = LIMIT) -> Iterator[tuple[str, Any, Optional[str]]]:
    """Do `jobs` in processes of their own.

    Args:
        kind: 'facts' or 'checks'.
        device: '' (as a training chooses it), 'cpu', or Paddle's name of another.
        jobs: names in `paddle_facts.FACTS` or `checks.CHECKS`.
        limit: seconds for each.
    Yields:
        (name, value, None), or (name, None, sentence about what went wrong), for each of them.
    """
    left = list(jobs)
    while left:
        with _Child(kind, device, left) as child:
            try:
                started = child.answer(START_LIMIT)
                failed = started.get('failed')
            except Lost as e:
                failed = str(e)
            if failed:                      # and so would the next process
                yield from ((name, None, failed) for name in left)
                return
            while left:
                name = left.pop(0)
                try:
                    answer = child.answer(limit)
                except Lost as e:
                    yield name, None, str(e)
                    break
                yield name, answer.get('value'), answer.get('failed')


def main(kind: str, device: str, *jobs: str) -> None:
    """The child: `python -m passl.environment.child KIND DEVICE JOB...`."""
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                           # whatever else is printed

    def answer(function):
        try:
            line = {'value': function()}
        except Exception as e:
            line = {'failed': in_words(e)}
        except SystemExit as e:
            line = {'failed': f'the program wanted to end with exit code {e.code}'}
        out.write(json.dumps(line) + '\n')
        out.flush()
        return 'failed' not in line

    if not answer(import_paddle if kind == 'facts' else lambda: choose_device(device)):
        return
    known: Mapping[str, Callable[[], object]]
    if kind == 'facts':
        from .paddle_facts import FACTS
        known = {**FACTS, 'device': lambda: choose_device(device)}
    else:
        from .checks import CHECKS
        known = CHECKS
    for name in jobs:
        answer(known[name])


def import_paddle() -> None:
    """As a training does, but of any version."""
    tune_cpu()
    try:
        import paddle  # noqa: F401
    except ModuleNotFoundError:
        require_paddle()        # says how to install it, if that is what is missing


def choose_device(device: str) -> str:
    """Set Paddle's device as a training would ('', or 'cpu' as with --no-cuda), or to the one named; its name."""
    paddle = require_paddle()
    if device in ('', 'cpu'):
        from ..engine.device import select_device
        select_device(no_cuda=device == 'cpu')
    else:
        paddle.set_device(device)
    return paddle.get_device()


if __name__ == '__main__':
    main(*sys.argv[1:])
