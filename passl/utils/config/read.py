"""Config files: load, inherit (`_base_`), override (`-o`), check, write. Nothing in them is executed."""

import copy
import os
from typing import Any, Callable, Iterable, NamedTuple, Optional, Union

from ..errors import ConfigError, suggest
from .schema import NO_DEFAULT, SCHEMA, Section, check_section, defaults_of, raise_for, unknown_key
from .yaml_text import MAX_DEPTH, MAX_TEXT, Loader, parse_yaml, to_yaml

BASE = '_base_'
DELETE = '_delete_'
_MAX_FILES = 100        # read for one config: bases that name bases, several times each, could go on for years


def load_config(path: Union[str, os.PathLike[str]], overrides: Optional[Iterable[str]] = (),
                training: Optional[bool] = None) -> dict[str, Any]:
    """Read a YAML config with its bases, apply overrides and check the structural keys.

    Args:
        path: YAML file. `_base_` in it: a file or a list of files relative to it, merged in
            order, then overlaid by the file itself: mappings key by key, everything else
            replaced. `_delete_: true` in a mapping drops what it would have inherited.
        overrides: texts 'a.b.0.c=value' of mapping keys and list indices; value is YAML.
        training: see `validate`.

    Returns:
        dict: what the files and overrides say, without defaults (see `with_defaults`).

    Raises:
        ConfigError: naming the file and line, the key, or the override.
    """
    cfg = apply_overrides(read_config(path), overrides)
    try:
        validate(cfg, training)
    except ConfigError as e:
        raise ConfigError(f'{path}: {e}') from None
    return cfg


class Dialect(NamedTuple):
    """How another program's config files differ from ours: the key of the bases, the YAML, how two files merge."""
    base: str
    loader: type[Loader]
    merge: Callable[[dict, dict, str], dict]


def read_config(path: Union[str, os.PathLike[str]], dialect: Optional[Dialect] = None) -> dict[str, Any]:
    """The YAML file with its bases, as `load_config` merges them, its keys unchecked: configs of other programs too."""
    return _load_file(os.path.expanduser(os.fspath(path)), (), [_MAX_FILES], dialect or Dialect(BASE, Loader, merge))


def validate(cfg: dict[str, Any], training: Optional[bool] = None) -> None:
    """Check the structural keys of `cfg`, which is not changed.

    Args:
        cfg: config dict.
        training: True: all that a training needs must be there; False: all that an
            evaluation needs (model and dataloader.val); None: only what is there is checked.

    Raises:
        ConfigError: lists every mistake with key, value and rule.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'A config is a mapping of keys to values, not {cfg!r}.')
    mistakes = check_section(cfg)
    length = [k for k in ('epochs', 'total_iters') if cfg.get(k) is not None]
    if len(length) == 2:
        mistakes.append("'epochs' and 'total_iters' are both given: keep one "
                        '(-o epochs=null switches an inherited one off).')
    if training is not None:
        mistakes += _missing_for(cfg, training, length)
    raise_for(mistakes)


def _missing_for(cfg, training, length):
    """Sentences about the parts that a training or an evaluation needs and `cfg` lacks."""
    job, part = ('a training', 'train') if training else ('an evaluation', 'val')
    mistakes = []
    if cfg.get('model') is None:
        mistakes.append(f"'model' is missing: {job} needs one.")
    loaders = cfg.get('dataloader')
    if loaders is None or isinstance(loaders, dict) and loaders.get(part) is None:
        mistakes.append(f"'dataloader.{part}' is missing: {job} needs its data.")
    if training:
        if not length:
            mistakes.append("'epochs' or 'total_iters' is missing: say how long to train.")
        if cfg.get('optimizer') is None:
            mistakes.append("'optimizer' is missing: a training needs one.")
        elif cfg.get('lr_scheduler') is None and 'learning_rate' not in _keys(cfg['optimizer']):
            mistakes.append("'lr_scheduler' is missing: give one, or 'optimizer.learning_rate'.")
    return mistakes


def _keys(value):
    return set(value) if isinstance(value, dict) else set()


def with_defaults(cfg: dict[str, Any]) -> dict[str, Any]:
    """New dict: `cfg` with the schema's defaults, and `num_workers` moved into `loader`."""
    full = defaults_of(copy.deepcopy(cfg), SCHEMA)
    for part in (full.get('dataloader') or {}).values():
        if part and 'num_workers' in part:
            workers = part.pop('num_workers')
            part['loader'] = dict(part.get('loader') or {})
            if part['loader'].get('num_workers') is None and workers is not None:
                part['loader']['num_workers'] = workers
    return full


