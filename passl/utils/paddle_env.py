"""The one door to Paddle: settings that must be made before its import, and a clear error without it."""

import contextlib
import ctypes
import io
import os
import sys
import warnings
import zlib  # noqa: F401  Paddle 2.6 exports zlib's symbols: load the real one first

from .errors import PaddleMissingError

MINIMUM = (2, 6)
_applied = {}


def _cpu_flags():
    """(vendor, set of flags) from /proc/cpuinfo; ('', empty set) where there is none."""
    vendor, flags = '', set()
    try:
        with open('/proc/cpuinfo') as f:
            for line in f:
                key, _, value = line.partition(':')
                if key.strip() == 'vendor_id':
                    vendor = value.strip()
                elif key.strip() == 'flags':
                    flags = set(value.split())
                    break
    except OSError:
        pass
    return vendor, flags


def tune_cpu():
    """Threads, maths-library path and allocator for CPU runs; never overrides what the user set.

    * OMP_NUM_THREADS: the usable cores divided by the local processes (Paddle's own default is 1).
    * MKL_DEBUG_CPU_TYPE=5 on AMD with AVX2: the bundled maths library takes its slow
      path there otherwise (3x in a training step).
    * glibc keeps freed memory instead of giving pages back at every step.

    Returns:
        dict of what was applied, for the log.
    """
    if _applied or 'paddle' in sys.modules:
        return _applied
    if 'OMP_NUM_THREADS' not in os.environ:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        local = int(os.environ.get('PADDLE_LOCAL_SIZE') or os.environ.get('PADDLE_TRAINERS_NUM') or 1)
        os.environ['OMP_NUM_THREADS'] = str(max(1, usable // local))
        _applied['OMP_NUM_THREADS'] = os.environ['OMP_NUM_THREADS']
    vendor, flags = _cpu_flags()
    if vendor == 'AuthenticAMD' and 'avx2' in flags and 'MKL_DEBUG_CPU_TYPE' not in os.environ:
        os.environ['MKL_DEBUG_CPU_TYPE'] = _applied['MKL_DEBUG_CPU_TYPE'] = '5'
    if sys.platform == 'linux' and not any(k.startswith('MALLOC_') for k in os.environ):
        try:
            libc = ctypes.CDLL(None)
            libc.mallopt(-4, 0)             # M_MMAP_MAX: no mmap per large tensor
            libc.mallopt(-1, 2**31 - 1)     # M_TRIM_THRESHOLD: keep freed pages
            _applied['malloc'] = 'keeps freed pages'
        except (OSError, AttributeError):
            pass
    return _applied


@contextlib.contextmanager
def _without_thread_warning():
    """Leave out what Paddle's import writes about an OMP_NUM_THREADS that we chose ourselves; keep the rest."""
    if 'OMP_NUM_THREADS' not in _applied:
        yield
        return
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            yield
    finally:
        lines = text.getvalue().splitlines(keepends=True)
        sys.stderr.write(''.join(line for line in lines if 'OMP_NUM_THREADS' not in line))


def require_paddle():
    """Import Paddle and return it.

    Raises:
        PaddleMissingError: not installed, or older than 2.6; the message says how to install it.
    """
    tune_cpu()
    for noise in ('No ccache found', 'When training, we now always track global mean'):
        warnings.filterwarnings('ignore', message=noise)
    try:
        with _without_thread_warning():
            import paddle
    except ModuleNotFoundError as e:
        if e.name != 'paddle':
            raise
        raise PaddleMissingError(
            'PaddlePaddle is not installed in this Python environment.\n'
            "  CPU: pip install 'passl[cpu]'   (or: pip install paddlepaddle)\n"
            '  GPU: install the paddlepaddle-gpu build for your CUDA version, see docs/INSTALL.md') from None
    version = tuple(int(x) for x in paddle.__version__.split('.')[:2] if x.isdigit())
    if version and version != (0, 0) and version < MINIMUM:
        raise PaddleMissingError(f'PaddlePaddle {paddle.__version__} is too old: 2.6.2 or newer is needed. '
                                 "Run: pip install -U 'paddlepaddle>=2.6.2'")
    return paddle
