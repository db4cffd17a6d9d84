"""A small process beside the training processes of a machine, which says who ended or stood still first.

When a process dies while gradients are averaged, gloo aborts the others at once, with Python's lock held: nobody is
left to name the one that was lost. So the first process of every machine starts this file as a program of its own. It
needs the standard library only, and ends with them.

Standard input: one line of JSON {"processes": [[rank, pid, start time], ...], "host": name}, then lines `log FILE`
(where to write as well) and `bye` (the job ends well). Standard error: that of the process that started it.

With the arguments `start PID RANK HOST` it serves the time before the processes know each other, in which Paddle waits
for the others, with Python's lock held too, for 15 minutes: it ends process PID when another process of the same
launcher stands still, and itself with the end of standard input.
"""

import json
import os
import select
import signal
import sys
import time

_LOOK = 0.05            # seconds between looks where the system does not tell by itself
STOPPED = 5.0           # so long in a stopped state: a whole job may be suspended and continued
STATES = {'T': 'was stopped (SIGSTOP, or a debugger)', 't': 'was stopped (a debugger)'}


def _stat(pid):
    """(letter of the state, number of the parent, start time) of a process of this machine; None if there is none."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            fields = f.read().rpartition(')')[2].split()
        return fields[0], int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def process_state(pid):
    """(letter of the state, start time) of a process of this machine; ('X', None) if there is none."""
    found = _stat(pid)
    return (found[0], found[2]) if found else ('X', None)


def ended(pid, start):
    """Whether the process that had this number and start time is no more."""
    state, began = process_state(pid)
    return state in 'XZ' or began != start


class Ends:
    """Waits for the end of processes: [(rank, pid, start time)]."""

    def __init__(self, processes):
        self.processes, self.poll, self.by_fd = processes, select.poll(), {}
        for process in processes:
            try:
                fd = os.pidfd_open(process[1])
            except (OSError, AttributeError):       # an old kernel or Python; or it has ended already
                continue
            self.by_fd[fd] = process
            self.poll.register(fd, select.POLLIN)

    def wait(self, source):
        """(those that have ended, whether there is something to read at `source`); waits for one of the two."""
        self.poll.register(source, select.POLLIN)
        every = len(self.by_fd) == len(self.processes)
        ready = [fd for fd, _ in self.poll.poll(None if every and self.processes else 1000 * _LOOK)]
        gone = [self.by_fd[fd] for fd in ready if fd in self.by_fd]
        return gone or [p for p in self.processes if ended(*p[1:])], source in ready


def watch_the_run():
    source, buffer, log, job, ends = sys.stdin.fileno(), b'', None, None, Ends([])
    while True:
        gone, to_read = ends.wait(source)
        if to_read:
            data = os.read(source, 65536)
            if not data:                    # who started this has ended
                if job is None:
                    return
                time.sleep(_LOOK)
                gone = gone or [p for p in ends.processes if ended(*p[1:])]
                if not gone:
                    return
            buffer += data
        *lines, buffer = buffer.split(b'\n')
        for line in lines:
            if job is None:
                job = json.loads(line)
                ends = Ends([tuple(p) for p in job['processes']])
            elif line == b'bye':
                return
            elif line.startswith(b'log '):
                log = line[4:]
        if gone:
            states = [(p, process_state(p[1])[0]) for p in ends.processes]
            report(gone, [(p, s) for p, s in states if s in STATES], job['host'], log)
            return


def report(gone, stopped, host, log):
    """Write who has ended, and who stood still before that, to standard error and to the file `log`."""
    def named(processes):
        return ' and '.join(f"process {p[0]} (pid {p[1]} on '{host}')" for p in processes)
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    before = f'{named(p for p, _ in stopped)} {STATES[stopped[0][1]]}; then ' if stopped else ''
    text = f"[{now}] ERROR: {before}{named(gone)} {'have' if len(gone) > 1 else 'has'} ended, and so does the job.\n"
    sys.stderr.write(text)
    sys.stderr.flush()
    if log is not None:
        try:
            with open(log, 'a', encoding='utf-8') as f:
                f.write(text)
        except OSError:
            pass


def parent(pid):
    """Number of the process that started `pid`; None if there is no such process."""
    found = _stat(pid)
    return found and found[1]


def siblings(pid):
    """[(rank, pid)] of the other training processes that the launcher of `pid` started."""
    launcher, found = parent(pid), []
    for other in (int(name) for name in os.listdir('/proc') if name.isdigit()):
        if other == pid or launcher is None or parent(other) != launcher:
            continue
        try:
            with open(f'/proc/{other}/environ', 'rb') as f:
                ranks = [v[18:] for v in f.read().split(b'\0') if v.startswith(b'PADDLE_TRAINER_ID=')]
        except OSError:
            continue
        found += [(int(r), other) for r in ranks[:1] if r.isdigit()]
    return sorted(found)


def watch_the_start(pid, rank, host):
    """End `pid` when a sibling stands still for STOPPED seconds in which `pid` itself does not."""
    since, last = {}, time.monotonic()
    while not select.select([sys.stdin], [], [], 10 * _LOOK)[0]:
        now = time.monotonic()
        state = process_state(pid)[0]
        if state in 'XZ':
            return
        if state in STATES or now - last > 1:           # all stood still, this process too
            since.clear()
        last = now
        states = {other: process_state(other[1])[0] for other in siblings(pid)}
        since = {other: since.get(other, now) for other, state in states.items() if state in STATES}
        for (number, other), begin in since.items():
            if now - begin >= STOPPED:
                sys.stderr.write(
                    f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] ERROR: process {number} (pid {other} on '{host}') "
                    f'{STATES[states[number, other]]} while the processes were starting. Process {rank}, which waits '
                    'for it, is ended, and the job with it. Start it again, with --resume auto if it was a resumed '
                    'one.\n')
                sys.stderr.flush()
                os.kill(pid, signal.SIGKILL)            # nothing else reaches a process that waits inside Paddle
                return


def main():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):       # meant for the job, which may take its time
        signal.signal(number, signal.SIG_IGN)
    if sys.argv[1:2] == ['start']:
        watch_the_start(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        watch_the_run()


if __name__ == '__main__':
    main()
