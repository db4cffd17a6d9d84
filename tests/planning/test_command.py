"""`passl pretrain`: the config that it writes, what it refuses, and a run of a few steps."""

import os

import pytest

import passl
from passl import cli
from passl.planning import command
from passl.planning.rules import Facts
from passl.utils.config import load_config

GIB = 2**30


@pytest.fixture
def images(tmp_path, make_images):
    make_images(tmp_path / 'images', 24, size=40)
    return tmp_path / 'images'


def pretrain(*words):
    return cli.pretrain_main([str(w) for w in words], prog='passl pretrain')


def planned(method, backbone, tmp_path, **more):
    args = command.build_pretrain_parser().parse_args(['data', '--method', method, '--backbone', backbone])
    facts = Facts(5000, 256, 'cpu', 16 * GIB, 1, 2, None, command.BACKBONES[backbone][0])._replace(**more)
    choices, cfg = command.planned(args, facts, hours=1, seconds=0.5)
    path = tmp_path / 'own' / 'run.yaml'
    path.parent.mkdir(exist_ok=True)
    command.write_config(str(path), cfg, choices, ['passl', 'pretrain', 'data'])
    return path.read_text(encoding='utf-8'), load_config(str(path), training=True), choices


@pytest.mark.parametrize('backbone, width', [('resnet18', 512), ('resnet50', 2048), ('resnet34_vd', 512)])
@pytest.mark.parametrize('method', command.METHODS)
def test_the_config_is_complete_and_holds_the_plan(method, backbone, width, tmp_path):
    text, cfg, choices = planned(method, backbone, tmp_path)
    assert '_base_' not in text and text.startswith('# Written by: passl pretrain data\n')
    assert all(f'# {line}' in text for line in command.table(choices).splitlines())
    model, data = cfg['model'], cfg['dataloader']['train']
    assert (model['backbone']['name'], model['backbone']['depth']) == command.BACKBONES[backbone][::-1]
    assert model['neck']['in_channels'] == model['neck']['hid_channels'] == width
    assert cfg['total_iters'] == 7200 and data['sampler']['batch_size'] == 64
    assert data['dataset']['transforms'][0]['size'] == 112 and data['dataset']['dataroot'] == 'data'
    assert cfg['lr_scheduler'] == {'name': 'CosineWarmup', 'learning_rate': 0.075, 'warmup_steps': round(200 / 78, 6)}
    if method != 'simclr':
        assert (model['K'], model['m'], model['bn_splits']) == (2048, 0.99, 4)
    assert ('correspondence' in model) == (method == 'densecl')


def test_half_precision_and_large_crops(tmp_path):
    _, cfg, _ = planned('densecl', 'resnet50', tmp_path, device='gpu', half='bfloat16')
    assert cfg['use_amp'] is True and cfg['AMP'] == {'dtype': 'bfloat16'}
    dataset = cfg['dataloader']['train']['dataset']
    assert dataset['transforms'][0]['size'] == 224
    blur = [t for step in dataset['view_trans1'] for t in step.get('transforms', []) if t['name'] == 'GaussianBlur']
    assert blur[0]['sigma'] == [0.1, 2.0]


