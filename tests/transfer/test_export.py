"""`passl export`: every target, the proof, the certificate, and what is refused."""

import json
import os
import pickle
import sys

import numpy as np
import pytest

from passl.cli import export_main
from passl.transfer.weights import exporting, formats, libraries, proof
from passl.transfer.weights.certificate import sha256
from passl.transfer.weights.exporting import backbone, export_weights
from passl.transfer.weights.importing import import_weights
from passl.utils.weights.names import shapes, table
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError
from passl.utils.weights import find_state_dict

from .nets import R18, R50, R101, V18, V50, narrow_networks, save_checkpoint, small_images, state_of

FILES = {'passl': 'x.pdparams', 'paddleseg': 'x.pdparams', 'paddledet': 'x.pdparams', 'paddleclas': 'x.pdparams',
         'torchvision': 'x.pth', 'timm': 'x.safetensors', 'mmseg': 'x.pth', 'detectron2': 'x.pkl'}


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """What is tested is what happens to the tensors, by their names; a library has its own network, whole."""
    if request.node.originalname == 'test_the_library_itself':
        small_images(monkeypatch)
    else:
        narrow_networks(monkeypatch)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Function of an arch: path of a checkpoint as wide as the networks are now, written when asked for."""
    folder = tmp_path_factory.mktemp('checkpoints')

    def get(arch):
        path = folder / f"{arch.name}_{shapes(arch)['bn1.weight'][0]}.pdparams"
        return str(path) if path.exists() else save_checkpoint(path, arch)
    return get


def check_certificate(made, path, arch, target):
    """The JSON beside the file says what the file is."""
    with open(f'{path}.json') as f:
        assert json.load(f) == json.loads(json.dumps(made))
    total = len(state_of(arch))
    assert (made['library'], made['architecture'], made['depth']) == (target, arch.name, arch.depth)
    assert made['tensors']['matched'] == made['tensors']['total'] == total
    assert made['stem'].startswith('deep' if arch.vd else '7x7')
    assert made['proof']['max_relative_deviation'] < 1e-5 < made['proof']['tolerance_relative'] == 1e-4
    assert made['input']['channel_order'] == 'RGB' and made['versions']['paddle']
    written = {o['file']: o for o in made['output']}
    assert written
    for name, entry in written.items():
        there = path if os.path.isfile(path) else os.path.join(path, name)
        assert entry['sha256'] == sha256(there) and entry['bytes'] == os.path.getsize(there)


# the names of two libraries depend on the depth
@pytest.mark.parametrize('arch, target', [(a, t) for t in FILES for a in (R18, V18, R50, R101, V50)
                                          if a != R101 or t in ('passl', 'paddleclas', 'paddledet')],
                         ids=lambda x: x if isinstance(x, str) else x.name)
def test_there_and_back(arch, target, checkpoints, tmp_path):
    path = str(tmp_path / FILES[target])
    if arch.vd and (target in ('torchvision', 'detectron2') or arch == V18 and target in ('timm', 'mmseg')):
        with pytest.raises(CheckpointError, match='has no counterpart'):
            export_weights(checkpoints(arch), target, path)
        assert os.listdir(tmp_path) == []
        return
    made = export_weights(checkpoints(arch), target, path, proof='independent')
    assert made['proof']['by'].startswith('independent forward pass')
    check_certificate(made, path, arch, target)
    state, written = state_of(arch), find_state_dict(load_file(path))
    names = table(arch, target)
    assert all(np.array_equal(written[names[k]], v) for k, v in state.items())
    assert sorted(os.listdir(tmp_path)) == sorted([FILES[target], FILES[target] + '.json'])     # nothing else is left
    back = import_weights(path, tmp_path / 'back.pdparams')
    mine = load_file(tmp_path / 'back.pdparams')
    assert set(mine) == set(state) and all(np.array_equal(mine[k], v) for k, v in state.items())
    assert back['architecture'] == arch.name and back['proof']['max_relative_deviation'] < 1e-5


def test_formats_are_the_libraries_own(checkpoints, tmp_path):
    """detectron2 reads a plain pickle; torch's files hold a counter per norm; mm's stand below state_dict."""
    for target in ('detectron2', 'mmseg', 'timm'):
        export_weights(checkpoints(R18), target, tmp_path / FILES[target], proof='independent')
    with open(tmp_path / 'x.pkl', 'rb') as f:
        content = pickle.load(f, encoding='latin1')
    assert set(content) == {'model', '__author__', 'matching_heuristics'} and content['matching_heuristics'] is True
    assert len(content['model']) == 100 and type(content['model']['stem.conv1.weight']) is np.ndarray
    mm = load_file(tmp_path / 'x.pth')
    assert set(mm) == {'meta', 'state_dict'} and len(mm['state_dict']) == 120
    counter = load_file(tmp_path / 'x.safetensors')['layer1.0.bn1.num_batches_tracked']
    assert counter.dtype == np.int64 and counter.shape == () and counter == 0


def test_key_encoder(checkpoints, tmp_path):
    made = export_weights(checkpoints(R18), 'passl', tmp_path / 'k.pdparams', encoder='k')
    assert made['encoder'] == 'key'
    assert all(np.array_equal(v, state_of(R18, 1)[k]) for k, v in load_file(tmp_path / 'k.pdparams').items())
    with pytest.raises(CheckpointError, match='has no key encoder. It has: '):
        export_weights(tmp_path / 'k.pdparams', 'passl', tmp_path / 'q.pdparams', encoder='k')


def test_normalisation_comes_from_the_config(tmp_path):
    steps = [{'name': 'ToTensor'}, {'name': 'NormalizeImage', 'scale': 0.5, 'mean': [1.0, 2.0, 3.0], 'std': 4.0}]
    cfg = {'dataloader': {'train': {'dataset': {'view_trans1': steps}}}}
    path = save_checkpoint(tmp_path / 'c.pdparams', R18, config=cfg)
    found = export_weights(path, 'passl', tmp_path / 'x.pdparams')['input']
    assert (found['mean'], found['std'], found['scale']) == ([1, 2, 3], [4, 4, 4], 0.5)
    assert found['mean_in_pixels'] == [2, 4, 6] and found['source'] == 'the config in the checkpoint'
    plain = tmp_path / 'run' / 'weights.pdparams'
    save_file(state_of(R18), plain)
    found = export_weights(plain, 'passl', tmp_path / 'y.pdparams')['input']
    assert found['mean'] == [0.485, 0.456, 0.406] and found['source'].startswith('assumed')
    (tmp_path / 'run' / 'config.yaml').write_text(
        'epochs: 1\ndataloader:\n  train:\n    sampler: {batch_size: 2}\n    dataset:\n      name: ImageFolder\n'
        '      transforms:\n        - {name: NormalizeImage, scale: 1.0/255.0, mean: [0, 0, 0], std: [1, 1, 1]}\n')
    found = export_weights(plain, 'passl', tmp_path / 'z.pdparams')['input']
    assert found['std_in_pixels'] == [255, 255, 255] and found['source'] == 'config.yaml of the run folder'


def spoilt(tmp_path, change):
    """A file with R18's weights after `change(state)`."""
    state = state_of(R18)
    change(state)
    save_file(state, tmp_path / 'wrong.pdparams')
    return str(tmp_path / 'wrong.pdparams')


