"""Hostile files, byte by byte: pickles that ask for calls in every way the language has, and the files around them."""

import io
import json
import struct
import zipfile

import numpy as np

CALL = b'cos\nsystem\n'


def text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def pickled(*parts, protocol=4):
    return b'\x80' + bytes([protocol]) + b''.join(parts) + b'.'


def calls(canary):
    """{name: opcodes that leave one value}: each way of the language to have something called or built."""
    command = text(f'touch {canary}')
    one = command + b'\x85'
    return {
        'GLOBAL and REDUCE': CALL + one + b'R',
        'STACK_GLOBAL': text('os') + text('system') + b'\x93' + one + b'R',
        'STACK_GLOBAL of a memo': text('os') + b'\x94' + text('system') + b'\x94' + b'h\x00h\x01\x93' + one + b'R',
        'INST': b'(' + command + b'ios\nsystem\n',
        'OBJ': b'(' + CALL + command + b'o',
        'NEWOBJ': CALL + one + b'\x81',
        'NEWOBJ_EX': CALL + one + b'}\x92',
        'EXT1': b'\x82\x01' + one + b'R',
        'EXT2': b'\x83\x01\x00' + one + b'R',
        'EXT4': b'\x84\x01\x00\x00\x00' + one + b'R',
        'PERSID': b'Ptouch ' + str(canary).encode() + b'\n',
        'BINPERSID': command + b'Q',
        'BUILD with a state': CALL + b'}' + text('x') + one + b'sb',
        'BUILD of an object': b'cargparse\nNamespace\n)\x81}' + text('__setstate__') + CALL + b'sb',
        'attribute path': text('builtins') + text('object.__subclasses__') + b'\x93)R',
        'builtins.eval': b'cbuiltins\neval\n' + text('__import__("os").system("x")') + b'\x85R',
        'eval as old Paddle': (b'cbuiltins\neval\n' + text('data') + b'}' + text('data') + b'Ns' + text('x')
                               + b'Ns\x86R'),
        'builtins.exec': b'cbuiltins\nexec\n' + text('x = 1') + b'\x85R',
        'builtins.getattr': b'cbuiltins\ngetattr\n' + CALL + text('__call__') + b'\x86R',
        'builtins.open': b'cbuiltins\nopen\n' + text(str(canary)) + text('w') + b'\x86R',
        'importlib': b'cimportlib\nimport_module\n' + text('antigravity') + b'\x85R',
        'operator.attrgetter': b'coperator\nattrgetter\n' + text('system') + b'\x85R' + b'cos\nsystem\n\x85R',
        'functools.partial': b'cfunctools\npartial\n' + CALL + command + b'\x86R)R',
        'numpy f2py': b'cnumpy.f2py.diagnose\nrun\n)R',
        'numpy.load': b'cnumpy\nload\n' + text(str(canary)) + b'\x85R',
        'torch.load': b'ctorch.serialization\nload\n' + text(str(canary)) + b'\x85R',
        'torch storage of another kind': b'ctorch\nobject\n' + one + b'R',
        'paddle': b'cpaddle.base.core\neval\n' + one + b'R',
        'pickle in a pickle': b'cpickle\nloads\nC' + bytes([len(pickled(CALL + one + b'R'))]) +
                              pickled(CALL + one + b'R') + b'\x85R',
        'collections.namedtuple': b'ccollections\nnamedtuple\n' + text('x') + text('y') + b'\x86R',
        'defaultdict factory': b'ccollections\ndefaultdict\n' + CALL + b'\x85R',
        'codec': b'c_codecs\nencode\n' + text('x') + text('idna') + b'\x86R',
        'object array': (b'cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\n' + text('O') + b'\x85R' + b'C\x08' + bytes(8)
                         + b'tR'),
        'object array by state': (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
                                  b'(K\x01K\x01\x85cnumpy\ndtype\n' + text('O8') + b'\x85R\x89]' + CALL + one
                                  + b'Ratb'),
        'structured dtype': b'cnumpy\ndtype\n' + text('V1000000000') + b'K\x00K\x01\x87R(K\x03' + text('|') +
                            b'N(' + text('a') + b'tN' + b'JAAAA' + b'K\x01K\x10tb',
        'numbers in a dtype that numpy evaluates': b'cnumpy\nndarray\n(K\x00\x85cnumpy\ndtype\n' + text('(34)f4')
                                                   + b'\x85RC\x00tR',
        'two dtypes in one': b'cnumpy\nndarray\n(K\x00\x85cnumpy\ndtype\n' + text('f4,34i4') + b'\x85RC\x00tR',
        'mere name': CALL,
        'allowed name in place of data': b'cnumpy\nndarray\n',
        'unfinished array': b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R',
    }


