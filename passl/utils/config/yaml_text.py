"""YAML as config writers mean it: text -> plain data and back, without running anything.

Differences from PyYAML's safe loader, all for unquoted (plain) scalars:

* `1e-4` is a number (YAML 1.1 wants `1.0e-4`), `None` is null;
* `1.0/255.0`, `8*32/256`: numbers joined by `*` and `/` are calculated, from left to right;
* `2024-01-31`, `12:30` and `007` stay text: no dates, no base-60 and no octal numbers.

Quoted scalars are always text. Duplicate keys, keys that are not text, and tags that would
build Python objects are errors.
"""

import re
from typing import Any, Optional

import yaml

from ..errors import ConfigError

MAX_TEXT = 2**18        # characters of a document, aliases written out
MAX_DEPTH = 50          # lists and mappings in one another
_MAX_NUMBER = 200       # characters of a number or a calculation
_PREFIX = 'tag:yaml.org,2002:'
_NUMBER = r'[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?'     # one way to match only: no search on long digits
_INT = re.compile(r'[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$')
_FLOAT = re.compile(r'(?:[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?'
                    r'|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$')
_ARITHMETIC = re.compile(rf'{_NUMBER}(?:\s*[*/]\s*{_NUMBER})+$')
_RESOLVERS = [      # (tag, pattern, first characters)
    (_PREFIX + 'null', re.compile(r'(?:~|null|Null|NULL|None|)$'), ['~', 'n', 'N', '']),
    (_PREFIX + 'bool', re.compile(r'(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON'
                                  r'|off|Off|OFF)$'), list('yYnNtTfFoO')),
    (_PREFIX + 'int', _INT, list('-+0123456789')),
    (_PREFIX + 'float', _FLOAT, list('-+.0123456789')),
    ('!passl/arithmetic', _ARITHMETIC, list('-+.0123456789')),
    (_PREFIX + 'merge', re.compile(r'<<$'), ['<']),
]


class Loader(yaml.SafeLoader):
    """Reads scalars, lists and mappings; see the module's docstring."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._size, self._depth = len(stream), 0
        self._sizes: dict[str, int] = {}        # by anchor

    def compose_node(self, parent: Optional[yaml.Node], index: Any) -> Optional[yaml.Node]:
        """As PyYAML's; an alias weighs as much as what it stands for, or a few lines could fill the memory."""
        event, before = self.peek_event(), self._size
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self._size += self._size_of(event)
            if self._size > MAX_TEXT:
                raise yaml.composer.ComposerError(
                    None, None, f'with its aliases (*name) written out it has more than {MAX_TEXT} characters', mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f'nested too deeply (more than {MAX_DEPTH})', mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and getattr(event, 'anchor', None):
            self._sizes[event.anchor] = node.end_mark.index - node.start_mark.index + self._size - before
        return node

    def _size_of(self, alias):
        if alias.anchor in self.anchors and alias.anchor not in self._sizes:
            raise yaml.composer.ComposerError(
                None, None, f"'*{alias.anchor}' stands in what it names, which so contains itself", alias.start_mark)
        return self._sizes.get(alias.anchor, 0)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        self._check_keys(node)          # here, because unfolding '<<' later may repeat keys
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Unfold '<<'; releases of PyYAML differ in which value a key keeps."""
        if not any(key.tag == _PREFIX + 'merge' for key, _ in node.value):
            return
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _PREFIX + 'merge':
                parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in reversed(parts):        # of several, the first wins
                    if not isinstance(part, yaml.MappingNode):
                        raise yaml.constructor.ConstructorError(
                            None, None, "'<<' takes a mapping or a list of mappings", part.start_mark)
                    self.flatten_mapping(part)
                    merged.update((k.value, (k, v)) for k, v in part.value)
        merged.update((k.value, (k, v)) for k, v in node.value if k.tag != _PREFIX + 'merge')
        node.value = list(merged.values())

    def _check_keys(self, node):
        seen = {}
        for key, _ in node.value:
            if key.tag == _PREFIX + 'merge':
                continue
            if key.tag != _PREFIX + 'str':
                what = f"'{key.value}'" if isinstance(key, yaml.ScalarNode) else 'a list or mapping'
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {what} is not text; write it in quotes', key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' appears twice, first in line {seen[key.value]}; "
                                'remove one', key.start_mark)
            seen[key.value] = key.start_mark.line + 1


class Dumper(yaml.SafeDumper):
    """Writes what Loader reads back to equal data; tuples become lists."""

    yaml_implicit_resolvers = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _number(text):
    """One number without underscores: int where it is written as one."""
    return int(text) if re.fullmatch(r'[-+]?\d+', text) else float(text)


def _short(text):
    """`text` of a number; whole numbers of thousands of digits cannot be calculated with, or even printed."""
    if len(text) > _MAX_NUMBER:
        raise ValueError(f'a number of {len(text)} characters; the limit is {_MAX_NUMBER}')
    return text


def _construct_int(loader, node):
    text = _short(loader.construct_scalar(node)).replace('_', '')
    sign, digits = (text[0], text[1:]) if text[:1] in ('-', '+') else ('', text)
    base = {'0x': 16, '0b': 2}.get(digits[:2].lower(), 10)
    return int(sign + digits, base)


def _construct_float(loader, node):
    text = _short(loader.construct_scalar(node)).replace('_', '').lower()
    return float(re.sub(r'\.(inf|nan)$', r'\1', text))


def _construct_arithmetic(loader, node):
    parts = re.split(r'\s*([*/])\s*', _short(loader.construct_scalar(node)))
    value = _number(parts[0])
    for operator, text in zip(parts[1::2], parts[2::2]):
        value = value * _number(text) if operator == '*' else value / _number(text)
    return value


def _construct_unknown(loader, node):
    raise yaml.constructor.ConstructorError(
        None, None, f"the tag '{node.tag.replace(_PREFIX, '!!')}' is not allowed: a config holds only text, "
                    'numbers, true/false, null, lists and mappings', node.start_mark)


def _guard(construct):
    """Turn a ValueError (`!!int abc`, `1/0`) into an error with file and line."""
    def guarded(loader, node):
        try:
            return construct(loader, node)
        except (ValueError, ArithmeticError, KeyError) as e:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{str(node.value)[:100]}' cannot be read as a value ({e})", node.start_mark) from None
    return guarded


for _tag, _pattern, _first in _RESOLVERS:
    Loader.add_implicit_resolver(_tag, _pattern, _first)
    Dumper.add_implicit_resolver(_tag, _pattern, _first)
for _kind, _construct in [('null', yaml.SafeLoader.construct_yaml_null),
                          ('str', yaml.SafeLoader.construct_yaml_str),
                          ('bool', _guard(yaml.SafeLoader.construct_yaml_bool)),
                          ('int', _guard(_construct_int)),
                          ('float', _guard(_construct_float)),
                          ('seq', yaml.SafeLoader.construct_yaml_seq),
                          ('map', yaml.SafeLoader.construct_yaml_map)]:
    Loader.add_constructor(_PREFIX + _kind, _construct)
Loader.add_constructor('!passl/arithmetic', _guard(_construct_arithmetic))
Loader.add_constructor(None, _construct_unknown)


def parse_yaml(text: str, where: str, loader_class: type[Loader] = Loader) -> Any:
    """Plain data of YAML `text`.

    Args:
        text: one YAML document.
        where: file name, or what the text is, for messages.
        loader_class: Loader, or a subclass of it that takes some tags more.

    Raises:
        ConfigError: with `where` and the line.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f'{where}: more than {MAX_TEXT} characters are no config.')
    loader = None
    try:
        loader = loader_class(text)
        return _unshare(loader.get_single_data())
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''
        context = f' ({e.context})' if e.context else ''
        raise ConfigError(f'{where}{line}: {e.problem}{context}.') from None
    except yaml.YAMLError as e:         # a character that YAML does not allow
        raise ConfigError(f'{where}: {e}') from None
    except (ValueError, OverflowError) as e:        # a character "\\Uffffffff" that Unicode does not have
        raise ConfigError(f'{where}: {e}.') from None
    finally:
        if loader is not None:
            loader.dispose()


