"""Config files: values, inheritance, overrides, schema and messages."""

import copy
import glob
import os
import sys
import textwrap

import numpy as np
import pytest

from passl.utils.config import (apply_overrides, dump_config, load_config, merge, read_config, validate,
                                with_defaults)
from passl.utils.errors import ConfigError
from passl.utils.config.schema import describe, structural_keys
from passl.utils.config.yaml_text import parse_yaml

FIXTURES = os.path.join(os.path.dirname(__file__), '..', 'fixtures', 'passl_v1')

CONFIG = {
    'epochs': 200,
    'model': {'name': 'DenseCL', 'backbone': {'name': 'ResNet', 'depth': 50},
              'head': {'name': 'ContrastiveHead'}, 'neck': None},
    'dataloader': {'train': {
        'sampler': {'batch_size': 32},
        'dataset': {'name': 'ImageNet', 'transforms': [{'name': 'RandomResizedCrop', 'size': 224},
                                                       {'name': 'Transpose'}]}}},
    'optimizer': {'name': 'Momentum', 'weight_decay': 1e-4, 'grad_clip': None},
    'lr_scheduler': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.03, 'T_max': 200},
    'custom_config': [{'name': 'EvaluateHook'}],
}


@pytest.fixture
def write(tmp_path):
    """write(text, name='a.yaml') -> path of a file with that text."""
    def write_file(text, name='a.yaml'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding='utf-8')
        return str(path)
    return write_file


def changed(path, value):
    """Deep copy of CONFIG with one value replaced or added."""
    cfg = copy.deepcopy(CONFIG)
    node, keys = cfg, path.split('.')
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return cfg


