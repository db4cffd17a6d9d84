"""`passl transfer-seg` through PaddleSeg's own trainer, evaluator and predictor."""

import json
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

from passl.cli import main
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.weights import load_weights
from tests.conftest import ROOT

from ..nets import narrow

CONFIGS = os.path.join(ROOT, 'configs/transfer/seg')
SMALL = ['-o', 'batch_size=2', '-o', 'model.channels=8', '-o', 'model.aux_channels=4']
CUSTOM = ['-c', f'{CONFIGS}/custom.yml', '-o', 'train_dataset.transforms.0.short_size=40',
          '-o', 'train_dataset.transforms.2.crop_size=[32,32]', '-o', 'val_dataset.transforms.0.short_size=36', *SMALL]
QUICK = ['--no-cuda', '--num-workers', '0', '--log-iters', '1']


def seg(*words):
    """`passl transfer-seg ...`; the exit code."""
    return main(['transfer-seg', *map(str, words)])


def status(folder, name='status.json'):
    with open(os.path.join(str(folder), name), encoding='utf-8') as f:
        return json.load(f)


@pytest.fixture(scope='module')
def trained(folders, backbone18, tmp_path_factory):
    """A run of 4 steps from pre-trained weights."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    with narrow():
        assert seg(*CUSTOM, *QUICK, '--data', folders, '--pretrained', backbone18, '--output', folder, '--iters', 4,
                   '--save-interval', 2, '--seed', 3) == 0
    return str(folder)


def test_a_training_leaves_a_record_and_checkpoints(trained, backbone18):
    record = status(trained)
    assert record['state'] == 'done' and record['job'] == 'train' and record['iters'] == 4
    assert record['pretrained']['file'] == backbone18
    assert record['pretrained']['matched'] == record['pretrained']['total'] == 100
    assert record['images'] == {'train_dataset': 6, 'val_dataset': 4} and record['batch'] == [2, 1]
    assert list(record['class_IoU']) == ['background', 'red thing', 'green', 'blue']
    assert record['mIoU'] == pytest.approx(np.mean(list(record['class_IoU'].values())))
    assert record['best_mIoU'] >= record['mIoU'] > 0
    assert {'iter_2', 'iter_4', 'best_model', 'config.yml', 'status.json'} <= set(os.listdir(trained))
    start = load_weights(backbone18)
    moved = load_weights(f'{trained}/iter_4/model.pdparams')
    a, b = start['encoder_q.0.layer1.0.conv1.weight'], moved['backbone.layer1.0.conv1.weight']
    assert 0 < np.abs(a - b).max() < 0.3 * np.abs(a).max()          # began there, and was trained
    with open(f'{trained}/config.yml', encoding='utf-8') as f:
        cfg = yaml.safe_load(f)
    assert cfg['model']['num_classes'] == 4 and cfg['iters'] == 4
    assert 'train_path' not in cfg['train_dataset'] and 'separator' not in cfg['train_dataset']


def oracle(folder, predictions, classes=4):
    """mIoU as PaddleSeg defines it (a class that is nowhere counts as 0), from label maps as pictures, in numpy."""
    table = np.zeros((classes, classes), int)
    for name in sorted(os.listdir(f'{folder}/masks/val')):
        truth = np.array(Image.open(f'{folder}/masks/val/{name}'))
        found = np.array(Image.open(f'{predictions}/pseudo_color_prediction/{name}'))
        assert truth.shape == found.shape
        known = truth != 255
        np.add.at(table, (truth[known], found[known]), 1)
    both = np.diag(table)
    union = table.sum(0) + table.sum(1) - both
    return float(np.mean(both / np.maximum(union, 1))), both.sum() / table.sum()


def test_evaluation_is_what_numpy_makes_of_the_predicted_pictures(trained, folders, tmp_path):
    weights = f'{trained}/iter_4/model.pdparams'
    common = ['-c', f'{trained}/config.yml', *QUICK, '--weights', weights]
    assert seg(*common, '--predict', f'{folders}/images/val', '--output', tmp_path / 'p') == 0
    assert seg(*common, '--evaluate-only', '--output', tmp_path / 'e') == 0
    record = status(tmp_path / 'e', 'evaluate.json')
    miou, accuracy = oracle(folders, tmp_path / 'p')
    assert record['mIoU'] == pytest.approx(miou, abs=1e-6) and record['accuracy'] == pytest.approx(accuracy, abs=1e-6)
    assert record['mIoU'] == pytest.approx(status(trained)['mIoU'], abs=1e-6)
    assert status(tmp_path / 'p', 'predict.json')['images'] == 4
    overlay = Image.open(tmp_path / 'p/added_prediction/a 0.png')
    assert overlay.size == (52, 40)


def test_same_seed_same_run_and_resume_goes_on(trained, folders, backbone18, tmp_path, capsys):
    common = [*CUSTOM, *QUICK, '--data', folders, '--seed', 3, '--save-interval', 2]
    assert seg(*common, '--pretrained', backbone18, '--iters', 4, '--output', tmp_path / 'same') == 0
    a, b = (load_weights(f'{f}/iter_4/model.pdparams') for f in (trained, tmp_path / 'same'))
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    rate = load_file(f'{trained}/iter_2/model.pdopt')['LR_Scheduler']
    assert seg(*common, '--iters', 4, '--resume', tmp_path / 'same/iter_2', '--output', tmp_path / 'more') == 0
    record = status(tmp_path / 'more')
    assert record['resumed'].endswith('iter_2') and 'pretrained' not in record
    after = load_file(f'{tmp_path}/more/iter_4/model.pdopt')['LR_Scheduler']
    assert (rate['last_epoch'], after['last_epoch']) == (2, 4)
    assert seg(*common, '--iters', 4, '--resume', tmp_path / 'same/iter_4', '--output', tmp_path / 'none') == 2
    assert 'all of the 4 steps' in capsys.readouterr().err


def tiny(name, data):
    """Flags that let a shipped config take seconds; its own layers, losses, transforms and test settings stay."""
    words = ['-c', f'{CONFIGS}/{name}', '--data', data, '-o', 'batch_size=2', '-o', 'model.backbone.type=ResNet18']
    size = '[64,32]' if 'cityscapes' in name else '[48,40]'
    for part in ('train_dataset', 'val_dataset'):
        words += ['-o', f'{part}.transforms.0.target_size={size}']
    words += ['-o', 'train_dataset.transforms.2.crop_size=[33,33]']
    if 'cityscapes' in name:
        words += ['-o', 'test_config.crop_size=[33,33]', '-o', 'test_config.stride=[21,21]']
    if name.startswith('fcn'):
        words += ['-o', 'model.channels=16', '-o', 'model.aux_channels=8']
    return words


@pytest.mark.parametrize('name, data, classes', [
    ('fcn_r50-d8_voc12aug_20k.yml', 'voc', 21), ('fcn_r50-d8_cityscapes_40k.yml', 'cityscapes', 19),
    ('deeplabv3p_r50_voc12aug.yml', 'voc', 21)])
def test_shipped_configs_train(name, data, classes, request, tmp_path, capsys):
    words = tiny(name, request.getfixturevalue(data))
    assert seg(*words, *QUICK, '--pretrained', 'none', '--iters', 2, '--output', tmp_path / 'run') == 0
    record = status(tmp_path / 'run')
    assert record['state'] == 'done' and record['pretrained'] is None and len(record['class_IoU']) == classes
    out = capsys.readouterr().out
    assert 'iter: 2/2' in out and 'images per step, this run 2' in out and 'nan' not in out.split('[EVAL]')[0]


def test_wrong_weights_end_the_run_at_the_start(folders, backbone18, trained, tmp_path, capsys):
    state = load_file(backbone18)['state_dict']
    short = str(tmp_path / 'short.pdparams')
    save_file({k: v for k, v in state.items() if k != 'encoder_q.0.layer3.1.bn2._mean'}, short)
    common = [*CUSTOM, *QUICK, '--data', folders, '--output', tmp_path / 'run']
    for words, message in [(['--pretrained', short], 'layer3.1.bn2._mean'),
                           (['--pretrained', backbone18, '-o', 'model.backbone.type=ResNet50'], 'ResNet-18'),
                           (['--pretrained', 'no_such.pdparams'], 'no_such.pdparams'),
                           (['--evaluate-only', '--weights', backbone18], 'does not fit the model')]:
        capsys.readouterr()
        assert seg(*common, *words) == 2            # a run that failed does not keep the next one from its folder
        err = capsys.readouterr().err
        assert message in err and 'Traceback' not in err
    record = status(tmp_path / 'run')
    assert record['state'] == 'failed' and 'no_such.pdparams' in record['message']


@pytest.mark.parametrize('words, message', [
    ([], '--pretrained none'), (['--evaluate-only'], '--weights FILE'),
    (['--evaluate-only', '--weights', 'x', '--pretrained', 'y'], '--pretrained has no effect'),
    (['--pretrained', 'none', '--weights', 'x'], 'did you mean --pretrained'),
    (['--resume', 'x/iter_1', '--pretrained', 'none'], 'leave out --pretrained'),
    (['--pretrained', 'none', '-o', 'batch_size=7'], 'more than the 6 training images'),
    (['--pretrained', 'none', '-o', 'model.channells=7'], 'PaddleSeg refuses the config'),
    (['--pretrained', 'none', '-o', 'model.type=NoSuchNet'], 'NoSuchNet'),
    (['--pretrained', 'none', '--num-workers', '-1'], '--num-workers'),
    (['--pretrained', 'none', '--data', 'no/such/folder'], "no folder 'no/such/folder'"),
    (['--predict', 'no/such/image.png', '--weights', 'x'], 'no/such/image.png')])
def test_wrong_flags_and_settings(words, message, folders, tmp_path, capsys):
    data = [] if '--data' in words else ['--data', folders]
    more = ['-o', 'model.num_classes=4', '-o', 'train_dataset.num_classes=4', '-o', 'val_dataset.num_classes=4']
    assert seg(*CUSTOM, *data, *(more if '--predict' in words else []), '--no-cuda', '--iters' if words[:1] == [
        '--pretrained'] else '--seed', 1, '--output', tmp_path / 'run', *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('error: ') == 1


def test_norms_are_synchronised_over_gpus_and_never_on_the_cpu(folders, tmp_path, monkeypatch):
    def called(*_):
        raise AssertionError('there is no kernel for it')
    monkeypatch.setattr(paddle.nn.SyncBatchNorm, 'convert_sync_batchnorm', called)
    words = [*CUSTOM, *QUICK, '--data', folders, '--pretrained', 'none', '--iters', 1, '--output']
    assert seg(*words, tmp_path / 'a') == 0

    class Converted(Exception):
        pass

    def noted(model):
        assert any(isinstance(layer, paddle.nn.BatchNorm2D) for layer in model.sublayers())
        raise Converted
    from passl.transfer.paddleseg.run import _Job
    monkeypatch.setattr(paddle.nn.SyncBatchNorm, 'convert_sync_batchnorm', noted)
    for name, stand_in in (('world_size', lambda: 2), ('init', lambda: None), ('broadcast_object', lambda x: x)):
        monkeypatch.setattr(f'passl.utils.distributed.dist.{name}', stand_in)
    before = _Job.__init__

    def on_gpu(self, *args):
        before(self, *args)
        self.device = 'gpu:0'
    monkeypatch.setattr(_Job, '__init__', on_gpu)
    with pytest.raises(Converted):
        seg(*words, tmp_path / 'b')


@pytest.mark.slow
def test_two_processes(folders, whole18, tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
    done = subprocess.run(
        [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir', str(tmp_path / 'log'),
         'tools/transfer_seg.py', *CUSTOM, *QUICK, '--data', folders, '--pretrained', whole18, '--iters', '2',
         '--output', str(tmp_path / 'run'), '-o', 'batch_size=1', '--seed', '3'],
        cwd=ROOT, env=dict(env, OMP_NUM_THREADS='1', PYTHONPATH=ROOT), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = status(tmp_path / 'run')
    assert record['state'] == 'done' and record['processes'] == 2 and record['batch'] == [1, 2]
    assert record['pretrained']['matched'] == 100
    # all 4 images were counted once: one process on the weights gives the same
    assert seg('-c', tmp_path / 'run/config.yml', *QUICK, '--evaluate-only', '--output', tmp_path / 'e', '--weights',
               tmp_path / 'run/iter_2/model.pdparams') == 0
    alone = status(tmp_path / 'e', 'evaluate.json')
    assert record['mIoU'] == pytest.approx(alone['mIoU'], abs=1e-6)
    assert record['accuracy'] == pytest.approx(alone['accuracy'], abs=1e-6)
