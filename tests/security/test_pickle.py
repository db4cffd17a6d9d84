"""Pickled checkpoints, Paddle's and torch's: nothing in them is called, and small files take little time and memory."""

import os
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest

from passl.utils.weights.checkpoint import load_file
from passl.utils.errors import CheckpointError
from passl.utils.weights import load_weights

from . import hostile
from .guard import guarded
from .hostile import pickled, text

NAMES = sorted(hostile.calls('x'))
HARMLESS = {'eval as old Paddle', 'defaultdict factory'}      # read as data: nothing of them is called


def read(tmp_path, data, reader=load_file, **limits):
    path = tmp_path / 'x.pdparams'
    path.write_bytes(data)
    return guarded(reader, str(path), allowed=CheckpointError, **limits)


def refused(tmp_path, data, match=None, **limits):
    done = read(tmp_path, data, **limits)
    assert isinstance(done.error, CheckpointError), f'accepted as {done.value!r:.200}'
    assert len(str(done.error)) < 2000
    if match:
        assert match in str(done.error)
    return done


def test_the_guard_sees_what_the_usual_reader_does(tmp_path):
    """The same payloads do run in Python's own unpickler: the canary and the hook are real."""
    canary = tmp_path / 'canary'
    with pytest.raises(AssertionError, match='os.system'):
        guarded(pickle.loads, pickled(hostile.calls(canary)['GLOBAL and REDUCE']))
    assert canary.exists()
    with pytest.raises(AssertionError, match='did more than read'):
        guarded(open, str(canary), 'w')


@pytest.mark.parametrize('name', NAMES)
def test_no_call_at_any_depth(tmp_path, name):
    canary = tmp_path / 'canary'
    call = hostile.calls(canary)[name]
    files = []
    for place, body in hostile.places(call).items():
        files += [(place, pickled(body)), (place, pickled(body, protocol=2)),
                  (f'torch, {place}', hostile.torch_zip(body)),
                  (f'legacy torch, {place}', hostile.torch_legacy(body=body))]
    for part in ('version', 'system', 'keys'):
        files.append((f'legacy torch, {part}', hostile.torch_legacy(**{part: call})))
    for place, data in files:
        done = read(tmp_path, data)
        assert not canary.exists(), place
        mayread = name in HARMLESS or 'popped' in place or 'dropped' in place
        assert mayread or done.error is not None, f'{place}: {done.value!r:.100}'
        if done.error is None:
            assert plain(done.value), place


class Config(dict):
    """As easydict, addict and yacs have them: items of its own and attributes."""


class Recorder:
    """Any class; it would say if it were built."""
    built = 0

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        Recorder.built += 1

    def mean(self):
        return 0


def objects():
    """What real checkpoints hold beside their tensors."""
    import argparse
    import collections
    import datetime
    import decimal
    import fractions
    import pathlib
    import random
    import types
    import uuid
    config = Config(a=1, state={'w': np.ones(2, 'f4')})
    config.attribute = config                   # holds itself, as omegaconf's do
    return {
        'Namespace': argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath('a'), kind=int, nested=argparse.Namespace()),
        'PosixPath': pathlib.PurePosixPath('/a/b'), 'WindowsPath': pathlib.PureWindowsPath('c:/a'),
        'datetime': datetime.datetime(2020, 1, 2), 'date': datetime.date(2020, 1, 2),
        'timedelta': datetime.timedelta(1), 'timezone': datetime.datetime.now(datetime.timezone.utc),
        'defaultdict': collections.defaultdict(list, a=[1]), 'of own': collections.defaultdict(Recorder, a=1),
        'deque': collections.deque([1, 2], 3), 'Counter': collections.Counter('aab'), 'set': {1, 2},
        'frozenset': frozenset((1, 2)), 'Decimal': decimal.Decimal('1.5'), 'Fraction': fractions.Fraction(1, 3),
        'UUID': uuid.UUID(int=5), 'SimpleNamespace': types.SimpleNamespace(a=1), 'complex': 1 + 2j,
        'slice': slice(1, 2), 'range': range(3), 'class': Recorder, 'method': Recorder.mean, 'object': Recorder(1),
        'config': config,
        'list of objects': [Recorder(), Recorder()], 'path as key': {pathlib.PurePosixPath('a'): 1}, 'type': float,
        'random': random.Random(0), 'numpy random': np.random.RandomState(0), 'bytearray': bytearray(b'x'),
        'ordered': collections.OrderedDict(a=Recorder()), 'aliased': [Recorder()] * 3}


