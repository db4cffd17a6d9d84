"""extract-weight, also of torch's files."""

import numpy as np
import pytest

from passl.cli import extract_main
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError
from passl.utils.weights.extract import extract_weight

from .test_weights import prefixed, resnet_names
from .torch_writer import Tensor, write_legacy, write_zip


@pytest.fixture
def checkpoint(tmp_path):
    """A full DenseCL checkpoint as this project writes it, and its query backbone."""
    state = resnet_names()
    full = dict({'queue': np.ones((2, 4), np.float32)}, **prefixed(state, 'encoder_q.0.'))
    full['encoder_q.1.mlp.0.weight'] = np.ones((2, 2), np.float32)
    full.update(prefixed({k: v + 100 for k, v in state.items()}, 'encoder_k.0.'))
    save_file({'epoch': 1, 'state_dict': full, 'optimizer': {'encoder_q.0.conv1.weight': np.ones(2)}},
              tmp_path / 'epoch_1.pdparams')
    return tmp_path / 'epoch_1.pdparams', state


@pytest.mark.parametrize('output', ['r18.pdparams', 'r18.safetensors'])
@pytest.mark.parametrize('remove_prefix', [False, True])
def test_backbone(tmp_path, checkpoint, output, remove_prefix):
    path, state = checkpoint
    text = extract_weight(path, tmp_path / output, remove_prefix=remove_prefix)
    back = load_file(tmp_path / output)
    want = state if remove_prefix else prefixed(state, 'backbone.')
    assert list(back) == list(want) and all(np.array_equal(back[k], v) for k, v in want.items())
    assert 'Wrote 100 tensors of ResNet-18' in text and str(path) in text


def test_file_with_passls_alias_gives_the_same(tmp_path, checkpoint):
    path, state = checkpoint
    full = load_file(path)
    full['state_dict'].update(prefixed(state, 'backbone.'))
    save_file(full, tmp_path / 'alias.pd')
    extract_weight(tmp_path / 'alias.pd', tmp_path / 'a.pdparams')
    extract_weight(path, tmp_path / 'b.pdparams')
    assert (tmp_path / 'a.pdparams').read_bytes() == (tmp_path / 'b.pdparams').read_bytes()


def test_other_prefix(tmp_path, checkpoint):
    path, state = checkpoint
    extract_weight(path, tmp_path / 'k.pdparams', prefix='encoder_k.0')
    back = load_file(tmp_path / 'k.pdparams')
    assert list(back) == [f'encoder_k.0.{k}' for k in state]
    assert np.array_equal(back['encoder_k.0.bn1.bias'], state['bn1.bias'] + 100)
    extract_weight(path, tmp_path / 'n.pdparams', prefix='encoder_q.1.', remove_prefix=True)
    assert list(load_file(tmp_path / 'n.pdparams')) == ['mlp.0.weight']
    with pytest.raises(CheckpointError, match="below 'encoder_x'. It has: encoder_k.0, encoder_q.0, .*queue"):
        extract_weight(path, tmp_path / 'x.pdparams', prefix='encoder_x')
    assert not (tmp_path / 'x.pdparams').exists()


def test_extracting_twice(tmp_path, checkpoint):
    """An extracted file, with or without prefix, is a source as good as the checkpoint."""
    for remove in (False, True):
        extract_weight(checkpoint[0], tmp_path / 'a.pdparams', remove_prefix=remove, overwrite=True)
        extract_weight(tmp_path / 'a.pdparams', tmp_path / 'b.pdparams', overwrite=True)
        assert list(load_file(tmp_path / 'b.pdparams')) == list(prefixed(checkpoint[1], 'backbone.'))


def test_output_is_checked_before_anything_is_read(tmp_path, checkpoint):
    path = checkpoint[0]
    (tmp_path / 'there.pdparams').write_text('precious')
    (tmp_path / 'folder.pdparams').mkdir()
    for output, word in ((tmp_path / 'there.pdparams', 'exists already.*--overwrite'), ('', 'Where to'),
                         (None, 'Where to'), (tmp_path / 'x.pth', 'must end in'),
                         (tmp_path / 'folder.pdparams', 'folder'), (path, 'the checkpoint itself')):
        with pytest.raises(CheckpointError, match=word):
            extract_weight(path, output)
    assert (tmp_path / 'there.pdparams').read_text() == 'precious'
    with pytest.raises(CheckpointError, match='the checkpoint itself'):
        extract_weight(path, path, overwrite=True)
    extract_weight(path, tmp_path / 'there.pdparams', overwrite=True)
    assert len(load_file(tmp_path / 'there.pdparams')) == 100


def torch_state():
    """A torch state dict of a ResNet-18 with a linear layer, and what it must become."""
    rng = np.random.default_rng(0)
    fc = rng.standard_normal((3, 3)).astype(np.float32)
    names = {'_mean': 'running_mean', '_variance': 'running_var'}
    source = {}
    for name, value in resnet_names().items():
        head, _, last = name.rpartition('.')
        source[f'{head}.{names.get(last, last)}'] = Tensor.of(value)
        if last == '_variance':
            source[f'{head}.num_batches_tracked'] = Tensor.of(np.int64(7))
    source['fc.weight'] = Tensor.of(fc)
    return source, resnet_names(), fc


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_authors_pth(tmp_path, write):
    source, want, _ = torch_state()
    write(tmp_path / 'densecl.pth', {'state_dict': source, 'author': 'someone'})
    extract_weight(tmp_path / 'densecl.pth', tmp_path / 'x.pdparams')
    back = load_file(tmp_path / 'x.pdparams')
    assert list(back) == list(prefixed(want, 'backbone.'))
    assert all(np.array_equal(back['backbone.' + k], v) for k, v in want.items())


def test_a_part_of_a_torch_file_that_is_no_backbone(tmp_path):
    source, want, fc = torch_state()
    write_zip(tmp_path / 'moco.pth.tar', {'epoch': 1, 'state_dict': prefixed(source, 'module.encoder_q.')})
    extract_weight(tmp_path / 'moco.pth.tar', tmp_path / 'x.pdparams', prefix='encoder_q')
    back = load_file(tmp_path / 'x.pdparams')
    assert list(back) == list(prefixed(want, 'encoder_q.')) + ['encoder_q.fc.weight']
    assert np.array_equal(back['encoder_q.fc.weight'], fc.T)
    # transposed once, not twice: the converted file is Paddle's
    extract_weight(tmp_path / 'x.pdparams', tmp_path / 'y.pdparams', prefix='encoder_q', remove_prefix=True)
    assert np.array_equal(load_file(tmp_path / 'y.pdparams')['fc.weight'], fc.T)


def test_paddle_loads_the_result(tmp_path, checkpoint):
    paddle = pytest.importorskip('paddle')
    extract_weight(checkpoint[0], tmp_path / 'x.pdparams', remove_prefix=True)
    back = paddle.load(str(tmp_path / 'x.pdparams'))
    assert np.array_equal(back['layer1.0.bn2.bias'].numpy(), checkpoint[1]['layer1.0.bn2.bias'])


def test_the_command_says_it_once(tmp_path, checkpoint, capsys):
    assert extract_main([str(checkpoint[0]), '--output', str(tmp_path / 'b.pdparams')]) == 0
    assert capsys.readouterr().out.count('Wrote 100 tensors of ResNet-18') == 1