def error_of(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


SCALARS = [
    ('1e-4', 1e-4), ('1E-4', 1e-4), ('-2e+3', -2000.0), ('1.0e-4', 1e-4), ('.5', 0.5), ('3.', 3.0),
    ('1e5', 1e5), ('200', 200), ('-7', -7), ('+7', 7), ('0', 0), ('65_536', 65536), ('0x10', 16),
    ('None', None), ('null', None), ('~', None), ('', None), ('true', True), ('False', False), ('off', False),
    ('1.0/255.0', 1 / 255), ('1/255', 1 / 255), ('8*32', 256), ('0.03 * 2', 0.06), ('-1/4', -0.25),
    ('8*32/256/2', 0.5), ('1e-3/2', 5e-4), ('.inf', float('inf')), ('-.inf', float('-inf')),
    # text stays text
    ('none', 'none'), ('1e', '1e'), ('e-4', 'e-4'), ('1-4', '1-4'), ('1+1', '1+1'), ('2**3', '2**3'),
    ('1/x', '1/x'), ('/1/2', '/1/2'), ('2024-01-31', '2024-01-31'), ('12:30', '12:30'), ('007', '007'),
    ('O1', 'O1'), ('data/ILSVRC2012', 'data/ILSVRC2012'),
    ("__import__('os').getcwd()", "__import__('os').getcwd()"),
    # quoted text stays text
    ("'1e-4'", '1e-4'), ('"None"', 'None'), ("'1.0/255.0'", '1.0/255.0'), ('"200"', '200'),
    ("'true'", 'true'),
    ('[1e-4, None, 1/4, "1/4"]', [1e-4, None, 0.25, '1/4']), ('{a: 1e-4, b: None}', {'a': 1e-4, 'b': None}),
    ('!!str 12', '12'), ('!!float 1', 1.0),
]


@pytest.mark.parametrize('text, value', SCALARS)
def test_scalars_mean_what_was_written_in_files_and_overrides(write, text, value):
    from_file = load_config(write(f'model:\n  name: M\n  x: {text}\n'))['model']['x']
    from_override = load_config(write('model: {name: M}'), [f'model.x={text}'])['model']['x']
    for got in (from_file, from_override):
        assert got == value and type(got) is type(value)


def test_nan_is_read():
    assert np.isnan(parse_yaml('.nan', 'x'))


@pytest.mark.parametrize('file', ['densecl_r50', 'moco_v1_r50', 'moco_v2_r50', 'moco_clas_r50'])
def test_passl_files_load_unmodified_and_survive_a_round_trip(write, file):
    cfg = load_config(os.path.join(FIXTURES, file + '.yaml'), training=True)
    assert load_config(write(dump_config(cfg), 'again.yaml')) == cfg
    recipe = []
    for key in ('transforms', 'view_trans1'):
        recipe += cfg['dataloader']['train']['dataset'].get(key, [])
    scale = [t['scale'] for t in recipe if t['name'] == 'NormalizeImage']
    assert scale == [] or scale == [1 / 255]
    if file == 'densecl_r50':
        assert cfg['model']['neck']['num_grid'] is None


# ------------------------------------------------------------------ refusing files

@pytest.mark.parametrize('text', ['!!python/object/apply:os.system ["touch hacked"]',
                                  '!!python/name:os.system', '!!python/tuple [1]', '!Callable x',
                                  '!!binary aGk=', '!!set {a}'])
def test_tags_that_build_objects_are_refused(write, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(f'epochs: 1\nmodel: {text}\n')
    message = error_of(load_config, path)
    assert f'{path}, line 2' in message and text.split()[0] in message and 'not allowed' in message
    assert 'not allowed' in error_of(load_config, write('epochs: 1'), [f'model={text}'])
    assert not os.path.exists('hacked')


@pytest.mark.parametrize('text, line, reason', [
    ('epochs: 1\nmodel: [1, 2\nseed: 0\n', 3, 'expected'),
    ('epochs: 1\n\tseed: 0\n', 2, 'cannot start any token'),
    ('epochs: 1\nmodel: *nowhere\n', 2, 'undefined alias'),
    ('epochs: 1\n---\nepochs: 2\n', 2, 'another document'),
    ('seed: 0\nepochs: 1\nseed: 1\n', 3, "the key 'seed' appears twice, first in line 1"),
    ('model:\n  name: A\n  name: B\n', 3, "the key 'name' appears twice, first in line 2"),
    ('model: {name: A}\n2: 3\n', 2, "the key '2' is not text"),
    ('model:\n  on: 3\n', 2, "the key 'on' is not text"),
    ('? [a]\n: 1\n', 1, 'a list or mapping is not text'),
    ('seed: 1/0\n', 1, "'1/0' cannot be read"),
    ('seed: !!int abc\n', 1, "'abc' cannot be read"),
    ('seed: !!bool abc\n', 1, "'abc' cannot be read"),
])
def test_yaml_errors_name_file_and_line(write, text, line, reason):
    path = write(text)
    message = error_of(load_config, path)
    assert f'{path}, line {line}, column' in message and reason in message


def test_files_that_hold_no_config(write, tmp_path):
    assert 'the file is empty' in error_of(load_config, write('# nothing\n'))
    assert 'not a list' in error_of(load_config, write('- a\n'))
    assert 'is a folder' in error_of(load_config, str(tmp_path))
    (tmp_path / 'b.yaml').write_bytes(b'\xff\xfe\x00bad')
    assert 'UTF-8' in error_of(load_config, str(tmp_path / 'b.yaml'))
    assert 'b.yaml' in error_of(load_config, write('a: "\x07"', 'b.yaml'))
    assert 'contains itself' in error_of(load_config, write('model: &a [*a]'))
    assert 'nested too deeply' in error_of(load_config, write('model: ' + '[' * 5000))
    bomb = 'a0: &a0 [x, x]\n' + ''.join(f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n' for i in range(1, 40))
    error = error_of(load_config, write(bomb))
    assert 'with its aliases (*name) written out it has more than 262144 characters' in error


def test_missing_file_names_itself_and_the_nearest(write, tmp_path):
    write('epochs: 1', 'densecl_r50.yaml')
    write('epochs: 1', 'moco_v2_r50.yaml')
    message = error_of(load_config, str(tmp_path / 'densecl_r05.yaml'))
    assert 'densecl_r05.yaml' in message and "Did you mean 'densecl_r50.yaml'?" in message
    nowhere = tmp_path / 'nowhere'
    assert f"no folder '{nowhere}'" in error_of(load_config, str(nowhere / 'a.yaml'))


def test_bom_and_windows_lines(tmp_path):
    (tmp_path / 'a.yaml').write_bytes(b'\xef\xbb\xbfepochs: 3\r\nseed: 1\r\n')
    assert load_config(tmp_path / 'a.yaml') == {'epochs': 3, 'seed': 1}


# ------------------------------------------------------------------ _base_ and merging

def test_bases_merge_in_order_and_the_file_wins(write):
    write('model: {name: A, backbone: {name: ResNet, depth: 18}}\nseed: 1\noutput_dir: one', 'sub/one.yaml')
    write('model: {backbone: {depth: 50}}\ncustom_imports: [a, b]\nseed: 2', 'two.yaml')
    path = write('''\
        _base_: [sub/one.yaml, two.yaml]
        model: {backbone: {pretrained: x}}
        custom_imports: [c]
        ''')
    assert load_config(path) == {
        'model': {'name': 'A', 'backbone': {'name': 'ResNet', 'depth': 50, 'pretrained': 'x'}},
        'seed': 2, 'output_dir': 'one', 'custom_imports': ['c']}


def test_base_is_relative_to_the_file_that_names_it(write, tmp_path, monkeypatch):
    write('seed: 5', 'x/base.yaml')
    write('_base_: ../x/base.yaml\nepochs: 2', 'y/mid.yaml')
    path = write('_base_: y/mid.yaml')
    monkeypatch.chdir('/')
    assert load_config(path) == {'seed': 5, 'epochs': 2}


def test_diamond_is_no_cycle_but_a_circle_is(write):
    write('seed: 5', 'root.yaml')
    write('_base_: root.yaml', 'l.yaml')
    write('_base_: root.yaml', 'r.yaml')
    assert load_config(write('_base_: [l.yaml, r.yaml]')) == {'seed': 5}
    write('_base_: c.yaml', 'b.yaml')
    write('_base_: b.yaml', 'c.yaml')
    assert 'circle: b.yaml -> c.yaml -> b.yaml' in error_of(load_config, write('_base_: c.yaml', 'b.yaml'))
    assert 'circle' in error_of(load_config, write('_base_: self.yaml', 'self.yaml'))


def test_delete_drops_what_was_inherited(write):
    write('model: {name: A, head: {name: H, t: 1}}\noptimizer: {name: SGD, x: 1}', 'base.yaml')
    path = write('''\
        _base_: base.yaml
        model: {head: {_delete_: true, name: Other, u: 2}}
        optimizer: {_delete_: false, x: 2}
        lr_scheduler: {_delete_: true, name: L}
        ''')
    assert load_config(path) == {'model': {'name': 'A', 'head': {'name': 'Other', 'u': 2}},
                                 'optimizer': {'name': 'SGD', 'x': 2}, 'lr_scheduler': {'name': 'L'}}
    assert "'_delete_' must be true or false" in error_of(load_config, write('model: {_delete_: 3}'))


def test_bad_bases(write):
    message = error_of(load_config, write('_base_: nobody.yaml'))
    assert 'nobody.yaml' in message and "named by '_base_' of" in message and 'a.yaml' in message
    assert 'must be a file name' in error_of(load_config, write('_base_: 3'))
    broken = write('a: [', 'broken.yaml')
    assert f'{broken}, line 1' in error_of(load_config, write('_base_: broken.yaml'))


def test_merge_replaces_lists_and_changes_no_input():
    base, top = {'a': {'x': 1, 'l': [1, 2]}, 'b': 1}, {'a': {'l': [3]}, 'b': {'c': None}}
    before = copy.deepcopy((base, top))
    merged = merge(base, top)
    assert merged == {'a': {'x': 1, 'l': [3]}, 'b': {'c': None}}
    merged['a']['l'].append(9)
    merged['b']['c'] = 9
    assert (base, top) == before


def test_aliases_are_not_shared(write):
    path = write('dataloader:\n  train: &part {sampler: {batch_size: 2}, dataset: {name: D}}\n  val: *part\n')
    cfg = load_config(path, ['dataloader.train.sampler.batch_size=7'])
    assert cfg['dataloader']['val']['sampler']['batch_size'] == 2
    path = write('model: &m {name: A, x: 1}\noptimizer: &o {<<: *m, x: 2}\nlr_scheduler: {<<: *o, x: 3}\n')
    assert load_config(path)['lr_scheduler'] == {'name': 'A', 'x': 3}


# ------------------------------------------------------------------ overrides

@pytest.mark.parametrize('override, path, value', [
    ('epochs=3', ['epochs'], 3),
    ('dataloader.train.dataset.transforms.0.size=96',
     ['dataloader', 'train', 'dataset', 'transforms', 0, 'size'], 96),
    ('dataloader.train.dataset.transforms.1.p=1/2',
     ['dataloader', 'train', 'dataset', 'transforms', 1, 'p'], 0.5),
    ('dataloader.train.dataset.dataroot=a=b c', ['dataloader', 'train', 'dataset', 'dataroot'], 'a=b c'),
    ('dataloader.train.loader.num_workers=0', ['dataloader', 'train', 'loader'], {'num_workers': 0}),
    ('model.head.num_classes=10', ['model', 'head', 'num_classes'], 10),
    ('model.neck={name: N, d: [1, 2]}', ['model', 'neck'], {'name': 'N', 'd': [1, 2]}),
    ('model.backbone.pretrained=', ['model', 'backbone', 'pretrained'], None),
    ('optimizer.grad_clip.clip_norm=1',
     ['optimizer', 'grad_clip'], {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1}),
    ('optimizer.weight_decay=1e-5', ['optimizer', 'weight_decay'], 1e-5),
    ('checkpoint.interval=5', ['checkpoint'], {'name': 'CheckpointHook', 'interval': 5}),
    ('AMP.auto_cast.custom_black_list=[relu]', ['AMP'], {'auto_cast': {'custom_black_list': ['relu']}}),
    ('custom_config.0.init_eval=true', ['custom_config', 0], {'name': 'EvaluateHook', 'init_eval': True}),
    ('custom_config.0={name: VisualHook}', ['custom_config', 0], {'name': 'VisualHook'}),
    ('device=cpu', ['device'], 'cpu'),
])
def test_overrides(override, path, value):
    before = copy.deepcopy(CONFIG)
    cfg = apply_overrides(CONFIG, [override])
    node = cfg
    for key in path:
        node = node[key]
    assert node == value and type(node) is type(value)
    assert CONFIG == before
    validate(cfg)


def test_overrides_work_in_order():
    cfg = apply_overrides(CONFIG, ['epochs=null', 'total_iters=5', 'total_iters=6'])
    assert cfg['epochs'] is None and cfg['total_iters'] == 6
    validate(cfg, training=True)


@pytest.mark.parametrize('override, parts', [
    ('epochs', ['-o epochs', 'key.key=value']),
    ('=3', ['key.key=value']),
    ('model..x=3', ['key.key=value']),
    ('epoch=3', ["has no key 'epoch'", "Did you mean 'epochs'?"]),
    ('dataloader.train.sampler.batchsize=3', ["'dataloader.train.sampler'", "Did you mean 'batch_size'?"]),
    ('dataloder.train.x=3', ["Did you mean 'dataloader'?"]),
    ('batch_size=3', ["It belongs to 'dataloader.train.sampler.batch_size'"]),
    ('model.backbne.depth=18', ["'model' has no 'backbne'", "Did you mean 'backbone'?"]),
    ('model.backbone.a.b=18', ["'model.backbone' has no 'a'"]),
    ('dataloader.train.dataset.transforms.2.size=9', ['index 2 is out of range', 'list of 2', '0 to 1']),
    ('dataloader.train.dataset.transforms.-1.size=9', ["give an index instead of '-1'"]),
    ('dataloader.train.dataset.transforms.size=9', ["'dataloader.train.dataset.transforms' is a list of 2"]),
    ('epochs.x=9', ["'epochs' is 200: there is no 'x' below it"]),
    ('seed.x=9', ["'seed' is not in the config"]),
    ('model.name.x=9', ["'model.name' is 'DenseCL'"]),
    ('epochs=[1', ['-o epochs=[1', 'line 1', 'epochs="..."']),
    ('model.x=@home', ['-o model.x', 'model.x="..."']),
    ('_base_=x.yaml', ['work in files only']),
    ('model._delete_=true', ['work in files only']),
])
def test_override_errors(override, parts):
    message = error_of(apply_overrides, CONFIG, [override])
    for part in parts:
        assert part in message


def test_configs_of_other_programs(tmp_path):
    """Merged and overridden by the same rules, their keys unchecked."""
    (tmp_path / 'base.yml').write_text('model: {type: FCN, channels: 8}\niters: 5\n')
    (tmp_path / 'a.yml').write_text('_base_: base.yml\nmodel: {type: Other}\n')
    cfg = read_config(tmp_path / 'a.yml')
    assert cfg == {'model': {'type': 'Other', 'channels': 8}, 'iters': 5}
    assert apply_overrides(cfg, ['model.new=1e-4', 'fresh=2'], schema=None) == {
        'model': {'type': 'Other', 'channels': 8, 'new': 1e-4}, 'iters': 5, 'fresh': 2}
    with pytest.raises(ConfigError, match="'model' has no 'no'"):
        apply_overrides(cfg, ['model.no.x=1'], schema=None)


def test_override_of_a_wrong_type_is_reported_with_the_file(write):
    path = write('epochs: 1')
    assert error_of(load_config, path, ['epochs=abc']) == \
        f"{path}: 'epochs' must be a whole number of 1 or more, not 'abc'."


# ------------------------------------------------------------------ schema

@pytest.mark.parametrize('path, value, message', [
    ('epochs', 'abc', "'epochs' must be a whole number of 1 or more, not 'abc'."),
    ('epochs', 0, "'epochs' must be a whole number of 1 or more, not 0."),
    ('epochs', True, "'epochs' must be a whole number of 1 or more, not True."),
    ('epochs', 2.0, "'epochs' must be a whole number of 1 or more, not 2.0."),
    ('seed', 1.5, "'seed' must be a whole number of 0 or more, not 1.5."),
    ('seed', -1, "'seed' must be a whole number of 0 or more, not -1."),
    ('device', 'gpus', "'device' must be one of cpu, gpu, xpu, npu, not 'gpus'."),
    ('device', 0, "'device' must be one of cpu, gpu, xpu, npu, not 0."),
    ('output_dir', 3, "'output_dir' must be text (in quotes if it looks like a number), not 3."),
    ('timestamp', 'yes', "'timestamp' must be true or false, not 'yes'."),
    ('use_amp', 1, "'use_amp' must be true or false, not 1."),
    ('image_shape', 224, "'image_shape' must be a list of whole numbers such as [3, 224, 224], not 224."),
    ('dataloader.train.sampler.batch_size', 0,
     "'dataloader.train.sampler.batch_size' must be a whole number of 1 or more, not 0."),
    ('dataloader.train.sampler.batch_size', None,
     "'dataloader.train.sampler.batch_size' is missing: samples per process and step."),
    ('dataloader.train.sampler', 32, "'dataloader.train.sampler' must be a mapping, not 32."),
    ('dataloader.train.num_workers', -1,
     "'dataloader.train.num_workers' must be a whole number of 0 or more, not -1."),
    ('model', 'DenseCL', "'model' must be a mapping with a 'name', not 'DenseCL'."),
    ('model.backbone', {'depth': 50}, "'model.backbone.name' is missing: registered name."),
    ('optimizer.grad_clip', 1.0, "'optimizer.grad_clip' must be a mapping with a 'name', not 1.0."),
    ('optimizer.exclude_from_weight_decay', 'bn',
     "'optimizer.exclude_from_weight_decay' must be a list of texts, not 'bn'."),
    ('custom_config', {'name': 'X'},
     "'custom_config' must be a list of mappings with a 'name', not {'name': 'X'}."),
    ('custom_config', [{}], "'custom_config.0.name' is missing: registered name."),
    ('custom_imports', [3],
     "'custom_imports' must be text (in quotes if it looks like a number) or a list of texts, not [3]."),
    ('AMP', {'level': 'O3'}, "'AMP.level' must be one of O1, O2, not 'O3'."),
    ('AMP', {'scale_loss': float('inf')}, "'AMP.scale_loss' must be a number above 0, not inf."),
    ('AMP', {'decr_ratio': 1.5}, "'AMP.decr_ratio' must be a number above 0 and below 1, not 1.5."),
    ('epoch', 3, "The config has no key 'epoch'. Did you mean 'epochs'?"),
    ('dataloader.trian', {}, "'dataloader' has no key 'trian'. Did you mean 'train'?"),
    ('dataloader.train.loader', {'num_worker': 3},
     "'dataloader.train.loader' has no key 'num_worker'. Did you mean 'num_workers'?"),
    ('total_iters', 100, "'epochs' and 'total_iters' are both given: keep one "
                         "(-o epochs=null switches an inherited one off)."),
])
def test_schema_messages(path, value, message):
    cfg = changed(path, value)
    before = copy.deepcopy(cfg)
    assert error_of(validate, cfg) == message
    assert cfg == before


def test_all_mistakes_come_at_once():
    cfg = changed('seed', 1.5)
    cfg['epoch'] = 3
    message = error_of(validate, cfg)
    assert message.startswith('2 mistakes:') and "'seed'" in message and "'epochs'" in message


def test_components_are_free_here():
    validate(changed('model.anything', {'goes': [1, {'x': None}]}))
    validate(changed('dataloader.train.dataset.my_setting', 1))


def test_training_and_evaluation_need_different_parts():
    validate(CONFIG, training=True)
    validate({'epochs': 1})
    assert error_of(validate, {'model': {'name': 'M'}}, training=True).count('\n') == 3
    endless = changed('epochs', None)
    assert "'epochs' or 'total_iters' is missing" in error_of(validate, endless, training=True)
    validate(endless)
    message = error_of(validate, CONFIG, training=False)
    assert message == "'dataloader.val' is missing: an evaluation needs its data."
    evaluation = {'model': {'name': 'M'},
                  'dataloader': {'val': {'dataset': {'name': 'D'}, 'sampler': {'batch_size': 2}}}}
    validate(evaluation, training=False)
    assert "'dataloader.train' is missing" in error_of(validate, dict(evaluation, epochs=1), training=True)
    no_lr = changed('lr_scheduler', None)
    assert "'lr_scheduler' is missing" in error_of(validate, no_lr, training=True)
    no_lr['optimizer']['learning_rate'] = 0.1
    validate(no_lr, training=True)
    assert 'mapping of keys' in error_of(validate, [1])
    for wrong in ('optimizer', 'dataloader'):       # reported, not a TypeError
        assert f"'{wrong}' must be a mapping" in error_of(validate, changed(wrong, 3), training=True)


def test_defaults_are_filled_in_a_new_dict():
    cfg = changed('dataloader.train.num_workers', 3)
    cfg['checkpoint'] = {'interval': 2}
    cfg['seed'] = None
    before = copy.deepcopy(cfg)
    full = with_defaults(cfg)
    assert cfg == before
    assert (full['seed'], full['output_dir'], full['device'], full['timestamp'], full['use_amp']) == \
        (0, 'output_dir', None, False, False)
    assert full['AMP'] == {'level': 'O1', 'dtype': 'float16'}
    assert full['checkpoint'] == {'name': 'CheckpointHook', 'interval': 2}
    assert full['optimizer'] == cfg['optimizer'] and full['model'] == cfg['model']
    train = full['dataloader']['train']
    assert train['loader'] == {'num_workers': 3} and 'num_workers' not in train
    full['AMP']['level'] = 'O2'
    train['dataset']['transforms'].append(1)
    assert with_defaults(cfg)['AMP']['level'] == 'O1' and cfg == before
    validate(full, training=True)
    assert with_defaults(full) == full
    cfg['dataloader']['train']['loader'] = {'num_workers': 0}
    assert with_defaults(cfg)['dataloader']['train']['loader'] == {'num_workers': 0}
    assert with_defaults({})['seed'] == 0 and 'log_config' not in with_defaults({})


# ------------------------------------------------------------------ writing

def test_dump_reads_back_equal(write):
    values = {'name': 'M', 'f': [1e-4, 1e-20, 1e20, 0.1 + 0.2, 1 / 255, -0.0, float('inf'), 5.0], 'n': None,
              't': ['1e-4', 'None', '1/255', 'true', 'off', '007', '', '~', '2024-01-31', '<<', 'a: b', '# c',
                    '- d', '=2\x85.>6', '{\u2028}', '5\u2029', '\t', '\ufeff',
                    'two\nlines', ' s ', '数据', '0x10', '*a', '.inf', 'x' * 300, "it's"],
              'b': [True, False, 0, 1, -1], 'nested': [[1, [2]], {'a': [{}, []]}], 'empty': {}}
    text = dump_config({'model': values})
    back = load_config(write(text))['model']
    assert back == values and list(back) == list(values)
    assert [type(v) for v in back['f'] + back['b']] == [type(v) for v in values['f'] + values['b']]
    assert dump_config({'model': back}) == text


def test_dump_of_tuples_numpy_and_shared_parts(write):
    shared = [1, 2]
    cfg = {'model': {'name': 'M', 'a': (1, (2.5, None)), 'b': shared, 'c': shared,
                     'd': np.float32(0.5), 'e': np.int64(3), 'f': np.float64(0.1)}}
    text = dump_config(cfg)
    assert '&' not in text
    assert load_config(write(text))['model'] == {'name': 'M', 'a': [1, [2.5, None]], 'b': [1, 2], 'c': [1, 2],
                                                 'd': 0.5, 'e': 3, 'f': 0.1}
    assert cfg['model']['a'] == (1, (2.5, None))
    assert "'model.x.0' is a object" in error_of(dump_config, {'model': {'x': [object()]}})
    assert 'not text' in error_of(dump_config, {'model': {1: 2}})


# ------------------------------------------------------------------ the table itself

def test_describe_lists_every_key():
    text = describe()
    for path, spec in structural_keys():
        assert f'| `{path}` |' in text and spec.doc
    assert '| `seed` | a whole number of 0 or more | `0` |' in text
    assert '| `device` | one of cpu, gpu, xpu, npu | `null` |' in text


def test_config_needs_no_paddle():
    import subprocess
    root = os.path.join(os.path.dirname(__file__), '..', '..')
    code = ('import sys; import passl.utils.config, passl.utils.options, passl.utils.seed, '
            'passl.utils.logger, passl.utils.misc, passl.utils.config.registry; sys.exit("paddle" in sys.modules)')
    assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == 0


def test_nothing_in_utils_evaluates_text():
    import ast
    folder = os.path.join(os.path.dirname(__file__), '..', '..', 'passl', 'utils')
    for path in glob.glob(os.path.join(folder, '*.py')):
        with open(path, encoding='utf-8') as f:
            for node in ast.walk(ast.parse(f.read())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ('eval', 'exec', 'print'), path