@pytest.mark.parametrize('protocol', range(2, 6))
def test_unknown_objects_are_opaque_and_the_tensors_read(tmp_path, protocol):
    for name, thing in objects().items():
        try:
            data = pickle.dumps({'before': thing, 'state_dict': {'conv1.weight': np.full((2, 3), 7, 'f4')}, 'x': 1},
                                protocol)
        except TypeError:               # this Python does not write that
            continue
        done = read(tmp_path, data)
        assert done.error is None, f'{name}: {done.error}'
        assert plain(done.value) and done.value['x'] == 1, name
        assert (done.value['state_dict']['conv1.weight'] == 7).all(), name
        assert Recorder.built == 0
        assert (load_weights(str(tmp_path / 'x.pdparams'))['conv1.weight'] == 7).all()
    assert not [m for m in ('antigravity', 'mmengine') if m in sys.modules]


def test_what_an_unknown_dict_holds_is_kept(tmp_path):
    done = read(tmp_path, pickle.dumps(objects()['config'], 4))
    assert done.value['a'] == 1 and (done.value['state']['w'] == 1).all()


@pytest.mark.parametrize('module, name', [
    ('mmengine', 'os.system'), ('somewhere', 'deep.subprocess.Popen'), ('pathlib', 'os.system'),
    ('datetime', 'sys.exit'), ('torch.optim', 'os.system'), ('numpy.random', 'os'), ('torch.hub', 'load'),
    ('numpy.ctypeslib', 'load_library'),
    ('argparse', '_sys.exit'), ('collections', 'abc.sys.exit'), ('random', '_os.system'), ('x' * 600, 'y'),
    ('builtins', 'eval'), ('builtins', 'breakpoint'), ('torch', 'load'), ('types', 'CodeType'),
    ('types', 'FunctionType'), ('os.path', 'join'), ('posixpath', 'os.system'), ('pip', 'main'), ('ctypes', 'CDLL'),
    ('nt', 'system')])
def test_names_that_act_are_refused(tmp_path, module, name):
    for body in (f'c{module}\n{name}\n'.encode(), text(module) + text(name) + b'\x93'):
        for use in (b'', b')R', b')\x81', b')}\x92'):
            if module == 'numpy.random':
                assert plain(read(tmp_path, pickled(b'}' + text('a') + body + use + b's')).value)
            else:
                refused(tmp_path, pickled(b'}' + text('a') + body + use + b's'))


def test_opaque_things_in_bounded_memory(tmp_path):
    many = b'](' + b'cmine\nThing\n' + b'q\x00' + b'h\x00)\x81' * 400000 + b'e'
    done = read(tmp_path, pickled(many), megabytes=250, seconds=15)
    assert 'far more memory' in str(done.error)
    long = text('m' * 500) + b'q\x00' + text('n') + b'q\x01](' + b'h\x00h\x01\x93' * 300000 + b'e'
    done = read(tmp_path, pickled(long), megabytes=450, seconds=15)
    assert 'far more memory' in str(done.error)


def plain(value):
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple, set)):
        return all(map(plain, value))
    return value is None or isinstance(value, (bool, int, float, str, bytes, bytearray, np.ndarray, np.generic))


