"""Run by tests: trainings that SIGKILL themselves in the middle of a save.

Reads lines [POINT, COUNT, [train-arguments]] of JSON; each training is a process of its own (a fork, which need not
import anything), and dies in its COUNT-th save. Answers each with the process's exit code, -9 for SIGKILL.

POINT: 'none', 'write' (in the middle of the file), 'fsync', 'replace' (before the new name), 'replaced' (after it),
'symlink' (before latest points there), 'remove' (before an old file goes), 'config' (before config.yaml has its name).
"""

import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.cli import train_main  # noqa: E402
from passl.utils.weights import checkpoint  # noqa: E402
from tests.engine import small  # noqa: E402, F401  registers SmallNet


def dying(function, count, wanted, before=True):
    """`function`, whose COUNT-th call with fitting arguments is the last thing that this process does."""
    calls = [0]

    def wrapped(*args, **kwargs):
        if wanted(*args):
            calls[0] += 1
            if calls[0] == count and before:
                os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if wanted(*args) and calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped


def is_checkpoint(*args):
    return os.path.basename(str(args[-1])).lstrip('.').startswith(('epoch_', 'iter_'))


class HalfAFile(checkpoint._HashingWriter):
    saves = count = 0

    def __init__(self, file):
        super().__init__(file)
        HalfAFile.saves += 1

    def write(self, data):
        if HalfAFile.saves == HalfAFile.count and len(data) > 100:
            super().write(data[:len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


def plant(point, count):
    if point == 'write':
        checkpoint._HashingWriter, HalfAFile.count = HalfAFile, count
    elif point == 'fsync':
        os.fsync = dying(os.fsync, count, lambda fd: is_checkpoint(os.readlink(f'/proc/self/fd/{fd}')))
    elif point in ('replace', 'replaced'):
        os.replace = dying(os.replace, count, is_checkpoint, point == 'replace')
    elif point == 'symlink':
        os.symlink = dying(os.symlink, count, lambda *_: True)
    elif point == 'remove':
        os.remove = dying(os.remove, count, is_checkpoint)
    elif point == 'config':
        os.replace = dying(os.replace, count, lambda _, to: str(to).endswith('config.yaml'))


for line in sys.stdin:
    point, count, arguments = json.loads(line)
    pid = os.fork()
    if not pid:
        os.dup2(2, 1)
        plant(point, count)
        os._exit(train_main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
