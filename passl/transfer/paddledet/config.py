"""PaddleDetection's config files, read as data: no tag builds anything but a component registered there."""

import inspect
import os
from collections.abc import Sequence
from typing import Any, Union

import yaml

from ...utils.config import DELETE, Dialect, apply_overrides, merge
from ...utils.config import read_config as read_file
from ...utils.config.kinds import is_whole
from ...utils.errors import ConfigError, suggest
from ...utils.config.yaml_text import Loader

BASE = '_BASE_'         # PaddleDetection's word for a list of files to inherit from
TAG = '!'               # key under which the name of a tagged mapping is kept until it is built
ARCHITECTURES = ('FasterRCNN', 'MaskRCNN')
SCHEDULES = ('PiecewiseDecay', 'CosineDecay', 'LinearWarmup', 'ExpWarmup')
# settings of a run that are no component: ours, then those PaddleDetection looks for
RUN_KEYS = {'iterations', 'total_batch', 'voc', 'masks', 'seed',
            'architecture', 'metric', 'map_type', 'num_classes', 'norm_type', 'worker_num', 'log_iter',
            'snapshot_epoch', 'find_unused_parameters', 'classwise', 'amp', 'amp_level'}
REFUSED = {
    'pretrain_weights': "PaddleDetection drops what does not fit without an error. Give the weights with --pretrained.",
    'weights': 'Give the weights with --weights.',
    'epoch': "The length of a run is given in iterations: 'iterations: 24000'.",
    'use_wandb': 'This program sends nothing over the network.',
    'wandb': 'This program sends nothing over the network.',
    'slim': "PaddleDetection's compression is not supported here."}
_CACHES = {'DecodeCache'}       # reads pickles from a folder


class ConfigLoader(Loader):
    """The project's safe loader, which also takes `!Name {key: value}` and keeps the name as data."""

    yaml_constructors = dict(Loader.yaml_constructors)
    yaml_multi_constructors = dict(Loader.yaml_multi_constructors)


def _tagged(loader, suffix, node):
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, f"'!{suffix}' takes a mapping: !{suffix} {{key: value}}", node.start_mark)
    return {TAG: suffix, **loader.construct_mapping(node, deep=True)}


ConfigLoader.add_multi_constructor('!', _tagged)