def dump_config(cfg: dict[str, Any]) -> str:
    """YAML text that `load_config` reads back to the same data (tuples become lists)."""
    return to_yaml(cfg)


def _load_file(path, stack, room, dialect):
    """The merged content of `path`; `stack`: real paths of the files that include it; `room`: [files still allowed]."""
    real = os.path.realpath(path)
    room[0] -= 1
    if room[0] < 0:
        raise ConfigError(f"{path}: '{dialect.base}' leads to more than {_MAX_FILES} files.")
    if real in stack:
        chain = ' -> '.join(os.path.basename(p) for p in (*stack, real))
        raise ConfigError(f"'{dialect.base}' goes in a circle: {chain}. Remove one of them.")
    cfg = parse_yaml(_read(path, stack, dialect.base), path, dialect.loader)
    if cfg is None:
        raise ConfigError(f'{path}: the file is empty. A config is a mapping of keys to values.')
    if not isinstance(cfg, dict):
        raise ConfigError(f'{path}: a config is a mapping of keys to values, not a {type(cfg).__name__}.')
    bases = cfg.pop(dialect.base, None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(b, str) and b for b in bases):
        raise ConfigError(f"{path}: '{dialect.base}' must be a file name or a list of file names, not {bases!r}.")
    merged = {}
    for base in bases:
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        merged = dialect.merge(merged, _load_file(base, (*stack, real), room, dialect), path)
    return dialect.merge(merged, cfg, path)


