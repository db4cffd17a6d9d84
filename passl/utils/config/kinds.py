"""What a setting may be, said as the annotation of a constructor's argument: `interval: Count = 1`.

`build_from_config` checks every setting of a part against its annotation, the table of structural keys uses the same
kinds, and the page of settings is made from them. A part of one's own may use them too; `bool`, `int`, `float`, `str`,
`Literal[...]` and `Optional[...]` of these say something as well, any other annotation says nothing.
"""

import math
import types
import typing
from typing import Annotated, Any, Callable, Literal, NamedTuple, Optional, Sequence, Union


class Check(NamedTuple):
    """What a value must be: `rule` completes 'must be ...', `accepts` tests it."""
    rule: str
    accepts: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """True for int, not for bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """True for int and finite float, not for bool."""
    return (is_whole(value) or isinstance(value, float)) and math.isfinite(value)


def whole_from(low: int, high: Optional[int] = None) -> Check:
    """A whole number of `low` or more, or from `low` to `high`."""
    if high is not None:
        return Check(f'a whole number from {low} to {high}', lambda v: is_whole(v) and low <= v <= high)
    return Check(f'a whole number of {low} or more', lambda v: is_whole(v) and v >= low)


def number_from(low: float, high: Optional[float] = None) -> Check:
    """A number of `low` or more, or from `low` to `high`."""
    if high is not None:
        return Check(f'a number from {low} to {high}', lambda v: is_number(v) and low <= v <= high)
    return Check(f'a number of {low} or more', lambda v: is_number(v) and v >= low)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_text(t) for t in value)


Flag = Annotated[bool, Check('true or false', lambda v: isinstance(v, bool))]
Whole = Annotated[int, whole_from(0)]
Count = Annotated[int, whole_from(1)]
Number = Annotated[float, Check('a number', is_number)]
NotNegative = Annotated[float, number_from(0)]
Positive = Annotated[float, Check('a number above 0', lambda v: is_number(v) and v > 0)]
AboveOne = Annotated[float, Check('a number above 1', lambda v: is_number(v) and v > 1)]
Share = Annotated[float, number_from(0, 1)]
Within = Annotated[float, Check('a number above 0 and below 1', lambda v: is_number(v) and 0 < v < 1)]
Text = Annotated[str, Check('text (in quotes if it looks like a number)', _is_text)]
Texts = Annotated[Sequence[str], Check('a list of texts', _are_texts)]
Range = Annotated[Sequence[float], Check('a list of two numbers, the lower first, such as [0, 4095]', lambda v: (
    isinstance(v, (list, tuple)) and len(v) == 2 and all(is_number(n) for n in v) and v[0] < v[1]))]
Shape = Annotated[Sequence[int], Check('a list of whole numbers such as [3, 224, 224]', lambda v: isinstance(
    v, (list, tuple)) and len(v) > 0 and all(is_whole(n) and (n > 0 or n == -1) for n in v))]

_PLAIN = {bool: Flag, int: Annotated[int, Check('a whole number', is_whole)], float: Number, str: Text,
          dict: Annotated[dict, Check('a mapping', lambda v: isinstance(v, dict))],
          type(None): Annotated[None, Check('null', lambda v: v is None)]}
_UNIONS = (Union, getattr(types, 'UnionType', Union))


def _one_of(words: tuple) -> Check:
    names = ['true' if w is True else 'false' if w is False else str(w) for w in words]
    rule = 'one of ' + ', '.join(names)
    if {'on', 'off'} & set(names) and not {'true', 'false'} & set(names):
        rule += ' (YAML reads a bare on or off as true or false: write it in quotes)'
    return Check(rule, lambda v: any(type(v) is type(w) and v == w for w in words))


def check_of(kind: Any) -> Optional[Check]:
    """The Check that the annotation `kind` means; None if it says nothing about a value of a config."""
    if typing.get_origin(kind) is Annotated:
        found = next((m for m in kind.__metadata__ if isinstance(m, Check)), None)
        return found or check_of(kind.__origin__)
    if typing.get_origin(kind) is Literal:
        return _one_of(typing.get_args(kind))
    if typing.get_origin(kind) in _UNIONS:
        parts = [check_of(part) for part in typing.get_args(kind)]
        if None in parts:
            return None
        known = [part for part in parts if part is not None]
        rules = [part.rule for part in known]
        rule = ', or '.join([' or '.join(r for r in rules if r != 'null')] + [r for r in rules if r == 'null'])
        return Check(rule, lambda v: any(part.accepts(v) for part in known))
    return check_of(_PLAIN[kind]) if isinstance(kind, type) and kind in _PLAIN else None


def mistake(kind: Any, value: Any) -> str:
    """What is wrong with `value` where `kind` is wanted, to follow the setting's name; '' if it fits."""
    check = check_of(kind)
    return '' if check is None or check.accepts(value) else f'must be {check.rule}, not {value!r}.'