@pytest.mark.parametrize('protocol', range(2, 6))
def test_reduce_of_a_real_class(tmp_path, protocol):
    class Evil:
        def __init__(self, canary):
            self.canary = str(canary)

        def __reduce__(self):
            return os.mkdir, (self.canary,)

    evil = Evil(tmp_path / 'canary')
    for obj in (evil, {'a': evil}, {'a': [({'b': evil},)]}, [evil, evil], np.array([evil], object)):
        done = refused(tmp_path, pickle.dumps(obj, protocol), 'Refusing to read')
        assert not (tmp_path / 'canary').exists() and done.value is None


def test_what_holds_itself_is_named_as_such(tmp_path):
    for name in ('list that holds itself', 'dict that holds itself'):
        refused(tmp_path, BOMBS[name], 'holds itself')


def test_sealed_files_are_read_as_carefully(tmp_path):
    """A checksum says that bytes are as they were written, not that they are good."""
    import hashlib
    body = b'\x80\x04\x8c\x0cpassl-sha2560' + hostile.calls(tmp_path / 'canary')['GLOBAL and REDUCE'] + b'.'
    refused(tmp_path, body + hashlib.sha256(body).digest(), 'os.system')
    assert not (tmp_path / 'canary').exists()


BOMBS = {
    'long string that is not there': pickled(b'\x8d' + struct.pack('<Q', 2**40)),
    'long bytes that are not there': pickled(b'\x8e' + struct.pack('<Q', 2**62)),
    'bytearray that is not there': pickled(b'\x96' + struct.pack('<Q', 2**33)),
    'negative length': pickled(b'T' + struct.pack('<i', -5)),
    'number of a megabyte': pickled(b'\x8b' + struct.pack('<i', 10**6) + b'\xff' * 10**6),
    'array larger than memory': pickled(b'cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86cnumpy\ndtype\n'
                                        + text('f8') + b'\x85RC\x04abcdtR'),
    'shape whose product overflows': pickled(b'cnumpy\nndarray\n((' + (b'\x8a\x05\x00\x00\x00\x00\x01') * 4
                                             + b'tcnumpy\ndtype\n' + text('f4') + b'\x85RC\x00tR'),
    'shape of 100000 axes': pickled(b'cnumpy\nndarray\n((' + b'K\x01' * 100000 + b'tcnumpy\ndtype\n' + text('f4')
                                    + b'\x85RC\x04abcdtR'),
    'empty array of huge sides': pickled(b'cnumpy\nndarray\n(K\x00' + b'\x8a\x08' + b'\xff' * 7 + b'\x0f'
                                         + b'\x86cnumpy\ndtype\n' + text('f4') + b'\x85RC\x00tR'),
    'V1000000000': pickled(b'cnumpy\nndarray\n(K\x00\x85cnumpy\ndtype\n' + text('V1000000000') + b'\x85RC\x00tR'),
    'nested 100000 deep': pickled(b']' * 100000 + b'a' * 99999),
    'nested tuples': pickled(b')' + b'\x85' * 200000),
    'key nested deep': pickled(b'})' + b'\x85' * 100000 + b'Ns'),
    'list that holds itself': pickled(b']\x94h\x00a'),
    'dict that holds itself': pickled(b'}\x94' + text('x') + b'h\x00s'),
    'billion laughs': pickled(b']' + b''.join(b'q' + bytes([i]) + b'](' + (b'h' + bytes([i])) * 10 + b'e'
                                              for i in range(12))),
    'dict copied again and again': pickled(
        b'}(' + b''.join(b'M' + struct.pack('<H', i) + b'N' for i in range(20000)) + b'uq\x000]('
        + b'cbuiltins\ndict\nh\x00\x85R' * 3000 + b'e'),
    'string encoded again and again': pickled(
        text('x' * 100000) + b'q\x000](' + (b'c_codecs\nencode\nh\x00\x85R') * 20000 + b'e'),
    'list made a tuple again and again': pickled(
        b'](' + b'N' * 20000 + b'eq\x000](' + b'cbuiltins\ntuple\nh\x00\x85R' * 5000 + b'e'),
    'array turned round again and again': pickled(
        b'B' + struct.pack('<I', 80000) + bytes(80000) + b'q\x000cnumpy\ndtype\n' + text('f8') + b'\x85R(K\x03'
        + text('>') + b'NNNJ\xff\xff\xff\xff' + b'J\xff\xff\xff\xffK\x00tbq\x010]('
        + b'cnumpy\nndarray\n(M\x10\x27\x85h\x01h\x00tR' * 20000 + b'e'),
    'keys with equal hashes': pickled(b'}(' + b''.join(
        b'\x8a\x0a' + (k * (2**61 - 1)).to_bytes(10, 'little') + b'N' for k in range(1, 30000)) + b'u'),
    'three million empty sets': pickled(b'(' + b'\x8f' * 3 * 10**6 + b't'),
    'marks without end': pickled(b'(' * 10**6),
    'torch: expanded without end': hostile.torch_zip(
        b'(' + hostile.torch_tensor((1 << 12, 1 << 12), (0, 0), 1, 'BFloat16Storage') * 100 + b't', [b'\0\0']),
    'torch: columns copied again and again': hostile.torch_zip(
        b'(' + hostile.torch_tensor((500, 500), (1, 500), 250000) * 2000 + b't', [bytes(10**6)]),
    'torch: storage that is not there': hostile.torch_zip(hostile.torch_tensor((1,), (1,), 1)),
    'torch: storage of 2**60': hostile.torch_zip(hostile.torch_tensor((1,), (1,), 2**60), [b'\0' * 4]),
    'torch: offset beyond the end': hostile.torch_zip(hostile.torch_tensor((1,), (1,), 1, offset=5), [b'\0' * 4]),
    'torch: stride beyond the end': hostile.torch_zip(hostile.torch_tensor((2,), (2**40,), 2), [b'\0' * 8]),
    'torch: 40 axes': hostile.torch_zip(hostile.torch_tensor((1,) * 40, (1,) * 40, 1), [b'\0' * 4]),
    'torch: storage named ../../x': hostile.torch_zip(hostile.torch_tensor((1,), (1,), 1, key='../../x'), [b'\0' * 4]),
    'torch: deflated bomb': hostile.zipped({'archive/data.pkl': b'\0' * 10**8}, 8),
    'torch: two data.pkl': hostile.zipped([('a/data.pkl', pickled(b'}')), ('a/data.pkl', pickled(b'N'))]),
    'legacy torch: storage of 2**60': hostile.torch_legacy(
        body=hostile.torch_tensor((1,), (1,), 2**60, legacy=True), keys=b']' + text('0') + b'a',
        data=struct.pack('<q', 2**60)),
    'legacy torch: never filled': hostile.torch_legacy(body=hostile.torch_tensor((1,), (1,), 1, legacy=True)),
    'legacy torch: unknown storage': hostile.torch_legacy(keys=b']' + text('7') + b'a', data=struct.pack('<q', 1)),
    'legacy torch: deep': hostile.torch_legacy(body=b']' * 50000 + b'a' * 49999),
}


