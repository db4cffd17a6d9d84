"""What users get wrong: every message names the value, the rule and the way out; exit code 2, no traceback."""

import os
import pickle

import numpy as np
import paddle
import pytest

from passl.cli import train_main
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.config import merge
from tests.transfer.nets import narrow_networks

from .small import call, clas, densecl, extract, moco, records, refused, refused_training, train, write_config


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """Run folder of a MoCo run of one epoch, with epoch_1.pdparams. Not to be changed."""
    root = tmp_path_factory.mktemp('finished')
    cfg = moco(data, output_dir=str(root / 'out'), epochs=1)
    assert train_main(['-c', write_config(cfg)]) == 0
    return str(root / 'out' / 'small')


# ---------------------------------------------------------------------------------------------- config and flags

def test_no_such_config(tmp_path, data, capsys):
    path = write_config(moco(data), 'densecl_r50', str(tmp_path))
    done = call(train_main, ['-c', path.replace('densecl', 'denscl')], capsys)
    refused(done, "No config file '", 'denscl_r50.yaml', "Did you mean 'densecl_r50.yaml'?")
    refused(call(train_main, ['-c', str(tmp_path)], capsys), 'is a folder; give a YAML file')


@pytest.mark.parametrize('argv, parts', [
    (['--evalute-only'], ["unknown flag '--evalute-only'", "Did you mean '--evaluate-only'?"]),
    (['stray'], ["stray word 'stray'", 'Remove it']),
    (['-o', 'epochs=2', 'seed=1'], ["stray word 'seed=1'", '-o seed=1']),
    (['-o', 'epochs'], ["'epochs' is not of the form key.key=value"]),
    (['-o', 'epoch=2'], ["has no key 'epoch'", "Did you mean 'epochs'?"]),
    (['-o', 'dataloader.trian.sampler.batch_size=2'], ["has no key 'trian'", "Did you mean 'train'?"]),
    (['-o', 'dataloader.train.dataset.transforms.7.size=2'], ['index 7 is out of range', 'a list of 2']),
    (['-o', 'model.backbone.stem.kernel=2'], ["'model.backbone' has no 'stem'"]),
    (['-o', 'epochs.first=2'], ["'epochs' is 2", "no 'first' below it"]),
    (['-o', 'epochs=[1'], ['-o epochs=[1', 'as text']),
    (['--val-interval', '0'], ["'0' is not a whole number of 1 or more"]),
    (['--evaluate-only', '--export', 'x'], ['not allowed with argument']),
])
def test_flags_and_overrides(data, out, capsys, argv, parts):
    refused_training(moco(data, **out), capsys, parts, *argv)


def test_config_file_is_required(capsys):
    refused(call(train_main, [], capsys), '-c/--config-file is required')


@pytest.mark.parametrize('change, parts', [
    ({'epoch': 3}, ["no key 'epoch'", "Did you mean 'epochs'?"]),
    ({'epochs': 'many'}, ["'epochs' must be a whole number of 1 or more", "'many'"]),
    ({'epochs': 0}, ["'epochs' must be a whole number of 1 or more, not 0"]),
    ({'epochs': None}, ["'epochs' or 'total_iters' is missing"]),
    ({'total_iters': 3}, ["'epochs' and 'total_iters' are both given"]),
    ({'seed': 'abc'}, ["'seed' must be a whole number", "'abc'"]),
    ({'device': 'tpu'}, ["'device' must be one of cpu, gpu, xpu, npu", "'tpu'"]),
    ({'model': None}, ["'model' is missing"]),
    ({'optimizer': None}, ["'optimizer' is missing"]),
    ({'lr_scheduler': None}, ["'lr_scheduler' is missing"]),
    ({'dataloader': {'train': {'sampler': {'batch_size': '4'}}}}, ['dataloader.train.sampler.batch_size', "'4'"]),
    ({'dataloader': {'train': {'sampler': {'batchsize': 4}}}}, ["no key 'batchsize'", "Did you mean 'batch_size'?"]),
    ({'custom_config': {'name': 'EvaluateHook'}}, ["'custom_config' must be a list of mappings"]),
    ({'custom_imports': ['no_such.py']}, ["'custom_imports': no file", 'no_such.py', 'relative to the config file']),
    ({'custom_imports': 'no_such_module'}, ["no module 'no_such_module'"]),
])
def test_structure_of_the_config(data, out, capsys, change, parts):
    refused_training(moco(data, **merge(out, change)), capsys, ['small.yaml' if 'custom_imports' not in change else '',
                                                                *parts], '--allow-imports')
    assert not os.path.exists(out['output_dir'])


