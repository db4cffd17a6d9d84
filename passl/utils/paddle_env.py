"""The one door to Paddle: settings that must be made before its import, and a clear error without it."""

import contextlib
import ctypes
import io
import math
import os
import sys
import tempfile
import warnings
import zlib  # noqa: F401  Paddle 2.6 exports zlib's symbols: load the real one first
from types import ModuleType
from typing import Mapping, Optional

from .errors import PaddleMissingError

MINIMUM = (2, 6, 2)           # 2.6.0 and 2.6.1 have another put_along_axis
_applied: dict[str, str] = {}


def _read(path):
    """The file's text; '' where there is none."""
    try:
        with open(path, encoding='ascii', errors='replace') as f:
            return f.read()
    except OSError:
        return ''


def cpu_flags(cpuinfo: str = '/proc/cpuinfo') -> tuple[str, set[str]]:
    """(vendor, set of flags) of the first processor; ('', empty set) where the system does not tell."""
    facts: dict[str, str] = {}
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(':')
        facts.setdefault(key.strip(), value.strip())
    return facts.get('vendor_id', ''), set(facts.get('flags', '').split())


def _control_groups(controller, root, own):
    """Folders that may limit this process: of its control group up to the root, in version 1 and 2 of the interface."""
    folders = []
    for line in _read(own).splitlines():
        _, controllers, path = (line.split(':', 2) + ['', ''])[:3]
        if controllers == '' or controller in controllers.split(','):
            base = root if controllers == '' else os.path.join(root, controller)
            parts = [p for p in path.split('/') if p not in ('', '..')]
            folders += [os.path.join(base, *parts[:n]) for n in range(len(parts) + 1)]
    return list(dict.fromkeys(folders + [root, os.path.join(root, controller)]))


def cpu_quota(root: str = '/sys/fs/cgroup', own: str = '/proc/self/cgroup') -> Optional[float]:
    """Processors' worth of time that the container may use (float), None without a limit: the smallest one counts."""
    limits = []
    for folder in _control_groups('cpu', root, own):
        quota, period = (_read(os.path.join(folder, 'cpu.max')).split() + ['', ''])[:2]
        if not quota:
            quota, period = (_read(os.path.join(folder, f'cpu.cfs_{k}_us')).strip() for k in ('quota', 'period'))
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits) if limits else None


def memory_limit(root: str = '/sys/fs/cgroup', own: str = '/proc/self/cgroup') -> Optional[int]:
    """Bytes of memory that the container may use, None without a limit: the smallest one counts."""
    limits = []
    for folder in _control_groups('memory', root, own):
        for name in ('memory.max', 'memory.limit_in_bytes'):
            text = _read(os.path.join(folder, name)).strip()
            if text.isdigit() and 0 < int(text) < 2**60:        # version 1 writes no limit as a number near 2**63
                limits.append(int(text))
    return min(limits) if limits else None


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the container's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota - 1e-6)))


def local_processes(environ: Mapping[str, str]) -> int:
    """Processes of this run on this machine, as the launcher tells them."""
    for name in ('PADDLE_LOCAL_SIZE', 'PADDLE_TRAINERS_NUM'):
        value = environ.get(name, '').strip()
        if value.isdigit() and int(value) >= 1:
            return int(value)
    return 1


def maths_library_path(vendor: str, flags: set[str]) -> Optional[str]:
    """Value of MKL_DEBUG_CPU_TYPE that suits a processor; None: the library's own choice.

    The library in Paddle's wheels takes its slow path on AMD. 5 is its AVX2 path. A path that the
    processor cannot execute would end the process, hence nothing is forced on anything but AMD with
    all that AVX2 code uses.
    """
    return '5' if vendor == 'AuthenticAMD' and {'avx2', 'fma'} <= flags else None


def tune_cpu() -> dict[str, str]:
    """Threads, maths-library path and allocator for CPU runs; never overrides what the user set.

    * OMP_NUM_THREADS: the usable cores divided by the local processes (Paddle's own default is 1).
    * MKL_DEBUG_CPU_TYPE: see `maths_library_path`.
    * glibc keeps freed memory instead of giving pages back at every step.

    Returns:
        dict of what was applied, for the log. If Paddle was imported before, nothing can be applied any
        more, and `cpu_settings` says so.
    """
    if _applied:
        return _applied
    if 'paddle' in sys.modules:
        _applied['cpu_settings'] = 'none, Paddle was imported before passl'
        return _applied
    if 'OMP_NUM_THREADS' not in os.environ:
        os.environ['OMP_NUM_THREADS'] = str(max(1, usable_cores() // local_processes(os.environ)))
        _applied['OMP_NUM_THREADS'] = os.environ['OMP_NUM_THREADS']
    path = maths_library_path(*cpu_flags())
    if path and 'MKL_DEBUG_CPU_TYPE' not in os.environ:
        os.environ['MKL_DEBUG_CPU_TYPE'] = _applied['MKL_DEBUG_CPU_TYPE'] = path
    if _keep_freed_pages():
        _applied['malloc'] = 'keeps freed pages'
    return _applied


def _keep_freed_pages():
    """Tell glibc's allocator to; False elsewhere, or where the user has settings of his own for it."""
    if sys.platform != 'linux' or any(k.startswith('MALLOC_') or k == 'GLIBC_TUNABLES' for k in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version       # other C libraries have no mallopt, or one that means something else
        # M_MMAP_MAX: no mmap per large tensor; M_TRIM_THRESHOLD: keep freed pages
        return bool(libc.mallopt(-4, 0)) and bool(libc.mallopt(-1, 2**31 - 1))
    except (OSError, AttributeError):
        return False


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


@contextlib.contextmanager
def _with_a_home():
    """Paddle's import makes ~/.cache/paddle/dataset, and fails where it may not: then HOME is a folder that goes again.

    (Nothing is ever downloaded to it.)
    """
    try:
        if 'paddle' not in sys.modules:
            os.makedirs(os.path.expanduser('~/.cache/paddle/dataset'), exist_ok=True)
    except OSError:
        before = os.environ.get('HOME')
        with tempfile.TemporaryDirectory() as home:
            os.environ['HOME'] = home
            try:
                yield
            finally:
                os.environ.pop('HOME')
                os.environ.update({} if before is None else {'HOME': before})
    else:
        yield


def require_paddle() -> ModuleType:
    """Import Paddle and return it.

    Raises:
        PaddleMissingError: not installed, or older than 2.6.2; the message says how to install it.
    """
    tune_cpu()
    for noise in ('No ccache found', 'When training, we now always track global mean'):
        warnings.filterwarnings('ignore', message=noise)
    try:
        with _without_thread_warning(), _with_a_home():
            import paddle
    except ModuleNotFoundError as e:
        if e.name != 'paddle':
            raise
        raise PaddleMissingError(
            'PaddlePaddle is not installed in this Python environment.\n'
            "  CPU: in the clone pip install -e '.[cpu]'   (or: pip install paddlepaddle)\n"
            '  GPU: install the paddlepaddle-gpu build for your CUDA version, see docs/INSTALL.md') from None
    version = tuple(int(x) for x in paddle.__version__.split('.')[:3] if x.isdigit())
    if version and version != (0, 0, 0) and version < MINIMUM:
        raise PaddleMissingError(f'PaddlePaddle {paddle.__version__} is too old: 2.6.2 or newer is needed. '
                                 "Run: pip install -U 'paddlepaddle>=2.6.2'")
    return paddle
