"""Persistent workers that do one training step per request, so that the steps of several jobs can be taken in turns.

The benchmark's side (needs neither Paddle nor PyTorch):

    with Job('ours', [[sys.executable, 'worker.py', '--batch', '16']], env={'OMP_NUM_THREADS': '2'}) as ours, \
            Job('two', [paddle_launch('worker.py', ['--batch', '8'], 2)], ranks=2) as two:
        times = common.interleave({'ours': ours.step, 'two': two.step}, rounds=10, warmup=2)
        ours.facts                    # what its rank 0 said about itself at the start
        two.ask('memory')             # answers of all its ranks, by rank

The worker's side, at the end of a script of any Python (nothing but the standard library is needed):

    from benchmarks import jobs
    jobs.serve({'step': one_step, 'anything': function}, rank=rank, facts={'parameters': 27_000_000})

Protocol. The job listens on localhost and hands its address and a random key to its processes by the environment
(BENCHMARK_ADDRESS, BENCHMARK_KEY). Each rank connects (multiprocessing.connection) and sends ('ready', rank, facts).
A request is (name, arguments); the answer is ('done', value) or ('error', traceback). `step` is the request whose
answers are timed: from the first request sent to the last rank's answer. Between requests a rank sleeps. When the
connection ends, for whatever reason, it exits at once, so no worker outlives the benchmark.
"""

import multiprocessing.connection as connection
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PAUSE = 0.3  # seconds before a step: OpenMP's threads of the job before go on spinning for 0.2 s
TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class JobError(RuntimeError):
    """A worker failed, died or hangs; the message holds the end of its output."""


class Job:
    """One job, of one or several ranks.

    Args:
        name: for the messages.
        commands: list of argument lists, one per process to start. '{folder}' in an argument stands for the job's
            temporary folder (logs, a rendezvous file); it goes when the job is closed.
        ranks: how many workers will connect; None: one per command. A launcher is one command of several ranks.
        env: additions to the environment; None as a value removes the variable. Each process also gets
            BENCHMARK_RANK, its place in `commands`.
        timeout: seconds that a start or an answer may take.
        pause: seconds of sleep before each step, outside the measured time.
    Raises:
        JobError: a worker fails to start.
    """

    def __init__(self, name, commands, ranks=None, env=None, timeout=600, pause=PAUSE):
        self.name, self.timeout, self.pause = name, timeout, pause
        self.folder = tempfile.mkdtemp(prefix='benchmark_')
        self.processes, self.connections, self.facts = [], [], {}
        key = secrets.token_bytes(32)
        self.listener = connection.Listener(('127.0.0.1', 0), authkey=key)
        try:
            self._start(commands, key, env or {})
            self._connect(len(commands) if ranks is None else ranks)
        except BaseException:
            self.close()
            raise

    def step(self):
        """One step on all ranks. Returns its wall seconds."""
        time.sleep(self.pause)
        start = time.perf_counter()
        self.ask('step')
        return time.perf_counter() - start

    def ask(self, request, *arguments):
        """Sends `request` to all ranks and waits. Returns the list of their answers, by rank."""
        for rank, line in enumerate(self.connections):
            try:
                line.send((request, arguments))
            except OSError as e:
                raise self._error(f'rank {rank} is gone') from e
        answers, waiting = {}, dict(zip(self.connections, range(len(self.connections))))
        end = time.monotonic() + self.timeout
        while waiting:
            for line in connection.wait(list(waiting), timeout=max(0, end - time.monotonic())):
                rank = waiting.pop(line)
                try:
                    state, answers[rank] = line.recv()
                except (EOFError, OSError) as e:
                    raise self._error(f"rank {rank} died during '{request}'") from e
                if state == 'error':
                    raise JobError(f"{self.name}: rank {rank} failed in '{request}':\n{answers[rank]}")
            if waiting and time.monotonic() > end:
                raise self._error(f"no answer to '{request}' of rank {sorted(waiting.values())} "
                                  f'within {self.timeout} s')
        return [answers[rank] for rank in sorted(answers)]

    def close(self):
        """Ends all processes and removes the folder. May be called twice."""
        self.listener.close()
        for line in self.connections:
            line.close()  # the worker exits on that
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                pass
            for number in (signal.SIGTERM, signal.SIGKILL):  # whatever is left of the group: a launcher's children
                try:
                    os.killpg(process.pid, number)
                    time.sleep(0.1)
                except OSError:
                    break
            process.wait()
        self.connections, self.processes = [], []
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self, commands, key, env):
        host, port = self.listener.address
        full = {**os.environ, **env, 'BENCHMARK_ADDRESS': f'{host}:{port}', 'BENCHMARK_KEY': key.hex(),
                'BENCHMARK_FOLDER': self.folder, 'PYTHONUNBUFFERED': '1'}
        full = {name: str(value) for name, value in full.items() if value is not None}
        for index, command in enumerate(commands):
            words = [str(word).replace('{folder}', self.folder) for word in command]
            with open(os.path.join(self.folder, f'output_{index}.txt'), 'wb') as output:
                self.processes.append(subprocess.Popen(
                    words, env={**full, 'BENCHMARK_RANK': str(index)}, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True))

    def _connect(self, ranks):
        arrived, end = queue.Queue(), time.monotonic() + self.timeout
        threading.Thread(target=self._accept, args=(ranks, arrived), daemon=True).start()
        found = {}
        while len(found) < ranks:
            try:
                _, rank, facts, line = arrived.get(timeout=0.2)
                found[rank] = line
                self.connections.append(line)  # known to `close` from now on
                self.facts = facts if rank == 0 else self.facts
            except queue.Empty:
                codes = [process.poll() for process in self.processes]
                if any(code is not None for code in codes):
                    raise self._error(f'a worker ended with code {[c for c in codes if c is not None][0]} before it '
                                      'was ready') from None
                if time.monotonic() > end:
                    raise self._error(f'{len(found)} of {ranks} ranks were ready after {self.timeout} s') from None
        self.connections = [found[rank] for rank in sorted(found)]

    def _accept(self, ranks, arrived):
        while ranks:
            try:
                line = self.listener.accept()
                arrived.put((*line.recv(), line))
                ranks -= 1
            except (OSError, EOFError, connection.AuthenticationError):
                if self.listener._listener is None:  # closed
                    return

    def _error(self, what):
        time.sleep(0.5)  # let the last words reach the file
        return JobError(f'{self.name}: {what}. The end of its output:\n{self.output_tail()}')

    def output_tail(self, lines=15):
        """The last lines of every output file of the job."""
        parts = []
        for folder, _, names in sorted(os.walk(self.folder)):
            for name in sorted(names):
                if name.startswith(('output_', 'workerlog')):
                    with open(os.path.join(folder, name), errors='replace') as f:
                        parts.append(f'[{name}]\n' + ''.join(f.readlines()[-lines:]))
        return '\n'.join(parts)


