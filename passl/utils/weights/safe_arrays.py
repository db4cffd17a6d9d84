"""The plain data that a checkpoint may consist of: numbers, strings, containers and numpy arrays.

`allow_list()` names everything that a file may 'call'; each entry is a function of this
module that checks its arguments and makes plain data of them.
"""

import re
from typing import Any, Callable, Iterable, Iterator, Optional

import numpy as np

# What a file may ask of the reader. Real checkpoints stay far below; a hostile file of a few bytes could otherwise
# fill the memory or keep the processor busy for days.
MAX_STEPS = 2 * 10**6           # opcodes of a pickle; each may make an object of some 200 bytes
MAX_VALUES = 2 * 10**6          # values in the result, shared ones counted wherever they stand
MAX_DEPTH = 100                 # containers in containers
LONGEST_NAME = 512              # characters of a module and a class
OPAQUE_BYTES = 1024             # an unknown object counts as so many: some hundred thousand are no checkpoint
MAX_AXES = 32                   # of an array: the limit of every numpy
_FREE_BYTES = 2**27             # copies are allowed up to this ...
_COPIES = 16                    # ... plus so many times the file's size
_PLAIN = (bool, int, float, str, bytes, bytearray, np.ndarray, np.generic, type(None))
# kind letters of plain numbers and strings; 'O' (objects) and 'V' (structures) are refused
_DTYPE_KINDS = 'biufcSU'
_DTYPE_CODE = re.compile(r'[<>|=]?[?a-zA-Z]\d{0,6}', re.ASCII)
_SCALARS = {'bool', 'bool_', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
            'float16', 'float32', 'float64'}


class DamagedError(Exception):
    """The bytes are not what their beginning promised."""


class RefusedError(Exception):
    """The file wants something run or built that is not data."""


class UnsupportedError(Exception):
    """A sound file of a kind that is not read here."""


