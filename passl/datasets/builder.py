"""Registry of data sets, and the builders of data sets and loaders."""

import ctypes
import glob
import multiprocessing
import os
import signal
import sys

import cv2
import paddle

from ..utils.errors import ConfigError, DataError, suggest
from ..utils.logger import get_logger
from ..utils.registry import Registry, build_from_config
from .base import generators_kept
from .preprocess.compose import build_transforms
from .sampler import EpochBatchSampler
from .transport import build_transport

DATASETS = Registry('data set')
_SAMPLERS = ('EpochBatchSampler', 'DistributedBatchSampler', 'BatchSampler')
_SAMPLER_KEYS = {'name', 'batch_size', 'shuffle', 'drop_last'}
_LOADER_KEYS = {'num_workers', 'use_shared_memory', 'prefetch_factor', 'persistent_workers', 'timeout',
                'use_buffer_reader', 'transport'}
_RECIPES = ('transforms', 'view_trans1', 'view_trans2')


def build_dataset(cfg, where='dataloader.train.dataset'):
    """Build the data set that `cfg` (`{name, ...arguments}`) describes.

    `reduced_decoding` (see ImageDataset) may stand beside the arguments of any data set.

    Raises:
        ConfigError: unknown name, argument or transform (named by its path in the config).
        DataError: the images are missing.
    """
    if isinstance(cfg, dict):       # recipes are built here, where their place in the config is known
        cfg = {k: build_transforms(v, f'{where}.{k}') if k in _RECIPES and v is not None else v
               for k, v in cfg.items()}
    reduced = cfg.pop('reduced_decoding', None) if isinstance(cfg, dict) else None
    if reduced is not None and not isinstance(reduced, bool):
        raise ConfigError(f"'{where}.reduced_decoding' must be true or false, not {reduced!r}.")
    dataset = build_from_config(cfg, DATASETS, where)
    if reduced is not None:
        dataset.reduced_decoding = reduced
    return dataset


_GRACE = 120        # seconds a worker outlives a SIGTERM, so that the main process can finish its step and save


def _end_worker(*_):
    """Nobody will fetch this worker's batches, so they go before it does."""
    for path in glob.glob(f'/dev/shm/paddle_{os.getpid()}_*'):
        try:
            os.unlink(path)
        except OSError:
            pass
    os._exit(143)       # an exception could be swallowed where it arrives, and the worker make another batch


def _terminate_worker(parent):
    """Handler of SIGTERM. The launcher and job schedulers send it to every process of a job, and the main process needs
    its workers until its step is done and saved; it ends them itself. When it is dead there is nothing to wait for."""
    def handle(*_):
        if os.getppid() != parent:
            _end_worker()
        signal.alarm(_GRACE)
    return handle


def _init_worker(worker_id):
    """Runs first in every worker process."""
    cv2.setNumThreads(0)                    # the workers are the parallelism
    os.environ['OMP_NUM_THREADS'] = '1'
    parent = getattr(multiprocessing.parent_process(), 'pid', os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGALRM, _end_worker)
    signal.signal(signal.SIGTERM, _terminate_worker(parent))
    if sys.platform == 'linux':
        # Die with the main process, however that ends: Paddle's workers would wait for ever and keep
        # their batches in /dev/shm.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if os.getppid() != parent:          # it died before the line above
            _end_worker()


class ImageLoader(paddle.io.DataLoader):
    """Paddle's DataLoader, with three differences.

    * A worker's error arrives as a DataError with its reason (Paddle only says 'Blocking queue
      is killed').
    * `num_workers: 0` reads in the calling thread: Paddle would read in a second thread, which
      hangs on an error and shares the global random generators with the training step.
    * With uint8 transport (`input_transform` is set) the workers' images are uint8 [N, H, W, 3]. They are
      normalised here, on the device, or by the model that `hand_over` was called for.
    """

    input_transform = None
    handed_over = False

    def hand_over(self, model):
        """Let `model` normalise: it gets `input_transform` and from now on uint8 images.

        Nothing happens with float32 transport, or if the model has no attribute `input_transform`.
        """
        if self.input_transform is not None and hasattr(model, 'input_transform'):
            model.input_transform = self.input_transform
            self.handed_over = True

    def __iter__(self):
        if self.input_transform is None or self.handed_over:
            yield from self._batches()
            return
        views = self.collate_fn.views
        for batch in self._batches():
            yield [self.input_transform(x) for x in batch[:views]] + list(batch[views:])

    def _batches(self):
        if self.num_workers == 0:
            for keys in self.batch_sampler:
                with generators_kept():
                    fields = self.collate_fn([self.dataset[k] for k in keys])
                yield [paddle.to_tensor(field) for field in fields]
            return
        batches = super().__iter__()
        try:
            yield from batches
        except SystemError as e:
            raise explain_failure(self, e) from None
        finally:            # who stops before the last batch must not leave workers behind
            if not self._persistent_workers:
                batches._try_shutdown_all()


def _reject_unknown(cfg, known, where):
    for key in cfg:
        if key not in known:
            raise ConfigError(f"'{where}.{key}': unknown setting. {suggest(key, known)}")


