"""Fuzzing of all readers: changed, cut and spliced files, random pickle programs, random trees and overrides.

Whatever the input: a value or a PasslError, within bounded time and memory, and nothing executed (see `guard`).

    python -m tests.security.fuzz --seconds 600 --keep failures

prints the executions of each reader, keeps inputs that break the rule in the folder `failures`, and ends with code 1 if
there are any. `--replay FILE` runs one of them again. The same cases, fewer, run in tests/security/test_fuzz.py.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zlib  # noqa: F401  before Paddle: 2.6 exports zlib's symbols

os.environ.setdefault('MALLOC_TRIM_THRESHOLD_', '131072')     # freed memory goes back: the next input is measured alone

import numpy as np  # noqa: E402

from passl.datasets import packed  # noqa: E402
from passl.datasets.cifar import _read_batch  # noqa: E402
from passl.datasets.image import ImageReadError, decode_image  # noqa: E402
from passl.datasets.image_list import paths_in, read_list  # noqa: E402
from passl.utils.weights.checkpoint import _Pickler, file_format, is_torch_file, load_file, save_file  # noqa: E402
from passl.utils.config import apply_overrides, dump_config, load_config, merge, validate, with_defaults  # noqa: E402
from passl.utils.errors import PasslError  # noqa: E402
from passl.utils.logger import read_json_lines  # noqa: E402
from passl.utils.run_log import is_record, series  # noqa: E402
from passl.utils.config.schema import SCHEMA, structural_keys  # noqa: E402
from passl.utils.weights import backbone_weights, find_state_dict, weights_in  # noqa: E402
from passl.utils.config.yaml_text import parse_yaml, to_yaml  # noqa: E402

from . import hostile  # noqa: E402
from .guard import TooSlow, guarded  # noqa: E402

CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'configs')
NUMBERS = [0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63,
           2**64 - 1]
NAMES = ['os system', 'builtins eval', 'builtins getattr', 'numpy dtype', 'numpy ndarray', 'collections OrderedDict',
         'collections Counter', 'collections defaultdict', 'builtins tuple', 'builtins dict', 'builtins set',
         '_codecs encode',
         'numpy.core.multiarray _reconstruct', 'numpy.core.multiarray scalar', 'numpy._core.numeric _frombuffer',
         'numpy float32', 'numpy int64', 'numpy bool_', 'torch FloatStorage', 'torch BFloat16Storage', 'torch Size',
         'torch device', 'torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_parameter', '__main__ x',
         'a.b.c d.e']
TEXTS = ['data', 'f4', '<f8', '>i8', 'O', 'V9', 'U3', 'S100', 'storage', '0', 'cpu', 'state_dict', 'conv1.weight',
         'latin1', 'x',
         'StructuredToParameterName@@', 'UnpackBigParamInfor@@', 'layer1.0.conv1.weight', 'module.', '|', '=', '>']


# ------------------------------------------------------------------------------------------------- generators

def pack(rng, form):
    size = struct.calcsize(form)
    return (rng.choice(NUMBERS) % 2**(8 * size)).to_bytes(size, 'little')


def mutate(rng, data, others=(), tokens=()):
    """`data` after one to eight changes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[at:at + rng.choice([1, 2, 4, 16, 1000])]
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 2, 8])))
        elif kind == 4:
            number = pack(rng, rng.choice(['<H', '<I', '<Q']))
            data[at:at + len(number)] = number
        elif kind == 5 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at:at + rng.choice([0, 20, 10**6])] = other[start:start + rng.choice([5, 100, 10**6])]
        elif kind == 6 and tokens:
            data[at:at + rng.choice([0, 1])] = rng.choice(tokens)
        elif kind == 7:
            end = at + rng.choice([1, 4, 30])
            data[at:at] = data[at:end] * rng.choice([1, 3, 50])
    if rng.random() < 0.05:
        del data[rng.randrange(len(data) + 1):]
    return bytes(data)


