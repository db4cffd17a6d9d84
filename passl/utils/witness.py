"""A small process beside the training processes of a machine, which says who ended first.

When a process dies while gradients are averaged, gloo aborts the others at once, with Python's lock held: nobody is
left to name the one that was lost. So the first process of every machine starts this file as a program of its own. It
needs the standard library only, and ends with them.

Standard input: one line of JSON {"processes": [[rank, pid, start time], ...], "host": name}, then lines `log FILE`
(where to write as well) and `bye` (the job ends well). Standard error: that of the process that started it.
"""

import json
import os
import select
import signal
import sys
import time

_LOOK = 0.05            # seconds between looks where the system does not tell by itself
STATES = {'T': 'was stopped (SIGSTOP, or a debugger)', 't': 'was stopped (a debugger)'}


def process_state(pid):
    """(letter of the state, start time) of a process of this machine; ('X', None) if there is none."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            fields = f.read().rpartition(')')[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return 'X', None


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


def main():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):       # meant for the job, which may take its time
        signal.signal(number, signal.SIG_IGN)
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


if __name__ == '__main__':
    main()