@pytest.mark.parametrize('change, parts', [
    ({'model': {'name': 'DensCL'}}, ["'model.name'", "'DensCL'", "Did you mean 'DenseCL'?"]),
    ({'model': {'backbone': {'name': 'ResNett'}}}, ["'model.backbone.name'", "Did you mean 'ResNet'?"]),
    ({'model': {'backbone': {'name': 'ResNet', 'depth': 19}}}, ["backbone.depth' must be one of 18, 34, 50", 'not 19']),
    ({'model': {'temperature': 1}}, ["'model.temperature': MoCo has no setting 'temperature'"]),
    ({'model': {'K': 0}}, ["'model.K' must be", "not 0"]),
    ({'model': {'m': 2}}, ["'model.m' must be", "not 2", 'from 0 to 1']),
    ({'model': {'T': 0.07}}, ["'model.T' is 0.07 and 'model.head.temperature' is 0.2", 'Keep one']),
    ({'optimizer': {'name': 'Momentun'}}, ["'optimizer.name'", "Did you mean 'Momentum'?"]),
    ({'optimizer': {'learning_rate': 1}}, ["'optimizer.learning_rate'", 'lr_scheduler.learning_rate']),
    ({'optimizer': {'grad_clip': {'name': 'ClipGradByNormal', 'clip_norm': 1}}}, ["Did you mean 'ClipGradByNorm'?"]),
    ({'optimizer': {'exclude_from_weight_decay': ['bias', 'xyz']}}, ["no parameter's name holds 'xyz'"]),
    ({'lr_scheduler': {'name': 'CosineAnnealing'}}, ["'lr_scheduler.name'", "Did you mean 'CosineAnnealingDecay'?"]),
    ({'lr_scheduler': {'T_max': 'long'}}, ["'lr_scheduler.T_max' is 'long'", 'number of epochs']),
    ({'lr_scheduler': {'tmax': 2}}, ["has no setting 'tmax'"]),
    ({'custom_config': [{'name': 'EvalHook'}]}, ["'custom_config.0.name'", "Did you mean 'EvaluateHook'?"]),
    ({'checkpoint': {'intervall': 2}}, ["'checkpoint.intervall'", "Did you mean 'interval'?"]),
    ({'dataloader': {'train': {'dataset': {'name': 'ImageNett'}}}},
     ["'dataloader.train.dataset.name'", "Did you mean 'ImageNet'?"]),
    ({'dataloader': {'train': {'dataset': {'transforms': [{'name': 'RandomResizeCrop', 'size': 3}]}}}},
     ["'dataloader.train.dataset.transforms.0.name'", "Did you mean 'RandomResizedCrop'?"]),
    ({'dataloader': {'train': {'sampler': {'name': 'BatchSample'}}}}, ["Did you mean 'BatchSampler'?"]),
])
def test_unknown_names_and_wrong_settings(data, out, capsys, change, parts):
    refused_training(moco(data, **merge(out, change)), capsys, parts)


