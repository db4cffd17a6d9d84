"""Name -> class tables, and the builder that turns a config node into an object."""

import importlib
import importlib.util
import inspect
import os
import sys
from importlib import metadata

from ..errors import ConfigError, suggest

ENTRY_POINT_GROUP = 'passl.plugins'
_tables = []            # of all registries


class Registry:
    """A table of named classes or functions.

    Example:
        >>> BACKBONES = Registry('backbone')
        >>> @BACKBONES.register()
        ... class MyNet: ...
        >>> BACKBONES.get('MyNet')
    """

    def __init__(self, kind):
        self.kind = kind
        self._table = {}
        _tables.append(self._table)

    def register(self, obj=None, name=None):
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

    def get(self, name):
        """The class registered as `name`; ConfigError with the nearest known name otherwise."""
        if name not in self._table:
            raise ConfigError(f"Unknown {self.kind} '{name}'. {suggest(name, self._table)}")
        return self._table[name]

    def __contains__(self, name):
        return name in self._table

    def names(self):
        return sorted(self._table)

    def __repr__(self):
        return f'Registry({self.kind}: {", ".join(self.names())})'


def plugin_modules():
    """The loaded modules outside PASSL and Paddle that registered something, in the order of their names."""
    names = {getattr(entry, '__module__', None) or '' for table in _tables for entry in table.values()}
    return [sys.modules[n] for n in sorted(names)
            if n in sys.modules and n.partition('.')[0] not in ('passl', 'paddle')]


def accepted_arguments(obj):
    """(names, required names, takes any keyword) of a class's constructor or a function."""
    target = obj.__init__ if inspect.isclass(obj) else obj
    params = list(inspect.signature(target).parameters.values())
    if inspect.isclass(obj):
        params = params[1:]
    named = [p for p in params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = {p.name for p in named if p.default is p.empty}
    return {p.name for p in named}, required, any(p.kind == p.VAR_KEYWORD for p in params)


def _number_defaults(obj):
    """{argument: default} of those whose default is a number or a flag: text there is a mistake."""
    target = obj.__init__ if inspect.isclass(obj) else obj
    return {p.name: p.default for p in inspect.signature(target).parameters.values()
            if isinstance(p.default, (bool, int, float))}


def build_from_config(cfg, registry, where=None, **given):
    """Build `cfg = {'name': N, **arguments}` with the class registered as N.

    Args:
        cfg: mapping with `name`; is not changed.
        registry: the Registry to look `name` up in.
        where: dotted path of `cfg` in the config file, for messages.
        given: arguments that the caller supplies (already built parts). The config may
            not repeat them.

    Raises:
        ConfigError: no or unknown name, an argument that the constructor does not take
            (with the nearest one that it does), or a missing one.
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
    names, required, anything = accepted_arguments(cls)
    defaults = _number_defaults(cls)
    for key in arguments:
        if key in given or (key not in names and not anything):
            raise ConfigError(f"'{where}.{key}': {cfg['name']} has no setting '{key}'. "
                              f'{suggest(key, names - set(given))}')
    for key, value in arguments.items():
        if isinstance(value, str) and key in defaults:
            raise ConfigError(f"'{where}.{key}' is {value!r}; {cfg['name']} wants a number or a flag there, like its "
                              f'default {defaults[key]!r}.')
    missing = sorted(required - set(arguments) - set(given))
    if missing:
        raise ConfigError(f"'{where}': {cfg['name']} needs {', '.join(missing)}. Add it below '{where}'.")
    try:
        return cls(**arguments, **given)
    except (TypeError, ValueError, AssertionError, ArithmeticError) as e:     # a value that it could not take
        raise ConfigError(f"'{where}': {cfg['name']} does not accept these settings: {e or type(e).__name__}. Given: "
                          f'{arguments}.') from e


def import_plugins(custom_imports=(), base_dir='.'):
    """Import user code that registers own parts: installed entry points, then `custom_imports`.

    Args:
        custom_imports: file paths ending in .py (relative to `base_dir`) or module names.
        base_dir: the folder of the config file.
    """
    eps = metadata.entry_points()
    eps = eps.select(group=ENTRY_POINT_GROUP) if hasattr(eps, 'select') else eps.get(ENTRY_POINT_GROUP, ())
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
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
