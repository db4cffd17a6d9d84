"""Do all processes of a job run the same code on the same data with the same settings?"""

import hashlib
import os
import platform
from types import ModuleType
from typing import Any, Iterable, Optional, Sized

import numpy
import paddle

from .. import __version__
from ..datasets.loader import ImageLoader
from ..utils.distributed import dist
from ..utils.errors import ConfigError, DataError
from ..utils.config.registry import plugin_modules
from .changes import differences

_OWN = ('output_dir',)          # may differ: only process 0 writes there, and it tells the others where
_SHOWN = 5


def code_hash(plugins: Iterable[ModuleType] = ()) -> str:
    """SHA-256 over the package's Python files and those of `plugins` (modules)."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    files = sorted(os.path.join(here, n) for here, _, names in os.walk(root) for n in names if n.endswith('.py'))
    digest = hashlib.sha256()
    for path in files:
        _add(digest, os.path.relpath(path, root), path)
    for module in plugins:
        own = getattr(module, '__file__', None)
        if own and os.path.isfile(own):
            _add(digest, module.__name__, own)
    return digest.hexdigest()[:16]


def _add(digest, name, path):
    with open(path, 'rb') as f:
        content = f.read()
    digest.update(f'{name}\0{len(content)}\0'.encode())
    digest.update(content)


def check_processes(cfg: dict[str, Any], device: str) -> None:
    """Compare code, versions, device and config of all processes.

    Args:
        cfg: resolved config. device: name of the device.
    Raises:
        ConfigError: on every process, naming the first that differs from process 0, and in what.
    """
    if dist.world_size() == 1:
        return
    facts = {'version of PASSL': __version__, 'version of Paddle': paddle.__version__,
             'version of NumPy': numpy.__version__, 'version of Python': platform.python_version(),
             'code (hash of its files)': code_hash(plugin_modules()), 'device': str(device).split(':')[0],
             'number of processes': dist.world_size()}
    first, rank, mine = _first_difference((facts, {k: v for k, v in cfg.items() if k not in _OWN}))
    if rank is None:
        return
    lines = [f'  {k}: {a} / {b}' for k, a, b in differences(first[0], mine[0])]
    lines += [f'  {k}: {a} / {b}' for k, a, b in differences(first[1], mine[1])[:_SHOWN]]
    raise ConfigError(f'Processes 0 and {rank} differ:\n' + '\n'.join(lines) + '\nAll processes of a job must run the '
                      'same code and the same configuration: bring the machines to the same state and start again.')


def check_data(loaders: dict[str, Optional[ImageLoader]]) -> None:
    """Compare the listings of the data of all processes.

    Args:
        loaders: {part: loader or None}.
    Raises:
        DataError: on every process, naming part, processes and numbers of images.
    """
    if dist.world_size() == 1:
        return
    mine = {part: data_facts(loader.dataset) for part, loader in loaders.items() if loader is not None}
    first, rank, other = _first_difference(mine)
    if rank is None:
        return
    for part in first:
        a, b = first[part], other.get(part)
        if a != b:
            what = f'{a[0]} and {b[0]} images' if a[0] != b[0] else f'{a[0]} images each, with other names or labels'
            raise DataError(f"Processes 0 and {rank} see different data in 'dataloader.{part}': {what}. All processes "
                            'must see the same files: compare the folders on the machines, and remove a stale index.')


def data_facts(dataset: Sized) -> tuple[int, str]:
    """(number of images, hash of their names and labels) of a data set; folders above the data do not matter."""
    samples: Any = getattr(dataset, 'samples', None)
    digest = samples.fingerprint() if hasattr(samples, 'fingerprint') else ''
    return len(dataset), digest


def _first_difference(mine):
    """(what process 0 has, first rank that has something else or None, what that one has)."""
    everybody = dist.gather_objects(mine)
    for rank, other in enumerate(everybody):
        if other != everybody[0]:
            return everybody[0], rank, other
    return everybody[0], None, None