def fourth_bn_is_nan(state):
    state['layer4.0.bn2.bias'] = np.full(64, np.nan, np.float32)


@pytest.mark.parametrize('change, words', [
    (lambda s: s.pop('layer3.1.bn2.bias'), ['99 of 100 tensors match', 'missing (1): layer3.1.bn2.bias']),
    (lambda s: s.update({'layer3.1.bn9.bias': s.pop('layer3.1.bn2.bias')}),
     ['missing (1): layer3.1.bn2.bias', 'left over (1): layer3.1.bn9.bias']),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith('layer4.1.')],
     ['90 of 100', 'missing (10): layer4.1.conv1.weight']),
    (lambda s: s.update({'conv1.weight': np.ones((8, 3, 3, 3), np.float32)}),
     ['another shape (1): conv1.weight [8, 3, 3, 3] in place of [8, 3, 7, 7]']),
    (lambda s: s.update({'conv1.0.weight': s.pop('conv1.weight')}), ['missing (1): conv1.weight', 'conv1.0.weight']),
    (lambda s: s.update({k: v for k, v in state_of(R50).items() if k.startswith('layer2.0')}),
     ['left over (5): layer2.0.',
      'another shape (6): layer2.0.conv1.weight [16, 32, 1, 1] in place of [16, 8, 3, 3]']),
    (fourth_bn_is_nan, ['nan or inf, in layer4.0.bn2.bias'])])