def paddle_launch(script, arguments, ranks):
    """The command that starts `ranks` processes of a script on this machine's CPU with Paddle's launcher."""
    return [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', str(ranks),
            '--log_dir', '{folder}/logs', script, *map(str, arguments)]


def serve(handlers, rank=0, facts=None):
    """The worker's loop: connects to the job that started it and answers until that goes away. Does not return.

    Args:
        handlers: {request: function}; 'step' at least. What a function returns is sent back (picklable, small).
            'memory' (the peak of the process in MiB) is there already.
        rank: this worker's rank within the job.
        facts: dict about this worker, to be shown by the benchmark.
    """
    handlers = {'memory': peak_memory, **handlers}
    host, port = os.environ['BENCHMARK_ADDRESS'].rsplit(':', 1)
    line = connection.Client((host, int(port)), authkey=bytes.fromhex(os.environ['BENCHMARK_KEY']))
    requests = queue.SimpleQueue()
    line.send(('ready', rank, facts or {}))
    threading.Thread(target=_read, args=(line, requests), daemon=True).start()
    while True:
        request, arguments = requests.get()
        try:
            answer = ('done', handlers[request](*arguments))
        except BaseException:
            answer = ('error', traceback.format_exc())
        line.send(answer)


def peak_memory():
    """MiB: the largest resident memory of this process so far."""
    try:                    # not ru_maxrss: a process inherits that from the one that started it
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 2**10 for line in f if line.startswith('VmHWM:'))
    except (OSError, StopIteration):
        pass
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)


def _read(line, requests):
    """In a thread, so that the end of the benchmark is noticed during a step, too."""
    try:
        while True:
            requests.put(line.recv())
    except (EOFError, OSError):
        shutil.rmtree(os.environ['BENCHMARK_FOLDER'], ignore_errors=True)       # a killed benchmark cannot
        os._exit(1)