@pytest.mark.parametrize('change, parts', [
    ({'checkpoint': {'interval': 0}}, ["'checkpoint.interval' must be", "not 0", 'a whole number of 1 or more']),
    ({'checkpoint': {'max_keep_ckpts': '3'}}, ["'checkpoint.max_keep_ckpts' must be", "not '3'", 'whole number']),
    ({'checkpoint': {'by_epoch': 'false'}}, ["'checkpoint.by_epoch' must be", "not 'false'", 'true or false']),
    ({'checkpoint': {'out_dir': 3}}, ["'checkpoint.out_dir' must be", "not 3", 'must be text']),
    ({'log_config': {'progress_bar': 'off'}}, ["'log_config.progress_bar' must be", "not 'off'"]),
    ({'custom_config': [{'name': 'EvaluateHook', 'init_eval': 'yes'}]},
     ["'custom_config.0.init_eval' must be true or false, not 'yes'"]),
    ({'checkpoint': {'name': 'LogHook'}}, ["'checkpoint.name' must be CheckpointHook"]),
    ({'checkpoint': {'keep_every': 1.5}}, ["'checkpoint.keep_every' must be", "not 1.5", '1 or more']),
    ({'checkpoint': {'every_minutes': 0}}, ["'checkpoint.every_minutes' must be", "not 0", 'above 0']),
    ({'health_config': {'check': 'often'}}, ["'health_config.check' must be", "not 'often'", 'auto, step, log, off']),
    ({'collapse_config': {'check': 'on'}}, ["'collapse_config.check' must be", "not 'on'", 'one of auto, off, false']),
    ({'collapse_config': {'min_std': 2}}, ["'collapse_config.min_std' must be", "not 2", 'from 0 to 1']),
    ({'collapse_config': {'max_acc': 101}}, ["'collapse_config.max_acc' must be", "not 101", 'from 0 to 100']),
    ({'collapse_config': {'min_stdd': 0.1}}, ["no setting 'min_stdd'", "'min_std'"]),
    ({'lr_config': {'unit': 'step'}}, ["'lr_config.unit' must be", "not 'step'", 'one of iter, epoch']),
    ({'lr_config': {'name': 'IterTimerHook'}}, ["'lr_config.name' must be LRSchedulerHook"]),
    ({'log_config': {'priority': 'LAST'}}, ["'log_config.priority' must be a number: 10 is first", "not 'LAST'"]),
    ({'custom_config': [{'name': 'LossLambdaWarmupHook', 'start_iters': 5}]}, ['needs model DenseCL', 'MoCo']),
    ({'custom_config': [{'name': 'LossLambdaWarmupHook', 'start_iters': 'ten'}]}, ['start_iters', "'ten'"]),
    ({'custom_config': [{'name': 'LossLambdaWarmupHook'}]}, ['needs start_iters']),
    ({'custom_config': [{'name': 'EvaluateHook', 'eval_kargs': {'top': 1}}]}, ["'top'", 'topk']),
    ({'custom_config': [{'name': 'EvaluateHook', 'eval_kargs': {'topk': 1}}]}, ['topk', '[1, 5]']),
    ({'custom_config': [{'name': 'EvaluateHook', 'eval_kargs': {'topk': [0]}}]}, ['topk', 'list of whole numbers']),
    ({'custom_config': [{'name': 'EvaluateHook', 'interval': 0}]},
     ["'custom_config.0.interval' must be a whole number of 1 or more, not 0"]),
])
def test_settings_of_hooks(data, out, capsys, change, parts):
    done = refused_training(moco(data, **merge(out, change)), capsys, parts)
    assert 'Epoch [1/' not in done.out


# ---------------------------------------------------------------------------------------------------------- data

def dataroot(path, name='UnlabelledFolder'):
    return {'dataloader': {'train': {'dataset': {'name': name, 'dataroot': str(path)}}}}


def test_data_folder(data, out, tmp_path, capsys, monkeypatch):
    missing = tmp_path / 'nowhere'
    refused_training(moco(data, **out, **dataroot(missing)), capsys,
                     [f"no folder '{missing}'", '-o dataloader.train.dataset.dataroot=FOLDER'])
    empty = tmp_path / 'empty'
    empty.mkdir()
    refused_training(moco(data, **out, **dataroot(empty)), capsys, [f"'{empty}' holds no images", '.jpg'])
    refused_training(moco(data, **out, **dataroot(empty, 'ImageNet')), capsys,
                     [f"'{empty}' is empty", '<class>/<image>'])
    refused_training(moco(data, **out, **dataroot(__file__)), capsys, ['is a file, not a folder'])
    access = os.access          # root may read everything: the refusal is simulated
    monkeypatch.setattr(os, 'access', lambda p, *a, **k: str(p) != str(empty) and access(p, *a, **k))
    refused_training(moco(data, **out, **dataroot(empty)), capsys, [f"'{empty}' may not be read"])
    assert not os.path.exists(os.path.join(out['output_dir'], 'small', 'log.jsonl'))