def places(call):
    """{name: pickle body} with the opcodes `call` at several depths."""
    return {
        'at the top': call,
        'in a dict value': b'}' + text('state_dict') + call + b's',
        'in a dict key': b'}' + call + text('x') + b's',
        'in a deep dict': b'}' + text('a') + b'}' + text('b') + b'}' + text('c') + call + b'sss',
        'in nested tuples': text('x') + call + b'\x86\x85\x85',
        'in a list': b'](' + text('x') + call + b'e',
        'in a set': b'\x8f(' + call + b'\x90',
        'popped from the stack': call + b'0N',
        'as an argument of an array': b'cnumpy\nndarray\n(K\x01\x85' + call + b'C\x04abcdtR',
        'as a shape': b'cnumpy\nndarray\n(' + call + b'cnumpy\ndtype\n' + text('f4') + b'\x85RC\x04abcdtR',
        'as the state of an array': (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
                                     + call + b'b'),
        'after a mark that is dropped': b'(' + call + b'1N',
    }


def zipped(entries, compression=zipfile.ZIP_STORED):
    """Bytes of a zip archive of {name: bytes} or [(name, bytes)], names as they are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as archive:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def torch_zip(body, storages=(), prefix='archive'):
    """A torch file whose data.pkl has this body."""
    entries = [(f'{prefix}/data.pkl', pickled(body, protocol=2)), (f'{prefix}/version', b'3\n')]
    return zipped(entries + [(f'{prefix}/data/{i}', raw) for i, raw in enumerate(storages)])


def torch_tensor(size, stride, numel, kind='FloatStorage', key='0', offset=0, legacy=False):
    """Opcodes of a tensor over the storage `key`."""
    def whole(n):
        return b'\x8a' + bytes([n.bit_length() // 8 + 1]) + n.to_bytes(n.bit_length() // 8 + 1, 'little')
    pid = (b'(' + text('storage') + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu') + whole(numel)
           + (b'N' if legacy else b'') + b'tQ')
    return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + pid + whole(offset)
            + b'(' + b''.join(map(whole, size)) + b't(' + b''.join(map(whole, stride)) + b't\x89)tR')


def torch_legacy(magic=b'', version=b'', system=b'', body=b'}', keys=b']', data=b''):
    """A file of torch before 1.6; each argument replaces the body of one of its pickles."""
    first = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
    rest = [version or b'M\xe9\x03', system or b'}', body, keys]
    return (pickled(magic, protocol=2) if magic else first) + b''.join(pickled(p, protocol=2) for p in rest) + data


def safetensors(header, data=b'', length=None):
    """A .safetensors file; `header`: a mapping, or the bytes of it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(raw) if length is None else length) + raw + data


def arrays():
    """Small contents as checkpoints have them."""
    rng = np.random.RandomState(0)
    return {'epoch': 3, 'name': 'x', 'list': [1, 2.5, None, True],
            'state_dict': {'encoder_q.0.conv1.weight': rng.rand(4, 3, 3, 3).astype('f4'),
                           'encoder_q.0.bn1.weight': rng.rand(4).astype('f4'), 'queue_ptr': np.zeros((1,), 'i8')}}
