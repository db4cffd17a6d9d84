"""CIFAR-10 and CIFAR-100 in the python layout, from local files only."""

import io
import os
import tarfile
import zlib
from typing import Annotated, Any, Literal, Optional, Union
from collections.abc import Sequence

import numpy as np

from ..utils.config.kinds import Check, Flag
from ..utils.errors import ConfigError, DataError
from ..utils.weights.safe_arrays import RefusedError
from ..utils.weights.safe_pickle import SafeUnpickler
from .base import ImageDataset
from .builder import DATASETS
from .folder import Path
from .image import shown

NoDownload = Annotated[bool, Check('false or left out: nothing is fetched from the network; give dataroot',
                                   lambda v: v is False)]
_LARGEST = 2**28        # bytes of a file in an archive; the largest of both data sets has 155 MB


def _read_batch(data, name):
    try:
        batch = SafeUnpickler(io.BytesIO(data), len(data)).load()
        return {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
    except Exception as e:      # damaged pickles raise almost anything
        raise DataError(f"'{name}' is no CIFAR file: it holds or asks for what image data does not need ({e})"
                        if isinstance(e, RefusedError) else f"'{name}' is no CIFAR file: {e}") from None


class _Source:
    """Files of an extracted folder or of a .tar.gz, found by their base names."""

    def __init__(self, path: Union[str, os.PathLike], inner: str) -> None:
        self.path = os.path.expanduser(str(path))
        self.inner = inner
        if not os.path.exists(self.path):
            raise DataError(f"dataroot: '{self.path}' does not exist. Nothing is downloaded: get the python version of "
                            f'the data set and give its .tar.gz or the folder {inner}.')

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """{name: bytes} of those `names` that are there."""
        if not os.path.isdir(self.path):
            return self._from_tar(self.path, names)
        found = {}
        for folder in (self.path, os.path.join(self.path, self.inner)):
            for path in filter(os.path.isfile, (os.path.join(folder, name) for name in names)):
                with open(path, 'rb') as f:
                    found[os.path.basename(path)] = f.read()
        archives = (os.path.join(self.path, stem + '.tar.gz')
                    for stem in (self.inner.replace('-batches-py', '-python'), self.inner))
        archive = next(filter(os.path.isfile, archives), None)
        return found if found or archive is None else self._from_tar(archive, names)

    @staticmethod
    def _from_tar(path, names):
        try:
            with tarfile.open(path) as tar:
                found = {}
                for member in tar:          # in one pass: a compressed archive is read from its start for each other
                    if member.isfile() and os.path.basename(member.name) in names:
                        if member.size > _LARGEST:
                            raise DataError(f"'{path}' is not CIFAR: {shown(member.name)} has {member.size} bytes.")
                        found[os.path.basename(member.name)] = tar.extractfile(member).read()
                return found
        except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as e:
            raise DataError(f"'{path}' cannot be read as a tar archive: {e}") from None


class _Cifar(ImageDataset):
    """Shared by both; `samples` are image numbers, `images` is uint8 [N, 32, 32, 3].

    Args:
        dataroot: cifar-10-python.tar.gz or cifar-100-python.tar.gz, the extracted folder, or the folder that holds it.
        mode: 'train' or 'test'.
        datafile: PASSL's name for dataroot.
        download: must be False; nothing is fetched.
        return_label ... max_bad: see ImageDataset.
    """

    def _read(self, dataroot, datafile, mode, inner, files, label_key, meta, meta_key):
        if dataroot is None and datafile is None:
            raise ConfigError(f'{type(self).__name__} needs dataroot: the .tar.gz or the folder {inner}.')
        source = _Source(dataroot if dataroot is not None else datafile, inner)
        found = source.read(files[mode] + [meta])
        missing = [n for n in files[mode] if n not in found]
        if missing:
            raise DataError(f"'{source.path}' lacks {', '.join(missing)}; expected the files of {inner}.")
        images, labels = [], []
        for name in files[mode]:
            batch = _read_batch(found[name], name)
            data, numbers = batch.get('data'), batch.get(label_key)
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise DataError(f"'{name}' is no CIFAR file: its 'data' is no uint8 array of shape [N, 3072].")
            if not isinstance(numbers, list) or len(numbers) != len(data) or \
                    not all(isinstance(v, int) and 0 <= v < 100 for v in numbers):
                raise DataError(f"'{name}' is no CIFAR file: '{label_key}' is no list of {len(data)} class numbers.")
            images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += numbers
        self.images = np.ascontiguousarray(np.concatenate(images))
        self.labels = labels
        self.samples = range(len(labels))
        names = _read_batch(found[meta], meta).get(meta_key) if meta in found else None
        if not isinstance(names, list) or not all(isinstance(n, (str, bytes)) for n in names):
            names = [str(k) for k in range(max(labels, default=-1) + 1)]
        self.classes = [n.decode('latin1') if isinstance(n, bytes) else n for n in names]
        self._filled()

    def load(self, index: int) -> np.ndarray:
        return self.images[index].copy()

    def label(self, index: int) -> int:
        return self.labels[index]


@DATASETS.register()
class CIFAR10(_Cifar):
    """CIFAR-10 (python version)."""

    def __init__(self, dataroot: Optional[Path] = None, mode: Literal['train', 'test'] = 'train',
                 return_label: Flag = False, *, datafile: Optional[Path] = None, download: NoDownload = False,
                 **views: Any) -> None:
        super().__init__(return_label, **views)
        files = {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}
        self._read(dataroot, datafile, mode, 'cifar-10-batches-py', files, 'labels', 'batches.meta',
                   'label_names')


@DATASETS.register()
class CIFAR100(_Cifar):
    """CIFAR-100 (python version) with its 100 fine labels."""

    def __init__(self, dataroot: Optional[Path] = None, mode: Literal['train', 'test'] = 'train',
                 return_label: Flag = False, *, datafile: Optional[Path] = None, download: NoDownload = False,
                 **views: Any) -> None:
        super().__init__(return_label, **views)
        self._read(dataroot, datafile, mode, 'cifar-100-python', {'train': ['train'], 'test': ['test']}, 'fine_labels',
                   'meta', 'fine_label_names')