def opcode(rng):
    """One opcode with its argument, mostly a sensible one."""
    kind = rng.randrange(14)
    if kind == 0:
        return b'c' + rng.choice(NAMES).replace(' ', '\n').encode() + b'\n'
    if kind == 1:
        return hostile.text(rng.choice(TEXTS))
    if kind == 2:
        return rng.choice([b'K' + bytes([rng.randrange(256)]), b'J' + pack(rng, '<I'), b'M' + pack(rng, '<H'),
                           b'G' + pack(rng, '<Q'), b'\x8a\x08' + pack(rng, '<Q'), b'N', b'\x88', b'\x89'])
    if kind == 3:
        raw = bytes(rng.randrange(256) for _ in range(rng.choice([0, 4, 8, 16])))
        return b'C' + bytes([len(raw)]) + raw
    if kind == 4:
        return rng.choice([b'h', b'q']) + bytes([rng.randrange(6)])
    if kind == 5:
        return rng.choice([b'(', b'(', b'0', b'1', b'2', b'\x94'])
    if kind in (6, 7):
        return rng.choice([b'R', b'R', b'b', b'\x81', b'Q', b'\x93', b'o', b'\x92'])
    if kind == 8:
        return rng.choice([b't', b'\x85', b'\x86', b'\x87', b')', b']', b'}', b'\x8f'])
    if kind == 9:
        return rng.choice([b'a', b'e', b's', b'u', b'\x90'])
    if kind == 10:
        shape = b'(' + b''.join(b'K' + bytes([rng.randrange(4)]) for _ in range(rng.randrange(4))) + b't'
        return b'cnumpy\nndarray\n(' + shape + b'cnumpy\ndtype\n' + hostile.text(rng.choice(TEXTS[:8])) + b'\x85R' + \
            b'C' + bytes([8]) + bytes(8) + b'tR'
    if kind == 11:
        return hostile.torch_tensor(*[[rng.choice(NUMBERS[:8]) for _ in range(2)] for _ in 'ab'], rng.choice(NUMBERS),
                                    rng.choice(['FloatStorage', 'BFloat16Storage', 'LongStorage']), rng.choice('01'))
    if kind == 12:
        return bytes([rng.randrange(256)])
    return b'}' + hostile.text(rng.choice(TEXTS)) + rng.choice([b'N', b']', b'}', b'K\1']) + b's'


def program(rng):
    return b''.join(opcode(rng) for _ in range(rng.choice([2, 5, 10, 30, 100])))


