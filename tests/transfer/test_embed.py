"""`passl embed`, `passl.load_backbone`, `passl.list_models`."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

import passl
from passl.cli import embed_main
from passl.transfer.embedding.neighbours import draw_neighbours, nearest
from passl.transfer.probes.features import stage_maps
from passl.utils.errors import CheckpointError, ConfigError
from tests.engine.small import call, refused

from .probes.conftest import backbone_file, classes, narrow_networks  # noqa: F401

SMALL = ['--image-size', '32', '--no-cuda']


def read(path):
    with np.load(path, allow_pickle=False) as f:
        return {name: f[name] for name in f.files}


@pytest.fixture
def val(classes):  # noqa: F811
    return os.path.join(classes, 'val')


def test_vectors_are_the_means_of_the_maps_in_the_order_of_the_names(backbone_file, val, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / 'new/e.npz')
    done = call(embed_main, [backbone_file, val, '--output', out, *SMALL], capsys)
    assert done.code == 0, done.err
    found, net = read(out), passl.load_backbone(backbone_file)
    assert found['names'].tolist() == sorted(found['names']) and found['names'][0] == 'colour0/000.png'
    assert found['features'].shape == (18, 64) and found['features'].dtype == np.float32
    assert found['sizes'].tolist() == [[40, 40]] * 18
    about = json.loads(str(found['about']))
    assert (about['depth'], about['stage'], about['dense'], about['value_range']) == (18, 4, False, None)
    for k in (0, 7, 17):
        image = np.asarray(Image.open(os.path.join(val, found['names'][k])).convert('RGB'))
        small = cv2.resize(image, (37, 37), interpolation=cv2.INTER_AREA)
        centre = (37 - 32) // 2
        want = stage_maps(net, small[None, centre:centre + 32, centre:centre + 32], [4])[0].mean((1, 2))[0]
        assert np.corrcoef(found['features'][k], want)[0, 1] > 0.99


def test_maps_of_a_stage_in_half_precision(backbone_file, val, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / 'd.npz')
    done = call(embed_main, [backbone_file, val, '--dense', '--stage', '3', '--float16', '--output', out, *SMALL],
                capsys)
    assert done.code == 0, done.err
    found = read(out)
    assert found['features'].shape == (18, 2, 2, 32) and found['features'].dtype == np.float16
    whole = passl.embed(backbone_file, val, dense=True, stage=3, image_size=32, no_cuda=True)
    np.testing.assert_allclose(found['features'], whole['features'], rtol=1e-3, atol=1e-3)
    assert whole['features'].dtype == np.float32 and sorted(whole) == ['about', 'features', 'names', 'sizes']


def test_what_cannot_be_read_is_named_and_left_out(backbone_file, val, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / 'some'
    folder.mkdir()
    for k in range(4):
        os.link(os.path.join(val, f'colour{k % 3}/00{k}.png'), folder / f'{k}.png')
    (folder / '1b.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
    done = call(embed_main, [backbone_file, str(folder), '--output', str(tmp_path / 'e.npz'), *SMALL], capsys)
    assert done.code == 0 and '1 of 5 images cannot be read' in done.err + done.out and '1b.png' in done.err + done.out
    found = read(tmp_path / 'e.npz')
    assert found['names'].tolist() == ['0.png', '1.png', '2.png', '3.png']
    alone = passl.embed(backbone_file, [str(folder / '3.png'), str(folder / '0.png')], image_size=32)
    np.testing.assert_allclose(alone['features'], found['features'][[3, 0]], rtol=1e-4, atol=1e-5)
    assert alone['names'].tolist() == [str(folder / '3.png'), str(folder / '0.png')]
    with open(folder / 'list.txt', 'w') as f:
        f.write('3.png\n0.png\n')
    listed = passl.embed(backbone_file, str(folder / 'list.txt'), image_size=32)
    assert listed['names'].tolist() == ['3.png', '0.png']
    np.testing.assert_array_equal(listed['features'], alone['features'])
    for k in range(4):
        os.remove(folder / f'{k}.png')
    refused(call(embed_main, [backbone_file, str(folder), '--output', str(tmp_path / 'f.npz'), *SMALL], capsys),
            '1 of 1 images cannot be read', '1b.png')


def test_neighbours_against_a_loop():
    rng = np.random.RandomState(0)
    features = rng.randn(30, 5).astype(np.float32)
    found, similarity = nearest(features, [3, 29], 4)
    for k, q in enumerate((3, 29)):
        cosine = [-2 if i == q else float(features[i] @ features[q] / np.linalg.norm(features[i])
                                          / np.linalg.norm(features[q])) for i in range(30)]
        assert found[k].tolist() == sorted(range(30), key=lambda i: -cosine[i])[:4]
        np.testing.assert_allclose(similarity[k], sorted(cosine)[::-1][:4], rtol=1e-5)


def test_the_sheet_shows_the_nearest(tmp_path):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    features = np.repeat(np.eye(3), 3, axis=0) + 0.01 * np.arange(9)[:, None]
    draw_neighbours(str(tmp_path / 'n.png'), features, [f'c{k // 3}/{k}.png' for k in range(9)],
                    lambda i: np.full((50, 80, 3), colours[i // 3], np.uint8), queries=3, count=2)
    with Image.open(tmp_path / 'n.png') as sheet:
        pixels = np.asarray(sheet.convert('RGB')).astype(int)
    tile, step, height = 104, 110, 136
    for r, query in enumerate((0, 4, 8)):
        for c in range(3):
            at = pixels[6 + r * height + tile // 2, 6 + c * step + 6 * (c > 0) + tile // 2]
            assert np.abs(at - colours[query // 3]).max() < 20


def test_mistakes_are_named(backbone_file, val, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / 'e.npz')
    refused(call(embed_main, [backbone_file, val, '--output', str(tmp_path / 'e.npy'), *SMALL], capsys), '.npz')
    refused(call(embed_main, ['random', val, '--output', out, *SMALL], capsys), '--depth')
    refused(call(embed_main, [backbone_file, 'nowhere', '--output', out, *SMALL], capsys), "'nowhere'")
    (tmp_path / 'empty').mkdir()
    refused(call(embed_main, [backbone_file, str(tmp_path / 'empty'), '--output', out, *SMALL], capsys), 'no images')
    refused(call(embed_main, [backbone_file, val, '--output', out, '--neighbours', 'n.jpg', *SMALL], capsys), '.png')
    (tmp_path / 'e.npz').write_text('mine')
    words = [backbone_file, os.path.join(val, 'colour0'), '--output', out, *SMALL]
    refused(call(embed_main, words, capsys), 'exists already', '--overwrite')
    assert (tmp_path / 'e.npz').read_text() == 'mine'
    assert call(embed_main, [*words, '--overwrite'], capsys).code == 0 and len(read(out)['names']) == 6


def test_a_backbone_is_built_as_its_file_says(backbone_file):  # noqa: F811
    from passl.utils.weights.checkpoint import load_file
    net = passl.load_backbone(backbone_file)
    assert not net.training and net.out_channels == net(paddle.zeros([1, 3, 32, 32])).shape[1]
    state = load_file(backbone_file)['state_dict']
    assert all(np.array_equal(v.numpy(), state['encoder_q.0.' + k]) for k, v in net.state_dict().items())
    assert passl.load_backbone('random', depth=50).depth == 50
    with pytest.raises(CheckpointError, match='ResNet-18, not a ResNet-50'):
        passl.load_backbone(backbone_file, depth=50)
    with pytest.raises(ConfigError, match='--depth'):
        passl.load_backbone('random')


def test_the_names_are_those_that_commands_and_configs_take():
    found = passl.list_models()
    assert {'resnet18', 'resnet50_vd'} <= set(found['backbones']) and found['methods'] == ['densecl', 'moco', 'simclr']
    assert {'ResNet', 'ResNet_vd'} <= set(found['backbone_classes'])         # own ones may be there too
    assert {'DenseCL', 'MoCo', 'SimCLR'} <= set(found['architectures'])
    assert 'configs/densecl/densecl_r50.yaml' in found['configs'] and not any('_base_' in n for n in found['configs'])


def test_importing_passl_stays_light():
    code = 'import passl, sys; print({"paddle", "cv2", "numpy"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(passl.__file__))))
    assert done.stdout.strip() == 'set()', done.stderr