@pytest.mark.parametrize('name', sorted(BOMBS))
def test_refused_in_bounded_time_and_memory(tmp_path, name):
    data = BOMBS[name]
    done = refused(tmp_path, data, seconds=15, megabytes=450 if len(data) > 10**5 else 200)
    assert done.error.__cause__ is None or not isinstance(done.error.__cause__, MemoryError)


def test_empty_sets_count_among_what_a_file_may_take(tmp_path):
    refused(tmp_path, pickled(b'(' + b'\x8f' * 10**6 + b't'), match='far more memory', megabytes=200)


def nested_zip(depth, data):
    """A zip file whose entry i holds the entries i + 1 ... as they stand in the file: `depth` times the same bytes."""
    names = [b'archive/data/%d' % i for i in range(depth)]
    body = hostile.pickled(b'(' + b''.join(hostile.torch_tensor(
        (1,), (1,), len(data) + sum(30 + len(n) for n in names[i + 1:]), 'ByteStorage', str(i))
        for i in range(depth)) + b't', protocol=2)
    contents = [(b'archive/data.pkl', body, len(body))]
    for i in reversed(range(depth)):
        contents.insert(1, (names[i], data, len(data)))
        data = header(b'PK\3\4' + struct.pack('<H', 20), data, names[i]) + data
    out = header(b'PK\3\4' + struct.pack('<H', 20), body, b'archive/data.pkl') + body
    directory, at = header(b'PK\1\2' + struct.pack('<HH', 20, 20), body, b'archive/data.pkl', 0), len(out)
    for name, content, _ in contents[1:]:
        directory += header(b'PK\1\2' + struct.pack('<HH', 20, 20), content, name, at)
        at += 30 + len(name)
    out += data
    end = struct.pack('<HHHHIIH', 0, 0, depth + 1, depth + 1, len(directory), len(out), 0)
    return out + directory + b'PK\5\6' + end