def tree(rng, depth=0):
    """A random tree of what JSON and YAML hold."""
    kind = rng.randrange(10 if depth < 5 else 7)
    if kind < 3:
        return rng.choice(TEXTS + ['../x', '/etc/passwd', '\u2028', 'é', '{x}', '%s', 'null', '1e999', '', ' ', '-'])
    if kind < 5:
        return rng.choice([*NUMBERS, -1, -2**63, 0.5, 1e300, float('nan'), float('inf'), 10**30])
    if kind < 7:
        return rng.choice([None, True, False, [], {}])
    if kind == 7:
        return [tree(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(tree(rng, 9)): tree(rng, depth + 1) for _ in range(rng.randrange(4))}


KEYS = [path for path, _ in structural_keys()] if SCHEMA else []
YAML_TOKENS = [t.encode() for t in ('!!python/name:os.system', '!!int ', '!x ', '&a ', '*a', '<<: ', '? ', ': ', '- ',
                                    '[', ']',
                                    '{', '}', '|\n', '>-\n', '"', "'", '\\U0010ffff', '"\\ud800"', '\t', '\n', '---\n',
                                    '%YAML 1.1\n',
                                    '~', '.nan', '0x', '1/0', '9*', '1e9', '#', '@', '`', '\u0085', '_base_: ',
                                    '_delete_: ', ', ')]


def override(rng):
    parts = rng.choice(KEYS).split('.') if rng.random() < 0.7 else []
    parts += [rng.choice(['0', '1', '-1', '99', 'name', '__class__', '__init__', '', 'x', '²', '_base_'])
              for _ in range(rng.randrange(3))]
    value = rng.choice(['1', 'x', '[1, 2]', '{name: x}', '[', '!!python/name:os.system', '*a', 'null', '1e9', '"\\0"',
                        '=',
                        json.dumps(tree(rng, 3))])
    text = '.'.join(parts) + rng.choice(['=', '=', '=', '==', '', ' = ']) + value
    return text if rng.random() < 0.8 else mutate(rng, text.encode()).decode('utf-8', 'surrogateescape')


# ------------------------------------------------------------------------------------------------- the readers

class Target:
    """One reader: `make(rng)` gives an input (bytes), `run(bytes)` reads it."""

    def __init__(self, folder):
        self.path = os.path.join(folder, self.file)
        self.folder = folder
        self.prepare()

    file, answers = 'x', PasslError

    def prepare(self):
        pass

    def write(self, data):
        with open(self.path, 'wb') as f:
            f.write(data)
        return self.path

    def once(self, data):
        """True if the input was accepted. AssertionError, TooSlow or a foreign exception: the rule is broken."""
        path = self.write(data)
        return guarded(self.run, path, allowed=self.answers, seconds=15, megabytes=450).error is None


def use(content, path):
    """What comes after `load_file`."""
    for function in (lambda: weights_in(content, path), lambda: backbone_weights(find_state_dict(content)),
                     lambda: is_torch_file(path)):
        try:
            function()
        except PasslError:
            pass


class Pickles(Target):
    file = 'x.pdparams'

    def prepare(self):
        state = hostile.arrays()
        self.seeds = [pickle.dumps(state, p) for p in (2, 3, 4, 5)]
        out = io.BytesIO()
        _Pickler(out, 4).dump(state)
        self.seeds.append(out.getvalue())
        call = hostile.calls('canary')
        self.tokens = [*call.values(), *(bytes([c]) for c in range(256)), b'\x80\x04', b'cnumpy\ndtype\n']

    def make(self, rng):
        if rng.random() < 0.4:
            return hostile.pickled(program(rng), protocol=rng.choice([2, 4]))
        return mutate(rng, rng.choice(self.seeds), self.seeds, self.tokens)

    def run(self, path):
        file_format(path)
        use(load_file(path), path)


class Sealed(Pickles):
    """Files of ours with a checksum that is right."""

    def prepare(self):
        super().prepare()
        save_file(hostile.arrays(), self.path)
        with open(self.path, 'rb') as f:
            self.seeds = [f.read()[:-32]]

    def make(self, rng):
        body = mutate(rng, self.seeds[0], self.seeds, self.tokens)
        return body + hashlib.sha256(body).digest()[:rng.choice([32, 32, 32, 31, 0])]


class TorchZip(Pickles):
    def prepare(self):
        super().prepare()
        two = b'}(' + hostile.text('a') + hostile.torch_tensor((2, 3), (3, 1), 6) + hostile.text('b') + \
            hostile.torch_tensor((2,), (1,), 2, 'BFloat16Storage', '1') + b'u'
        self.body, self.storages = two, [bytes(range(24)), bytes(4)]
        self.seeds = [hostile.torch_zip(two, self.storages)]

    def make(self, rng):
        kind = rng.randrange(3)
        if kind == 0:
            return mutate(rng, self.seeds[0], self.seeds,
                          [b'PK\1\2', b'PK\3\4', b'PK\5\6', b'PK\6\6', b'../', b'data.pkl'])
        body = program(rng) if kind == 1 else mutate(rng, self.body, [self.body], self.tokens)
        return hostile.torch_zip(body, [mutate(rng, s) if rng.random() < 0.2 else s for s in self.storages],
                                 rng.choice(['archive', 'archive', '..', '/', 'a/b']))


class TorchLegacy(TorchZip):
    def prepare(self):
        super().prepare()
        body = b'}(' + hostile.text('a') + hostile.torch_tensor((2, 3), (3, 1), 6, legacy=True) + b'u'
        data = struct.pack('<q', 6) + bytes(range(24))
        self.parts = dict(version=b'M\xe9\x03', system=b'}' + hostile.text('little_endian') + b'\x88s', body=body,
                          keys=b']' + hostile.text('0') + b'a', data=data)
        self.seeds = [hostile.torch_legacy(**self.parts)]

    def make(self, rng):
        if rng.random() < 0.3:
            return mutate(rng, self.seeds[0], self.seeds, self.tokens)
        part = rng.choice(sorted(self.parts))
        new = program(rng) if rng.random() < 0.5 else mutate(rng, self.parts[part], [self.parts['body']], self.tokens)
        return hostile.torch_legacy(**{**self.parts, part: new})


class Safetensors(Target):
    file = 'x.safetensors'

    def prepare(self):
        self.header = {'__metadata__': {'format': 'pt'},
                       'conv1.weight': {'dtype': 'F32', 'shape': [2, 2], 'data_offsets': [0, 16]},
                       'b': {'dtype': 'BF16', 'shape': [4], 'data_offsets': [16, 24]}}
        self.data = bytes(range(24))

    def make(self, rng):
        if rng.random() < 0.5:
            return mutate(rng, hostile.safetensors(self.header, self.data), [],
                          [b'[', b'{', b'9' * 30, b'-1', b'1e9', b'"', b','])
        header = json.loads(json.dumps(self.header))
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice([*header, 'new'])
            info = header.setdefault(name, {})
            if rng.random() < 0.3 or not isinstance(info, dict):
                header[name] = tree(rng)
            else:
                info[rng.choice(['dtype', 'shape', 'data_offsets'])] = rng.choice(
                    [tree(rng), [rng.choice(NUMBERS), rng.choice(NUMBERS)], rng.choice(['F64', 'U8', 'O', 'BOOL'])])
        return hostile.safetensors(header, self.data, rng.choice([None, None, None, rng.choice(NUMBERS)]))

    def run(self, path):
        use(load_file(path), path)


class Yaml(Target):
    file = 'x.yaml'

    def prepare(self):
        self.seeds = []
        for folder, _, names in os.walk(CONFIGS):
            for name in names:
                if name.endswith('.yaml'):
                    with open(os.path.join(folder, name), 'rb') as f:
                        self.seeds.append(f.read())
        self.seeds.sort()

    def make(self, rng):
        kind = rng.random()
        if kind < 0.2:
            return json.dumps(tree(rng)).encode('utf-8', 'surrogatepass')
        if kind < 0.4:
            return b''.join(rng.choice(YAML_TOKENS + [b'a', b'b: ', b' ',
                                                      b'\n  ']) for _ in range(rng.choice([3, 10, 40])))
        return mutate(rng, rng.choice(self.seeds), self.seeds, YAML_TOKENS)

    def run(self, path):
        with open(path, encoding='utf-8', errors='surrogateescape') as f:
            data = parse_yaml(f.read(), 'x')
        if isinstance(data, dict):
            again = parse_yaml(to_yaml(data), 'y')
            if 'nan' not in str(data) and again != data:
                raise AssertionError('another value after writing and reading')


class Config(Yaml):
    """The loader with bases, overrides, checks and defaults."""

    def prepare(self):
        super().prepare()
        shutil.copytree(CONFIGS, os.path.join(self.folder, 'configs'), dirs_exist_ok=True)
        self.path = os.path.join(self.folder, 'configs', 'densecl', 'x.yaml')

    def make(self, rng):
        if rng.random() < 0.3:
            cfg = {rng.choice(KEYS).split('.')[0]: tree(rng) for _ in range(rng.randrange(5))}
            return json.dumps({**cfg, **({'_base_': tree(rng)} if rng.random() < 0.2 else {})}).encode()
        return super().make(rng)

    def run(self, path):
        cfg = load_config(path)
        dump_config(with_defaults(cfg))
        for training in (True, False):
            try:
                validate(merge(cfg, {}), training)
            except PasslError:
                pass


class Overrides(Target):
    def prepare(self):
        self.cfg = load_config(os.path.join(CONFIGS, 'densecl', 'densecl_r50.yaml'))
        self.before = repr(self.cfg)

    def make(self, rng):
        texts = [override(rng).replace('\0', '') for _ in range(rng.choice([1, 1, 3]))]
        return '\0'.join(texts).encode('utf-8', 'surrogateescape')

    def run(self, path):
        with open(path, 'rb') as f:
            texts = f.read().decode('utf-8', 'surrogateescape').split('\0')
        try:
            cfg = apply_overrides(self.cfg, texts)
            validate(cfg)
            dump_config(with_defaults(cfg))
        finally:
            if repr(self.cfg) != self.before:
                raise AssertionError('the config was changed')


class Lists(Target):
    def prepare(self):
        self.seed = 'a.jpg 0\nb/c d.png 1\n\n图/x.jpg 2\n'.encode()

    def make(self, rng):
        return mutate(rng, self.seed, [], [b'../', b'/etc/passwd', b'\0', b' 99999999999', '²'.encode(), b'\r', b'\n',
                                           b'..', b'/',
                                           self.folder.encode() + b'/x', b'link/../..'])

    def run(self, path):
        names, labels = read_list(path)
        for found in paths_in(self.folder, names, path):
            inside = os.path.normpath(os.path.abspath(found))
            if not inside.startswith(os.path.abspath(self.folder)) or '..' in found.split(os.sep):
                raise AssertionError(f'{found} is outside')


class Packed(Target):
    file = 'p.pack'

    def prepare(self):
        rng = np.random.RandomState(0)
        images = [rng.bytes(n) for n in (1, 700, 3000, 5000, 0, 12, 9000) * 3]
        packed.write_packed(self.path, [images], [f'{i}' for i in range(len(images))], np.arange(len(images)) % 3,
                            'abc')
        with open(self.path, 'rb') as f:
            self.seed = f.read()
        self.start, = struct.unpack_from('<Q', self.seed, 16)

    def make(self, rng):
        """Mostly with a checksum that is right: without it the rest would not be looked at."""
        if rng.random() < 0.2:
            return mutate(rng, self.seed)
        index = mutate(rng, self.seed[self.start:], [], [b'\0', b'\n', b'{', b'9' * 30, b'"classes": [', b'null'])
        return self.seed[:24] + struct.pack('<Q', len(index)) + hashlib.sha256(index).digest() + \
            self.seed[64:self.start] + index

    def run(self, path):
        data = packed.PackedImages(path, return_label=True)
        for i in range(len(data)):
            data.label(i)
            try:
                data.read_bytes(i)
            except ImageReadError:
                pass


class Cifar(Pickles):
    def run(self, path):
        with open(path, 'rb') as f:
            _read_batch(f.read(), 'data_batch_1')


class Logs(Target):
    def make(self, rng):
        good = json.dumps({'mode': 'train', 'iteration': 1, 'loss': 2.5, 'lr': 0.1, 'acc1': 'nan'}).encode()
        lines = [rng.choice([good, mutate(rng, good, [], [b'[', b'{', b'9' * 40, b'1e999', b'null']),
                             json.dumps({'mode': tree(rng), 'iteration': tree(rng), 'loss': tree(rng)}).encode()])
                 for _ in range(rng.randrange(1, 6))]
        return b'\n'.join(lines)

    def run(self, path):
        records = [r for r in read_json_lines(path) if is_record(r)]
        sorted(records, key=lambda r: r['iteration'])
        {(r.get('mode'), r['iteration']) for r in records}
        series(records, 'loss'), series(records, 'lr')


class Images(Target):
    def prepare(self):
        import cv2
        from PIL import Image
        image = np.random.RandomState(0).randint(0, 256, (24, 20, 3)).astype(np.uint8)
        self.seeds = [cv2.imencode(e, image)[1].tobytes() for e in ('.jpg', '.png', '.bmp', '.webp', '.ppm')]
        for kind, mode in (('GIF', 'P'), ('TIFF', 'RGB'), ('JPEG', 'CMYK'), ('PNG', 'I;16'), ('PNG', 'RGBA')):
            out = io.BytesIO()
            Image.fromarray(image).convert('RGB' if mode == 'I;16' else mode).save(out, kind)
            self.seeds.append(out.getvalue())

    def make(self, rng):
        return mutate(rng, rng.choice(self.seeds), self.seeds,
                      [b'\xff\xd8', b'\xff\xd9', b'\xff\xc0', b'IHDR', b'IEND', b'Exif\0\0'])

    def run(self, path):
        with open(path, 'rb') as f:
            decode_image(f.read(), 'x')


TARGETS = {'pickle': Pickles, 'sealed checkpoint': Sealed, 'torch zip': TorchZip, 'torch legacy': TorchLegacy,
           'safetensors': Safetensors, 'yaml': Yaml, 'config': Config, 'overrides': Overrides, 'list file': Lists,
           'packed file': Packed, 'cifar': Cifar, 'log': Logs, 'image': Images}


# ------------------------------------------------------------------------------------------------- the longer run

def keep(folder, name, data, error):
    os.makedirs(folder, exist_ok=True)
    stem = os.path.join(folder, f'{name.replace(" ", "_")}-{zlib.crc32(data):08x}')
    with open(stem + '.bin', 'wb') as f:
        f.write(data)
    with open(stem + '.txt', 'w', encoding='utf-8', errors='backslashreplace') as f:
        f.write(''.join(traceback.format_exception(type(error), error, error.__traceback__)))
    return stem


def main(argv=None):
    parser = argparse.ArgumentParser(description='Fuzz the readers; see the top of the file.')
    parser.add_argument('--seconds', type=float, default=600)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--only', choices=sorted(TARGETS), action='append')
    parser.add_argument('--keep', default='fuzz_failures', metavar='FOLDER')
    parser.add_argument('--replay', metavar='FILE', help='run one kept input; needs --only')
    args = parser.parse_args(argv)
    logging.getLogger('passl').setLevel(logging.CRITICAL)
    seed = time.time_ns() % 2**32 if args.seed is None else args.seed
    rng, failures = random.Random(seed), {}
    with tempfile.TemporaryDirectory() as folder:
        targets = {}
        for name in args.only or [n for n in TARGETS if n != 'image']:
            os.makedirs(os.path.join(folder, name))
            targets[name] = TARGETS[name](os.path.join(folder, name))
        if args.replay:
            with open(args.replay, 'rb') as f:
                return 0 if targets[args.only[0]].once(f.read()) else 0
        counts = {name: [0, 0, 0.0] for name in targets}        # executions, accepted, seconds
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            name = min(counts, key=lambda n: counts[n][2])      # every reader gets the same time
            began = time.monotonic()
            data = targets[name].make(rng)
            counts[name][0] += 1
            try:
                counts[name][1] += targets[name].once(data)
            except (Exception, TooSlow, SystemExit) as e:
                where = traceback.extract_tb(e.__traceback__)[-1]
                if failures.setdefault((name, type(e).__name__, where.filename, where.lineno), 0) == 0:
                    kept = keep(args.keep, name, data, e)
                    sys.stdout.write(f'FAILED {name}: {type(e).__name__}: {e!s:.300} ({kept})\n')
                failures[name, type(e).__name__, where.filename, where.lineno] += 1
            counts[name][2] += time.monotonic() - began
    for name, (count, accepted, seconds) in counts.items():
        sys.stdout.write(f'{name:18s} {count:9d} executions, {accepted:8d} accepted, {seconds:6.1f} s\n')
    sys.stdout.write(f'{sum(c[0] for c in counts.values())} executions in {args.seconds:.0f} s, seed {seed}, '
                     f'{sum(failures.values())} failures of {len(failures)} kinds\n')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
