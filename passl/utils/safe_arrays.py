"""The plain data that a checkpoint may consist of: numbers, strings, containers and numpy arrays.

`allow_list()` names everything that a file may 'call'; each entry is a function of this
module that checks its arguments and makes plain data of them.
"""

import numpy as np

# kind letters of plain numbers and strings; 'O' (objects) and 'V' (structures) are refused
_DTYPE_KINDS = 'biufcSU'
_SCALARS = {'bool', 'bool_', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
            'float16', 'float32', 'float64'}


class DamagedError(Exception):
    """The bytes are not what their beginning promised."""


class RefusedError(Exception):
    """The file wants something run or built that is not data."""


class UnsupportedError(Exception):
    """A sound file of a kind that is not read here."""


class Global:
    """A name on the allow-list that a file may 'call': `build(*args)` makes plain data of it."""
    __slots__ = ('name', 'build')

    def __init__(self, name, build):
        self.name, self.build = name, build


class Dtype:
    __slots__ = ('code', 'order')

    def __init__(self, code, *_):
        self.code, self.order = code, '='

    def set_state(self, state):
        if len(state) < 5 or any(s is not None for s in state[2:5]):
            raise UnsupportedError('it holds a structured numpy array')
        self.order = state[1]

    def real(self):
        dtype = np.dtype(self.code) if isinstance(self.code, str) and len(self.code) <= 8 else np.dtype('V')
        if dtype.kind not in _DTYPE_KINDS or not dtype.itemsize:
            raise RefusedError(f'a numpy array of type {self.code!r} (Python objects)')
        return dtype.newbyteorder(self.order) if self.order in ('<', '>') else dtype


class Pending:
    """An array between its creation and the moment when its contents arrive."""
    __slots__ = ('value',)

    def __init__(self, *_):
        self.value = None

    def set_state(self, state):
        shape, dtype, fortran, raw = state[-4:]
        self.value = make_array(shape, dtype, raw, fortran)


def make_array(shape, dtype, raw, fortran=False):
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
    shape = tuple(shape)
    count = addressed = 1
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise DamagedError(f'an array of shape {shape}')
        count, addressed = count * n, addressed * max(n, 1)
    if addressed > 2**48 or count * dtype.itemsize != len(raw):
        raise DamagedError(f'an array of shape {shape} and type {dtype} with {len(raw)} bytes')
    array = np.empty((0,), dtype)
    array.__setstate__((1, shape, dtype, bool(fortran), raw))
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


def check_key(key):
    """Only flat keys: hashing a tuple nested a million deep would overflow the C stack."""
    if key is not None and not isinstance(key, (str, int, float, bytes)):
        raise DamagedError(f'a {type(key).__name__} as the key of a dict')
    return key


def _plain_dict(items=()):
    pairs = items.items() if isinstance(items, dict) else items
    return {check_key(key): value for key, value in pairs}


def _numpy_scalar(name):
    def build(value):
        if not isinstance(value, (bool, int, float)):
            raise DamagedError(f'numpy.{name} of a {type(value).__name__}')
        return np.dtype(name.rstrip('_')).type(value)
    return build


def allow_list():
    table = {
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
    for core in ('numpy.core', 'numpy._core'):
        table[f'{core}.multiarray', '_reconstruct'] = Pending
        table[f'{core}.multiarray', 'scalar'] = _scalar
        table[f'{core}.numeric', '_frombuffer'] = _from_buffer
    for name in _SCALARS:
        table['numpy', name] = _numpy_scalar(name)
    return table
