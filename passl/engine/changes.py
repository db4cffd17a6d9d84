"""What may differ between the config of a run and the one it is resumed with."""

import copy
from typing import Any

from ..utils.config import with_defaults
from ..utils.errors import CheckpointError, ConfigError
from ..utils.logger import warn_for_all

# settings that do not change a number of the training, and how long it goes
_HARMLESS = ('output_dir', 'timestamp', 'device', 'epochs', 'total_iters', 'log_config', 'visual_config',
             'timer_config', 'checkpoint', 'health_config', 'collapse_config', 'best_config', 'expected', 'image_shape',
             'save_inference_dir', 'infer_add_softmax', 'custom_imports', 'dist_timeout', 'dataloader.val',
             'dataloader.train.loader',
             'dataloader.train.dataset.on_error', 'dataloader.train.dataset.max_bad',
             'dataloader.train.dataset.index', 'dataloader.train.dataset.regions.cache', 'model.backbone.pretrained')
_HARMLESS_HOOKS = ('EvaluateHook',)
_SHOWN = 10


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = '') -> list[tuple[str, Any, Any]]:
    """[(dotted path, old value, new value)] of every setting that differs."""
    found = []
    for key in sorted(set(old) | set(new), key=str):
        a, b, name = old.get(key, '(absent)'), new.get(key, '(absent)'), f'{prefix}{key}'
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, name + '.')
        elif a != b:
            found.append((name, a, b))
    return found


def _comparable(cfg):
    """`cfg` with today's defaults, without hooks that change nothing, tuples as lists."""
    cfg = with_defaults(_listed(copy.deepcopy(cfg)))
    cfg['custom_config'] = [h for h in cfg.get('custom_config') or [] if h.get('name') not in _HARMLESS_HOOKS]
    return cfg


def _listed(node):
    if isinstance(node, dict):
        return {k: _listed(v) for k, v in node.items()}
    return [_listed(v) for v in node] if isinstance(node, (list, tuple)) else node


def check_changes(stored: dict[str, Any], cfg: dict[str, Any], refuse: bool, path: str) -> list[str]:
    """Log what the config of a resumed run and `cfg` differ in.

    Args:
        stored: config in the checkpoint.
        cfg: config to go on with.
        refuse: do not go on if a setting differs that changes the numbers of the training.
        path: the checkpoint, for the message.

    Returns:
        Dotted paths of all settings that differ.

    Raises:
        ConfigError: see `refuse`.
        CheckpointError: `stored` is no config.
    """
    try:
        stored = _comparable(stored)
    except (AttributeError, TypeError, KeyError, ValueError) as e:
        raise CheckpointError(f"The config in '{path}' is none of this project ({type(e).__name__}: {e}). Use another "
                              'checkpoint, or --load for its weights alone.') from None
    cfg = _comparable(cfg)
    if _follows(stored) and _follows(cfg):          # 'epochs' tells it
        for side in (stored, cfg):
            side['lr_scheduler'].pop('T_max', None)
    found = differences(stored, cfg)
    serious = [d for d in found if not any(d[0] == h or d[0].startswith(h + '.') for h in _HARMLESS)]
    if serious and refuse:
        lines = [f'  {name}: {_short(a)} -> {_short(b)}' for name, a, b in serious[:_SHOWN]]
        more = f'\n  and {len(serious) - _SHOWN} more' if len(serious) > _SHOWN else ''
        raise ConfigError(f"The run of '{path}' has another configuration:\n" + '\n'.join(lines) + more +
                          '\nGo on with the former settings (config.yaml in the run folder), start another run with '
                          '-o output_dir=DIR, or go on with the changed ones all the same: --allow-changes.')
    for name, a, b in found:
        warn_for_all(f'Config differs from the resumed run: {name}: {_short(a)} -> {_short(b)}')
    return [name for name, *_ in found]


def _follows(cfg):
    """Whether the schedule is as long as the training: T_max says so, or nothing else."""
    schedule = cfg.get('lr_scheduler')
    return isinstance(schedule, dict) and schedule.get('T_max') in (None, cfg.get('epochs'))


def _short(value):
    text = str(value)
    return text if len(text) <= 120 else text[:117] + '...'