def _unshare(data):
    """Copy without shared parts: after `&a`/`*a` a change in one place must not change the other."""
    if isinstance(data, dict):
        for key in data:
            _check_text(key)
        return {k: _unshare(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_unshare(v) for v in data]
    if isinstance(data, str):
        _check_text(data)
    return data


def _check_text(text):
    """Neither a zero byte nor half a character: no file name and no log can hold them."""
    if '\0' in text or any('\ud800' <= c <= '\udfff' for c in text):
        raise yaml.YAMLError(f'the text {ascii(text[:100])} holds a character that no text file can hold')


def _represent_list(dumper, data):
    short = all(not isinstance(v, (dict, list, tuple)) for v in data)
    return dumper.represent_sequence(_PREFIX + 'seq', list(data), flow_style=short)


def _represent_text(dumper, data):
    # PyYAML writes these line breaks of Unicode unescaped, and reads them back as a space.
    style = '"' if any(c in data for c in '\x85\u2028\u2029') else None
    return dumper.represent_scalar(_PREFIX + 'str', data, style=style)


Dumper.add_representer(str, _represent_text)
Dumper.add_representer(list, _represent_list)
Dumper.add_representer(tuple, _represent_list)


def to_yaml(data: Any) -> str:
    """YAML text of `data` (mappings, lists, tuples, text, numbers, None), keys in their order."""
    data = _plain(data, '')
    try:
        return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100,
                         default_flow_style=False)
    except RecursionError:
        raise ConfigError('The config contains itself and cannot be written.') from None


def _plain(data, path):
    """`data` with NumPy scalars as Python numbers; ConfigError for what YAML cannot hold."""
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):
                raise ConfigError(f"Cannot write the config: the key {key!r} in '{path}' is not text.")
        return {k: _plain(v, f'{path}.{k}'.lstrip('.')) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v, f'{path}.{i}'.lstrip('.')) for i, v in enumerate(data)]
    if hasattr(data, 'item') and getattr(data, 'ndim', None) == 0:
        data = data.item()
    for kind in (bool, int, float, str):        # subclasses (numpy.float64, enums) as the plain type
        if isinstance(data, kind):
            return kind(data)
    if data is None:
        return None
    raise ConfigError(f"Cannot write the config: '{path}' is a {type(data).__name__}, "
                      'not text, a number, true/false, null, a list or a mapping.')
