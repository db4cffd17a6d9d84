"""Static inference models."""

import glob
import os

import numpy as np
import paddle
import pytest

from passl.cli import train_main
from passl.modeling import build_model
from passl.utils.config import merge
from passl.utils.weights import load_into, load_weights
from passl.utils.weights.checkpoint import save_file

from .small import call, clas, densecl, extract, moco, refused, write_config


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """{function of the config: checkpoint of one epoch}."""
    out = str(tmp_path_factory.mktemp('trained'))
    for build in (clas, moco, densecl):
        assert train_main(['-c', write_config(build(data, output_dir=out, epochs=1), build.__name__, out)]) == 0
    return {build: os.path.join(out, build.__name__, 'latest.pdparams') for build in (clas, moco, densecl)}


def export(cfg, weights, capsys, *argv):
    """Export; returns (prefix of the files, Done)."""
    done = call(train_main, ['-c', write_config(cfg), '--export', weights, *argv], capsys)
    assert done.code == 0, done.err
    folder = cfg.get('save_inference_dir') or os.path.join(cfg['output_dir'], 'small', 'inference')
    return os.path.join(folder, 'model'), done


def eager(cfg, weights):
    """The model of `cfg` with `weights`, in eval mode."""
    model = build_model(cfg['model'])
    load_into(model, load_weights(weights))
    model.eval()
    return model


IMAGES = np.random.RandomState(0).rand(3, 3, 32, 32).astype('float32')


def predict(prefix, images):
    """What paddle.inference makes of the exported files."""
    from paddle import inference
    (graph,) = [f for f in (prefix + '.json', prefix + '.pdmodel') if os.path.exists(f)]
    config = inference.Config(graph, prefix + '.pdiparams')
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


@pytest.mark.parametrize('softmax', [True, False])
def test_classifier(data, out, trained, capsys, softmax):
    cfg, weights = clas(data, **out), trained[clas]
    if not softmax:
        cfg['infer_add_softmax'] = False
    prefix, done = export(cfg, weights, capsys)
    assert f'Exported to {prefix}.*' in done.out
    with paddle.no_grad():
        wanted = eager(cfg, weights)(paddle.to_tensor(IMAGES), mode='test').numpy()
    if softmax:
        wanted = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    loaded = paddle.jit.load(prefix)
    for n in (3, 1):        # any batch size
        got = loaded(paddle.to_tensor(IMAGES[:n])).numpy()
        assert got == pytest.approx(wanted[:n], abs=1e-5)
    assert predict(prefix, IMAGES) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize('config', [moco, densecl])
def test_backbone_of_a_self_supervised_model(data, out, trained, tmp_path, capsys, config):
    """What is exported is the query encoder's map, of any image size with -1."""
    cfg = config(data, **out, image_shape=[3, -1, -1], save_inference_dir=str(tmp_path / 'static'))
    weights = trained[config]
    prefix, _ = export(cfg, weights, capsys)
    model = eager(cfg, weights)
    loaded = paddle.jit.load(prefix)
    for size in (32, 48):
        x = paddle.rand([2, 3, size, size])
        with paddle.no_grad():
            wanted = model(x, mode='extract').numpy()
        assert wanted.shape == (2, 16, size // 8, size // 8)
        assert loaded(x).numpy() == pytest.approx(wanted, abs=1e-5)


def test_export_needs_the_model_only(data, out, trained, tmp_path, capsys):
    cfg, weights = clas(data, **out), trained[clas]
    before = sorted(os.listdir(os.path.dirname(weights)))
    alone = {k: cfg[k] for k in ('model', 'output_dir')}
    alone['image_shape'] = [3, 32, 32]
    prefix, _ = export(alone, weights, capsys, '-o', f'save_inference_dir={tmp_path}/alone')
    assert sorted(os.listdir(os.path.dirname(weights))) == before
    assert glob.glob(str(tmp_path / 'alone' / 'model.*'))
    del alone['model']
    done = call(train_main, ['-c', write_config(alone), '--export', weights], capsys)
    refused(done, "'model' must be a mapping")
    wrong = merge(cfg, {'model': {'head': {'num_classes': 4}}})
    done = call(train_main, ['-c', write_config(wrong), '--export', weights], capsys)
    refused(done, 'does not fit the model', 'head.fc_cls.weight [16, 3] in the file, [16, 4] in the model')


def test_an_export_needs_no_queues(data, out, trained, tmp_path, capsys):
    """Of a checkpoint with a queue of another size, and of a file with the backbone alone: the same model."""
    cfg, weights, alone = moco(data, **out), trained[moco], str(tmp_path / 'alone.pdparams')
    assert extract([weights, '--output', alone], capsys).code == 0
    other = merge(cfg, {'model': {'K': 32}})
    found = []
    for number, (config, file) in enumerate([(cfg, weights), (other, weights), (other, alone)]):
        prefix, _ = export({**config, 'save_inference_dir': str(tmp_path / f'static{number}')}, file, capsys)
        found.append(paddle.jit.load(prefix)(paddle.to_tensor(IMAGES)).numpy())
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert not [n for n in paddle.jit.load(prefix).state_dict() if 'queue' in n]
    lacking = {k: v for k, v in load_weights(alone).items() if 'conv2' not in k}
    save_file(lacking, tmp_path / 'lacking.pdparams')
    done = call(train_main, ['-c', write_config(cfg), '--export', tmp_path / 'lacking.pdparams'], capsys)
    refused(done, 'does not fit the backbone', 'missing in the file: conv2.weight, conv2.bias')
