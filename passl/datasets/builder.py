"""Registry of data sets, and the builders of data sets and loaders."""

import os
import sys
from typing import TYPE_CHECKING, Any, Optional

import cv2

from ..utils.errors import ConfigError, DataError, suggest
from ..utils.logger import get_logger
from ..utils.config.kinds import Count, Flag, Range, mistake
from ..utils.config.registry import Registry, build_from_config
from ..utils.config.schema import SCHEMA, check_section, raise_for
from ..utils.paddle_env import usable_cores
from .loader import ImageLoader, explain_failure, init_worker  # noqa: F401
from .preprocess.compose import build_transforms
from .regions import Regions
from .sampler import EpochBatchSampler
from .shared_memory import batch_bytes, use_shared_memory
from .transport import build_transport

if TYPE_CHECKING:
    from paddle.io import Dataset

DATASETS = Registry('data set')
DATALOADER = SCHEMA.keys['dataloader'].keys['train']
_SAMPLERS = ('EpochBatchSampler', 'DistributedBatchSampler', 'BatchSampler')
_RECIPES = ('transforms', 'view_trans1', 'view_trans2')
# settings of any data set
COMMON = {'reduced_decoding': Flag, 'max_pixels': Count, 'value_range': Range, 'regions': dict}
# these had a setting `index`, which is in the configs of older runs
_ONCE_INDEXED = ('ImageFolder', 'UnlabelledFolder', 'ImageNet', 'ImageNet100')
_PREFETCH = 2           # Paddle's default
# Seconds without a batch after which workers count as hanging: no batch takes half an hour, and a network file system
# that is away for less is waited for.
_TIMEOUT = 1800


def build_dataset(cfg: dict[str, Any], where: str = 'dataloader.train.dataset') -> 'Dataset':
    """Build the data set that `cfg` (`{name, ...arguments}`) describes.

    `reduced_decoding`, `max_pixels`, `value_range` (see ImageDataset) and `regions` (see Regions) may stand beside the
    arguments of any data set.

    Raises:
        ConfigError: unknown name, argument or transform (named by its path in the config).
        DataError: the images are missing.
    """
    common = {}
    if isinstance(cfg, dict):       # recipes are built here, where their place in the config is known
        cfg = {k: build_transforms(v, f'{where}.{k}') if k in _RECIPES and v is not None else v
               for k, v in cfg.items()}
        common = {k: cfg.pop(k) for k in COMMON if k in cfg}
        if 'index' in cfg and cfg.get('name') in _ONCE_INDEXED:
            del cfg['index']
            get_logger().info("'%s.index' is a setting of older versions without effect: every start lists the folder. "
                              'Take it out.', where)
    common = {k: v for k, v in common.items() if v is not None}
    for key, value in common.items():
        wrong = mistake(COMMON[key], value)
        if wrong:
            raise ConfigError(f"'{where}.{key}' {wrong}")
    if 'regions' in common:
        common['regions'] = Regions.of(common['regions'], f'{where}.regions')
    dataset = build_from_config(cfg, DATASETS, where)
    for key, value in common.items():
        setattr(dataset, key, value)
    return dataset


def _default_workers():
    return 2 if usable_cores() > 1 and sys.platform == 'linux' else 0


def build_sampler(cfg: Optional[dict[str, Any]], dataset: 'Dataset', seed: int = 0, rank: int = 0, world_size: int = 1,
                  training: bool = True, where: str = 'dataloader.train.sampler') -> EpochBatchSampler:
    """The EpochBatchSampler that `cfg` (`{batch_size, shuffle, drop_last}`) describes.

    In evaluation every image is counted once, so `drop_last` is refused a say there (with a
    warning). Defaults: training shuffles, and keeps the last batch.

    Raises:
        ConfigError: a wrong setting.
        DataError: not one full batch in the data set.
    """
    cfg = {k: v for k, v in (cfg or {}).items() if v is not None}
    raise_for(check_section(cfg, DATALOADER.keys['sampler'], where))
    name = cfg.get('name') or _SAMPLERS[0]
    if name not in _SAMPLERS:
        raise ConfigError(f"'{where}.name': unknown sampler '{name}'. {suggest(name, _SAMPLERS)}")
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


def _processes_here(world_size):
    """Training processes on this machine: the launcher tells them, and without it all are here."""
    told = os.environ.get('PADDLE_LOCAL_SIZE', '')
    return min(int(told), world_size) if told.isdigit() and int(told) > 0 else world_size


def build_dataloader(cfg: dict[str, Any], seed: int = 0, rank: int = 0, world_size: int = 1, device: str = 'cpu',
                     training: bool = True, where: str = 'dataloader.train') -> ImageLoader:
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
    raise_for(check_section(cfg, DATALOADER, where))
    options = {k: v for k, v in (cfg.get('loader') or {}).items() if v is not None}
    if 'num_workers' in cfg:
        options.setdefault('num_workers', cfg['num_workers'])
    options.setdefault('num_workers', _default_workers())
    if options['num_workers'] == 0:         # these mean nothing without workers
        for key in ('use_shared_memory', 'prefetch_factor', 'persistent_workers', 'timeout'):
            options.pop(key, None)
        # threads inside OpenCV burn 1.7 times the time for small images, and are no faster
        cv2.setNumThreads(0)
    options.setdefault('use_buffer_reader', device != 'cpu')
    transport = options.pop('transport', 'auto')
    dataset = build_dataset(cfg['dataset'], f'{where}.dataset')
    if not training:
        # a figure about other images than those asked for would be wrong
        dataset.stand_ins = False       # type: ignore[attr-defined]
    sampler = build_sampler(cfg.get('sampler'), dataset, seed, rank, world_size, training, f'{where}.sampler')
    collate, input_transform = build_transport(dataset, transport, device, f'{where}.loader.transport')
    timeout = options.pop('timeout', _TIMEOUT)      # Paddle's own has no effect
    if options['num_workers'] > 0:
        options['use_shared_memory'] = use_shared_memory(
            options.get('use_shared_memory'), batch_bytes(dataset, collate, sampler.batch_size), options['num_workers'],
            options.get('prefetch_factor', _PREFETCH), _processes_here(world_size), f'{where}.loader')
    # Paddle's annotations know its own samplers and collation only
    loader = ImageLoader(dataset, batch_sampler=sampler,            # type: ignore[arg-type]
                         return_list=True, collate_fn=collate,      # type: ignore[arg-type]
                         worker_init_fn=init_worker, **options)
    loader.input_transform = input_transform
    loader.batch_timeout = timeout
    return loader