def test_wrong_sources_are_refused(change, words, tmp_path, capsys):
    source = spoilt(tmp_path, change)
    for target in ('detectron2', 'paddle-inference'):
        output = tmp_path / ('x' + formats.TARGETS[target].endings[0])
        assert export_main([source, '--to', target, '--output', str(output)]) == 2
        err = capsys.readouterr().err
        assert err.startswith('error: ') and all(w in err for w in words), err
        assert os.listdir(tmp_path) == ['wrong.pdparams']


@pytest.mark.parametrize('target', FILES)
def test_a_wrong_conversion_is_seen_and_leaves_nothing(target, checkpoints, tmp_path, monkeypatch, capsys):
    """The proof reads the file with code of its own: a fault in the renaming cannot pass."""
    original = formats.convert

    def convert(state, arch, library):
        state = dict(state)
        a, b = 'layer3.1.conv1.weight', 'layer3.1.conv2.weight'         # of one shape
        state[a], state[b] = state[b], state[a]
        return original(state, arch, library)
    monkeypatch.setattr(exporting.formats, 'convert', convert)
    path = tmp_path / FILES[target]
    path.write_bytes(b'the one before')
    arguments = [checkpoints(R18), '--to', target, '--output', str(path), '--overwrite', '--proof', 'independent']
    assert export_main(arguments) == 2
    assert 'It is not a true copy' in capsys.readouterr().err
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b'the one before'


def test_a_damaged_disk_is_seen(checkpoints, tmp_path, monkeypatch):
    def write(target, path, tensors):
        save_file({**tensors, 'layer4.1.bn2.bias': tensors['layer4.1.bn2.bias'] + np.float32(1e-7)}, path)
    monkeypatch.setattr(exporting.formats, 'write', write)
    with pytest.raises(CheckpointError, match='does not hold what was written to it: layer4.1.bn2.bias'):
        export_weights(checkpoints(R18), 'passl', tmp_path / 'x.pdparams')
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_without_being_asked(checkpoints, tmp_path, capsys):
    source = checkpoints(R18)

    def refused(output, *words, target='passl'):
        before = sorted(os.listdir(tmp_path))
        assert export_main([source, '--to', target, '--output', str(output)]) == 2
        err = capsys.readouterr().err
        assert all(w in err for w in words), err
        assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / 'a.pdparams').write_text('mine')
    (tmp_path / 'b.pdparams.json').write_text('mine')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'thesis.tex').write_text('mine')
    refused(tmp_path / 'a.pdparams', 'exists already', '--overwrite')
    refused(tmp_path / 'b.pdparams', "b.pdparams.json', the place of the certificate, exists already")
    refused(tmp_path / 'c.pth', 'must end in .pdparams or .safetensors')
    refused(tmp_path / 'folder', 'exists already', target='paddle-inference')
    assert export_main([source, '--to', 'paddle-inference', '--output', str(tmp_path / 'folder'), '--overwrite']) == 2
    assert 'a folder with other files (thesis.tex)' in capsys.readouterr().err
    assert export_main([source, '--to', 'passl', '--output', str(tmp_path / 'a.pdparams'), '--overwrite']) == 0
    assert len(load_file(tmp_path / 'a.pdparams')) == 100


