"""Facts for bug reports that need no Paddle. Every one is found by itself; one that cannot be found says why."""

import importlib
import importlib.metadata
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Callable, Mapping, Optional, Union

from .. import __version__
from ..utils.paddle_env import cpu_flags, cpu_quota, memory_limit, usable_cores
from .words import in_words

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WHEELS = ('paddlepaddle', 'paddlepaddle-gpu', 'paddlepaddle-xpu', 'paddlepaddle-npu', 'paddlepaddle-dcu')
EXTRAS = (('PaddleSeg', 'paddleseg'), ('PaddleDetection', 'paddledet'), ('visualdl', 'visualdl'),
          ('PyYAML', 'PyYAML'), ('matplotlib', 'matplotlib'))
CPU_FLAGS = ('avx', 'avx2', 'fma', 'avx512f', 'avx512_bf16', 'amx_bf16')
# environment variables that change a run; nothing else is looked at
VARIABLES = re.compile(r'(FLAGS|NCCL|PADDLE|MKL)_\w+|OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES|NVIDIA_TF32_OVERRIDE|'
                       r'PASSL_ONEDNN')
SECRET = re.compile('KEY|TOKEN|SECRET|PASS(?!L_)|AUTH|CREDENTIAL', re.I)
GIB = 2**30
Fact = Callable[[], Union[str, list[str], None]]         # gives text, a list of lines, or nothing to tell


def told(function: Fact) -> Union[str, list[str], None]:
    """What a fact's function gives, as text; an exception says why there is nothing. None: nothing to tell."""
    try:
        return function()
    except Exception as e:
        return f'not known: {in_words(e)}'


def run(*command: str, limit: float = 10) -> str:
    """A program's standard output, stripped. Raises OSError or subprocess.SubprocessError."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                          text=True, errors='replace', timeout=limit, check=True).stdout.strip()


def passl(root: str = ROOT) -> str:
    """Version, and the commit if the package lies in a clone."""
    if not os.path.exists(os.path.join(root, '.git')):
        return f'{__version__}, installed'
    try:
        return f"{__version__}, commit {run('git', '-C', root, 'describe', '--always', '--dirty=, changed')}"
    except (OSError, subprocess.SubprocessError) as e:
        return f'{__version__}, in a clone; commit not known: {in_words(e)}'


def python() -> str:
    where = 'a virtual environment' if sys.prefix != sys.base_prefix else \
        'conda' if os.path.isdir(os.path.join(sys.prefix, 'conda-meta')) else "the system's"
    return f'{platform.python_version()} ({platform.python_implementation()}, {where}), {platform.machine()}'


def version_of(distribution: str) -> Optional[str]:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def wheels() -> list[str]:
    """['name version'] of the Paddle distributions that pip knows."""
    return [f'{name} {version}' for name in WHEELS for version in [version_of(name)] if version]


def paddle_wheel() -> str:
    found = wheels()
    if not found:
        return "none: in the clone pip install -e '.[cpu]', or paddlepaddle-gpu as docs/INSTALL.md says"
    if len(found) > 1:
        return f"{' and '.join(found)} - they overwrite each other's files: uninstall all, then install one"
    return found[0]


def module(name: str) -> str:
    """Version of a module as it is imported."""
    try:
        found = importlib.import_module(name)
        return str(getattr(found, '__version__', 'no version'))
    except ModuleNotFoundError as e:
        if e.name == name:
            return 'not installed'
        return f'does not import: {in_words(e)}'
    except Exception as e:
        return f'does not import: {in_words(e)}'


def extras() -> Optional[str]:
    found = [f'{label} {version}' for label, name in EXTRAS for version in [version_of(name)] if version]
    return ', '.join(found) or None


def system() -> str:
    name = platform.platform(aliased=True)
    try:
        with open('/etc/os-release', encoding='utf-8', errors='replace') as f:
            pretty = re.search(r'^PRETTY_NAME="?([^"\n]+)', f.read(), re.M)
        name = f'{pretty.group(1)}, {platform.system()} {platform.release()}' if pretty else name
    except OSError:
        pass
    return f"{name}{', in a container' if os.path.exists('/.dockerenv') else ''}"


def glibc() -> str:
    return ' '.join(platform.libc_ver()).strip() or 'no glibc'


def driver() -> str:
    """The NVIDIA driver's version, where nvidia-smi is there."""
    if not shutil.which('nvidia-smi'):
        return 'no nvidia-smi'
    try:
        lines = run('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader').splitlines()
        return ', '.join(sorted(set(lines))) or 'nvidia-smi names no GPU'
    except subprocess.TimeoutExpired:
        return 'nvidia-smi gave no answer for 10 s: the driver hangs; restart the machine'
    except (OSError, subprocess.SubprocessError) as e:
        return f'nvidia-smi fails: {in_words(e)}'


def cpu() -> str:
    model = None
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='ascii', errors='replace') as f:
            model = re.search(r'^model name\s*:\s*(.+)$', f.read(), re.M)
    name = model.group(1).strip() if model else platform.processor() or platform.machine()
    flags = cpu_flags()[1]
    return f"{name}; {' '.join(f for f in CPU_FLAGS if f in flags) or 'flags not known'}"


def cores() -> str:
    quota = cpu_quota()
    return f'{usable_cores()} usable of {os.cpu_count()}' + ('' if quota is None else f'; container: {quota:g}')


def memory() -> str:
    whole = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    limit = memory_limit()
    return f'{whole / GIB:.1f} GiB' + ('' if limit is None else f'; container: {limit / GIB:.1f} GiB')


def shared_memory() -> str:
    if not os.path.isdir('/dev/shm'):
        return 'none'
    space = shutil.disk_usage('/dev/shm')
    return f'{space.total / GIB:.2f} GiB, {space.free / GIB:.2f} free'


def disk() -> str:
    return f'{shutil.disk_usage(os.getcwd()).free / GIB:.1f} GiB free in this folder'


def variables(environ: Optional[Mapping[str, str]] = None) -> Union[str, list[str]]:
    """['NAME=value'] of the variables that change a run; what could be a secret is not shown."""
    lines = []
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if VARIABLES.fullmatch(name):
            value = '(not shown)' if SECRET.search(name) else re.sub(r'//[^/@\s]*@', '//(not shown)@', value)
            lines.append(f'{name}={value if len(value) <= 80 else value[:77] + "..."}')
    return lines or 'none that changes a run'


def text() -> str:
    return (f"locale {'.'.join(p for p in locale.getlocale() if p) or 'C'}, stdout "
            f"{getattr(sys.stdout, 'encoding', None)}, files {sys.getfilesystemencoding()}")


# before and after what is asked of Paddle
FIRST: tuple[tuple[str, Fact], ...] = (('PASSL', passl), ('Python', python), ('Paddle wheel', paddle_wheel))
LAST = (('NumPy', lambda: module('numpy')), ('OpenCV', lambda: module('cv2')), ('Pillow', lambda: module('PIL')),
        ('protobuf', lambda: version_of('protobuf') or 'not installed'), ('also', extras), ('OS', system),
        ('C library', glibc), ('driver', driver), ('CPU', cpu), ('cores', cores), ('memory', memory),
        ('/dev/shm', shared_memory), ('disk', disk), ('variables', variables), ('text', text))
