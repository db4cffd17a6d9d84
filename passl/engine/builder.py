"""Builds a Trainer from a config: the parts, and the ordered list of hooks."""

import os
from typing import Any, Callable, Optional, Sequence

import paddle

from ..datasets import build_dataloader
from ..datasets.loader import ImageLoader
from ..hooks import (BadImagesHook, CheckpointHook, EvaluateHook, Hook, IterTimerHook, LogHook, LRSchedulerHook,
                     OptimizerHook, build_hook)
from ..modeling import build_model
from ..modeling.architectures.base import Architecture
from ..solver import build_lr_scheduler, build_optimizer
from ..utils.distributed import dist
from ..utils.weights.checkpoint import load_file
from ..utils.errors import ConfigError
from ..utils.logger import get_logger
from ..utils.seed import seed_everything
from ..utils.weights import load_into, weights_in
from .amp import build_amp
from .consistency import check_data
from .checkpoint import FORMAT, load_on_all, restore
from .signals import StopSignals
from .trainer import Trainer

# config key -> hook that is there even if the key is not. The order of execution follows from the
# hooks' priorities, with the reasons in passl.hooks.hook.Priority.
STANDARD_HOOKS = {
    'health_config': 'HealthHook',
    'optimizer_config': 'OptimizerHook',
    'timer_config': 'IterTimerHook',
    'lr_config': 'LRSchedulerHook',
    'log_config': 'LogHook',
    'collapse_config': 'CollapseHook',
    'expected': 'ExpectedHook',
    'visual_config': 'VisualHook',
    'checkpoint': 'CheckpointHook',
    'best_config': 'BestHook',
}


def build_trainer(cfg: dict[str, Any], run_dir: Optional[str] = None, training: bool = True, load: Optional[str] = None,
                  resume: Optional[str] = None, val_interval: Optional[int] = None, with_val: Optional[bool] = None,
                  signals: Optional[StopSignals] = None, same_config: bool = False,
                  read: Callable[[str], Any] = load_file) -> Trainer:
    """Build everything that `cfg` names.

    Args:
        cfg: resolved config with defaults (`passl.utils.config.with_defaults`); is not changed.
        run_dir: folder for logs and checkpoints; None writes nothing.
        training: False builds model and val data only.
        load: file with model weights to start from.
        resume: checkpoint to continue from.
        val_interval: evaluate every so many epochs.
        with_val: build `dataloader.val`; default: where a hook or `training=False` needs it.
        signals: StopSignals that end the run, or None.
        same_config: refuse to resume with settings that change the numbers of the run.
        read: reads the checkpoint to continue from, see `load_on_all`.
    """
    seed = cfg['seed']
    seed_everything(seed)
    data = cfg.get('dataloader') or {}
    hooks = build_hooks(cfg, val_interval) if training else [build_hook(cfg.get('log_config') or {'name': 'LogHook'},
                                                                        'log_config'), BadImagesHook()]
    if with_val is None:
        with_val = not training or any(isinstance(h, EvaluateHook) for h in hooks)
    device = paddle.get_device().split(':')[0]
    loaders: dict[str, Any] = {}
    for part, wanted in (('train', training), ('val', with_val)):
        if wanted and part not in data:
            needed_by = 'an evaluation' if not training else \
                'EvaluateHook (or --val-interval)' if part == 'val' else 'a training'
            raise ConfigError(f"'dataloader.{part}' is missing in the config, but {needed_by} needs it. "
                              'See configs/moco/moco_clas_r50.yaml for both parts.')
        loaders[part] = build_dataloader(data[part], seed, dist.rank(), dist.world_size(), device=device,
                                         training=part == 'train', where=f'dataloader.{part}') if wanted else None
    check_data(loaders)
    check_ranges(loaders)
    model = build_model(cfg['model'])
    check_classes(model, loaders)
    if loaders['train']:
        loaders['train'].hand_over(model)
        model.carried = ask_for(model, loaders['train'].dataset, os.path.join(cfg['output_dir'], 'regions'))
        if data['train']['dataset'].get('regions') and 'regions' not in getattr(model, 'needs', ()):
            get_logger().warning("'dataloader.train.dataset.regions' has no effect: %s with these settings uses no "
                                 'regions. Set model.correspondence: Regions, or take it out.', type(model).__name__)
    content = load_file(load) if load else None
    if load:
        load_into(model, weights_in(content, load), 'model', source=f"'{load}'")
    auto_cast, scaler, decorate = build_amp(cfg)
    if not training:
        trainer = Trainer(cfg, model, run_dir, val_loader=loaders['val'], auto_cast=auto_cast, hooks=hooks, seed=seed)
        if isinstance(content, dict) and content.get('format') == FORMAT:
            trainer.loaded_epoch = content['epoch']
        return trainer

    accumulate = next(h for h in hooks if isinstance(h, OptimizerHook)).accumulate_steps
    iters_per_epoch = len(loaders['train']) // accumulate
    if iters_per_epoch < 1:
        raise ConfigError(f"'optimizer_config.accumulate_steps' is {accumulate}, but an epoch has only "
                          f'{len(loaders["train"])} batches. Lower it or the batch size.')
    lr_unit = next(h for h in hooks if isinstance(h, LRSchedulerHook)).unit
    scheduler, max_iters, settings = build_schedule(cfg, iters_per_epoch, lr_unit)
    optimizer = build_optimizer(settings, scheduler, model)
    optimizer = decorate(model, optimizer)
    trainer = Trainer(cfg, model, run_dir, loaders['train'], loaders['val'], optimizer, scheduler, scaler, auto_cast,
                      hooks + momentum_hooks(cfg, model), max_iters, accumulate, seed, signals)
    if resume:
        restore(trainer, load_on_all(resume, read), resume, same_config)
    left_over = len(loaders['train']) % accumulate
    if left_over:
        get_logger().info('The last %d of %d batches of an epoch do not fill %d accumulation steps and are left out '
                          '(others in every epoch).', left_over, len(loaders['train']), accumulate)
    return trainer


