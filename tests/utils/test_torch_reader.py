"""torch's .pth files, read without torch."""

import os
import random
import zipfile

import numpy as np
import pytest

from passl.utils.weights.checkpoint import file_format, is_torch_file, load_file
from passl.utils.errors import CheckpointError

from .torch_writer import Raw, Tensor, write_legacy, write_zip

WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])


def tensors():
    """{name: Tensor}, {name: array} with the values that they must have."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((6, 8)).astype(np.float32)
    raw = base.tobytes()
    written = {
        'plain': Tensor('float32', raw, (6, 8), (8, 1)),
        'transposed': Tensor('float32', raw, (8, 6), (1, 8)),
        'sliced': Tensor('float32', raw, (3, 3), (8, 2), offset=10),
        'row': Tensor('float32', raw, (8,), (1,), offset=16),
        'expanded': Tensor('float32', raw, (5, 8), (0, 1)),
        'parameter': Tensor('float32', raw, (6, 8), (8, 1), parameter=True),
        'scalar': Tensor.of(np.float32(3.5)), 'empty': Tensor.of(np.zeros((0, 3), np.float32)),
        'bfloat16': Tensor('bfloat16', b'\x80\x3f\x00\xc0\x80\x7f', (3,), (1,)),
    }
    values = {'plain': base, 'transposed': base.T, 'sliced': base[1:4, 2:7:2], 'row': base[2],
              'expanded': np.broadcast_to(base[0], (5, 8)), 'parameter': base, 'scalar': np.float32(3.5),
              'empty': np.zeros((0, 3), np.float32), 'bfloat16': np.array([1, -2, np.inf], np.float32)}
    for dtype in ('float16', 'float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool'):
        values[dtype] = (rng.standard_normal((2, 3)) * 50).astype(dtype)
        written[dtype] = Tensor.of(values[dtype])
    return written, values


@WRITERS
def test_values_types_and_strides(tmp_path, write):
    written, values = tensors()
    path = tmp_path / 'x.pth'
    write(path, {'state_dict': written, 'author': 'someone', 'epoch': 3, 'lr': 0.5,
                 'list': [1, (written['plain'],)]})
    back = load_file(path)
    assert set(back['state_dict']) == set(values)
    for name, value in values.items():
        got = back['state_dict'][name]
        assert got.dtype == np.asarray(value).dtype and got.shape == np.shape(value), name
        assert np.array_equal(got, value), name
    assert (back['author'], back['epoch'], back['lr']) == ('someone', 3, 0.5)
    assert np.array_equal(back['list'][1][0], values['plain'])
    assert is_torch_file(path) and file_format(path).startswith('torch')


@WRITERS
def test_truncated_anywhere(tmp_path, write):
    write(tmp_path / 'x.pth', tensors()[0])
    raw = (tmp_path / 'x.pth').read_bytes()
    for n in range(30, len(raw), 41):
        (tmp_path / 'y.pth').write_bytes(raw[:n])
        with pytest.raises(CheckpointError, match=rf"y\.pth'.*{n} bytes"):
            load_file(tmp_path / 'y.pth')


@WRITERS
def test_flipped_bytes(tmp_path, write):
    write(tmp_path / 'x.pth', tensors()[0])
    raw, rng = (tmp_path / 'x.pth').read_bytes(), random.Random(0)
    errors = 0
    for _ in range(500):
        damaged = bytearray(raw)
        damaged[rng.randrange(20, len(raw))] = rng.randrange(256)
        (tmp_path / 'y.pth').write_bytes(damaged)
        try:
            load_file(tmp_path / 'y.pth')
        except CheckpointError:
            errors += 1
    assert errors > 100


@WRITERS
def test_calls_are_refused(tmp_path, write):
    canary = tmp_path / 'canary'
    call = Raw(b'cposix\nsystem\n(X' + len(f'touch {canary}').to_bytes(4, 'little')
               + f'touch {canary}'.encode() + b'tR')
    for evil in (call, {'w': call}, {'state_dict': {'w': [call]}}, Raw(b'ctorch.hub\nload\n(tR'),
                 Raw(b'ctorch.serialization\nload\n(tR'), Raw(b'ctorch.nn.modules.linear\nLinear\n)\x81')):
        write(tmp_path / 'x.pth', evil)
        with pytest.raises(CheckpointError, match='Refusing to read'):
            load_file(tmp_path / 'x.pth')
    assert not canary.exists()


@WRITERS
def test_views_beyond_their_storage(tmp_path, write):
    raw = np.arange(6, dtype=np.float32).tobytes()
    for size, stride, offset in (((7,), (1,), 0), ((6,), (1,), 1), ((2, 3), (4, 1), 0), ((2,), (-1,), 1),
                                 ((-1,), (1,), 0), ((2,), (1,), -1), ((2**20, 2**20), (0, 0), 0),
                                 ((2, 3), (3,), 0)):
        write(tmp_path / 'x.pth', {'w': Tensor('float32', raw, size, stride, offset)})
        with pytest.raises(CheckpointError, match='damaged'):
            load_file(tmp_path / 'x.pth')
    for numel in (7, 2**50, -1):
        write(tmp_path / 'x.pth', {'w': Tensor('float32', raw, (2,), (1,), numel=numel)})
        with pytest.raises(CheckpointError):
            load_file(tmp_path / 'x.pth')


def test_other_zip_files(tmp_path):
    path = tmp_path / 'x.pth'
    np.savez(tmp_path / 'x.npz', a=np.ones(3))
    with pytest.raises(CheckpointError, match='npz'):
        load_file(tmp_path / 'x.npz')
    for keywords, word in (({'extra': ['constants.pkl']}, 'TorchScript'),
                           ({'byteorder': b'big'}, 'big-endian'),
                           ({'compression': zipfile.ZIP_DEFLATED}, 'compressed')):
        write_zip(path, tensors()[0], **keywords)
        with pytest.raises(CheckpointError, match=word):
            load_file(path)


def test_old_legacy_files(tmp_path):
    path = tmp_path / 'x.pth'
    written = tensors()[0]
    write_legacy(path, written, little_endian=False)
    with pytest.raises(CheckpointError, match='big-endian'):
        load_file(path)
    write_legacy(path, {'w': written['plain']}, numel_change=1)
    with pytest.raises(CheckpointError, match='49 in place of 48'):
        load_file(path)


def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = {'a': base, 'half': torch.randn(3).half(), 'bf': torch.randn(5).bfloat16(), 'i': torch.arange(4),
             't': base.t(), 'sl': base[1:4, 2:7:2], 'exp': torch.ones(1).expand(4, 3),
             'sc': torch.tensor(3.5), 'p': torch.nn.Parameter(torch.randn(2, 2)),
             'cl': torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    for new in (True, False):
        path = os.fspath(tmp_path / 'x.pth')
        torch.save({'state_dict': state, 'author': 'x', 'size': base.shape}, path,
                   _use_new_zipfile_serialization=new)
        back = load_file(path)
        assert back['size'] == (6, 8)
        for name, value in state.items():
            value = value.detach()
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
            got = back['state_dict'][name]
            assert got.dtype == value.dtype and np.array_equal(got, value), name
