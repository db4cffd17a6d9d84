"""A worker process that answers requests one by one, so that the steps of several can be taken in turns.

The benchmark's side (needs neither Paddle nor PyTorch):

    with Job('ours', [sys.executable, 'worker.py'], {'OMP_NUM_THREADS': '2'}) as ours, Job('theirs', [...]) as theirs:
        times = common.interleave({'ours': ours.step, 'theirs': theirs.step}, rounds=10, warmup=2)
        ours.facts                    # what it said about itself at the start

The worker's side, at the end of a script of any Python (the standard library is enough):

    jobs.serve({'step': one_step, 'anything': function}, facts={'parameters': 27_000_000})

One line of JSON per request on the worker's standard input and one per answer on a pipe of its own, whose number is in
BENCHMARK_ANSWERS. It ends with its input.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback

PAUSE = 0.3  # seconds before a step: OpenMP's threads of the job before go on spinning for 0.2 s


class JobError(RuntimeError):
    """A worker failed or died; the message holds the end of its output."""


class Job:
    """A worker.

    Args:
        name: for the messages.
        command: list of words.
        env: additions to the environment; None as a value removes the variable.

    Raises:
        JobError: it ends before it is ready.
    """

    def __init__(self, name, command, env=None):
        self.name, self.output = name, tempfile.TemporaryFile('w+')
        reader, writer = os.pipe()
        env = {**os.environ, 'BENCHMARK_ANSWERS': writer, **(env or {})}
        try:
            self.process = subprocess.Popen(
                list(map(str, command)), env={k: str(v) for k, v in env.items() if v is not None}, text=True,
                stdin=subprocess.PIPE, stdout=self.output, stderr=self.output, pass_fds=[writer])
        finally:
            os.close(writer)
        self.answers = os.fdopen(reader)
        self.facts = self._answer('its start')

    def ask(self, request, *arguments):
        """The worker's answer to `request`.

        Raises:
            JobError: it failed, and goes on, or it died.
        """
        try:
            self.process.stdin.write(json.dumps([request, *arguments]) + '\n')
            self.process.stdin.flush()
        except OSError:                 # it is gone; `_answer` says so
            pass
        return self._answer(f"'{request}'")

    def step(self):
        """One step. Returns its wall seconds."""
        time.sleep(PAUSE)
        start = time.perf_counter()
        self.ask('step')
        return time.perf_counter() - start

    def _answer(self, what):
        line = self.answers.readline()
        if not line:
            code = self.process.wait()
            self.output.seek(0)
            raise JobError(f'{self.name} ended with code {code} during {what}. The end of its output:\n'
                           + ''.join(self.output.readlines()[-15:]))
        state, value = json.loads(line)
        if state == 'error':
            raise JobError(f'{self.name} failed in {what}:\n{value}')
        return value

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """A worker in the middle of a step ends after it."""
        self.process.communicate()
        self.answers.close()
        self.output.close()


def serve(handlers, facts=None):
    """The worker's loop; it returns when the benchmark goes away.

    Args:
        handlers: {request: function}; what a function returns must be JSON. 'memory' (the peak of the process in MiB)
            is there already.
        facts: dict about this worker, to be shown by the benchmark.
    """
    handlers, answers = {'memory': peak_memory, **handlers}, os.fdopen(int(os.environ['BENCHMARK_ANSWERS']), 'w')

    def answer(*state):
        answers.write(json.dumps(state) + '\n')
        answers.flush()
    answer('ready', facts or {})
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        try:
            value = handlers[request](*arguments)
        except Exception:
            answer('error', traceback.format_exc())
        else:
            answer('done', value)


def peak_memory():
    """MiB: the largest resident memory of this process so far; nan where the system does not tell."""
    try:                    # not ru_maxrss: a process inherits that from the one that started it
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 2**10 for line in f if line.startswith('VmHWM:'))
    except (OSError, StopIteration):
        return float('nan')
