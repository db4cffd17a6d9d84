"""Name -> class tables, and the builder that turns a config node into an object."""

import importlib
import importlib.util
import inspect
import os
import sys
import types
import typing
from importlib import metadata
from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

from ..errors import ConfigError, suggest
from .kinds import check_of, mistake

ENTRY_POINT_GROUP = 'passl.plugins'
_tables: list[dict] = []            # of all registries


class Registry:
    """A table of named classes or functions.

    Example:
        >>> BACKBONES = Registry('backbone')
        >>> @BACKBONES.register()
        ... class MyNet: ...
        >>> BACKBONES.get('MyNet')
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._table: dict[str, Any] = {}
        _tables.append(self._table)

    def register(self, obj: Any = None, name: Optional[str] = None) -> Any:
        """Decorator (with or without parentheses) or call; `name` defaults to the class name."""
        if obj is None:
            return lambda o: self.register(o, name)
        key = name or obj.__name__
        known = self._table.get(key)
        if known is not None and known is not obj:
            raise ConfigError(f"{self.kind} '{key}' is registered twice: {known} and {obj}. "
                              'Register the second one under another name.')
        self._table[key] = obj
        return obj

    def get(self, name: str) -> Any:
        """The class registered as `name`; ConfigError with the nearest known name otherwise."""
        if name not in self._table:
            raise ConfigError(f"Unknown {self.kind} '{name}'. {suggest(name, self._table)}")
        return self._table[name]

    def __contains__(self, name):
        return name in self._table

    def names(self) -> list[str]:
        return sorted(self._table)

    def __repr__(self):
        return f'Registry({self.kind}: {", ".join(self.names())})'


def plugin_modules() -> list[types.ModuleType]:
    """The loaded modules outside PASSL and Paddle that registered something, in the order of their names."""
    names = {getattr(entry, '__module__', None) or '' for table in _tables for entry in table.values()}
    return [sys.modules[n] for n in sorted(names)
            if n in sys.modules and n.partition('.')[0] not in ('passl', 'paddle')]


class Setting(NamedTuple):
    """An argument of a part: `default` is `inspect.Parameter.empty` where it must be given, `kind` the annotation."""
    name: str
    default: Any
    kind: Any
    owner: Any


def _hints(target: Callable) -> dict[str, Any]:
    if (getattr(target, '__module__', None) or '').partition('.')[0] == 'paddle':
        return {}               # its annotations are another matter in each version
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:           # they name what only a type checker knows
        return getattr(target, '__annotations__', {})


def settings_of(obj: Any) -> tuple[dict[str, Setting], bool]:
    """The settings of a class or a function, and whether it takes any others.

    A constructor that ends in `**name` hands on to the next one of its base classes; where that is one of PASSL, its
    settings count too, otherwise any keyword is taken.

    Args:
        obj: what is registered.
    Returns:
        ({name: Setting} in the order of the signatures, takes any keyword).
    """
    constructors = [vars(c)['__init__'] for c in obj.__mro__ if '__init__' in vars(c) and c is not object] \
        if inspect.isclass(obj) else [obj]
    found: dict[str, Setting] = {}
    for number, constructor in enumerate(constructors):
        if number and not constructor.__module__.startswith('passl.'):
            break
        parameters = list(inspect.signature(constructor).parameters.values())
        hints = _hints(constructor)
        for p in parameters[1:] if inspect.isclass(obj) else parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, Setting(p.name, p.default, hints.get(p.name), constructor))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, bool(constructors)


def accepted_arguments(obj: Any) -> tuple[set[str], set[str], bool]:
    """(names, required names, takes any keyword) of a class's constructor or a function."""
    settings, anything = settings_of(obj)
    return set(settings), {s.name for s in settings.values() if s.default is inspect.Parameter.empty}, anything


