"""Draws in a process of its own, so that a training does not wait: `python -m passl.pictures.painter < arrays.npz`."""

import os
import subprocess
import sys
import tempfile
from collections import deque
from typing import Any, Callable

import numpy as np

from ..utils.logger import get_logger
from . import drawing
from .canvas import save

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KINDS: dict[str, Callable[..., Any]] = {
    'views': drawing.views, 'matches': drawing.matches, 'maps': drawing.maps, 'neighbours': drawing.neighbours,
    'embedding': drawing.embedding, 'schedule': drawing.schedule}
_NICE = 10                  # what trains goes first


def draw(kind: str, path: str, **given: Any) -> None:
    """Draw a picture here and now: `given` are the arguments of `drawing.<kind>`."""
    save(KINDS[kind](**given), path)


class Painter:
    """Draws one picture after the other while this process goes on.

    A picture that cannot be drawn is a warning. The arrays wait in files without a name, which nothing has to remove.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[Any, str]] = deque()
        self.process: Any = None
        self.errors: Any = None
        self.path = ''

    def draw(self, kind: str, path: str, **given: Any) -> None:
        """As the function `draw`, but returns at once. Values are arrays, numbers, texts, None, or dicts of arrays.

        Raises:
            OSError: the arrays cannot be kept.
        """
        flat: dict[str, Any] = {}
        for key, value in given.items():
            for name, x in value.items() if isinstance(value, dict) else [('', value)]:
                if x is not None:
                    flat[f'{key}/{name}' if name else key] = np.asarray(x)
        arrays = tempfile.TemporaryFile()
        np.savez(arrays, **flat, kind=np.asarray(kind), path=np.asarray(os.path.abspath(path)))
        arrays.seek(0)
        self.waiting.append((arrays, path))
        self.finished()

    def finished(self, limit: float = 0) -> list[str]:
        """Paths that have been drawn since the last call; waits for those that are not, up to `limit` seconds each."""
        done: list[str] = []
        while True:
            if self.process is not None:
                try:
                    code = self.process.wait(limit) if limit else self.process.poll()
                except subprocess.TimeoutExpired:
                    get_logger().warning('%s is not drawn: it takes more than %g s.', self.path, limit)
                    self.close()
                    return done
                if code is None:
                    return done
                done += self._take(code)
            if not self.waiting:
                return done
            self._start()

    def _start(self):
        arrays, self.path = self.waiting.popleft()
        self.errors = tempfile.TemporaryFile('w+', errors='replace')
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT] + sys.path[1:]), OMP_NUM_THREADS='1',
                   OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1')
        with arrays:
            self.process = subprocess.Popen([sys.executable, '-m', 'passl.pictures.painter'], stdin=arrays,
                                            stdout=subprocess.DEVNULL, stderr=self.errors, env=env,
                                            start_new_session=True)         # Ctrl-C is for the training

    def _take(self, code):
        """The path in a list if its process ended well; a warning otherwise."""
        self.process = None
        self.errors.seek(0)
        said = [line for line in self.errors.read().splitlines() if line.strip()]
        self.errors.close()
        if code == 0:
            return [self.path]
        get_logger().warning('%s is not drawn: %s', self.path, said[-1] if said else f'exit code {code}')
        return []

    def close(self) -> None:
        """End what is being drawn, and forget what waits."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.errors.close()
        for arrays, _ in self.waiting:
            arrays.close()
        self.waiting.clear()


def unpacked(arrays: Any) -> tuple[str, str, dict[str, Any]]:
    """(kind, path, arguments) from what `Painter.draw` packed."""
    given: dict[str, Any] = {}
    for key in arrays.files:
        value = arrays[key] if arrays[key].ndim else arrays[key].item()
        front, _, name = key.partition('/')
        if name:
            given.setdefault(front, {})[name] = value
        else:
            given[key] = value
    return given.pop('kind'), given.pop('path'), given


def main() -> None:
    """Draw what stands on stdin."""
    os.nice(_NICE)
    with np.load(sys.stdin.buffer, allow_pickle=False) as arrays:
        kind, path, given = unpacked(arrays)
    draw(kind, path, **given)


if __name__ == '__main__':
    main()
