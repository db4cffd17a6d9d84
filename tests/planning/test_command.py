"""`passl pretrain`: the config that it writes, what it refuses, and a run of a few steps."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest

import passl
from passl import cli
from passl.planning import command, config, training
from passl.planning.rules import Facts
from passl.utils.config import load_config
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.weights.names import Arch, shapes

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
    path.write_text(config.config_text(cfg, choices, ['passl', 'pretrain', 'data']), encoding='utf-8')
    return path.read_text(encoding='utf-8'), load_config(str(path), training=True), choices


@pytest.mark.parametrize('backbone, width', [('resnet18', 512), ('resnet50', 2048), ('resnet34_vd', 512)])
@pytest.mark.parametrize('method', command.METHODS)
def test_the_config_is_complete_and_holds_the_plan(method, backbone, width, tmp_path):
    text, cfg, choices = planned(method, backbone, tmp_path)
    assert '_base_' not in text and text.startswith('# Written by: passl pretrain data\n')
    assert all(f'# {line}' in text for line in config.table(choices).splitlines())
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
    assert pretrain(images, '--plan', '--no-cuda', '--backbone', 'resnet18', '-o', 'model.K=32') == 0
    out = capsys.readouterr().out
    for words in ('24 images, short side 40 px', 'are enlarged', 'at most half of 24 images', 'to be replaced by',
                  'model.K=32, whatever stands above'):
        assert words in out
    assert os.listdir(tmp_path) == ['images']


def holding(*names):
    """A function that makes a folder with files of these names, none of which is an image."""
    def make(path):
        path.mkdir()
        for name in names:
            (path / name).write_bytes(b'no')
    return make


@pytest.mark.parametrize('prepare, name, words', [
    (lambda p: None, 'x', ["no folder '", 'Give a folder that exists']),
    (holding(), 'x', ["x' holds no images. Name a folder with images, flat or nested; known endings: .jpg"]),
    (holding('a.txt', 'b.txt'), 'x', ['Left out: 2 files that are no images by their ending (2 .txt).']),
    (holding('a.MP4', 'b.txt'), 'x', ['1 of the files left out are or hold pictures of kinds that are not read: 1 .mp4',
                                      'Of a video write the frames: ffmpeg -i VIDEO -vf fps=1 FRAMES/%06d.jpg.']),
    (lambda p: p.write_bytes(b'x'), 'x.mp4', ['is a video: write its frames as images first (ffmpeg -i VIDEO']),
    (lambda p: p.write_bytes(b'x'), 'x.jpg', ['is a file: name the folder that holds the images']),
    (holding('a.jpg', 'b.png'), 'x', ['None of 2 files', 'says what is wrong with each'])])
def test_folders_that_cannot_be_used(prepare, name, words, tmp_path, capsys):
    prepare(tmp_path / name)
    assert pretrain(tmp_path / name, '--no-cuda', '--out', tmp_path / 'runs' / 'r') == 2
    err = capsys.readouterr().err
    assert all(w in err for w in words), err
    assert sorted(os.listdir(tmp_path)) == [name] * (tmp_path / name).exists()


@pytest.mark.parametrize('number, words', [(1, '1 image for 1 process'), (3, '3 images for 1 process')])
def test_too_few_images(number, words, tmp_path, make_images, capsys):
    make_images(tmp_path / 'images', number)
    assert pretrain(tmp_path / 'images', '--no-cuda', '--epochs', 1, '--out', tmp_path / 'r') == 2
    assert f'{words}(es): at least 8 per process' in capsys.readouterr().err


def test_masks_are_doubted(tmp_path, make_images, capsys):
    """By the folder's name, or by their few colours; photographs, here noise, are not."""
    for number in range(10):
        mask = np.zeros((40, 40), np.uint8)
        mask[number:20 + number] = number
        for folder in ('some', 'masks'):
            os.makedirs(tmp_path / folder, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f'{number}.png'), mask)
    make_images(tmp_path / 'photos', 10, size=40)
    said = {}
    for folder in ('some', 'masks', 'photos'):
        assert pretrain(tmp_path / folder, '--plan', '--no-cuda') == 0
        said[folder] = capsys.readouterr().out
    assert "some' may hold masks or drawings: 10 of 10 images that were looked at have at most 32 col" in said['some']
    assert "masks' is a folder of masks by its name. A pre-training learns from photographs" in said['masks']
    assert 'masks' not in said['photos']