def _misfit(setting: Setting, value: Any, owner: str) -> str:
    """What is wrong with the value of a setting, to follow its name; nothing if it fits."""
    if check_of(setting.kind) is None and isinstance(value, str) and isinstance(setting.default, (bool, int, float)):
        return f'is {value!r}; {owner} wants a number or a flag there, like its default {setting.default!r}.'
    return mistake(setting.kind, value)


def build_from_config(cfg: Any, registry: Registry, where: Optional[str] = None, **given: Any) -> Any:
    """Build `cfg = {'name': N, **arguments}` with the class registered as N.

    Args:
        cfg: mapping with `name`; is not changed.
        registry: the Registry to look `name` up in.
        where: dotted path of `cfg` in the config file, for messages.
        given: arguments that the caller supplies (already built parts). The config may
            not repeat them.

    Raises:
        ConfigError: no or unknown name, an argument that the constructor does not take (with the nearest one that it
            does), a missing one, or a value that its annotation rules out (see `kinds`).
    """
    where = where or registry.kind
    if not isinstance(cfg, dict):
        raise ConfigError(f"'{where}' must be a mapping with a 'name', not {cfg!r}.")
    if not cfg.get('name'):
        raise ConfigError(f"'{where}' needs a 'name'. Known: {', '.join(registry.names())}.")
    try:
        cls = registry.get(cfg['name'])
    except ConfigError as e:
        raise ConfigError(f"'{where}.name': {e}") from None
    arguments = {k: v for k, v in cfg.items() if k != 'name'}
    settings, anything = settings_of(cls)
    for key in arguments:
        if key in given or (key not in settings and not anything):
            raise ConfigError(f"'{where}.{key}': {cfg['name']} has no setting '{key}'. "
                              f'{suggest(key, set(settings) - set(given))}')
    for key, value in arguments.items():
        wrong = _misfit(settings[key], value, cfg['name']) if key in settings else ''
        if wrong:
            raise ConfigError(f"'{where}.{key}' {wrong}")
    missing = sorted({s.name for s in settings.values() if s.default is inspect.Parameter.empty}
                     - set(arguments) - set(given))
    if missing:
        raise ConfigError(f"'{where}': {cfg['name']} needs {', '.join(missing)}. Add it below '{where}'.")
    try:
        return cls(**arguments, **given)
    except (TypeError, ValueError, AssertionError, ArithmeticError) as e:     # a value that it could not take
        raise ConfigError(f"'{where}': {cfg['name']} does not accept these settings: {e or type(e).__name__}. Given: "
                          f'{arguments}.') from e


def import_plugins(custom_imports: Union[str, Sequence[str], None] = (), base_dir: str = '.') -> None:
    """Import user code that registers own parts: installed entry points, then `custom_imports`.

    Args:
        custom_imports: file paths ending in .py (relative to `base_dir`) or module names.
        base_dir: the folder of the config file.
    """
    found: Any = metadata.entry_points()            # a mapping before Python 3.10
    eps = found.select(group=ENTRY_POINT_GROUP) if hasattr(found, 'select') else found.get(ENTRY_POINT_GROUP, ())
    for ep in eps:
        try:
            ep.load()
        except Exception as e:
            raise ConfigError(f"The installed plug-in '{ep.name}' ({ep.value}) cannot be imported: {e}. Mend or "
                              'uninstall its package.') from e
    if isinstance(custom_imports, str):
        custom_imports = [custom_imports]
    for item in custom_imports or ():
        if not item.endswith('.py'):
            try:
                importlib.import_module(item)
            except ModuleNotFoundError as e:
                raise ConfigError(f"'custom_imports': no module '{item}' ({e}). Give a module on the "
                                  'Python path, or a file name ending in .py.') from None
            continue
        path = os.path.abspath(os.path.join(base_dir, item))
        if not os.path.isfile(path):
            raise ConfigError(f"'custom_imports': no file '{path}'. Paths are relative to the config file.")
        module_name = 'passl_custom_' + ''.join(c if c.isalnum() else '_' for c in path)
        if module_name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None         # a file ending in .py has both
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