class Room:
    """The memory that reading one file may take beyond the file itself.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = _FREE_BYTES + _COPIES * size

    def take(self, nbytes: int) -> None:
        """Account for `nbytes` of a copy. Raises DamagedError when the file has asked for too much."""
        self.left -= nbytes
        if self.left < 0:
            raise DamagedError('it would take far more memory than its size')

    def take_copies(self, values: Iterable[Any]) -> None:
        """Account for copying each of `values` once, containers without what is in them."""
        for value in values:
            if isinstance(value, (str, bytes, bytearray)):
                self.take(len(value))
            elif isinstance(value, (list, tuple, dict, set)):
                self.take(64 * len(value))


class Opaque(dict):
    """An object of a class that is not known here: never built, called or looked into.

    An empty dict, so that what is read stays plain data; only what the file adds as items (of a class derived from
    dict) is kept. `name` is what the file calls the class.
    """
    __slots__ = ('name',)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Global:
    """A name on the allow-list that a file may 'call': `build(*args)` makes plain data of it."""
    __slots__ = ('name', 'build')

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        self.name, self.build = name, build


class Dtype:
    __slots__ = ('code', 'order')

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.order: Any = '='

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(s is not None for s in state[2:5]):
            raise UnsupportedError('it holds a structured numpy array')
        self.order = state[1]

    def real(self) -> np.dtype:
        # nothing but the plain form: numpy evaluates the numbers in others, such as '(3)f4' or 'f4,f4'
        plain = isinstance(self.code, str) and _DTYPE_CODE.fullmatch(self.code)
        dtype = np.dtype(self.code) if plain else np.dtype('V')
        if dtype.kind not in _DTYPE_KINDS or not dtype.itemsize:
            raise RefusedError(f'a numpy array of type {str(self.code)[:20]!r}, neither plain numbers nor text')
        return dtype.newbyteorder(self.order) if self.order in ('<', '>') else dtype


class Pending:
    """An array between its creation and the moment when its contents arrive."""
    __slots__ = ('value',)

    def __init__(self, *_: Any) -> None:
        self.value: Optional[np.ndarray] = None

    def set_state(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.value = make_array(shape, dtype, raw, fortran)


def make_array(shape: Any, dtype: Any, raw: Any, fortran: Any = False) -> np.ndarray:
    """A writable array over the bytes `raw` (no copy where it is large), after checking that they fit.

    Raises:
        DamagedError: shape and number of bytes do not agree.
    """
    if isinstance(dtype, Dtype):
        dtype = dtype.real()
    if isinstance(raw, str):            # written by Python 2
        raw = raw.encode('latin1')
    if isinstance(raw, bytearray):
        raw = bytes(raw)
    if not isinstance(raw, bytes) or not isinstance(dtype, np.dtype):
        raise DamagedError('a numpy array without contents')
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_AXES:
        raise DamagedError('an array with a shape that is none')
    shape = tuple(shape)
    count = addressed = 1
    for n in shape:
        if not isinstance(n, int) or not 0 <= n <= 2**48:
            raise DamagedError('an array whose shape has no numbers, negative ones or huge ones')
        count, addressed = count * n, addressed * max(n, 1)
    if addressed > 2**48 or count * dtype.itemsize != len(raw):
        raise DamagedError(f'an array of shape {shape} and type {dtype} with {len(raw)} bytes')
    array = np.empty((0,), dtype)
    array.__setstate__((1, shape, dtype, bool(fortran), raw))    # type: ignore[arg-type]  # pickles hold plain bools
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder('='))


def _scalar(dtype, raw=None):
    return make_array((), dtype, raw)[()]


def _from_buffer(raw, dtype, shape, order='C'):
    return make_array(shape, dtype, raw, order == 'F')


def _encode(text, codec='latin1'):
    if codec != 'latin1' or not isinstance(text, str):
        raise RefusedError(f"'_codecs.encode' with {codec!r}")
    return text.encode('latin1')


def _tuple(items=()):
    """Paddle writes a nested tensor as tuple((name, array)): the array is what counts."""
    items = tuple(items)
    if len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], np.ndarray):
        return items[1]
    return items


def _old_paddle_tensor(source, names=None):
    """Older Paddle writes a tensor as eval('data', {'data': array}): recognised, not evaluated."""
    if source != 'data' or not isinstance(names, dict) or set(names) != {'data'}:
        raise RefusedError("a call of 'builtins.eval'")
    return names['data']


def check_key(key: Any) -> Any:
    """Only flat keys: hashing a tuple nested a million deep would overflow the C stack.

    Whole numbers stay below Python's hash modulus: larger ones can be chosen so that all hashes are the same, and a
    dict of them takes quadratic time.
    """
    if isinstance(key, Opaque):
        return f'<{key.name}>'
    if key is not None and not isinstance(key, (str, int, float, bytes)):
        raise DamagedError(f'a {type(key).__name__} as the key of a dict')
    if isinstance(key, int) and key.bit_length() > 60:
        raise DamagedError('a huge number as the key of a dict')
    return key


def _attribute(owner, name):
    """As methods of a class are written: the attribute of an unknown thing is an unknown thing."""
    if not isinstance(owner, Opaque) or not isinstance(name, str):
        raise RefusedError("a call of 'builtins.getattr'")
    return Opaque(f'{owner.name}.{name}'[:LONGEST_NAME])


def check_result(obj: Any) -> Any:
    """`obj` if it is plain data that later code may walk through, copy and compare without harm.

    Raises:
        RefusedError: something in it is not plain data (a mere name, an unfinished array).
        DamagedError: a container holds itself, is nested too deeply, or unfolds to too many values.
    """
    totals: dict[int, int] = {}     # id -> values in it
    running = set()                 # containers that are being walked through
    # container, its remaining children, values counted so far
    stack: list[tuple[Any, Optional[Iterator[Any]], list[int]]] = [(obj, None, [1])]
    while stack:
        value, children, total = stack[-1]
        if children is None:
            if not isinstance(value, (dict, list, tuple, set)):
                if not isinstance(value, _PLAIN):
                    raise RefusedError(f"'{getattr(value, 'name', type(value).__name__)}' in place of data")
                children = iter(())
            else:
                if id(value) in running:
                    raise DamagedError('a container that holds itself')
                if len(stack) > MAX_DEPTH:
                    raise DamagedError(f'containers nested more than {MAX_DEPTH} deep')
                running.add(id(value))
                children = iter(value.values() if isinstance(value, dict) else value)
            stack[-1] = value, children, total
        child = next(children, stack)           # `stack` stands for the end: no file can hold it
        if child is not stack:
            if id(child) in totals:
                total[0] += totals[id(child)]
            elif type(child) in _PLAIN or isinstance(child, np.ndarray):
                total[0] += 1
            else:
                stack.append((child, None, [1]))
        if total[0] > MAX_VALUES:
            raise DamagedError(f'more than {MAX_VALUES} values')
        if child is stack:
            stack.pop()
            running.discard(id(value))
            totals[id(value)] = total[0]
            if stack:
                stack[-1][2][0] += total[0]
    return obj


def _plain_dict(items=()):
    pairs = items.items() if isinstance(items, dict) else items
    return {check_key(key): value for key, value in pairs}


def _numpy_scalar(name):
    def build(value):
        if not isinstance(value, (bool, int, float)):
            raise DamagedError(f'numpy.{name} of a {type(value).__name__}')
        return np.dtype(name.rstrip('_')).type(value)
    return build


def allow_list() -> dict[tuple[str, str], Callable[..., Any]]:
    table: dict[tuple[str, str], Callable[..., Any]] = {
        ('collections', 'OrderedDict'): _plain_dict,
        ('collections', 'Counter'): _plain_dict,
        ('collections', 'defaultdict'): lambda *_: {},  # its items follow, its factory is not used
        ('_codecs', 'encode'): _encode,
        ('numpy', 'dtype'): Dtype,
        ('numpy', 'ndarray'): make_array,
    }
    for builtins in ('builtins', '__builtin__'):
        table[builtins, 'tuple'] = _tuple
        table[builtins, 'dict'] = _plain_dict
        table[builtins, 'eval'] = _old_paddle_tensor
        table[builtins, 'getattr'] = _attribute
        table[builtins, 'set'] = table[builtins, 'frozenset'] = lambda items=(): {check_key(item) for item in items}
    for core in ('numpy.core', 'numpy._core'):
        table[f'{core}.multiarray', '_reconstruct'] = Pending
        table[f'{core}.multiarray', 'scalar'] = _scalar
        table[f'{core}.numeric', '_frombuffer'] = _from_buffer
    for name in _SCALARS:
        table['numpy', name] = _numpy_scalar(name)
    return table
