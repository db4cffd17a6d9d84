"""Builders of optimizers and schedules."""

import inspect
from typing import Any, Optional, Union

from paddle import nn
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler
from paddle.regularizer import L2Decay

from ..utils.config.kinds import Flag, NotNegative, Share, is_number, is_whole, mistake
from ..utils.errors import ConfigError
from ..utils.logger import warn_for_all
from ..utils.config.registry import Registry, accepted_arguments, build_from_config

OPTIMIZERS = Registry('optimizer')
LRSCHEDULERS = Registry('learning-rate schedule')
CLIPS = Registry('gradient clipping')
for _clip in (nn.ClipGradByGlobalNorm, nn.ClipGradByNorm, nn.ClipGradByValue):
    CLIPS.register(_clip)

# arguments that count epochs in a config, and iterations in a schedule that is stepped per iteration
EPOCH_ARGUMENTS = ('T_max', 'milestones', 'warmup_steps', 'step_size', 'decay_steps')
# schedules that come to an end, and the argument that says when
_ENDS = {'CosineAnnealingDecay': 'T_max', 'CosineWarmup': 'T_max', 'PolynomialDecay': 'decay_steps'}


def build_lr_scheduler(cfg: Any, iters_per_epoch: int = 1, where: str = 'lr_scheduler',
                       length: Optional[int] = None) -> LRScheduler:
    """Build a schedule; a plain number or `{name: ConstantLR, learning_rate: x}` keeps the rate.

    Args:
        cfg: `{name, learning_rate, ...}`; lengths (`T_max`, `milestones`, `warmup_steps`) in epochs,
            fractions allowed. `learning_rate` may itself be a schedule (LinearWarmup).
        iters_per_epoch: the lengths are multiplied by it; 1 for a schedule stepped per epoch.
        where: dotted path of `cfg` in the config file, for messages.
        length: steps that the training will take of the schedule, if that is known: what an unset length is, and
            what a set one is compared with.

    Raises:
        ConfigError: a wrong setting, or a schedule that ends before the training does.
    """
    if isinstance(cfg, (int, float)) and not isinstance(cfg, bool):
        cfg = {'name': 'ConstantLR', 'learning_rate': cfg}
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with 'name' and 'learning_rate', not {cfg!r}.")
    cfg = dict(cfg)
    for key in EPOCH_ARGUMENTS:
        value = cfg.get(key)
        if value is None:
            continue
        try:
            cfg[key] = [round(v * iters_per_epoch) for v in value] if isinstance(value, (list, tuple)) \
                else round(value * iters_per_epoch)
        except (TypeError, ValueError, OverflowError):          # text; nan; inf
            raise ConfigError(f"'{where}.{key}' is {value!r}; it must be a number of epochs or a list of "
                              'them.') from None
    if length is not None:
        cfg = _with_length(cfg, length, iters_per_epoch, where)
    if isinstance(cfg.get('learning_rate'), dict):
        warmup = cfg.get('warmup_steps')        # what is nested begins after it
        rest = length - warmup if length is not None and isinstance(warmup, int) else length
        cfg['learning_rate'] = build_lr_scheduler(cfg['learning_rate'], iters_per_epoch, where + '.learning_rate',
                                                  None if rest is None else max(rest, 1))
    return build_from_config(_as_numbers(cfg, LRSCHEDULERS, where), LRSCHEDULERS, where)


def _with_length(cfg, length, iters_per_epoch, where):
    """`cfg` (lengths in steps) with the training's `length` where none is set, after a comparison of those that are."""
    def epochs(steps):
        return f'{steps / iters_per_epoch:.6g}'

    warmup, end = cfg.get('warmup_steps'), _ENDS.get(cfg.get('name'))
    if end and cfg.get(end) is None:
        cfg[end] = max(length, warmup + 1 if is_whole(warmup) else 1)
    steps = cfg.get(end)
    if is_whole(steps) and steps > 0 and not cfg.get('cycle'):
        if length - steps > (iters_per_epoch > 1):          # a length in epochs may be rounded by a step
            raise ConfigError(
                f"'{where}.{end}' is {epochs(steps)} epochs, but the schedule runs for {epochs(length)}: for the rest "
                f'the rate would stay at its end. Remove {end}, which then follows the length of the training '
                f'(-o {where}.{end}=null), or set it to {epochs(length)}.')
        if steps > length and not (is_whole(warmup) and warmup >= length):
            warn_for_all(
                f"'{where}.{end}' is {epochs(steps)} epochs, but the schedule runs for {epochs(length)}: the "
                'training ends before the rate has come down. Right for a run that --resume will make longer, else '
                f'remove {end} (-o {where}.{end}=null).')
    for key in ('warmup_steps', 'step_size'):
        if is_whole(cfg.get(key)) and cfg[key] >= length:
            warn_for_all(
                f"'{where}.{key}' is {epochs(cfg[key])} epochs, but the schedule runs for {epochs(length)}: the rate "
                f'never gets beyond that. Lower {key}.')
    marks = cfg.get('milestones')
    late = [m for m in marks if m >= length] if isinstance(marks, list) else []
    if late:
        warn_for_all(
            f"'{where}.milestones': {', '.join(map(epochs, late))} lie behind the end of the training "
            f'({epochs(length)} epochs): there the rate is not lowered any more. Set the milestones for this length.')
    return cfg


