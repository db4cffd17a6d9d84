"""Checkpoint files: what is written, what is read back, and what is refused."""

import errno
import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest

from passl.utils.weights import checkpoint
from passl.utils.weights.checkpoint import (file_format, fingerprint, is_torch_file, load_file, read_note,
                                    save_file)
from passl.utils.errors import CheckpointError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def same(a, b):
    """Whether two nested values are equal in structure, types of arrays, and numbers."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


@pytest.fixture
def content():
    rng = np.random.default_rng(0)
    return {
        'epoch': 3, 'big': 2**70, 'negative': -5, 'lr': 0.03, 'none': None, 'yes': True, 'name': 'Größe 模型',
        'state_dict': OrderedDict([
            ('conv.weight', rng.standard_normal((4, 3, 3, 3)).astype(np.float32)),
            ('half', rng.standard_normal(5).astype(np.float16)), ('double', rng.standard_normal(2)),
            ('fortran', np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))),
            ('strided', np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2]),
            ('zero_d', np.asarray(2.5, np.float32)), ('empty', np.zeros((0, 3), np.float32)),
            ('bool', np.array([True, False])), ('u2', np.arange(3, dtype=np.uint16))]),
        'scalars': [np.float32(1.5), np.int64(-7), np.bool_(True)],
        'nested': {'tuple': (1, 'x', [2, (3,)]), 'empty': {}, 7: 'integer key'},
    }


class TestSave:
    def test_reads_back_the_same(self, tmp_path, content):
        path = tmp_path / 'a' / 'x.pdparams'
        save_file(content, path)
        back = load_file(path)
        content['state_dict'] = dict(content['state_dict'])
        assert same(content, back)
        assert back['state_dict']['conv.weight'].flags.writeable
        assert os.listdir(path.parent) == ['x.pdparams']

    def test_every_changed_byte_is_noticed(self, tmp_path, content):
        path = tmp_path / 'x.pdparams'
        save_file(content, path)
        whole = path.read_bytes()
        rng = random.Random(0)
        places = {*range(60), *range(len(whole) - 60, len(whole)), *rng.sample(range(len(whole)), 100)}
        for at in sorted(places):
            for bit in (0, 7):
                changed = bytearray(whole)
                changed[at] ^= 1 << bit
                path.write_bytes(changed)
                if at < 17:             # the mark itself: without it the file is an ordinary pickle
                    try:
                        assert load_file(path)['epoch'] == 3
                    except CheckpointError:
                        pass
                    continue
                with pytest.raises(CheckpointError):
                    load_file(path)
        for length in rng.sample(range(len(whole)), 50):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                load_file(path)

    def test_note(self, tmp_path, content):
        path = tmp_path / 'x.pdparams'
        save_file(content, path, {'iteration': 7, 'name': 'Größe'})
        assert read_note(path) == {'iteration': 7, 'name': 'Größe'}
        assert load_file(path)['epoch'] == 3 and load_file(path)['nested']['tuple'] == (1, 'x', [2, (3,)])
        with open(path, 'rb') as f:
            assert pickle.load(f)['epoch'] == 3             # other readers pass over it
        whole = path.read_bytes()
        rng = random.Random(1)
        for at in [*range(17, 70), *rng.sample(range(70, len(whole)), 30)]:     # the note is under the checksum too
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
            read_note(path)
            with pytest.raises(CheckpointError):
                load_file(path)
        for length in range(80):
            path.write_bytes(whole[:length])
            assert read_note(path) in ({}, {'iteration': 7, 'name': 'Größe'})

    @pytest.mark.parametrize('raw', [b'', b'x', b'\xff\xff\xff\xff', b'\x05\0\0\0[1,2]', b'\x02\0\0\0{x',
                                     b'\0\0\1\0' + b'[' * 70000])
    def test_what_is_no_note(self, tmp_path, raw):
        (tmp_path / 'x').write_bytes(checkpoint._SEALED + b'X' + raw)
        assert read_note(tmp_path / 'x') == {}

    def test_files_without_a_note(self, tmp_path):
        save_file({'a': 1}, tmp_path / 'x.pdparams')
        assert read_note(tmp_path / 'x.pdparams') == {} == read_note(tmp_path / 'missing') == read_note(tmp_path)

    def test_fingerprint_is_that_of_the_content(self, tmp_path, content):
        for name, value in (('a', content), ('b', content), ('c', {'epoch': 4})):
            save_file(value, tmp_path / name)
        a, b, c = (fingerprint(tmp_path / n) for n in 'abc')
        assert a == b != c and len(a) == 64
        assert a == hashlib.sha256((tmp_path / 'a').read_bytes()[:-32]).hexdigest()
        (tmp_path / 'd').write_bytes(pickle.dumps({}))
        assert fingerprint(tmp_path / 'd') == '' == fingerprint(tmp_path / 'missing')

    def test_paddle_load_reads_it(self, tmp_path, content):
        paddle = pytest.importorskip('paddle')
        save_file(content, tmp_path / 'x.pdparams', {'iteration': 7})
        back = paddle.load(str(tmp_path / 'x.pdparams'), return_numpy=True)
        assert np.array_equal(back['state_dict']['conv.weight'], content['state_dict']['conv.weight'])
        assert back['epoch'] == 3
        save_file(dict(content['state_dict']), tmp_path / 'flat.pdparams')
        flat = paddle.load(str(tmp_path / 'flat.pdparams'))
        assert np.array_equal(flat['fortran'].numpy(), content['state_dict']['fortran'])

    def test_names_in_the_file_are_those_of_every_numpy(self, tmp_path, content):
        save_file(content, tmp_path / 'x.pdparams')
        assert b'numpy._core' not in (tmp_path / 'x.pdparams').read_bytes()

    @pytest.mark.parametrize('value', [object(), b'bytes', {1, 2}, np.array([None]), {(1, 2): 3}, 1j])
    def test_other_things_are_a_type_error_with_their_place(self, tmp_path, value):
        with pytest.raises(TypeError, match='a.1'):
            save_file({'a': [0, value]}, tmp_path / 'x.pdparams')
        assert os.listdir(tmp_path) == []

    def test_full_disk_leaves_the_older_file(self, tmp_path, monkeypatch, content):
        path = tmp_path / 'latest.pdparams'
        save_file({'epoch': 1}, path)

        def full(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(checkpoint.os, 'fsync', full)
        with pytest.raises(CheckpointError, match='No space left.*Free some space'):
            save_file(content, path)
        monkeypatch.undo()
        assert load_file(path) == {'epoch': 1} and os.listdir(tmp_path) == ['latest.pdparams']

    def test_real_write_error_in_the_middle(self, tmp_path):
        pytest.importorskip('resource')
        path = tmp_path / 'x.pdparams'
        save_file({'epoch': 1}, path)
        code = ('import numpy, resource, sys; from passl.utils.weights.checkpoint import save_file; '
                'resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)); '
                'save_file({"a": numpy.zeros(1000000)}, sys.argv[1])')
        run = subprocess.run([sys.executable, '-c', code, str(path)], cwd=ROOT,
                             capture_output=True, text=True)
        assert 'CheckpointError' in run.stderr and 'File too large' in run.stderr
        assert load_file(path) == {'epoch': 1} and os.listdir(tmp_path) == ['x.pdparams']

    def test_interrupt_removes_the_temporary_file(self, tmp_path, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt
        monkeypatch.setattr(checkpoint.os, 'replace', interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_file({'a': 1}, tmp_path / 'x.pdparams')
        assert os.listdir(tmp_path) == []

    def test_folder_that_cannot_be(self, tmp_path):
        (tmp_path / 'file').write_text('')
        with pytest.raises(CheckpointError, match='Cannot write'):
            save_file({'a': 1}, tmp_path / 'file' / 'x.pdparams')

    def test_umask_holds(self, tmp_path):
        old = os.umask(0o027)
        try:
            save_file({'a': 1}, tmp_path / 'x.pdparams')
        finally:
            os.umask(old)
        assert (tmp_path / 'x.pdparams').stat().st_mode & 0o777 == 0o640

    def test_needs_no_paddle(self, tmp_path):
        code = ('import sys; from passl.utils.weights import extract, checkpoint as c; '
                f'c.save_file({{"a": 1}}, {str(tmp_path / "x.pdparams")!r}); '
                f'c.load_file({str(tmp_path / "x.pdparams")!r}); '
                'assert not {"paddle", "torch", "cv2"} & set(sys.modules)')
        subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


class TestPaddleFiles:
    def test_state_dict_optimizer_and_nested(self, tmp_path):
        paddle = pytest.importorskip('paddle')
        net = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.BatchNorm1D(2))
        opt = paddle.optimizer.Momentum(0.1, parameters=net.parameters())
        net(paddle.rand([4, 3])).sum().backward()
        opt.step()
        state = {k: v.numpy() for k, v in net.state_dict().items()}
        for protocol in (2, 4):
            path = str(tmp_path / f'{protocol}.pdparams')
            paddle.save(net.state_dict(), path, protocol=protocol)
            assert same(load_file(path), state)
            paddle.save({'epoch': 1, 'model': net.state_dict(), 'opt': opt.state_dict(), 't': ('a', 2),
                         'tensor': paddle.to_tensor(3.0), 'n': np.float32(3)}, path, protocol=protocol)
            back = load_file(path)
            assert same(back['model'], state) and back['t'] == ('a', 2) and back['n'] == 3
            assert back['tensor'] == 3 and back['tensor'].dtype == np.float32
            assert set(back['opt']) == set(opt.state_dict())
        paddle.save(paddle.arange(3), str(tmp_path / 't.pdtensor'))
        assert load_file(tmp_path / 't.pdtensor').tolist() == [0, 1, 2]

    def test_passl_pickle(self, tmp_path):
        state = OrderedDict([('backbone.conv1.weight', np.ones((2, 2), np.float32)),
                             ('queue_ptr', np.zeros(1, np.int64))])
        for protocol in (2, 3, 4, 5):
            with open(tmp_path / 'epoch_1.pd', 'wb') as f:
                pickle.dump({'epoch': 1, 'state_dict': state, 'lr_scheduler': {'last_lr': 0.1},
                             'n': np.float64(2)}, f, protocol=protocol)
            back = load_file(tmp_path / 'epoch_1.pd')
            assert same(back['state_dict'], dict(state)) and back['lr_scheduler'] == {'last_lr': 0.1}

    def test_both_names_of_numpy_core(self, tmp_path):
        raw = pickle.dumps({'w': np.arange(4.), 's': np.float32(1)}, protocol=2)
        assert raw.count(b'numpy._core') + raw.count(b'numpy.core') == 2
        for old, new in ((b'numpy._core', b'numpy.core'), (b'numpy.core', b'numpy._core')):
            (tmp_path / 'x.pd').write_bytes(raw.replace(old, new))
            back = load_file(tmp_path / 'x.pd')
            assert back['w'].tolist() == [0, 1, 2, 3] and back['s'] == 1

    def test_python_2_pickle_and_big_endian(self, tmp_path):
        # what Python 2 wrote for {'w': array([1, 2], int16)}: byte strings in place of text
        raw = (b'\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03'
               b'K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02i2q\n'
               b'K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb'
               b'\x89U\x04\x01\x00\x02\x00q\x0ftq\x10bs.')
        (tmp_path / 'py2.pd').write_bytes(raw)
        assert load_file(tmp_path / 'py2.pd')['w'].tolist() == [1, 2]
        (tmp_path / 'be.pd').write_bytes(pickle.dumps({'w': np.arange(3, dtype='>f4')}, protocol=4))
        back = load_file(tmp_path / 'be.pd')['w']
        assert back.tolist() == [0, 1, 2] and back.dtype.isnative

    def test_old_paddle_tensor_is_recognised_not_evaluated(self, tmp_path):
        class Tensor:
            def __init__(self, source='data'):
                self.source = source

            def __reduce__(self):
                return eval, (self.source, {'data': np.arange(3)})
        (tmp_path / 'x.pdparams').write_bytes(pickle.dumps({'w': Tensor()}, protocol=4))
        assert load_file(tmp_path / 'x.pdparams')['w'].tolist() == [0, 1, 2]
        evil = {'w': Tensor('__import__("os").getcwd()')}
        (tmp_path / 'y.pdparams').write_bytes(pickle.dumps(evil, protocol=4))
        with pytest.raises(CheckpointError, match='builtins.eval'):
            load_file(tmp_path / 'y.pdparams')

    def test_aliases_stay_one_array(self, tmp_path):
        w = np.zeros(2000, np.float32)
        (tmp_path / 'x.pd').write_bytes(pickle.dumps({'a': w, 'b': w}, protocol=4))
        back = load_file(tmp_path / 'x.pd')
        assert back['a'] is back['b']


class Evil:
    """Pickles to a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class TestNothingIsExecuted:
    @pytest.fixture
    def canary(self, tmp_path):
        path = tmp_path / 'canary'
        yield path
        assert not path.exists(), 'code from the file was executed'

    def forms(self, evil):
        yield evil
        yield {'state_dict': {'w': evil}, 'epoch': 1}
        yield {'w': [1, (2, {'x': evil})]}
        yield OrderedDict([('w', np.ones(2)), ('v', evil)])
        yield {'w': Evil(tuple, (('linear_0.w_0', evil),))}         # Paddle's form of a nested tensor
        yield {'w': Evil(eval, 'data', {'data': evil})}             # older Paddle's

    @pytest.mark.parametrize('protocol', [2, 3, 4, 5])
    def test_os_system(self, tmp_path, canary, protocol):
        for form in self.forms(Evil(os.system, f'touch {canary}')):
            (tmp_path / 'x.pdparams').write_bytes(pickle.dumps(form, protocol=protocol))
            with pytest.raises(CheckpointError, match=r"Refusing.*'(posix|nt)\.system'"):
                load_file(tmp_path / 'x.pdparams')

    @pytest.mark.parametrize('function, args', [
        (eval, ('open("canary", "w")',)), (exec, ('1',)), (getattr, ({}, 'get')), (open, ('canary', 'w')),
        (np.load, ('x',)), (subprocess.Popen, ('true',)), (io.BytesIO, ()),
        (__import__, ('os',)), (np.lib.format.open_memmap, ('x',)), (map, (print, [1]))])
    def test_other_calls(self, tmp_path, function, args):
        (tmp_path / 'x.pdparams').write_bytes(pickle.dumps({'w': Evil(function, *args)}, protocol=4))
        with pytest.raises(CheckpointError, match='Refusing to read'):
            load_file(tmp_path / 'x.pdparams')

    def test_dotted_names_and_old_opcodes(self, tmp_path):
        for raw in (b'\x80\x04\x8c\x05numpy\x8c\x0edtype.__base__\x93.',
                    b'\x80\x02cnumpy\nndarray.__class__\n.',
                    b'\x80\x02(S"true"\nios\nsystem\n.', b'\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.',
                    b'\x80\x04\x8c\x08builtins\x8c\x04dict\x93)\x81.', b'\x80\x02\x82\x01.',
                    b'\x80\x02K\x01)R.'):
            (tmp_path / 'x.pdparams').write_bytes(raw)
            with pytest.raises(CheckpointError):
                load_file(tmp_path / 'x.pdparams')

    def test_object_arrays_and_structures(self, tmp_path):
        for array in (np.array([Evil(os.system, 'true')], object), np.zeros(2, [('a', 'f4'), ('b', 'i4')])):
            (tmp_path / 'x.pdparams').write_bytes(pickle.dumps({'w': array}, protocol=4))
            with pytest.raises(CheckpointError):
                load_file(tmp_path / 'x.pdparams')

    def test_a_class_of_ones_own(self, tmp_path):
        paddle = pytest.importorskip('paddle')
        paddle.save({'rng': paddle.get_rng_state()}, str(tmp_path / 'x.pdparams'))
        with pytest.raises(CheckpointError, match='GeneratorState'):
            load_file(tmp_path / 'x.pdparams')


