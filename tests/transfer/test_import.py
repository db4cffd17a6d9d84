"""`passl import`: every origin, recognised by its names, and what is refused."""

import json
import os
import pickle

import numpy as np
import pytest

from passl.cli import import_main
from passl.modeling.backbones import build_backbone
from passl.transfer.paddledet.weights import read_backbone
from passl.transfer.probes.sources import digest_of, find_sources
from passl.transfer.weights.importing import import_weights, rename
from passl.utils.weights.extract import extract_weight
from passl.utils.weights.identify import identify
from passl.utils.weights.names import first_short, table
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError
from tests.utils.torch_writer import Raw, Tensor, encode, write_legacy, write_zip

from .nets import R18, R50, V18, V50, narrow_networks, state_of


@pytest.fixture(autouse=True)
def small(monkeypatch):
    narrow_networks(monkeypatch)


def called(library, arch=R18, prefix='', seed=0, counters=True):
    """Weights of a network as `library` calls them."""
    names = table(arch, library)
    found = {prefix + names[k]: v for k, v in state_of(arch, seed).items()}
    if counters and any(n.endswith('running_mean') for n in found):
        found.update({n.replace('running_mean', 'num_batches_tracked'): np.int64(7) for n in list(found)
                      if n.endswith('running_mean')})
    return found


def fc(prefix='', n=3):
    return {prefix + 'fc.weight': np.ones((n, 512), np.float32), prefix + 'fc.bias': np.ones(n, np.float32)}


def authors(path):
    write_zip(path, {'state_dict': called('torchvision'), 'author': 'somebody'})


def old_torch(path):
    write_legacy(path, {k: Tensor.of(v) for k, v in {**called('torchvision'), **fc()}.items()})


def moco(path):
    state = {**called('torchvision', prefix='module.encoder_q.'), **called('torchvision', R18, 'module.encoder_k.', 1),
             **fc('module.encoder_q.'), 'module.queue': np.ones((2, 2), np.float32)}
    write_zip(path, {'epoch': 3, 'arch': 'resnet18', 'state_dict': state})


def mmpretrain(path):
    state = {**called('torchvision', prefix='backbone.'), **called('torchvision', R18, 'encoder_k.module.0.', 1),
             'neck.mlp.0.weight': np.ones((4, 4), np.float32)}
    write_zip(path, {'meta': {'epoch': 1}, 'state_dict': state})


def lightly(path):
    state = {**called('lightly', prefix='backbone.'), **called('lightly', R18, 'backbone_momentum.', 1)}
    write_zip(path, {'state_dict': state, 'epoch': 1})


def detectron2(path):
    with open(path, 'wb') as f:         # as MoCo's converter writes it
        content = {'model': called('detectron2', counters=False), '__author__': 'MOCO', 'matching_heuristics': True}
        pickle.dump(content, f)


def trained_detector(path):
    state = {**called('detectron2', prefix='backbone.bottom_up.'),
             'proposal_generator.anchor.0': np.ones(4, np.float32),
             'roi_heads.box_head.fc1.weight': np.ones((4, 4), np.float32)}
    write_zip(path, {'model': state, 'iteration': 5})


def passl_v1(path):
    """PASSL's checkpoint: the query encoder stands in it twice."""
    state = {**called('passl', prefix='backbone.'), **called('passl', prefix='encoder_q.0.'),
             **called('passl', R18, 'encoder_k.0.', 1), 'queue': np.ones((2, 4), np.float32)}
    with open(path, 'wb') as f:
        pickle.dump({'epoch': 1, 'state_dict': state}, f)


def paddle_file(library):
    def write(path):
        save_file({**called(library), **first_short(R18, library), 'fc.weight': np.ones((512, 3), np.float32)}, path)
    return write


def torch_file(content):
    def write(path):
        write_zip(path, content())
    return write


def swav():
    return {**called('torchvision', prefix='module.'), 'module.projection_head.0.weight': np.ones((4, 4), np.float32),
            'module.projection_head.1.running_mean': np.ones(4, np.float32),
            'module.projection_head.1.running_var': np.ones(4, np.float32),
            'module.prototypes.weight': np.ones((4, 4), np.float32)}


def dino():
    head = {'module.head.mlp.0.weight': np.ones((4, 4), np.float32), 'module.head.last_layer.weight_g': np.ones((4, 1))}
    return {'student': {**called('torchvision', R18, 'module.backbone.', 1), **head},
            'teacher': {**called('torchvision', prefix='backbone.'), 'head.mlp.0.weight': np.ones((4, 4), np.float32)},
            'optimizer': {'state': {0: {'exp_avg': np.ones(3, np.float32)}}}, 'epoch': 3, 'args': namespace(),
            'dino_loss': {'center': np.ones((1, 4), np.float32)}}