def _default_workers():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return 2 if cores > 1 and sys.platform == 'linux' else 0


def build_sampler(cfg, dataset, seed=0, rank=0, world_size=1, training=True,
                  where='dataloader.train.sampler'):
    """The EpochBatchSampler that `cfg` (`{batch_size, shuffle, drop_last}`) describes.

    In evaluation every image is counted once, so `drop_last` is refused a say there (with a
    warning). Defaults: training shuffles, and keeps the last batch.

    Raises:
        ConfigError: a wrong setting.
        DataError: not one full batch in the data set.
    """
    cfg = cfg or {}
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with batch_size, not {cfg!r}.")
    _reject_unknown(cfg, _SAMPLER_KEYS, where)
    name = cfg.get('name') or _SAMPLERS[0]
    if name not in _SAMPLERS:
        raise ConfigError(f"'{where}.name': unknown sampler '{name}'. {suggest(name, _SAMPLERS)}")
    if 'batch_size' not in cfg:
        raise ConfigError(f"'{where}' needs batch_size (images per process).")
    for key in ('shuffle', 'drop_last'):
        if not isinstance(cfg.get(key, False), bool):
            raise ConfigError(f"'{where}.{key}' must be true or false, not {cfg[key]!r}.")
    drop_last = cfg.get('drop_last', False)
    if drop_last and not training:
        get_logger().warning("'%s.drop_last' is ignored: evaluation counts every image once.", where)
        drop_last = False
    sampler = EpochBatchSampler(len(dataset), cfg['batch_size'], cfg.get('shuffle', training), drop_last,
                                seed, rank, world_size, pad=training)
    if training and len(sampler) == 0:
        size = cfg['batch_size']
        total = f'{size} x {world_size} processes = {size * world_size}' if world_size > 1 else f'{size}'
        raise DataError(f'The batch ({total}) is larger than the data set ({len(dataset)} images), and '
                        f'drop_last leaves nothing over. Lower {where}.batch_size, set {where}.drop_last=False, or add '
                        'images.')
    return sampler


def build_dataloader(cfg, seed=0, rank=0, world_size=1, device='cpu', training=True,
                     where='dataloader.train'):
    """The paddle.io.DataLoader that `cfg` (`{loader, sampler, dataset}`) describes.

    Its `batch_sampler` is an EpochBatchSampler: call `loader.batch_sampler.set_epoch(epoch)`
    before each epoch. Batches are lists of Tensors in the order of the data set's tuple.

    Args:
        cfg: node of the config; `num_workers` may stand directly in it, as in PASSL's files.
        seed: run seed; order and augmentation follow from it.
        rank, world_size: of this process.
        device: 'cpu', 'gpu' ...: where the Tensors go is Paddle's current device; this only
            chooses the transport, and switches off the buffered reader on CPU, where it is one more thread for
            nothing.
        training: False: every image exactly once over all ranks, no padding.
        where: dotted path of `cfg`, for messages.

    Raises:
        ConfigError, DataError: see build_dataset and build_sampler.
    """
    if not isinstance(cfg, dict) or 'dataset' not in cfg:
        raise ConfigError(f"'{where}' needs a 'dataset' (and a 'sampler' with batch_size).")
    _reject_unknown(cfg, {'loader', 'sampler', 'dataset', 'num_workers'}, where)
    options = dict(cfg.get('loader') or {})
    if 'num_workers' in cfg:
        options.setdefault('num_workers', cfg['num_workers'])
    _reject_unknown(options, _LOADER_KEYS, f'{where}.loader')
    options.setdefault('num_workers', _default_workers())
    for key, low in (('num_workers', 0), ('prefetch_factor', 1), ('timeout', 0)):
        value = options.get(key, low)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"'{where}.loader.{key}' must be a whole number from {low} on, not {value!r}.")
    if options['num_workers'] == 0:         # these mean nothing without workers
        for key in ('use_shared_memory', 'prefetch_factor', 'persistent_workers', 'timeout'):
            options.pop(key, None)
        # threads inside OpenCV burn 1.7 times the time for small images, and are no faster
        cv2.setNumThreads(0)
    options.setdefault('use_buffer_reader', device != 'cpu')
    transport = options.pop('transport', 'auto')
    dataset = build_dataset(cfg['dataset'], f'{where}.dataset')
    sampler = build_sampler(cfg.get('sampler'), dataset, seed, rank, world_size, training, f'{where}.sampler')
    collate, input_transform = build_transport(dataset, transport, device, f'{where}.loader.transport')
    loader = ImageLoader(dataset, batch_sampler=sampler, return_list=True, collate_fn=collate,
                         worker_init_fn=_init_worker, **options)
    loader.input_transform = input_transform
    return loader


def explain_failure(loader, error):
    """`error` (Paddle's 'Blocking queue is killed') as a DataError with the worker's reason, if known."""
    reason = getattr(loader.dataset, 'failure', None)
    return DataError(f'A data loader worker stopped. {reason}') if reason else error
