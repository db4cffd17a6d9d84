"""best.pdparams by a probe on labelled images."""

import json
import os
import types

import numpy as np
import pytest

from passl.engine.builder import build_trainer
from passl.transfer.probes.best import ProbeHook, task_of
from passl.transfer.probes.command import evaluate
from passl.transfer.probes.options import build_evaluate_parser
from passl.utils.config import with_defaults
from passl.utils.errors import ConfigError
from passl.utils.weights.checkpoint import save_file
from tests.engine import small


@pytest.fixture(scope='module')
def trainer(tmp_path_factory, make_images):
    root = small.write_data(tmp_path_factory.mktemp('data'), make_images)
    cfg = small.moco(root, model={'backbone': {'name': 'ResNet', 'depth': 18},
                                  'neck': {'in_channels': 64, 'hid_channels': 16}})
    return build_trainer(with_defaults(cfg), None)


@pytest.mark.parametrize('kind, figure', [('classes', 'knn_top1'), ('masks', 'miou')])
def test_the_figure_is_that_of_evaluate(kind, figure, trainer, request, tmp_path):
    data = str(request.getfixturevalue(kind))
    hook = ProbeHook(data)
    statistics = trainer.model.backbone.bn1._mean.numpy()
    found = hook.measure(trainer)
    assert list(found) == [hook.figure] == [figure] and trainer.model.training
    assert np.array_equal(trainer.model.backbone.bn1._mean.numpy(), statistics)
    file = str(tmp_path / 'w.pdparams')
    save_file({'state_dict': {f'encoder_q.0.{k}': v.numpy() for k, v in trainer.model.backbone.state_dict().items()}},
              file)
    words = ['--tasks', hook.task, '--weights', file, '--data', data, '--output', str(tmp_path / 'out'), '--seeds', '1',
             '--labels-at', '100', '--no-cuda']
    assert evaluate(build_evaluate_parser('passl evaluate').parse_args(words)) == 0
    with open(tmp_path / 'out' / 'results.jsonl') as f:
        figures = json.loads(f.readline())['figures']
    assert found[figure] == figures['miou' if kind == 'masks' else 'top1_k20']
    assert 0 < found[figure] <= 100


def test_folders_that_are_neither(tmp_path):
    os.makedirs(tmp_path / 'train' / 'a')
    with pytest.raises(ConfigError, match=r"--val.* has neither train/<class>/.*docs/LABELLED_DATA.md"):
        task_of(str(tmp_path))
    os.makedirs(tmp_path / 'val' / 'a')
    assert task_of(str(tmp_path)) == 'knn'


def test_a_backbone_without_stages_is_told(classes):
    trainer = types.SimpleNamespace(model=types.SimpleNamespace(backbone=object()))
    with pytest.raises(ConfigError, match='--val probes a ResNet, not object'):
        ProbeHook(str(classes)).measure(trainer)


def test_a_run_whose_config_names_it_needs_no_word(classes, tmp_path, make_images, capsys):
    """What `passl pretrain --val` writes is run by `passl train -c` too; another module of PASSL is refused still."""
    root = small.write_data(tmp_path / 'data', make_images)
    cfg = small.moco(root, epochs=1, output_dir=str(tmp_path / 'out'), custom_imports=['passl.transfer.probes.best'],
                     best_config={'name': 'ProbeHook', 'data': str(classes)},
                     model={'backbone': {'name': 'ResNet', 'depth': 18}, 'neck': {'in_channels': 64}})
    folder, _ = small.train(cfg, capsys)
    (record,) = small.records(folder, 'quality')
    assert record['best'] is True and 0 <= record['knn_top1'] <= 100
    assert os.path.isfile(os.path.join(folder, 'best.pdparams'))
    cfg['custom_imports'] = ['passl.transfer.probes.best', 'passl.cli']
    small.refused_training(cfg, capsys, ['asks to run Python code', 'passl.cli'], '--overwrite')