@pytest.mark.parametrize('out', ['/proc/runs/r', '/proc/r'])
def test_a_place_that_cannot_be_written_to(out, images, capsys):
    """Also as root, whom permissions do not stop."""
    assert pretrain(images, '--no-cuda', '--out', out) == 2
    err = capsys.readouterr().err
    assert f"Nothing can be written to '{os.path.dirname(out)}'" in err and '--out RUN names another place' in err


def test_a_disk_without_room_for_a_checkpoint(images, tmp_path, monkeypatch, capsys):
    """Said before the first step, with what is missing: a ResNet-18 twice, the projections, the queues and momentum."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=100 * 2**20))
    assert pretrain(images, '--no-cuda', '--epochs', 1, '--backbone', 'resnet18', '--out', tmp_path / 'r',
                    '-o', 'dataloader.train.loader.num_workers=0') == 2
    said = capsys.readouterr()
    assert 'A checkpoint of this run has some 135 MiB, and the disk of' in said.err
    assert 'has 100 MiB free: nothing could be saved. Free some space' in said.err and '--out RUN' in said.err
    assert not (tmp_path / 'r' / 'log.jsonl').exists() or not (tmp_path / 'r' / 'log.jsonl').read_text()


def test_the_models_of_a_wheel_come_first(tmp_path, monkeypatch):
    clone = config.bases_folder()
    assert clone.endswith(os.path.join('configs', '_base_'))
    (tmp_path / 'models').mkdir()
    monkeypatch.setattr(config, '_BASES', (str(tmp_path), clone))
    assert config.bases_folder() == str(tmp_path)
    monkeypatch.setattr(config, '_BASES', (str(tmp_path / 'a'), str(tmp_path / 'b')))
    with pytest.raises(passl.utils.errors.ConfigError, match='both are missing: install PASSL anew'):
        config.bases_folder()


def test_the_plan_fits_a_terminal(tmp_path):
    _, _, choices = planned('densecl', 'resnet18', tmp_path)
    lines = config.table(choices, 100).splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) > len(choices)
    words = ' '.join(' '.join(lines).split())
    assert all(c.why in words for c in choices)


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

    def stopped(config, no_cuda, more=(), ending=None):
        assert no_cuda
        seen.append(load_config(config, training=True))
        os.makedirs(tmp_path / os.path.splitext(os.path.basename(config))[0])
        return 143
    monkeypatch.setattr(training, 'train', stopped)
    assert pretrain(images, '--hours', 1, '--no-cuda', '--out', tmp_path / 'r', '--overwrite') == 143
    assert [c['total_iters'] for c in seen] == [14] and seen[0]['output_dir'] == str(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['images', 'r.speed1'] and os.listdir(tmp_path / 'r.speed1') == ['mine']


@pytest.mark.slow
def test_a_few_steps(images, tmp_path, capsys, monkeypatch):
    """By the function, from weights: the speed is measured first, the folder of that goes, the weights come out.

    A tenth of the rate, a report of what was loaded, and the way of each stage counted from that file.
    """
    from passl.modeling import build_backbone
    monkeypatch.setenv('LC_ALL', 'C')
    start = {k: v.numpy() for k, v in build_backbone({'name': 'ResNet', 'depth': 18}).state_dict().items()}
    save_file(start, tmp_path / 'start.pdparams')
    out = tmp_path / 'runs' / 'own'
    monkeypatch.setattr(training, 'SPEED_STEPS', 6)
    code = passl.pretrain(str(images), str(out), backbone='resnet18', hours=0.002, no_cuda=True,
                          init=str(tmp_path / 'start.pdparams'),
                          override=['dataloader.train.loader.num_workers=0', 'total_iters=3'])     # on any machine
    assert code == 0
    assert {'backbone.pdparams', 'loss.png', 'log.jsonl', 'config.yaml'} <= set(os.listdir(out))
    assert sorted(os.listdir(out.parent))[:2] == ['own', 'own.yaml']
    assert not [n for n in os.listdir(out.parent) if 'speed' in n]
    said = capsys.readouterr().out
    assert f'weights  {out}/backbone.pdparams' in said and said.count('Wrote 100 tensors') == 1
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['weights'] == f'{out}/backbone.pdparams'
    assert list(summary['stages']) == ['conv1', 'layer1', 'layer2', 'layer3', 'layer4']
    assert all(0 < v < 1 for v in summary['stages'].values())
    assert all(f'      {command}\n' in said for command in summary['next'].values())
    assert 'a tenth of 0.3 x 8 / 256' in said and 'backbone: matched 100 of 100' in said
    assert 'the projection starts at random, whatever the backbone knows' in said
    end = load_file(out / 'backbone.pdparams')
    names = [n for n in start if n.startswith('layer4.') and not n.endswith(('._mean', '._variance'))]
    change, of = (sum(float((x.astype('float64') ** 2).sum()) for x in values) for values in (
        [end[n].astype('float64') - start[n] for n in names], [start[n] for n in names]))
    assert summary['stages']['layer4'] == pytest.approx((change / of) ** 0.5, rel=1e-6)
    assert pretrain(images, '--out', out, '--resume', '--no-cuda') == 0         # nothing is left to do
    assert json.loads((out / 'summary.json').read_text()) == summary


def test_labelled_images_choose_the_best_checkpoint(tmp_path):
    args = command.build_pretrain_parser().parse_args(['data', '--val', 'labelled', '--backbone', 'resnet50'])
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


def test_the_backbone_that_nobody_named(tmp_path):
    """On a CPU a small one; with --init that of the file, whatever the device."""
    save_file({k: np.zeros(shape, 'float32') for k, shape in shapes(Arch(18, True)).items()}, tmp_path / 'vd.pdparams')

    def chosen(device, *words):
        return command.chosen_backbone(command.build_pretrain_parser().parse_args(['data', *words]), device)[0]
    assert [chosen(device) for device in ('cpu', 'gpu', 'npu')] == ['resnet18', 'resnet50', 'resnet50']
    assert chosen('cpu', '--backbone', 'resnet101') == 'resnet101'
    assert chosen('gpu', '--init', str(tmp_path / 'vd.pdparams')) == 'resnet18_vd'


def test_masks_beside_the_images_are_left_out(tmp_path, make_images, capsys):
    for folder in ('images', 'masks'):
        make_images(tmp_path / 'data' / folder, 12, size=40)
    assert pretrain(tmp_path / 'data', '--plan', '--no-cuda') == 0
    said = capsys.readouterr().out
    assert '12 images in folders whose name says masks are left out' in said and ' 12 images, short side 40 px' in said
    args = command.build_pretrain_parser().parse_args(['data', '--backbone', 'resnet18'])
    facts = Facts(12, 40, 'cpu', 16 * GIB, roots=('data/images',), masks=12)
    _, cfg = command.planned(args, facts, hours=1, seconds=0.5)
    assert cfg['dataloader']['train']['dataset']['dataroot'] == ['data/images']


def test_a_folder_with_results_is_refused_before_anything_is_measured(images, tmp_path, capsys):
    (tmp_path / 'r').mkdir()
    (tmp_path / 'r' / 'epoch_1.pdparams').write_bytes(b'')
    assert pretrain(images, '--out', tmp_path / 'r', '--no-cuda') == 2
    said = capsys.readouterr()
    assert f"'{tmp_path}/r' holds the results of another run. --overwrite moves them aside" in said.err
    assert said.out == '' and not (tmp_path / 'r.yaml').exists()