def build_schedule(cfg: dict[str, Any], iters_per_epoch: int, unit: str) -> tuple[Any, int, dict[str, Any]]:
    """(learning-rate schedule, steps of the run, settings of the optimizer) of a config.

    Args:
        unit: 'iter' or 'epoch': when the schedule makes a step, see LRSchedulerHook.
    """
    settings = dict(cfg.get('optimizer') or {})
    # without a schedule the optimizer may name a constant rate; with one that is a contradiction, which is refused
    schedule = cfg.get('lr_scheduler') or settings.pop('learning_rate', None)
    max_iters = cfg.get('total_iters') or cfg['epochs'] * iters_per_epoch
    scheduler = build_lr_scheduler(schedule, iters_per_epoch if unit == 'iter' else 1,
                                   length=max_iters if unit == 'iter' else -(-max_iters // iters_per_epoch))
    return scheduler, max_iters, settings


def build_hooks(cfg: dict[str, Any], val_interval: Optional[int] = None) -> list[Hook]:
    """The standard hooks and those of `custom_config`."""
    hooks = []
    for key, name in STANDARD_HOOKS.items():
        hooks.append(build_hook({'name': name, **(cfg.get(key) or {})}, key))
    for key, kind in (('optimizer_config', OptimizerHook), ('timer_config', IterTimerHook),
                      ('lr_config', LRSchedulerHook), ('log_config', LogHook), ('checkpoint', CheckpointHook)):
        if not any(isinstance(h, kind) for h in hooks):
            raise ConfigError(f"'{key}.name' must be {kind.__name__} or a class derived from it.")
    for i, node in enumerate(cfg.get('custom_config') or []):
        hooks.append(build_hook(node, f'custom_config.{i}'))
    if not any(isinstance(h, BadImagesHook) for h in hooks):
        hooks.append(BadImagesHook())
    evaluations = [h for h in hooks if isinstance(h, EvaluateHook)]
    if val_interval and not evaluations:
        evaluations = [EvaluateHook()]
        hooks += evaluations
    for h in evaluations:
        h.interval = val_interval or h.interval
    check_order(hooks)
    return hooks


def check_order(hooks: Sequence[Hook]) -> None:
    """What a hook reads in `trainer.record` must have been written by hooks before it."""
    written: set[str] = set()
    for hook in sorted(hooks, key=lambda h: h.priority):
        for name in set(hook.reads) - written:
            writer = next((h for h in hooks if name in h.writes), None)
            after = f'which {type(writer).__name__} (priority {writer.priority}) writes after it. Give it a higher ' \
                    'priority.' if writer else 'which no hook writes. Add one that does.'
            raise ConfigError(f"{type(hook).__name__} (priority {hook.priority}) reads '{name}' of trainer.record, "
                              f'{after}')
        written.update(hook.writes)


def momentum_hooks(cfg: dict[str, Any], model: Architecture) -> list[Hook]:
    """The momentum hook, for a model that has a momentum encoder."""
    node = cfg.get('momentum_config')
    if not hasattr(model, 'update_key_encoder'):
        if node:
            raise ConfigError(f"'momentum_config' is given, but {type(model).__name__} has no momentum encoder. "
                              'Remove it.')
        return []
    return [build_hook({'name': 'MomentumUpdateHook', **(node or {})}, 'momentum_config')]


def ask_for(model: Architecture, dataset: Any, folder: str) -> tuple[str, ...]:
    """Have the data set put into every sample what the model needs, and, if it can, what it welcomes, beyond its views.

    Args:
        folder: for what is kept of images, see `Carries.carry`.
    Returns:
        the names of what samples bring.
    Raises:
        ConfigError: the data set cannot give what is needed.
    """
    needs, welcomes = getattr(model, 'needs', ()), getattr(model, 'welcomes', ())
    if needs and not hasattr(dataset, 'carry'):
        raise ConfigError(f"{type(model).__name__} with these settings needs {' and '.join(map(repr, needs))} of every "
                          f"sample, which {type(dataset).__name__} cannot give (it has no method 'carry'). Use another "
                          'data set in dataloader.train.dataset, or another model.correspondence.')
    both = tuple(name for name in ('places', 'regions') if name in (*needs, *welcomes))
    if not both or not hasattr(dataset, 'carry'):
        return ()
    try:
        dataset.carry(both, folder)
    except ConfigError as e:
        if needs:
            raise
        get_logger().info('The log cannot tell how many matches are true: %s', e)
        return ()
    return both


def check_ranges(loaders: dict[str, Optional[ImageLoader]]) -> None:
    """The same number in a file must be the same shade in train and val."""
    ranges = {part: getattr(loader.dataset, 'value_range', None) for part, loader in loaders.items() if loader}
    if len(ranges) == 2 and ranges['train'] != ranges['val']:
        get_logger().warning("'dataloader.train.dataset.value_range' is %s, and that of dataloader.val %s: the same "
                             'number in files of more than 8 bits would be another shade there. Set both alike.',
                             ranges['train'] or 'not set', ranges['val'] or 'not set')


def check_classes(model: Architecture, loaders: dict[str, Optional[ImageLoader]]) -> None:
    """Labels of train and val must mean the same, and a classifier must have room for them."""
    if not model.supervised:
        return
    classes = {part: getattr(loader.dataset, 'classes', None) for part, loader in loaders.items() if loader}
    room = model.head.num_classes
    for part, names in classes.items():
        if names and len(names) > room:
            raise ConfigError(f"'dataloader.{part}' has {len(names)} classes but 'model.head.num_classes' is {room}. "
                              f'Set -o model.head.num_classes={len(names)}')
    train, val = classes.get('train'), classes.get('val')
    if train and val and list(train) != list(val):
        differing = sorted(set(map(str, train)) ^ set(map(str, val)))[:5]
        raise ConfigError(f'Training has {len(train)} classes and validation {len(val)}, and they differ ({differing} '
                          'are in one only): labels would not mean the same. Give both the same class folders.')
