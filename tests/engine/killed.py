"""Run by tests, `killed.py POINT COUNT train-arguments`: a training that SIGKILLs itself in its COUNT-th save.

POINT: 'none', 'write' (in the middle of the file), 'fsync', 'replace' (before the new name), 'replaced' (after it),
'symlink' (before latest points there), 'remove' (before an old file goes), 'config' (before config.yaml has its name).
"""

import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.cli import train_main  # noqa: E402
from passl.utils.weights import checkpoint  # noqa: E402
from tests.engine import small  # noqa: E402, F401  registers SmallNet

point, count = sys.argv[1], int(sys.argv[2])


def dying(function, wanted, before=True):
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
    saves = 0

    def __init__(self, file):
        super().__init__(file)
        HalfAFile.saves += 1

    def write(self, data):
        if HalfAFile.saves == count and len(data) > 100:
            super().write(data[:len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


if point == 'write':
    checkpoint._HashingWriter = HalfAFile
elif point == 'fsync':
    os.fsync = dying(os.fsync, lambda fd: is_checkpoint(os.readlink(f'/proc/self/fd/{fd}')))
elif point in ('replace', 'replaced'):
    os.replace = dying(os.replace, is_checkpoint, point == 'replace')
elif point == 'symlink':
    os.symlink = dying(os.symlink, lambda *_: True)
elif point == 'remove':
    os.remove = dying(os.remove, is_checkpoint)
elif point == 'config':
    os.replace = dying(os.replace, lambda _, to: str(to).endswith('config.yaml'))
sys.exit(train_main(sys.argv[3:]))