def test_folder_of_files_that_are_no_images(data, out, tmp_path, capsys):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for i in range(8):
        (folder / f'{i}.png').write_bytes(b'no image')
    refused_training(moco(data, **out, **dataroot(folder)), capsys, ['images are unreadable', 'max_bad', str(folder)])


def test_batch_larger_than_the_data_set(data, out, capsys):
    refused_training(moco(data, **out), capsys,
                     ['The batch (13) is larger than the data set (12 images)', 'drop_last', 'batch_size'],
                     '-o', 'dataloader.train.sampler.batch_size=13')


def test_accumulate_steps_beyond_the_epoch(data, out, capsys):
    refused_training(moco(data, **out), capsys,
                     ["'optimizer_config.accumulate_steps' is 4", 'an epoch has only 3 batches', 'Lower'],
                     '-o', 'optimizer_config.accumulate_steps=4')


def test_evaluation_without_a_val_part(data, out, capsys):
    """Said before the first step, not after the first epoch."""
    cfg = clas(data, **out)
    del cfg['dataloader']['val']
    refused_training(cfg, capsys, ["'dataloader.val' is missing", 'evaluation'], '--evaluate-only')
    for change, argv in (({'custom_config': [{'name': 'EvaluateHook'}]}, []), ({}, ['--val-interval', '1'])):
        done = refused_training(merge(cfg, change), capsys, ["'dataloader.val' is missing", 'EvaluateHook'], *argv)
        assert 'Epoch [1/' not in done.out
        assert not os.path.exists(os.path.join(out['output_dir'], 'small', 'log.jsonl'))


def test_evaluation_of_a_model_without_predictions(data, out, finished, capsys):
    """Said before the first step too."""
    val = {'dataloader': {'val': clas(data)['dataloader']['val']}}
    cfg = moco(data, **merge(out, val))
    parts = ['MoCo is trained without labels', 'Evaluate its backbone', '--pretrained']
    refused_training(cfg, capsys, parts, '--evaluate-only', '--load', os.path.join(finished, 'epoch_1.pdparams'))
    done = refused_training(merge(cfg, {'custom_config': [{'name': 'EvaluateHook'}]}), capsys, parts)
    assert 'Epoch [1/' not in done.out


def test_evaluation_without_labels(data, out, capsys):
    cfg = clas(data, **out)
    cfg['dataloader']['val']['dataset']['return_label'] = False
    refused_training(cfg, capsys, ["Set 'return_label: true' in dataloader.val.dataset"], '--evaluate-only')


def test_momentum_config_of_a_model_without_momentum_encoder(data, out, capsys):
    refused_training(clas(data, **out, momentum_config={'name': 'MomentumUpdateHook'}), capsys,
                     ["'momentum_config' is given, but Classification has no momentum encoder", 'Remove it'])


def test_classes(data, out, tmp_path, make_images, capsys):
    cfg = clas(data, **out)
    parts = ["'dataloader.train' has 3 classes", "'model.head.num_classes' is 2", '-o model.head.num_classes=3']
    refused_training(cfg, capsys, parts, '-o', 'model.head.num_classes=2')
    refused_training(cfg, capsys, ["'dataloader.val' has 3 classes"], '--evaluate-only',
                     '-o', 'model.head.num_classes=2')
    make_images(tmp_path / 'other', 2, classes=['class0', 'class1', 'another'])
    cfg['dataloader']['val']['dataset']['dataroot'] = str(tmp_path / 'other')
    refused_training(cfg, capsys, ['they differ', 'another', 'class2', 'Give both the same class folders'],
                     '--val-interval', '1')


def test_views_and_models_that_do_not_fit(data, out, capsys):
    two = {'return_two_sample': True}
    refused_training(clas(data, **merge(out, {'dataloader': {'train': {'dataset': two}}})), capsys,
                     ['Classification needs (image, label) batches', "'return_two_sample: false'"])
    refused_training(clas(data, **merge(out, {'dataloader': {'train': {'dataset': dict(two, return_label=False)}}})),
                     capsys, ['Classification needs (image, label) batches', "'return_label: true'"])
    one = {'dataloader': {'train': {'dataset': {'return_two_sample': False}}}}
    for config, name in ((moco, 'MoCo'), (densecl, 'DenseCL')):
        refused_training(config(data, **merge(out, one)), capsys,
                         [f'{name} needs two views of every image', "'return_two_sample: true'"], name=name)