def vissl():
    trunk = {**called('torchvision', prefix='_feature_blocks.')}
    heads = {'0.clf.0.weight': np.ones((4, 4), np.float32)}
    return {'phase_idx': 3, 'iteration': 9, 'type': 'consolidated', 'loss': {'info.queue': np.ones((2, 2), np.float32)},
            'classy_state_dict': {'train': True, 'base_model': {'model': {'trunk': trunk, 'heads': heads},
                                                                'meta': {'name': 'x'}}}}


def byol():
    return {'state_dict': {**called('torchvision', prefix='online_encoder.net.'),
                           **called('torchvision', R18, 'target_encoder.net.', 1),
                           'online_encoder.projector.net.0.weight': np.ones((4, 4), np.float32),
                           'online_encoder.projector.net.1.running_mean': np.ones(4, np.float32),
                           'online_predictor.net.0.weight': np.ones((4, 4), np.float32)}}


def byol_with_the_net_itself():
    """The learner registers the network, and the online encoder that wraps it: the same tensors twice."""
    return {**called('torchvision', prefix='net.'), **byol()['state_dict']}


def moco_v3():
    return {'epoch': 1, 'state_dict': {
        **called('torchvision', prefix='module.base_encoder.'),
        **called('torchvision', R18, 'module.momentum_encoder.', 1),
        'module.base_encoder.fc.0.weight': np.ones((4, 512), np.float32),
        'module.predictor.0.weight': np.ones((4, 4), np.float32)}}


def compiled():
    inner = {k.replace('layer2.', 'layer2._orig_mod.'): v for k, v in called('torchvision').items()}
    return {'model': {f'_orig_mod.backbone.{k}': v for k, v in inner.items()}}


def namespace(name='argparse.Namespace'):
    """An object as pickle writes it at protocol 2, with a state."""
    module, _, cls = name.rpartition('.')
    return Raw(f'c{module}\n{cls}\n)\x81}}('.encode('latin1') + encode('lr') + encode(0.1) + b'ub')


def mmengine():
    """`epoch_N.pth`: the message hub holds objects whose states hold functions, a class and arrays."""
    cls = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
    method = b'c__builtin__\ngetattr\n' + cls + encode('mean') + b'\x86R'
    buffer = Raw(cls + b')\x81}(' + encode('_max_length') + encode(1000000) + encode('_statistics_methods')
                 + b'ccollections\nOrderedDict\n)R(' + encode('mean') + method + b'u' + encode('_log_history')
                 + b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n' + encode('b')
                 + encode('latin1') + b'\x86R\x87Rq\x01(K\x01K\x02\x85cnumpy\ndtype\n' + encode('f8')
                 + b'K\x00K\x01\x87Rq\x02(K\x03' + encode('<') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
                 + b'c_codecs\nencode\n' + encode('\0' * 16) + encode('latin1') + b'\x86Rtbub')
    state = {**called('torchvision', prefix='backbone.'), 'head.fc.weight': np.ones((4, 4), np.float32)}
    return {'meta': {'cfg': 'x', 'experiment_name': 'y'}, 'state_dict': state, 'param_schedulers': [],
            'message_hub': {'log_scalars': {'train/loss': buffer}, 'runtime_info': {'iter': 3}, 'resumed_keys': {}},
            'optimizer': {'state': {0: {'momentum_buffer': np.ones(3, np.float32)}}, 'param_groups': []}}


def below(*keys, **more):
    def content():
        tree = {**called('torchvision'), **fc()}
        for key in reversed(keys):
            tree = {key: tree, 'epoch': 3, 'acc': np.float64(0.5)}
        return {**tree, **more}
    return content


def below_online():
    return {'online_backbone': called('torchvision'), 'target_backbone': called('torchvision', R18, '', 1),
            'online_projector': {'0.weight': np.ones((4, 4), np.float32)}, 'optimizer': {'state': {}}}


METHODS = [(torch_file(content), f'{name}.pth', library, prefix) for content, name, library, prefix in (
    (swav, 'swav', 'torchvision', 'module'), (dino, 'dino', 'torchvision', 'teacher.backbone'),
    (vissl, 'vissl', 'torchvision', 'classy_state_dict.trunk._feature_blocks'),
    (byol, 'byol', 'torchvision', 'online_encoder.net'),
    (byol_with_the_net_itself, 'learner', 'torchvision', 'net'),
    (moco_v3, 'moco_v3', 'torchvision', 'module.base_encoder'),
    (compiled, 'compiled', 'torchvision', 'backbone'), (mmengine, 'epoch_3', 'torchvision', 'backbone'),
    (below('net'), 'net', 'torchvision', 'the whole file'),
    (below('weights'), 'weights', 'torchvision', 'the whole file'),
    (below('anything', 'at', 'all'), 'three', 'torchvision', 'the whole file'),
    (below_online, 'online', 'torchvision', 'online_backbone'))]