def test_a_plan_alone_writes_nothing(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert pretrain(images, '--plan', '--no-cuda', '--backbone', 'resnet18') == 0
    out = capsys.readouterr().out
    for words in ('24 images, short side 40 px', 'are enlarged', 'at most half of 24 images', 'to be replaced by'):
        assert words in out
    assert os.listdir(tmp_path) == ['images']


@pytest.mark.parametrize('prepare, words', [
    (lambda p: None, "no folder '"), (lambda p: p.mkdir(), 'holds no images'),
    (lambda p: (p.mkdir(), (p / 'a.jpg').write_bytes(b'no')), 'None of 1 files')])
def test_folders_that_cannot_be_used(prepare, words, tmp_path, capsys):
    prepare(tmp_path / 'x')
    assert pretrain(tmp_path / 'x', '--no-cuda', '--out', tmp_path / 'r') == 2
    assert words in capsys.readouterr().err and not os.path.exists(tmp_path / 'r.yaml')


def test_too_few_images(tmp_path, make_images, capsys):
    make_images(tmp_path / 'images', 3)
    assert pretrain(tmp_path / 'images', '--no-cuda', '--epochs', 1, '--out', tmp_path / 'r') == 2
    assert '3 images for 1 process(es): at least 8' in capsys.readouterr().err


def test_what_is_there_stays(images, tmp_path, capsys):
    (tmp_path / 'r.yaml').write_text('mine')
    assert pretrain(images, '--no-cuda', '--out', tmp_path / 'r') == 2
    assert '--resume goes on with it, --overwrite starts anew' in capsys.readouterr().err
    assert pretrain(images, '--no-cuda', '--resume', '--out', tmp_path / 'other') == 2
    assert 'there is no such file' in capsys.readouterr().err
    assert (tmp_path / 'r.yaml').read_text() == 'mine'


def test_a_signal_in_the_steps_that_are_timed_ends_it_all(images, tmp_path, monkeypatch):
    (tmp_path / 'r.speed1').mkdir()
    (tmp_path / 'r.speed1' / 'mine').write_text('x')
    seen = []

    def stopped(args, config, more=()):
        seen.append(load_config(config, training=True))
        os.makedirs(tmp_path / os.path.splitext(os.path.basename(config))[0])
        return 143
    monkeypatch.setattr(command, '_train', stopped)
    assert pretrain(images, '--hours', 1, '--no-cuda', '--out', tmp_path / 'r', '--overwrite') == 143
    assert [c['total_iters'] for c in seen] == [14] and seen[0]['output_dir'] == str(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['images', 'r.speed1'] and os.listdir(tmp_path / 'r.speed1') == ['mine']


@pytest.mark.slow
def test_a_few_steps(images, tmp_path, capsys):
    """By the function; the speed is measured first, the folder of that goes, the weights come out."""
    out = tmp_path / 'runs' / 'own'
    code = passl.pretrain(str(images), str(out), backbone='resnet18', hours=0.002, no_cuda=True,
                          override=['dataloader.train.loader.num_workers=0'])
    assert code == 0
    assert {'backbone.pdparams', 'loss.png', 'log.jsonl', 'config.yaml'} <= set(os.listdir(out))
    assert sorted(os.listdir(out.parent))[:2] == ['own', 'own.yaml']
    assert not [n for n in os.listdir(out.parent) if 'speed' in n]
    said = capsys.readouterr().out
    assert 'The backbone is in' in said and 'passl evaluate' in said
    assert pretrain(images, '--out', out, '--resume', '--no-cuda') == 0         # nothing is left to do


def test_labelled_images_choose_the_best_checkpoint(tmp_path):
    args = command.build_pretrain_parser().parse_args(['data', '--val', 'labelled'])
    _, cfg = command.planned(args, Facts(5000, 256, 'cpu', 16 * GIB, 1, 2, None, 50), hours=1, seconds=0.5)
    assert cfg['best_config'] == {'name': 'ProbeHook', 'data': 'labelled'}
    assert cfg['custom_imports'] == ['passl.transfer.probes.best']
    _, plain, _ = planned('densecl', 'resnet18', tmp_path)
    assert not plain.get('best_config') and not plain.get('custom_imports')


def test_the_steps_that_are_timed_measure_no_checkpoint_but_look_at_the_labelled_folder(images, tmp_path, capsys):
    (tmp_path / 'odd').mkdir()
    words = ('--val', tmp_path / 'odd', '--hours', 1, '--no-cuda', '--backbone', 'resnet18', '--out', tmp_path / 'r')
    assert pretrain(images, *words) == 2
    assert '(--val) has neither train/<class>/' in capsys.readouterr().err