def read_config(path: Union[str, os.PathLike], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a config file, with the files it inherits from and the overrides, as plain data.

    Args:
        path: `.yml` file in PaddleDetection's format. `_BASE_`: list of files relative to it.
        overrides: texts 'a.b.0.c=value'; the value is YAML. The first and the last key may be new: what they mean is
            checked when the component is built.

    Raises:
        ConfigError: file, line and reason.
    """
    cfg = read_file(path, Dialect(BASE, ConfigLoader, _merge))
    for text in overrides:                      # a component may have no settings yet
        key = text.partition('=')[0].strip()
        if TAG in key.split('.'):
            raise ConfigError(f"-o {text[:200]}: '{TAG}' is no key. Write {TAG}Name {{key: value}} as the value.")
        component, dot, _ = key.partition('.')
        if dot:
            cfg.setdefault(component, {})
    return apply_overrides(cfg, overrides, schema=None, loader=ConfigLoader)


def _merge(base, top, where):
    """As `passl.utils.config.merge`; a component with another tag takes nothing from the one it replaces."""
    top = {k: dict(v, **{DELETE: True}) if isinstance(v, dict) and isinstance(base.get(k), dict)
           and v.get(TAG, base[k].get(TAG)) != base[k].get(TAG) else v for k, v in top.items()}
    return merge(base, top, where)


def check_config(cfg: dict[str, Any]) -> None:
    """Compare the settings with what PaddleDetection knows; call after `shim.import_ppdet`.

    Raises:
        ConfigError: all mistakes at once: unknown keys, arguments, tags and transforms, and keys that are refused.
    """
    registered, wrong = _registered(), []
    for key, value in cfg.items():
        if key in REFUSED:
            if value not in (None, False, ''):
                wrong.append(f"'{key}' is not taken. {REFUSED[key]}")
        elif key in registered:
            if isinstance(value, dict) and TAG not in value:
                wrong += _unknown_arguments(key, value, registered[key])
        elif key not in RUN_KEYS:
            wrong.append(f"unknown key '{key}'. {suggest(key, [*registered, *RUN_KEYS])}")
        wrong += _wrong_tags(key, value, registered)
    for reader in ('TrainReader', 'EvalReader', 'TestReader'):
        for kind in ('sample_transforms', 'batch_transforms'):
            wrong += _wrong_transforms(f'{reader}.{kind}', (cfg.get(reader) or {}).get(kind) or [])
    for key in ('iterations', 'total_batch'):
        if not is_whole(cfg.get(key)) or cfg[key] < 1:
            wrong.append(f"'{key}' is {cfg.get(key)!r}; it must be a whole number of 1 or more")
    if cfg.get('architecture') not in ARCHITECTURES:
        wrong.append(f"'architecture' is {cfg.get('architecture')!r}; it must be {' or '.join(ARCHITECTURES)}")
    if cfg.get('metric') not in ('COCO', 'VOC'):
        wrong.append(f"'metric' is {cfg.get('metric')!r}; it must be COCO or VOC")
    if wrong:
        raise ConfigError('The detection config has mistakes:\n  ' + '\n  '.join(wrong))


def _unknown_arguments(name, value, schema):
    if not schema.strict:
        return []
    return [f"'{name}' has no argument '{k}'. {suggest(k, schema.schema)}" for k in value
            if k not in schema.schema and k != 'name']


def _wrong_tags(where, value, registered):
    """Tags that are neither registered components nor schedules, at any depth; their arguments too."""
    if isinstance(value, list):
        return [m for i, v in enumerate(value) for m in _wrong_tags(f'{where}.{i}', v, registered)]
    if not isinstance(value, dict):
        return []
    wrong, name = [], value.get(TAG)
    if name is not None and name not in registered and name not in (*SCHEDULES, 'IterationSteps'):
        wrong.append(f"'{where}': the tag '!{name}' is not allowed: only components registered in PaddleDetection may "
                     'be built, since a config is data.')
    elif name is not None:
        arguments = inspect.signature(_class_of(name).__init__).parameters
        wrong += [f"'{where}': {name} has no argument '{k}'. {suggest(k, list(arguments)[1:])}" for k in value
                  if k != TAG and k not in arguments]
    return wrong + [m for k, v in value.items() for m in _wrong_tags(f'{where}.{k}', v, registered)]


def _wrong_transforms(where, transforms):
    from ppdet.data import transform
    from ppdet.data.transform.operators import registered_ops
    wrong = []
    for i, entry in enumerate(transforms if isinstance(transforms, list) else [None]):
        if not isinstance(entry, dict) or len(entry) != 1:
            wrong.append(f"'{where}.{i}' must be one transform with its arguments: Decode: {{}}")
            continue
        (name, arguments), = entry.items()
        if name not in registered_ops or name in _CACHES:
            wrong.append(f"'{where}.{i}': unknown transform '{name}'. {suggest(name, registered_ops)}")
            continue
        known = inspect.signature(vars(transform)[name].__init__).parameters
        wrong += [f"'{where}.{i}': {name} has no argument '{k}'. {suggest(k, list(known)[1:])}"
                  for k in arguments or {} if k not in known]
    return wrong


def _class_of(name):
    """The class that a tag stands for; `name` is a registered component or one of the schedules."""
    from ppdet.optimizer import optimizer

    from . import modules
    if name == 'IterationSteps':
        return modules.IterationSteps
    return vars(optimizer)[name] if name in SCHEDULES else vars(_registered()[name].pymodule)[name]


def built(value: Any) -> Any:
    """`value` with every tagged mapping replaced by the component it describes."""
    if isinstance(value, list):
        return [built(v) for v in value]
    if not isinstance(value, dict):
        return value
    inner = {k: built(v) for k, v in value.items() if k != TAG}
    return _class_of(value[TAG])(**inner) if TAG in value else inner


_pristine: dict[str, Any] = {}


def _registered():
    """{name: arguments and class} of PaddleDetection's components as they were before the first config."""
    from ppdet.core.workspace import get_registered_modules
    if not _pristine:
        _pristine.update({k: v.copy() for k, v in get_registered_modules().items()})
    return _pristine


def activate(cfg: dict[str, Any]) -> Any:
    """Make `cfg` PaddleDetection's config of this process, in place of any former one.

    PaddleDetection keeps one mapping for everything: components with their arguments, and the settings of the run.

    Args:
        cfg: plain data that passed `check_config`.

    Returns:
        That mapping, for `ppdet.engine.Trainer`.
    """
    from ppdet.core.workspace import global_config, merge_config
    components = {k: v.copy() for k, v in _registered().items()}
    global_config.clear()
    global_config.update(components)
    return merge_config(built({k: v for k, v in cfg.items() if k not in REFUSED}))
