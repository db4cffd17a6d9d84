"""Reads pickled checkpoints without executing anything.

Python's own unpickler calls whatever function a file names, so a weight file can run any
program. This reader is an interpreter of its own for the part of the pickle language that
checkpoints use: containers, numbers, strings and numpy arrays, by the names on the allow-list
(`safe_arrays`). Any other class is an `Opaque`, whatever the file does with it; a name that has
no place among data (`foreign`) ends the reading. There is no way from a file to a Python function.
"""

import struct
import sys
from typing import IO, Any, Callable, Iterable, Optional

from .foreign import is_data
from .safe_arrays import (LONGEST_NAME, MAX_STEPS, OPAQUE_BYTES, DamagedError, Dtype, Global, Opaque, Pending,
                          RefusedError, Room, UnsupportedError, allow_list, check_key, check_result)

# What Paddle adds to a state dict for its own bookkeeping: structured name -> automatic name.
_BOOKKEEPING = 'StructuredToParameterName@@'
_LONGEST_NUMBER = 1024          # bytes: the time to print or multiply whole numbers grows with their square
_SET_BYTES = sys.getsizeof(set())       # 216: the most that one step makes without being counted otherwise


class SafeUnpickler:
    """One pass over one pickle in an open binary file.

    Args:
        file: binary file object, positioned at the pickle.
        size: position at which the file ends; no length beyond it is believed.
        extra: {(module, name): builder} in addition to the allow-list.
        persistent: function for references to data outside the pickle (torch storages).
        room: Room shared with other parts of the same file.
    """

    def __init__(self, file: IO[bytes], size: int, extra: Optional[dict[tuple[str, str], Callable[..., Any]]] = None,
                 persistent: Optional[Callable[[Any], Any]] = None, room: Optional[Room] = None) -> None:
        self.file, self.left = file, size - file.tell()
        self.allowed = {**allow_list(), **(extra or {})}
        self.persistent, self.room = persistent, room or Room(size)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object that the pickle describes: plain data, checked by `check_result`.

        Raises:
            DamagedError, RefusedError: see the classes. Damage can also show as one of
                Python's own errors (IndexError, KeyError, ...); the caller handles both.
        """
        return check_result(self.load_raw())

    def load_raw(self) -> Any:
        """As `load`, without the check of the result (which may hold tensors that are not there yet)."""
        table, read = _OPCODES, self.read
        for _ in range(MAX_STEPS):
            code = read(1)
            if code == b'.':
                return self.stack.pop()
            step = table.get(code)
            if step is None:
                raise DamagedError(f'{code!r} at byte {self.file.tell() - 1} means nothing in a checkpoint')
            step(self)
        raise DamagedError(f'more than {MAX_STEPS} steps')

    def read(self, n: int) -> bytes:
        if not 0 <= n <= self.left:
            raise EOFError
        self.left -= n
        data = self.file.read(n)
        if len(data) != n:
            raise EOFError
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> str:
        text = self.file.readline(512)
        self.left -= len(text)
        if not text.endswith(b'\n'):
            raise EOFError
        return text[:-1].decode('utf-8')

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def pop_n(self, n: int) -> list[Any]:
        if n > len(self.stack):
            raise DamagedError('more values are used than were written')
        items, self.stack[len(self.stack) - n:] = self.stack[len(self.stack) - n:], []
        return items

    def get(self, key: int) -> None:
        value = self.memo[key]
        if isinstance(value, Pending) and value.value is not None:
            value = value.value
        self.push(value)

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def global_name(self, module: str, name: str) -> None:
        build = self.allowed.get((module, name))
        if build is None and (len(module) + len(name) > LONGEST_NAME or not is_data(module, name)):
            raise RefusedError(f"'{f'{module}.{name}'[:LONGEST_NAME]}'")
        if build:
            self.push(Global(f'{module}.{name}', build))
        else:
            self.push_opaque(f'{module}.{name}')

    def push_set(self) -> None:
        self.room.take(_SET_BYTES)
        self.push(set())

    def push_opaque(self, name: str) -> None:
        self.room.take(OPAQUE_BYTES)
        self.push(Opaque(name))

    def stack_global(self) -> None:
        module, name = self.pop_n(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError('a name that is not a string')
        self.global_name(module, name)

    def reduce(self) -> None:
        target, args = self.pop_n(2)
        if isinstance(target, Opaque):
            self.push_opaque(target.name)
            return
        if not isinstance(target, Global) or not isinstance(args, tuple):
            raise RefusedError('a call of something that is not a function name')
        self.room.take_copies(args)
        self.push(target.build(*args))

    def new_object(self, parts: int = 2) -> None:
        target = self.pop_n(parts)[0]
        if not isinstance(target, Opaque):
            raise RefusedError(f"an object of '{getattr(target, 'name', type(target).__name__)}'")
        self.push_opaque(target.name)

    def build(self) -> None:
        target, state = self.pop_n(2)
        if isinstance(target, (Dtype, Pending)):
            self.room.take_copies(state)
            target.set_state(state)
        elif not isinstance(target, dict):      # a dict's attributes are bookkeeping of the writer
            raise RefusedError(f'a state for a {type(target).__name__}')
        self.push(target.value if isinstance(target, Pending) else target)

    def append(self, items: Iterable[Any]) -> None:
        if isinstance(self.stack[-1], Opaque):
            return
        if not isinstance(self.stack[-1], list):
            raise DamagedError('a list item outside a list')
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise DamagedError('a dict item outside a dict')
        for key, value in zip(items[::2], items[1::2]):
            if key == 'UnpackBigParamInfor@@':
                raise UnsupportedError('its tensors are cut in pieces (paddle.save with protocol 2 or 3); '
                                       'save it again with protocol 4')
            key = check_key(key)
            if key != _BOOKKEEPING:
                target[key] = value

    def add_items(self, items: Iterable[Any]) -> None:
        if isinstance(self.stack[-1], Opaque):
            return
        if not isinstance(self.stack[-1], set):
            raise DamagedError('a set item outside a set')
        self.stack[-1].update([check_key(item) for item in items])

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise RefusedError('a reference to data outside the file')
        self.push(self.persistent(self.stack.pop()))


def _long(raw):
    if len(raw) > _LONGEST_NUMBER:
        raise DamagedError(f'a number of {len(raw)} bytes')
    return int.from_bytes(raw, 'little', signed=True)


_OPCODES = {
    b'\x80': lambda u: u.read(1),                                                   # protocol
    b'\x95': lambda u: u.number('<Q'),                                              # frame length
    b'(': lambda u: u.marks.append(len(u.stack)),
    b'0': lambda u: u.stack.pop(),
    b'1': lambda u: u.pop_mark(),
    b'2': lambda u: u.push(u.stack[-1]),
    b'N': lambda u: u.push(None),
    b'\x88': lambda u: u.push(True),
    b'\x89': lambda u: u.push(False),
    b'J': lambda u: u.push(u.number('<i')),
    b'K': lambda u: u.push(u.number('<B')),
    b'M': lambda u: u.push(u.number('<H')),
    b'\x8a': lambda u: u.push(_long(u.read(u.number('<B')))),
    b'\x8b': lambda u: u.push(_long(u.read(u.number('<i')))),
    b'G': lambda u: u.push(u.number('>d')),
    b'\x8c': lambda u: u.push(u.read(u.number('<B')).decode('utf-8', 'surrogatepass')),
    b'X': lambda u: u.push(u.read(u.number('<I')).decode('utf-8', 'surrogatepass')),
    b'\x8d': lambda u: u.push(u.read(u.number('<Q')).decode('utf-8', 'surrogatepass')),
    b'U': lambda u: u.push(u.read(u.number('<B')).decode('latin1')),                # Python 2 str
    b'T': lambda u: u.push(u.read(u.number('<i')).decode('latin1')),
    b'C': lambda u: u.push(u.read(u.number('<B'))),
    b'B': lambda u: u.push(u.read(u.number('<I'))),
    b'\x8e': lambda u: u.push(u.read(u.number('<Q'))),
    b'\x96': lambda u: u.push(bytearray(u.read(u.number('<Q')))),
    b'}': lambda u: u.push({}),
    b']': lambda u: u.push([]),
    b')': lambda u: u.push(()),
    b'\x8f': lambda u: u.push_set(),
    b'\x91': lambda u: u.push({check_key(item) for item in u.pop_mark()}),           # frozenset
    b't': lambda u: u.push(tuple(u.pop_mark())),
    b'\x85': lambda u: u.push(tuple(u.pop_n(1))),
    b'\x86': lambda u: u.push(tuple(u.pop_n(2))),
    b'\x87': lambda u: u.push(tuple(u.pop_n(3))),
    b'a': lambda u: u.append(u.pop_n(1)),
    b'e': lambda u: u.append(u.pop_mark()),
    b's': lambda u: u.set_items(u.pop_n(2)),
    b'u': lambda u: u.set_items(u.pop_mark()),
    b'\x90': lambda u: u.add_items(u.pop_mark()),
    b'q': lambda u: u.put(u.number('<B')),
    b'r': lambda u: u.put(u.number('<I')),
    b'\x94': lambda u: u.put(len(u.memo)),
    b'h': lambda u: u.get(u.number('<B')),
    b'j': lambda u: u.get(u.number('<I')),
    b'c': lambda u: u.global_name(u.line(), u.line()),
    b'\x93': lambda u: u.stack_global(),
    b'R': lambda u: u.reduce(),
    b'\x81': lambda u: u.new_object(),
    b'\x92': lambda u: u.new_object(3),
    b'b': lambda u: u.build(),
    b'Q': lambda u: u.persistent_id(),
}
