"""Stage outputs on both paths of the backbone, their cache, and the sources of weights."""

import os

import numpy as np
import pytest

from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modules.cpu import resnet as resnet_cpu
from passl.transfer.probes import features, sources
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope='module')
def net(backbone_file):
    return sources.find_sources([backbone_file])[0].build()


@pytest.fixture(scope='module')
def images():
    return np.random.RandomState(0).randint(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def test_stage_maps_are_the_same_on_both_paths_and_the_last_is_the_output(net, images, monkeypatch):
    import paddle
    fast = features.stage_maps(net, images, [1, 2, 3, 4])
    assert [m.shape for m in fast] == [(3, 16, 16, 8), (3, 8, 8, 16), (3, 4, 4, 32), (3, 2, 2, 64)]
    monkeypatch.setattr(resnet_cpu, 'suits', lambda *_: False)
    for a, b in zip(fast, features.stage_maps(net, images, [1, 2, 3, 4])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
    x = ((images / 255 - features.IMAGENET_MEAN) / features.IMAGENET_STD).transpose(0, 3, 1, 2).astype('float32')
    with paddle.no_grad():
        out = net(paddle.to_tensor(x)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(fast[3], out, rtol=1e-3, atol=1e-3 * np.abs(out).max())


def test_the_statistics_of_the_backbone_do_not_move(net, images):
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    features.stage_maps(net, images, [4])
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in net.state_dict().items())


def test_features_come_from_the_cache_the_second_time(net, images, tmp_path):
    cache, loads = features.Cache(str(tmp_path)), []

    def load(i):
        loads.append(i)
        return images[i]
    first = features.extract(net, load, 3, [3, 4], cache, 'key')
    again = features.extract(net, load, 3, [3, 4], cache, 'key')
    assert len(loads) == 3 + 2                               # image 0 also to learn the shapes
    np.testing.assert_array_equal(first.cells([2, 0]), again.cells([2, 0]))
    maps = features.stage_maps(net, images, [3, 4])
    got = first.cells([0, 1, 2])[..., :32].reshape(3, 4, 4, 32)
    factor = np.sqrt(np.mean(np.square(maps[0][0])))         # kept in units of their size
    np.testing.assert_allclose(got * factor, maps[0], atol=2e-3 * np.abs(maps[0]).max())
    pooled = features.extract(net, load, 3, [4], cache, 'pooled', pool=True).cells(slice(None))[:, 0]
    mean = maps[1].mean((1, 2))
    np.testing.assert_allclose(pooled * np.sqrt(np.mean(np.square(mean[0]))), mean, atol=2e-3 * np.abs(mean).max())


def test_a_cut_cache_file_is_made_anew(tmp_path):
    cache, filled = features.Cache(str(tmp_path)), []

    def fill(array):
        filled.append(1)
        array[:] = 7
    assert cache.array('k', (4, 5), fill).sum() == 140
    with open(tmp_path / 'k.f16', 'r+b') as f:
        f.truncate(10)
    assert cache.array('k', (4, 5), fill).sum() == 140 and len(filled) == 2
    with pytest.raises(ZeroDivisionError):
        cache.array('broken', (4, 5), lambda array: 1 / 0)
    assert sorted(os.listdir(tmp_path)) == ['k.f16']


def test_the_cache_keeps_its_bound(tmp_path):
    def fill(array):
        array[:] = 1
    cache = features.Cache(str(tmp_path), 2500 / 2**30)
    for number, key in enumerate('abc'):
        cache.array(key, (500,), fill)                       # 1000 bytes each
        os.utime(tmp_path / f'{key}.f16', (number, number))
    assert sorted(os.listdir(tmp_path)) == ['b.f16', 'c.f16']
    with pytest.raises(DataError, match='--cache-gb'):
        cache.array('d', (2000,), fill)
    assert sorted(os.listdir(tmp_path)) == ['b.f16', 'c.f16']


def test_batches_come_in_order_and_all():
    for count in (1, 5, 64, 131):
        got = list(features.batches(lambda i: i * i, count, size=16))
        assert [a for a, _ in got] == list(range(0, count, 16))
        assert [v for _, part in got for v in part] == [i * i for i in range(count)]


def test_digest_follows_the_content_alone(backbone_file, tmp_path):
    state = load_file(backbone_file)['state_dict']
    names = [k[len('encoder_q.0.'):] for k in state]
    flat = {k[len('encoder_q.0.'):]: v for k, v in reversed(state.items())}
    assert sources.digest_of(flat) == sources.find_sources([backbone_file])[0].digest
    changed = dict(flat, **{names[0]: flat[names[0]] + 1e-6})
    assert sources.digest_of(changed) != sources.digest_of(flat)


def test_random_start_takes_the_depth_of_the_files(backbone_file):
    mine, start = sources.find_sources([backbone_file, 'random'])
    assert start.depth == mine.depth == 18 and start.name == 'random'
    a, b, c = (start.build(seed).state_dict()['layer4.1.conv2.weight'].numpy() for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    other, = sources.find_sources(['random:1'], depth=18)
    assert np.array_equal(other.build().state_dict()['layer4.1.conv2.weight'].numpy(), c)
    assert other.name == 'random:1' and len({start.digest, other.digest, mine.digest}) == 3
    assert [sources.start_seed(p) for p in ('random', 'random:0', 'random:12', 'random.pdparams')] == [0, 0, 12, None]


@pytest.mark.skipif('ResNet_vd' not in BACKBONES.names(), reason='no ResNet_vd in this version')
def test_weights_with_a_deep_stem_make_a_vd_backbone(images, tmp_path, monkeypatch):
    state = build_backbone({'name': 'ResNet_vd', 'depth': 18}).state_dict()
    save_file({f'backbone.{k}': v.numpy() for k, v in state.items()}, str(tmp_path / 'vd.pdparams'))
    found, start = sources.find_sources([str(tmp_path / 'vd.pdparams'), 'random'])
    assert (found.kind, start.kind, found.depth) == ('ResNet_vd', 'ResNet_vd', 18)
    net = found.build()
    fast = features.stage_maps(net, images, [3, 4])
    monkeypatch.setattr(resnet_cpu, 'suits', lambda *_: False)
    for a, b in zip(fast, features.stage_maps(net, images, [3, 4])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_names_are_short_and_differ(backbone_file, tmp_path):
    taken = set()
    for path, expected in (('runs/moco/latest.pdparams', 'moco'), ('x/a.pdparams', 'a'), ('y/a.pdparams', 'y/a'),
                           ('y/a.pdparams', 'y/a (2)')):
        name = sources.default_name(path, taken)
        assert name == expected
        taken.add(name)


def test_what_is_no_resnet_is_refused(backbone_file, tmp_path):
    state = {k: v for k, v in load_file(backbone_file)['state_dict'].items() if '.layer4.1.' not in k}
    save_file(state, str(tmp_path / 'short.pdparams'))
    with pytest.raises(CheckpointError, match='no whole ResNet'):
        sources.find_sources([str(tmp_path / 'short.pdparams')])
    with pytest.raises(ConfigError, match='--depth'):
        sources.find_sources(['random'])