class TestDamage:
    def test_missing_empty_folder(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no file '.*x\.pdparams'"):
            load_file(tmp_path / 'x.pdparams')
        (tmp_path / 'x.pdparams').touch()
        with pytest.raises(CheckpointError, match='empty'):
            load_file(tmp_path / 'x.pdparams')
        with pytest.raises(CheckpointError, match='folder'):
            load_file(tmp_path)
        os.symlink('nowhere', tmp_path / 'link.pdparams')
        with pytest.raises(CheckpointError, match='link points nowhere'):
            load_file(tmp_path / 'link.pdparams')

    @pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may read everything')
    def test_no_permission(self, tmp_path):
        save_file({'a': 1}, tmp_path / 'x.pdparams')
        os.chmod(tmp_path / 'x.pdparams', 0)
        with pytest.raises(CheckpointError, match='Permission'):
            load_file(tmp_path / 'x.pdparams')

    @pytest.mark.parametrize('raw, word', [
        (b'\0\0\0\0\0\0\0\0\x06\0', 'static inference'), (b'<!DOCTYPE html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1', 'pointer'), (b'hello', 'not a checkpoint'),
        (b'\0' * 257 + b'ustar', 'tar archive')])
    def test_other_formats_are_named(self, tmp_path, raw, word):
        (tmp_path / 'x.pdparams').write_bytes(raw)
        with pytest.raises(CheckpointError, match=word):
            load_file(tmp_path / 'x.pdparams')

    def test_every_truncation_names_file_and_size(self, tmp_path, content):
        save_file(content, tmp_path / 'x.pdparams')
        raw = (tmp_path / 'x.pdparams').read_bytes()
        for n in range(1, len(raw), 7):
            (tmp_path / 'y.pdparams').write_bytes(raw[:n])
            with pytest.raises(CheckpointError, match=rf"y\.pdparams'.*\b({n} bytes|not a checkpoint)"):
                load_file(tmp_path / 'y.pdparams')

    def test_flipped_bytes_are_an_error_or_other_numbers_but_no_crash(self, tmp_path, content):
        rng = random.Random(0)
        content.pop('big')
        raws = [pickle.dumps(content, protocol=p) for p in (2, 4, 5)]
        save_file(content, tmp_path / 'x.pdparams')
        raws.append((tmp_path / 'x.pdparams').read_bytes())
        refused = 0
        for _ in range(1500):
            raw = bytearray(rng.choice(raws))
            for _ in range(rng.choice((1, 1, 4))):
                raw[rng.randrange(2, len(raw))] = rng.randrange(256)
            (tmp_path / 'y.pdparams').write_bytes(raw)
            try:
                load_file(tmp_path / 'y.pdparams')
            except CheckpointError as e:
                refused += 1
                assert 'y.pdparams' in str(e)
        assert refused > 300

    @pytest.mark.parametrize('raw', [
        b'\x80\x04\x8e' + struct.pack('<Q', 2**62) + b'x.',             # bytes beyond the end of the file
        b'\x80\x04\x8d' + struct.pack('<Q', 2**63) + b'x.', b'\x80\x04\x8b\xff\xff\xff\x7fx.',
        b'\x80\x04Kxr\xff\xff\xff\xff0j\xff\xff\xff\xfe.',              # memo numbers of 4 billion
        b'\x80\x04.', b'\x80\x04R.', b'\x80\x04u.', b'\x80\x04(((.', b'\x80\x04h\x07.',
        b'\x80\x04\x8c\x02\xff\xff.',
        b'\x80\x04)' + b'\x85' * 200000 + b'}2NsK\x01s.', b'\x80\x04})' + b'\x85' * 200000 + b'Ns.',
        b'\x80\x04\x8f()' + b'\x85' * 200000 + b'\x90.', b'\x80\x04)' + b'\x85' * 200000 + b'2\x93.'])
    def test_hostile_bytes(self, tmp_path, raw):
        (tmp_path / 'x.pdparams').write_bytes(raw)
        with pytest.raises(CheckpointError):
            load_file(tmp_path / 'x.pdparams')

    def test_shapes_that_do_not_fit_the_bytes(self, tmp_path):
        for shape, code, raw in (((2**40,), 'f4', b'1234'), ((2**40,), 'S0', b''), ((-1,), 'f4', b''),
                                 ((2,), 'O8', b'1' * 16), ((1, 'x'), 'f4', b'1234'),
                                 ((0, 2**62, 2**62), 'f4', b''), ((1,), '(9999)f4', b'1')):
            (tmp_path / 'x.pdparams').write_bytes(pickle.dumps(
                {'w': Evil(np.ndarray, shape, Evil(np.dtype, code, False, True), raw)}, protocol=4))
            with pytest.raises(CheckpointError):
                load_file(tmp_path / 'x.pdparams')

    def test_memory_error_is_reported(self, tmp_path, monkeypatch):
        def no_memory(*_):
            raise MemoryError
        save_file({'a': 1}, tmp_path / 'x.pdparams')
        monkeypatch.setattr(checkpoint.SafeUnpickler, 'load', no_memory)
        with pytest.raises(CheckpointError, match='more memory'):
            load_file(tmp_path / 'x.pdparams')


class TestSafetensors:
    def test_round_trip(self, tmp_path, content):
        state = dict(content['state_dict'])
        save_file(state, tmp_path / 'x.safetensors')
        assert same(load_file(tmp_path / 'x.safetensors'), {k: np.ascontiguousarray(v) if v.ndim else v
                                                            for k, v in state.items()})
        assert file_format(tmp_path / 'x.safetensors') == 'safetensors'
        assert not is_torch_file(tmp_path / 'x.safetensors')

    def test_against_the_formats_own_library(self, tmp_path, content):
        library = pytest.importorskip('safetensors.numpy')
        state = {k: np.ascontiguousarray(v) for k, v in content['state_dict'].items()}
        save_file(state, tmp_path / 'x.safetensors')
        theirs = library.load_file(tmp_path / 'x.safetensors')
        assert all(np.array_equal(theirs[k], v) and theirs[k].dtype == v.dtype for k, v in state.items())
        library.save_file(state, tmp_path / 'y.safetensors', metadata={'format': 'pt'})
        ours = load_file(tmp_path / 'y.safetensors')
        assert all(np.array_equal(ours[k], v) and ours[k].dtype == v.dtype for k, v in state.items())
        assert is_torch_file(tmp_path / 'y.safetensors')

    def write(self, path, header, data=b''):
        text = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
        path.write_bytes(struct.pack('<Q', len(text)) + text + data)

    def test_bfloat16(self, tmp_path):
        self.write(tmp_path / 'x.safetensors', {'w': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [0, 4]}},
                   b'\x80\x3f\x00\xc0')
        assert load_file(tmp_path / 'x.safetensors')['w'].tolist() == [1.0, -2.0]

    def test_damage(self, tmp_path):
        path = tmp_path / 'x.safetensors'
        good = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
        self.write(path, {'w': good}, b'12345678')
        raw = path.read_bytes()
        assert load_file(path)['w'].shape == (2,)
        for n in range(1, len(raw), 3):
            path.write_bytes(raw[:n])
            with pytest.raises(CheckpointError, match=f'{n} bytes'):
                load_file(path)
        for change in ({'dtype': 'F8_E4M3'}, {'shape': [3]}, {'data_offsets': [8, 0]},
                       {'data_offsets': [0, 2**60]}, {'shape': 'x'}, {'data_offsets': [-8, 0]}):
            self.write(path, {'w': dict(good, **change)}, b'12345678')
            with pytest.raises(CheckpointError):
                load_file(path)
        for header in (b'{', b'[1]', b'{"w": 1}', b'\xff\xfe'):
            self.write(path, header)
            with pytest.raises(CheckpointError):
                load_file(path)
        with pytest.raises(TypeError, match='cannot hold'):
            save_file({'w': np.array(['x'])}, path)
