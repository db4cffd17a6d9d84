"""Watches that a reader does nothing but read: an audit hook that sees every call, import, process and written file."""

import codecs
import contextlib
import gc
import os
import signal
import sys
import threading

from passl.utils.misc import peak_memory_mb, reset_peak_memory

_FORBIDDEN = ('os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'os.fork', 'os.forkpty', 'os.remove', 'os.rename',
              'os.mkdir', 'os.rmdir', 'os.chmod', 'os.chown', 'os.link', 'os.symlink', 'os.truncate', 'os.putenv',
              'shutil.', 'subprocess.', 'socket.', 'ctypes.', 'pickle.find_class', 'exec', 'compile', 'import',
              'code.__new__', 'builtins.input', 'webbrowser.', 'urllib.', 'tempfile.', 'marshal.load', 'cpython.run_')
_seen, _strangers = None, frozenset()


def _hook(event, args):
    if _seen is None or threading.get_ident() in _strangers:
        return
    if event == 'open':
        writes = isinstance(args[1], str) and set(args[1]) & set('wax+') or \
            isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes or str(args[0]).startswith('/proc/self/'):
            return
    elif not any(event == f or (f[-1] in '._' and event.startswith(f)) or event.startswith(f + '.')
                 for f in _FORBIDDEN):
        return
    _seen.append(f'{event} {args!r}'[:300])


sys.addaudithook(_hook)
for _name in ('utf-8-sig', 'cp437', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'utf-32-le', 'utf-32-be', 'latin1',
              'ascii', 'gb18030'):  # Python imports its codecs when they are first used
    codecs.lookup(_name)


class TooSlow(BaseException):
    """Not an Exception, so that no reader can take it for damage."""


def _too_slow(*_):
    raise TooSlow('the reader did not come back')


class Done:
    """What became of a guarded call: `value` or `error`, and what it cost."""
    value = error = None
    megabytes = 0.0


@contextlib.contextmanager
def _recorded():
    """What this thread does, and those that it starts: not what tests before have left, be it threads or garbage.

    Without Python's collector a reader needs no less memory, and long readings less time.
    """
    global _seen, _strangers
    gc.disable()
    _strangers = frozenset(sys._current_frames()) - {threading.get_ident()}
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None
        gc.enable()


def guarded(function, *args, seconds=20, megabytes=400, allowed=()):
    """Call a reader and check what it may not do: execute, import, write, take long or take much memory.

    Args:
        function, args: the call.
        seconds: of processor time; then the call is ended.
        megabytes: limit of added memory (peak).
        allowed: exception classes that are answers.

    Returns:
        Done. Other exceptions come through.

    Raises:
        AssertionError: the memory was passed, or something was executed.
        TooSlow: the time was passed.
    """
    seconds *= 4 if sys.gettrace() else 1                   # measuring coverage triples what Python code takes
    done = Done()
    before = signal.signal(signal.SIGPROF, _too_slow)       # processor time: other work on the machine does not count
    signal.setitimer(signal.ITIMER_PROF, seconds)
    reset_peak_memory()
    base = peak_memory_mb()
    with _recorded() as seen:
        try:
            done.value = function(*args)
        except allowed as e:
            done.error = e
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)
    done.megabytes = peak_memory_mb() - base
    assert not seen, f'the reader did more than read: {seen}'
    assert done.megabytes <= megabytes, f'{done.megabytes:.0f} MB'
    return done