ORIGINS = METHODS + [
    (authors, 'densecl.pth', 'torchvision', 'the whole file'),
    (old_torch, 'resnet.pth', 'torchvision', 'the whole file'),
    (moco, 'moco.pth.tar', 'torchvision', 'module.encoder_q'), (mmpretrain, 'mm.pth', 'torchvision', 'backbone'),
    (lightly, 'lightly.ckpt', 'lightly', 'backbone'), (detectron2, 'moco.pkl', 'detectron2', 'the whole file'),
    (trained_detector, 'model_final.pth', 'detectron2', 'backbone.bottom_up'),
    (passl_v1, 'epoch_1.pd', 'passl', 'encoder_q.0'),
    (paddle_file('paddleclas'), 'clas.pdparams', 'paddleclas', 'the whole file'),
    (paddle_file('paddledet'), 'det.pdparams', 'paddledet', 'the whole file')]


@pytest.mark.parametrize('write, name, library, prefix', ORIGINS)
def test_every_origin_in_every_command(write, name, library, prefix, tmp_path, capsys):
    """`import`; and `--pretrained`, extract-weight, evaluate and transfer-det find the same backbone."""
    source, output = str(tmp_path / name), tmp_path / 'out.pdparams'
    write(source)
    assert import_main([source, '--output', str(output)]) == 0
    assert 'matched 100 of 100 tensors' in capsys.readouterr().out
    mine, wanted = load_file(output), state_of(R18)
    assert list(mine) == list(wanted) and all(np.array_equal(mine[k], v) for k, v in wanted.items())
    with open(f'{output}.json') as f:
        made = json.load(f)
    assert (made['direction'], made['library'], made['encoder']) == ('import', library, prefix)
    assert made['proof']['max_relative_deviation'] < 1e-5 and made['source'][0]['file'] == name
    net = build_backbone({'name': 'ResNet', 'depth': 18, 'pretrained': source})
    extract_weight(source, str(tmp_path / 'extracted.pdparams'), remove_prefix=True)
    extracted, theirs = load_file(tmp_path / 'extracted.pdparams'), read_backbone(source)
    (compared,) = find_sources([source])
    for ours, value in wanted.items():
        np.testing.assert_array_equal(net.state_dict()[ours].numpy(), value, err_msg=ours)
        np.testing.assert_array_equal(extracted[ours], value, err_msg=ours)
        np.testing.assert_array_equal(theirs[table(R18, 'paddledet')[ours]], value, err_msg=ours)
    assert set(extracted) == set(wanted) and compared.digest == digest_of(wanted) and compared.depth == 18


@pytest.mark.parametrize('content, value', zip((swav, dino, vissl), (np.nan, np.inf, -np.inf)))
def test_what_is_not_finite_is_said_by_every_command(content, value, tmp_path, monkeypatch):
    original = state_of

    def spoilt(*arguments):
        state = original(*arguments)
        return {**state, 'layer3.1.bn2.bias': state['layer3.1.bn2.bias'] + np.float32(value)}
    monkeypatch.setitem(called.__globals__, 'state_of', spoilt)
    source = str(tmp_path / 'x.pth')
    torch_file(content)(source)
    for command in (lambda: build_backbone({'name': 'ResNet', 'depth': 18, 'pretrained': source}),
                    lambda: extract_weight(source, str(tmp_path / 'x.pdparams')),
                    lambda: import_weights(source, str(tmp_path / 'x.pdparams'))):
        with pytest.raises(CheckpointError, match='nan or inf, in layer3.1.bn2.bias. A training that went wrong'):
            command()
    assert os.listdir(tmp_path) == ['x.pth']


def test_a_part_can_be_chosen(tmp_path, capsys):
    moco(tmp_path / 'moco.pth')
    import_weights(tmp_path / 'moco.pth', tmp_path / 'k.pdparams', prefix='module.encoder_k')
    assert all(np.array_equal(v, state_of(R18, 1)[k]) for k, v in load_file(tmp_path / 'k.pdparams').items())
    arguments = [str(tmp_path / 'moco.pth'), '--output', str(tmp_path / 'x.pdparams'), '--prefix', 'encoder_z']
    assert import_main(arguments) == 2
    assert "no ResNet backbone below 'encoder_z.'" in capsys.readouterr().err
    torch_file(dino)(tmp_path / 'dino.pth')
    import_weights(tmp_path / 'dino.pth', tmp_path / 's.pdparams', prefix='student.module.backbone')
    assert all(np.array_equal(v, state_of(R18, 1)[k]) for k, v in load_file(tmp_path / 's.pdparams').items())
    twins = {**called('torchvision', prefix='left.'), **called('torchvision', R18, 'right.', 1)}
    with pytest.raises(CheckpointError, match='several backbones, below left., right.. Choose one with --prefix'):
        identify(twins, 'x')
    assert identify(twins, 'x', prefix='right') == ('torchvision', 'right.')