def _as_numbers(cfg, registry, where):
    """`cfg` with floats where the constructor's default is one: `momentum: 0` reaches Paddle as 0.0, which
    takes no whole number in some places."""
    cfg = dict(cfg)
    if cfg.get('name') in registry:
        for p in inspect.signature(registry.get(cfg['name'])).parameters.values():
            value = cfg.get(p.name)
            if value is None or not (isinstance(p.default, float) or p.name == 'weight_decay'):
                continue
            if is_number(value):
                cfg[p.name] = float(value)
    return cfg


def _build_clip(cfg, where):
    if cfg is not None and not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' is {cfg!r}. Example: {{name: ClipGradByGlobalNorm, clip_norm: 1.0}}")
    return None if cfg is None else build_from_config(cfg, CLIPS, where)


def build_optimizer(cfg: Any, lr: Union[float, LRScheduler], model: nn.Layer, where: str = 'optimizer') -> Optimizer:
    """Build an optimizer over the parameters of `model` that train.

    Args:
        cfg: `{name, weight_decay, grad_clip, exclude_from_weight_decay, ...}`.
            `exclude_from_weight_decay`: list of substrings of parameter names (as in the state dict);
            a parameter whose name holds one of them is not decayed.
        lr: schedule or number.
        model: paddle Layer.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with 'name', not {cfg!r}.")
    cfg = dict(cfg)
    clip = _build_clip(cfg.pop('grad_clip', None), where + '.grad_clip')
    exclude = cfg.pop('exclude_from_weight_decay', None) or []
    if isinstance(exclude, str) or not all(isinstance(s, str) and s for s in exclude):
        raise ConfigError(f"'{where}.exclude_from_weight_decay' is {exclude!r}; it must be a list of parts of names, "
                          'such as [bias, bn].')
    if 'learning_rate' in cfg:
        raise ConfigError(f"'{where}.learning_rate': the rate is set in 'lr_scheduler.learning_rate'. Remove it here.")
    named = [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]
    if not named:
        raise ConfigError('Nothing to train: every parameter of the model is frozen. Lower '
                          'model.backbone.frozen_stages.')
    for s in exclude:
        if not any(s in n for n, _ in named):
            raise ConfigError(f"'{where}.exclude_from_weight_decay': no parameter's name holds '{s}'. "
                              f'Names look like {named[0][0]}, {named[-1][0]}.')
    cfg = _as_numbers(cfg, OPTIMIZERS, where)
    for key, kind in (('weight_decay', Optional[NotNegative]), ('momentum', Share), ('use_multi_tensor', Flag)):
        wrong = key in cfg and mistake(kind, cfg[key])          # of Paddle's own optimizers, too
        if wrong:
            raise ConfigError(f"'{where}.{key}' {wrong}")
    # One list and no parameter groups: Paddle clips every group by its own norm. A parameter's own regularizer wins
    # over the optimizer's; AdamW does not look at it and has to be asked.
    plain = {p.name for n, p in named if any(s in n for s in exclude)}
    for _, p in named:
        p.regularizer = L2Decay(0.0) if p.name in plain else None
    given = {}
    if plain and cfg.get('name') in OPTIMIZERS and \
            'apply_decay_param_fun' in accepted_arguments(OPTIMIZERS.get(cfg['name']))[0]:
        given['apply_decay_param_fun'] = lambda name: name not in plain
    return build_from_config(cfg, OPTIMIZERS, where, learning_rate=lr, parameters=[p for _, p in named],
                             grad_clip=clip, **given)