# ------------------------------------------------------------------------------------------------------- weights

class Evil:
    """Unpickling this the usual way runs a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def use(way, weights, cfg, tmp_path, capsys):
    """The Done of giving the file `weights` to one of the commands that read weights."""
    if way == 'extract-weight':
        return extract([weights, '--output', tmp_path / 'extracted.pdparams'], capsys)
    argv = [f'--{way}', weights] if way != 'evaluate' else ['--evaluate-only', '--load', weights]
    return call(train_main, ['-c', write_config(cfg), *argv], capsys)


WAYS = ('resume', 'load', 'pretrained', 'export', 'extract-weight')


@pytest.fixture
def pretrainable(data, out, monkeypatch):
    """A config that reads `--pretrained`: of a classifier on a narrow ResNet-18."""
    narrow_networks(monkeypatch)
    return clas(data, **merge(out, {'model': {'backbone': {'name': 'ResNet', 'depth': 18},
                                              'head': {'in_channels': 512}}}))


@pytest.mark.parametrize('way', WAYS)
def test_malicious_pickle(way, data, out, tmp_path, capsys, pretrainable):
    """In the place of weights in a file that looks like a checkpoint."""
    canary, weights = tmp_path / 'canary', tmp_path / 'evil.pdparams'
    state = {'format': 'passl-densecl', 'version': 1, 'state_dict': {'encoder_q.0.conv1.weight': Evil(canary)}}
    weights.write_bytes(pickle.dumps(state))
    cfg = pretrainable if way == 'pretrained' else moco(data, **out)
    refused(use(way, weights, cfg, tmp_path, capsys), f"Refusing to read '{weights}'", 'system', 'source you trust')
    assert not canary.exists()


@pytest.mark.parametrize('way', WAYS)
def test_truncated_checkpoint(way, data, out, tmp_path, capsys, finished, pretrainable):
    weights = tmp_path / 'cut.pdparams'
    with open(os.path.join(finished, 'epoch_1.pdparams'), 'rb') as f:
        weights.write_bytes(f.read()[:-1000])
    cfg = pretrainable if way == 'pretrained' else moco(data, **out)
    refused(use(way, weights, cfg, tmp_path, capsys), str(weights), 'older checkpoint')
    assert not (tmp_path / 'extracted.pdparams').exists()


@pytest.mark.parametrize('way', WAYS)
def test_missing_file(way, data, out, tmp_path, capsys, pretrainable):
    cfg = pretrainable if way == 'pretrained' else moco(data, **out)
    refused(use(way, tmp_path / 'none.pdparams', cfg, tmp_path, capsys), 'no file', tmp_path / 'none.pdparams')


@pytest.mark.parametrize('way', ['resume', 'load', 'evaluate'])      # an export takes the backbone alone
def test_checkpoint_of_another_architecture(way, data, out, tmp_path, capsys, finished):
    weights = os.path.join(finished, 'epoch_1.pdparams')
    cfg = clas(data, **out) if way == 'evaluate' else densecl(data, **out)
    refused(use(way, weights, cfg, tmp_path, capsys), f"'{weights}' does not fit the model", 'matched',
            'missing in the file')


def test_pretrained_that_does_not_match(data, tmp_path, capsys, pretrainable):
    def try_it(weights, *parts):
        refused(use('pretrained', weights, pretrainable, tmp_path, capsys), f"'{weights}'", *parts)

    resnet18 = tmp_path / 'r18.pdparams'
    save_file({k: v.numpy() for k, v in paddle.vision.models.resnet18().state_dict().items()}, resnet18)
    pretrainable['model']['backbone']['depth'] = 34
    try_it(resnet18, 'does not fit the backbone', 'holds ResNet-18', 'the model is a ResNet-34',
           'Use a file of that depth')
    pretrainable['model']['backbone']['depth'] = 18

    keys = tmp_path / 'keys.pdparams'
    save_file({'a.weight': np.zeros(3, 'f4'), 'b.weight': np.zeros(3, 'f4')}, keys)
    try_it(keys, 'holds no ResNet backbone', 'Its names begin with a', 'Known are: passl, torchvision')
    save_file({'backbone.other.weight': np.zeros(3, 'f4')}, keys)
    try_it(keys, 'does not fit the backbone', 'matched 0 of', 'in the file but not used: other.weight')
    save_file({'epoch': 3}, keys)
    try_it(keys, 'holds no named weights')


def test_pretrained_of_the_run_before_its_extraction(data, tmp_path, capsys, finished, pretrainable):
    """The backbone of another kind of network: nothing matches in shape."""
    refused(use('pretrained', os.path.join(finished, 'epoch_1.pdparams'), pretrainable, tmp_path, capsys),
            'does not fit the backbone',
            'another shape: conv1.weight [8, 3, 3, 3] in the file, [8, 3, 7, 7] in the model')


def test_resume_of_what_is_no_full_checkpoint(data, out, tmp_path, capsys, finished):
    full = load_file(os.path.join(finished, 'epoch_1.pdparams'))
    cfg = moco(data, **out)
    weights = tmp_path / 'flat.pdparams'
    save_file(full['state_dict'], weights)
    refused(use('resume', weights, cfg, tmp_path, capsys), f"'{weights}' is not a checkpoint of a run", 'Use --load')
    save_file(dict(full, version=99), weights)
    refused(use('resume', weights, cfg, tmp_path, capsys), 'format version 99', 'Update passl')
    refused(call(train_main, ['-c', write_config(cfg), '--resume', os.path.join(finished, 'epoch_9.pdparams')], capsys),
            "no file '", 'epoch_9.pdparams', 'That folder has epoch_1.pdparams')
    done = call(train_main, ['-c', write_config(cfg), '--evaluate-only', '--resume', weights], capsys)
    refused(done, "'dataloader.val' is missing")
    done = call(train_main, ['-c', write_config(clas(data, **out)), '--evaluate-only', '--resume', weights], capsys)
    refused(done, '--load FILE, not from --resume')


def test_resume_without_the_optimizer(data, out, capsys):
    cfg = moco(data, **out, checkpoint={'save_optimizer': False}, epochs=1)
    folder, _ = train(cfg, capsys)
    path = os.path.join(folder, 'epoch_1.pdparams')
    assert 'optimizer' not in load_file(path)
    refused_training(cfg, capsys, [f"'{path}' was saved without the optimizer", 'save_optimizer: false', '--load'],
                     '--resume', path, '-o', 'epochs=2')
    train(cfg, capsys, '--load', path, '-o', f"output_dir={out['output_dir']}2")


def test_extract_weight(tmp_path, capsys, finished):
    checkpoint, output = os.path.join(finished, 'epoch_1.pdparams'), tmp_path / 'x.pdparams'
    refused(extract([checkpoint, '--output', output, '--prefix', 'encoder_x'], capsys),
            "no weights below 'encoder_x'", 'encoder_q.0')
    refused(extract([checkpoint, '--output', tmp_path / 'x.npz'], capsys), 'must end in .pdparams or .safetensors')
    refused(extract([checkpoint, '--outputs', output], capsys), "Did you mean '--output'?")
    assert not output.exists()
    assert extract([checkpoint, '--output', output], capsys).code == 0
    refused(extract([checkpoint, '--output', output], capsys), 'exists already', '--overwrite')


# --------------------------------------------------------------------------------------------- device, run folder

def test_gpu_on_a_cpu_build_warns_and_runs(data, out, capsys, monkeypatch):
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: False)
    cfg = moco(data, **out, device='gpu', total_iters=1, epochs=None)
    folder, done = train(cfg, capsys)
    assert 'WARNING' in done.out and 'running on the CPU' in done.out and '--no-cuda' in done.out
    assert len(records(folder)) == 1
    _, done = train(cfg, capsys, '--overwrite', '--no-cuda')
    assert 'running on the CPU' not in done.out


def content(folder):
    """{relative path: bytes} of all files below `folder` but the lock; links as what they point to."""
    found = {}
    for here, _, files in os.walk(folder):
        for name in set(files) - {'.lock'}:
            path = os.path.join(here, name)
            with open(path, 'rb') as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


def test_timestamp_gives_each_run_its_own_folder(data, out, capsys):
    cfg = moco(data, **out, epochs=1)
    train(cfg, capsys)
    refused_training(cfg, capsys, ['already holds a run', '-o timestamp=true'])
    train(cfg, capsys, '-o', 'timestamp=true')
    assert len([n for n in os.listdir(out['output_dir']) if n.startswith('small-2')]) == 1


def test_resume_auto_of_a_run_that_never_saved(data, out, capsys):
    """Killed in its first epoch: `--resume auto` starts anew and keeps what there is."""
    cfg = moco(data, **out, epochs=1)
    folder, _ = train(cfg, capsys)
    for name in ('epoch_1.pdparams', 'latest.pdparams'):
        os.unlink(os.path.join(folder, name))
    before = content(folder)
    _, done = train(cfg, capsys, '--resume', 'auto')
    assert 'starting anew' in done.out
    assert content(folder + '.bak-1') == before and len(records(folder)) == 3


def test_an_evaluation_does_not_occupy_the_run_folder(data, out, capsys):
    cfg = clas(data, **out, epochs=1)
    folder, done = train(cfg, capsys, '--evaluate-only')
    assert 'was never trained' in done.out and len(records(folder, 'val')) == 1
    train(cfg, capsys)
    refused_training(cfg, capsys, ['already holds a run'])


def test_run_folder_that_cannot_be_made(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    path = write_config(moco(data), 'small', str(tmp_path))
    refused(call(train_main, ['-c', path, '-o', f'output_dir={tmp_path}/file'], capsys),
            'Cannot write to the run folder', '-o output_dir=DIR')


# -------------------------------------------------------------------------------------------------------- the run

def test_loss_that_is_not_a_number_stops_the_run(data, out, capsys):
    cfg = moco(data, **out, epochs=20, log_config={'interval': 2}, lr_scheduler={'learning_rate': 1e30})
    words = ['Iteration ', ' gradients: ', ' nan, ', 'e+29)', 'learning_rate', 'grad_clip']
    done = refused_training(cfg, capsys, words)
    iteration = int(done.err.split('Iteration ')[1].split()[0])
    assert 2 <= iteration <= 9
    folder = os.path.join(out['output_dir'], 'small')
    assert all(np.isfinite(r['loss']) for r in records(folder))


def test_a_checkpoint_never_holds_a_loss_that_is_not_a_number(data, out, capsys):
    """Also where checkpoints are more frequent than log lines: pruning would drop the last good one."""
    cfg = moco(data, **out, epochs=None, total_iters=60, log_config={'interval': 60},
               health_config={'check': 'log'},
               lr_scheduler={'learning_rate': 1e30, 'T_max': None},
               checkpoint={'by_epoch': False, 'interval': 1, 'max_keep_ckpts': 1},
               dataloader={'train': {'sampler': {'batch_size': 1}}})
    refused_training(cfg, capsys, ['weights are nan or inf after iteration', 'not saved, older checkpoints are kept'])
    folder = os.path.join(out['output_dir'], 'small')
    names = [n for n in os.listdir(folder) if n.startswith('iter_')]
    assert len(names) == 1
    assert all(np.isfinite(v).all() for k, v in load_file(os.path.join(folder, names[0]))['state_dict'].items())


def test_export_twice(data, out, capsys, finished):
    weights = os.path.join(finished, 'epoch_1.pdparams')
    cfg = moco(data, **out)
    argv = ['-c', write_config(cfg), '--export', weights]
    assert call(train_main, argv, capsys).code == 0
    folder = os.path.join(out['output_dir'], 'small', 'inference')
    before = content(folder)
    assert before
    refused(call(train_main, argv, capsys), folder, 'exists already', '-o save_inference_dir=DIR')
    assert content(folder) == before
    refused(call(train_main, [*argv, '-o', 'image_shape=[32, 32]'], capsys),
            "'image_shape' is [32, 32]", 'height, width')
    other = os.path.join(out['output_dir'], 'other')
    assert call(train_main, [*argv, '-o', f'save_inference_dir={other}'], capsys).code == 0
    assert set(content(other)) == set(before)