def test_recognised_by_the_names():
    for library, arch in (('passl', V50), ('passl', R50), ('timm', V50), ('mmseg', V50), ('paddleseg', V18),
                          ('paddleclas', V18), ('paddledet', V50), ('lightly', R50), ('detectron2', R50)):
        named = called(library, arch, 'some.part.')
        assert identify(named, 'x') == (library, 'some.part.')
        theirs = {k[len('some.part.'):]: v for k, v in named.items() if not k.endswith('tracked')}
        found, state = rename(theirs, library, 'x')
        wanted = state_of(arch)
        assert found == arch and set(state) == set(wanted) and all(state[k] is v for k, v in wanted.items())


def drop(s, name):
    del s[name]


def rename_one(s, name):
    s[name.replace('bias', 'bais')] = s.pop(name)


def cut(s, name):
    s[name] = s[name][:-1]


@pytest.mark.parametrize('library', ['torchvision', 'detectron2', 'paddleclas', 'paddledet', 'passl', 'lightly'])
def test_wrong_files_are_refused(library, tmp_path, capsys):
    name = table(R18, library)['layer3.1.bn2.bias']
    whole = {**called(library, counters=False), **first_short(R18, library)}
    odd = table(R50, library)['layer1.2.bn3.bias']
    for spoil, words in ((drop, [f'missing (1): {name}']),
                         (rename_one, [f'missing (1): {name}', 'left over (1): ', 'bais']),
                         (cut, ['another shape (1): layer3.1.bn2.bias [31] in place of [32]']),
                         (lambda s, _: s.update({odd: np.ones(32, np.float32)}), [f'left over (1): {odd}'])):
        state = dict(whole)
        spoil(state, name)
        source, output = tmp_path / 'wrong.pth', tmp_path / 'x.pdparams'
        save_file({'state_dict': state}, source)
        assert import_main([str(source), '--output', str(output)]) == 2
        err = capsys.readouterr().err
        assert all(w in err for w in words), err
        assert os.listdir(tmp_path) == ['wrong.pth']


def test_a_first_shortcut_that_was_trained_cannot_be_imported(tmp_path):
    short = first_short(R18, 'paddleclas')
    short['blocks.0.short.bn.bias'] = short['blocks.0.short.bn.bias'] + 1
    save_file({**called('paddleclas'), **short}, tmp_path / 'clas.pdparams')
    with pytest.raises(CheckpointError, match='a trained convolution on the first shortcut .blocks.0.short.bn._mean'):
        import_weights(tmp_path / 'clas.pdparams', tmp_path / 'x.pdparams')


def test_other_things_are_refused(tmp_path, capsys):
    save_file({'a.weight': np.ones(2, np.float32)}, tmp_path / 'a.pdparams')
    assert import_main([str(tmp_path / 'a.pdparams'), '--output', str(tmp_path / 'x.pdparams')]) == 2
    assert 'holds no ResNet backbone. Its names begin with a' in capsys.readouterr().err
    authors(tmp_path / 'b.pth')
    assert import_main([str(tmp_path / 'b.pth'), '--output', str(tmp_path / 'x.pdparams'), '--from', 'detectron2']) == 2
    assert "holds no ResNet backbone as 'detectron2' names it" in capsys.readouterr().err
    with open(tmp_path / 'evil.pkl', 'wb') as f:
        f.write(b'\x80\x02cposix\nsystem\n(X\x05\x00\x00\x00touchtR.')
    assert import_main([str(tmp_path / 'evil.pkl'), '--output', str(tmp_path / 'x.pdparams')]) == 2
    assert 'Refusing to read' in capsys.readouterr().err and not (tmp_path / 'x.pdparams').exists()


def test_a_wrong_renaming_is_seen(tmp_path, monkeypatch):
    from passl.transfer.weights import importing
    original = importing.rename

    def wrong(*arguments):
        arch, state = original(*arguments)
        state['layer4.1.bn1.bias'], state['layer4.1.bn2.bias'] = state['layer4.1.bn2.bias'], state['layer4.1.bn1.bias']
        return arch, state
    monkeypatch.setattr(importing, 'rename', wrong)
    authors(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='not a true copy'):
        import_weights(tmp_path / 'a.pth', tmp_path / 'x.pdparams')
    assert os.listdir(tmp_path) == ['a.pth']