def _read(path, stack, base):
    wanted_by = f" (named by '{base}' of {stack[-1]})" if stack else ''
    try:
        if stack and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise ConfigError(f"'{path}'{wanted_by} is no file but a device or a pipe.")
        with open(path, encoding='utf-8-sig') as f:
            return f.read(MAX_TEXT + 1)         # parse_yaml refuses more; a device may never end
    except FileNotFoundError:
        folder = os.path.dirname(path) or '.'
        if not os.path.isdir(folder):
            raise ConfigError(f"No config file '{path}'{wanted_by}: no folder '{folder}'.") from None
        known = [n for n in os.listdir(folder) if n.endswith(('.yaml', '.yml'))]
        hint = suggest(os.path.basename(path), known) if known else 'The folder holds no .yaml files.'
        raise ConfigError(f"No config file '{path}'{wanted_by}. {hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"'{path}'{wanted_by} is a folder; give a YAML file.") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"'{path}'{wanted_by} is not a text file in UTF-8 ({e}).") from None
    except (OSError, ValueError) as e:
        raise ConfigError(f"Cannot read '{path}'{wanted_by}: {e}.") from None


def merge(base: dict[str, Any], top: dict[str, Any], where: str = 'config') -> dict[str, Any]:
    """New dict: `base` overlaid by `top`; see `load_config`. Neither is changed.

    Args:
        base: inherited mapping.
        top: mapping that wins.
        where: file name for messages.
    """
    if not isinstance(top.get(DELETE, False), bool):
        raise ConfigError(f"{where}: '{DELETE}' must be true or false, not {top[DELETE]!r}.")
    merged = {} if top.get(DELETE) else copy.deepcopy(base)
    for key, value in top.items():
        if key == DELETE:
            continue
        if isinstance(value, dict):
            inherited = merged.get(key)
            merged[key] = merge(inherited if isinstance(inherited, dict) else {}, value, where)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def apply_overrides(cfg: dict[str, Any], overrides: Optional[Iterable[str]],
                    schema: Optional[Section] = SCHEMA, loader: type[Loader] = Loader) -> dict[str, Any]:
    """New dict: `cfg` after the overrides 'a.b.0.c=value', in their order.

    A key that is missing may be added where the schema knows it, and to a component (model,
    data set, transform, optimizer, hook, ...), whose constructor checks it later. `schema` None, for
    configs of other programs: to every mapping.

    Raises:
        ConfigError: no '=', unknown key, index out of range, path through a plain value, bad YAML.
    """
    cfg = copy.deepcopy(cfg)
    for text in [overrides] if isinstance(overrides, str) else overrides or ():
        path, equals, value = text.partition('=')
        keys = path.strip().split('.')
        if not equals or not all(keys):
            raise ConfigError(f"-o {_cut(text)}: write key.key=value, for example -o epochs=100.")
        if len(keys) > MAX_DEPTH or max(map(len, keys)) > 200:
            raise ConfigError(f'-o {_cut(text)}: no setting has such a long name.')
        if BASE in keys or DELETE in keys:
            raise ConfigError(f"-o {_cut(text)}: '{BASE}' and '{DELETE}' work in files only.")
        try:
            value = parse_yaml(value, f'-o {_cut(text)}', loader)
        except ConfigError as e:
            raise ConfigError(f"{e} If the value is meant as text, write -o '{_cut(path)}=\"...\"'.") from None
        try:
            _set(cfg, keys, value, schema)
        except ConfigError as e:
            raise ConfigError(f'-o {_cut(text)}: {e}') from None
    return cfg


def _set(node, keys, value, spec):
    """Walk `node` and the schema `spec` side by side along `keys`, and put `value` at the end."""
    for depth, key in enumerate(keys):
        here, last = '.'.join(keys[:depth]), depth == len(keys) - 1
        if isinstance(node, list):
            key = _index(node, key, here)
            spec = spec._replace(many=False) if isinstance(spec, Section) else None
        elif isinstance(node, dict):
            spec = _step(node, key, here, spec, last)
        else:
            raise ConfigError(f"'{here}' is {node!r}: there is no '{key}' below it.")
        if last:
            node[key] = value
        else:
            node = node[key]


def _cut(text):
    """`text`, or its beginning where it is very long."""
    return text if len(text) <= 200 else f'{text[:200]}... ({len(text)} characters)'


def _index(items, key, here):
    """`key` as an index of the list `items`."""
    count = f'a list of {len(items)}' if items else 'an empty list'
    if not (key.isdecimal() and key.isascii()):
        raise ConfigError(f"'{here}' is {count}: give an index instead of '{_cut(key)}'.")
    if len(key) > 18:
        raise ConfigError(f"index {_cut(key)} is out of range, '{here}' is {count}.")
    if int(key) >= len(items):
        more = f': the indices are 0 to {len(items) - 1}' if items else ''
        raise ConfigError(f"index {key} is out of range, '{here}' is {count}{more}.")
    return int(key)


def _step(node, key, here, spec, last):
    """The schema's entry of `key`, None where it has none; makes a missing section it knows."""
    section = isinstance(spec, Section)
    known = spec.keys.get(key) if section else None
    if known is None and section and not spec.free:
        raise ConfigError(unknown_key(key, here, spec))
    if last or node.get(key) is not None:
        return known
    if isinstance(known, Section) and not known.many:
        name = known.keys.get('name')
        named = name is not None and name.default is not NO_DEFAULT
        node[key] = {'name': name.default} if named else {}
    elif key not in node:
        names = set(node) | (set(spec.keys) if section else set())
        raise ConfigError(f"'{here}' has no '{key}'. {suggest(key, names)}" if here else
                          f"'{key}' is not in the config.")
    return known
