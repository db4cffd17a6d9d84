"""torch's .pth files, written without torch."""

import zipfile

import numpy as np
import pytest

from passl.utils.weights.checkpoint import file_format, load_file, save_file

VALUES = {'float32': np.arange(6, dtype=np.float32).reshape(2, 3), 'scalar': np.zeros((), np.int64),
          'empty': np.zeros((0, 3), np.float32), 'transposed': np.arange(6, dtype=np.float64).reshape(2, 3).T,
          **{t: np.array([[1, 0, 3]]).astype(t)
             for t in ('float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')}}
CONTENT = {'state_dict': VALUES, 'author': 'ü', 'epoch': -3, 'big': 2**40, 'lr': 0.5, 'list': [1, (True, None)]}


def same(found, wanted):
    found = np.asarray(found)
    return found.dtype == wanted.dtype and found.shape == wanted.shape and np.array_equal(found, wanted)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / 'x.pth'
    save_file(CONTENT, path)
    assert file_format(path) == 'torch'
    back = load_file(path)
    assert list(back['state_dict']) == list(VALUES)
    assert all(same(back['state_dict'][k], v) for k, v in VALUES.items())
    assert {k: v for k, v in back.items() if k != 'state_dict'} == {
        'author': 'ü', 'epoch': -3, 'big': 2**40, 'lr': 0.5, 'list': [1, (True, None)]}


def test_data_is_aligned_and_equal_weights_give_equal_files(tmp_path):
    for name in 'ab':
        save_file(CONTENT, tmp_path / f'{name}.pth')
    raw = (tmp_path / 'a.pth').read_bytes()
    assert raw == (tmp_path / 'b.pth').read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            begin = info.header_offset
            begin += 30 + int.from_bytes(raw[begin + 26:begin + 28], 'little')
            begin += int.from_bytes(raw[info.header_offset + 28:info.header_offset + 30], 'little')
            assert begin % 64 == 0, info.filename


@pytest.mark.parametrize('value', [np.array(['text']), np.zeros(2, np.complex64), {1, 2}])
def test_what_torch_has_not_is_an_error_and_leaves_no_file(tmp_path, value):
    with pytest.raises(TypeError):
        save_file({'a': value}, tmp_path / 'x.pth')
    assert list(tmp_path.iterdir()) == []


def test_torch_reads_it(tmp_path):
    torch = pytest.importorskip('torch')
    path = tmp_path / 'x.pth'
    save_file(CONTENT, path)
    for options in ({}, {'mmap': True}):
        back = torch.load(path, weights_only=True, **options)
        assert all(same(back['state_dict'][k].numpy(), v) for k, v in VALUES.items())
        assert (back['author'], back['epoch'], back['list']) == ('ü', -3, [1, (True, None)])


def test_we_read_torchs_own(tmp_path):
    torch = pytest.importorskip('torch')
    torch.save({k: torch.from_numpy(v.copy()) for k, v in VALUES.items()}, tmp_path / 'x.pth')
    back = load_file(tmp_path / 'x.pth')
    assert all(same(back[k], v) for k, v in VALUES.items())


def test_safetensors_in_torchs_layout(tmp_path):
    save_file({'a': VALUES['float32']}, tmp_path / 'x.safetensors', torch_layout=True)
    assert b'"format": "pt"' in (tmp_path / 'x.safetensors').read_bytes()
    torch = pytest.importorskip('safetensors.torch')
    assert same(torch.load_file(tmp_path / 'x.safetensors')['a'].numpy(), VALUES['float32'])