def header(begin, data, name, at=None):
    """Local header of a zip entry, or with `at` its record in the directory."""
    sizes = struct.pack('<HHHHIIIHH', 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
    return begin + sizes + (b'' if at is None else struct.pack('<HHHII', 0, 0, 0, 0, at)) + name


def test_entries_that_lie_over_each_other_are_read_once_only(tmp_path):
    """A zip file may show the same bytes a hundred times; what is read may not exceed the file."""
    assert read(tmp_path, nested_zip(1, bytes(1000))).value[0][0] == 0       # one entry is an ordinary file
    done = refused(tmp_path, nested_zip(100, bytes(10**5)), megabytes=20)
    assert 'too early' in str(done.error) or 'verlap' in str(done.error)     # newer Pythons see it as well


def test_names_in_an_archive_are_looked_up_and_never_written(tmp_path):
    inside = tmp_path / 'deep' / 'er'
    inside.mkdir(parents=True)
    for name in ('../../canary', '/tmp/passl_canary_of_a_test', '../data.pkl', 'C:\\canary', 'link'):
        data = hostile.zipped([('archive/data.pkl', pickled(b'}' + text('a') + b'K\x01s', protocol=2)), (name, b'x')])
        done = read(inside, data)
        assert done.value == {'a': 1}
        assert sorted(os.listdir(tmp_path)) == ['deep'] and os.listdir(inside) == ['x.pdparams']
    assert not os.path.exists('/tmp/passl_canary_of_a_test')


def test_values_that_fit_no_weight(tmp_path):
    """What is read must also be taken or refused in words by what comes after."""
    states = [{'conv1.weight': np.array(['text'])}, {'layer1.' + '9' * 5000 + '.conv1.weight': np.zeros(2, 'f4')},
              {'x': {}}, {3: np.zeros(2)}, {'state_dict': {'state_dict': {}}}, [], None, 'x',
              {'a' * 10**5: np.zeros(1)}]
    for state in states:
        done = read(tmp_path, pickle.dumps(state, 4), reader=load_weights)
        assert done.error is not None or isinstance(done.value, dict)


def test_neither_pipe_nor_device_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', '/dev/zero', '/dev/null', 'a\0b'):
        done = guarded(load_file, str(path), allowed=CheckpointError, seconds=2)
        assert done.error is not None


def test_limits_leave_room_for_real_files(tmp_path):
    """The largest of usual checkpoints stays far below: a thousand tensors, long lists, aliases, nesting of 20."""
    deep = 'end'
    for _ in range(20):
        deep = {'x': [deep]}
    state = {f'layer{i}.weight': np.full((10, 10), i, 'f4') for i in range(1000)}
    obj = {'state_dict': state, 'alias': state, 'list': list(range(10**5)), 'deep': deep, 'big': 2**100,
           'long': 'x' * 10**6}
    done = read(tmp_path, pickle.dumps(obj, 4))
    assert done.error is None and done.value['list'] == obj['list'] and done.value['deep'] == deep
    assert np.array_equal(done.value['alias']['layer7.weight'], state['layer7.weight'])