def test_paddle_inference(checkpoints, tmp_path):
    path = str(tmp_path / 'static')
    made = export_weights(checkpoints(R18), 'paddle-inference', path)
    check_certificate(made, path, R18, 'paddle-inference')
    assert made['proof']['stages'] == [5] and 'library: paddlepaddle' in made['proof']['by']
    assert {'model.pdiparams'} < set(os.listdir(path))
    # the judge would notice other weights
    with pytest.raises(CheckpointError, match='not a true copy'):
        other = proof.source_maps(backbone(R18, state_of(R18, 1), 'x'))
        proof.prove('paddle-inference', path, R18, other)


def test_onnx(checkpoints, tmp_path):
    pytest.importorskip('paddle2onnx')
    pytest.importorskip('onnxruntime')
    path = str(tmp_path / 'x.onnx')
    made = export_weights(checkpoints(R18), 'onnx', path)
    check_certificate(made, path, R18, 'onnx')
    assert sorted(os.listdir(tmp_path)) == ['x.onnx', 'x.onnx.json'] and 'onnxruntime' in made['proof']['by']
    x = np.random.RandomState(1).randn(3, 3, 64, 33).astype('float32')      # any batch, any size
    assert libraries.onnx(path, R18, x)[0].shape == (3, 64, 2, 2)


def test_without_paddle2onnx_the_way_out_is_named(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'paddle2onnx', None)
    assert export_main([checkpoints(R18), '--to', 'onnx', '--output', str(tmp_path / 'x.onnx')]) == 2
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err and os.listdir(tmp_path) == []


@pytest.mark.parametrize('target, module, archs', [
    ('torchvision', 'torchvision', [R18]), ('timm', 'timm', [R18, V50]), ('paddleseg', 'paddleseg', [V18, V50]),
    ('paddledet', 'ppdet', [R18, V18]), ('paddleclas', 'paddleclas', [R18, V18])])
def test_the_library_itself(target, module, archs, checkpoints, tmp_path):
    """Its own model, loaded its own way; a file in which one tensor is missing, or another network, is refused."""
    pytest.importorskip(module)
    for arch in archs:
        path = str(tmp_path / (arch.name + os.path.splitext(FILES[target])[1]))
        made = export_weights(checkpoints(arch), target, path, proof='library')
        check_certificate(made, path, arch, target)
        assert made['proof']['by'].startswith('library: ')
    names = table(arch, target)
    gone = names['layer4.1.bn2.bias']
    written = load_file(path)
    save_file({k: v for k, v in written.items() if k != gone}, path, torch_layout=True)
    with pytest.raises(CheckpointError, match=gone):
        libraries.JUDGES[target][0](path, arch, proof.images())


def test_the_library_is_asked_for_but_not_there(checkpoints, tmp_path, monkeypatch, capsys):
    for name in ('torchvision', 'torchvision.models'):
        monkeypatch.setitem(sys.modules, name, None)
    arguments = [checkpoints(R18), '--to', 'torchvision', '--output', str(tmp_path / 'x.pth')]
    assert export_main(arguments + ['--proof', 'library']) == 2
    assert 'torchvision is not installed' in capsys.readouterr().err and os.listdir(tmp_path) == []
    assert export_main(arguments) == 0
    with open(tmp_path / 'x.pth.json') as f:
        record = json.load(f)['proof']
    assert record['library_not_used'] == 'torchvision is not installed' and record['by'].startswith('independent')
    arguments = [checkpoints(R18), '--to', 'mmseg', '--output', str(tmp_path / 'y.pth'), '--proof', 'library']
    assert export_main(arguments) == 2
    assert "no proof by the library for 'mmseg'" in capsys.readouterr().err
