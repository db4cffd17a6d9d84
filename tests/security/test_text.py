"""Hostile configs, overrides and list files; and code that only the command line may allow."""

import os
import time

import pytest

from passl.cli import train_main
from passl.datasets import build_dataset
from passl.datasets.image_list import MAX_CLASSES, paths_in
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.config import apply_overrides, dump_config, load_config, with_defaults
from passl.utils.errors import CheckpointError, ConfigError, DataError
from passl.utils.config.yaml_text import MAX_TEXT, parse_yaml

from ..engine.small import call, moco, records, refused_training, train, write_config, write_data
from .guard import guarded

TAGS = ['!!python/object/apply:os.system ["touch {c}"]', '!!python/object/new:os.system ["touch {c}"]',
        '!!python/name:os.system', '!!python/module:antigravity', '!!python/object:argparse.Namespace {{a: 1}}',
        '!!python/tuple [1]', '!!python/bytes x', '!!python/object/apply:eval ["1"]', '!!binary aGk=', '!!set {{a}}',
        '!!omap [a: 1]', '!!timestamp 2001-01-01', '!own x', '!<tag:yaml.org,2002:python/name:os.system> x', '! [1]x',
        '!!python/object/apply:subprocess.Popen [["touch", "{c}"]]']


@pytest.mark.parametrize('tag', TAGS)
@pytest.mark.parametrize('form', ['a: {}', '[{}]', '? {}\n: 1', 'a: &x {}\nb: *x', 'a: {{b: [1, {}]}}', '{}'])
def test_tags_build_nothing(tmp_path, tag, form):
    text = form.replace('{{', '\1').replace('}}', '\2').replace('{}', tag.format(c=tmp_path / 'canary'))
    text = text.replace('\1', '{').replace('\2', '}')
    done = guarded(parse_yaml, text, 'x.yaml', allowed=ConfigError, seconds=2)
    assert done.error is not None and not (tmp_path / 'canary').exists()
    done = guarded(apply_overrides, {'model': {'name': 'x'}}, ['model.a=' + text], allowed=ConfigError)
    assert done.error is not None and not (tmp_path / 'canary').exists()


def laughs(open_, link, levels=12, times=10):
    lines = ['a0: &a0 ' + open_]
    lines += [f'a{i + 1}: &a{i + 1} ' + link(', '.join([f'*a{i}'] * times)) for i in range(levels)]
    return '\n'.join(lines)


WRITTEN_OUT = f'with its aliases (*name) written out it has more than {MAX_TEXT} characters'
YAMLS = {
    'billion laughs': (laughs('[x, x, x]', lambda a: f'[{a}]'), WRITTEN_OUT),
    'billion laughs in a mapping': (laughs('{k: v}', lambda a: '{k: [' + a + ']}'), WRITTEN_OUT),
    'merges of merges': (laughs('{' + ', '.join(f'k{i}: 1' for i in range(2000)) + '}', lambda a: '{<<: [' + a + ']}'),
                         WRITTEN_OUT),
    'one long value many times': ('a: &a [' + 'x, ' * 20000 + ']\nb: [' + '*a, ' * 20000 + ']', WRITTEN_OUT),
    'merge of itself': ('a: &a {<<: *a, x: 1}', 'contains itself'),
    'alias of a part around it': ('a: &a {b: {c: [*a]}}', 'contains itself'),
    'alias of itself': ('a: &a [*a]', 'contains itself'),
    'nested lists': ('[' * 100000, 'nested too deeply'),
    'nested mappings': ('{a: ' * 50000, 'nested too deeply'),
    'nested blocks': ('- ' * 100000, 'nested too deeply'),
    'nested keys': ('? ' * 100000, 'nested too deeply'),
    'digits that a search would try in every way': ('a: ' + '1' * 200000, 'number of 200000 characters'),
    'text that begins with many digits': ('a: ' + '1' * 100000 + 'x', None),
    'calculation without end': ('a: ' + '9*' * 50000 + '9', 'number of 100001 characters'),
    'huge whole number': ('a: ' + '9' * 5000, 'number of 5000 characters'),
    'huge hexadecimal number': ('a: 0x' + 'f' * 5000, 'characters'),
    'huge result': ('a: 9e999 * 9', None),
    'division by zero': ('a: 1/0', 'cannot be read'),
    'duplicate keys': ('a: 1\na: 2', 'appears twice'),
    'key of nan': ('.nan: 1', 'is not text'),
    'key of a number': ('1: 1', 'is not text'),
    'key of a list': ('? [a]\n: 1', 'is not text'),
    'key of null': ('~: 1', 'is not text'),
    'character beyond Unicode': (r'a: "\Uffffffff"', 'x.yaml'),
    'half a character': (r'a: "\ud800"', 'no text file can hold'),
    'zero byte': (r'a: "\0"', 'no text file can hold'),
    'zero byte as it is': ('a: \0', 'x.yaml'),
    'two documents': ('a: 1\n--- \nb: 2', 'x.yaml'),
    'unknown alias': ('a: *b', 'undefined alias'),
    'more keys than a config has': ('\n'.join(f'k{i}: 1' for i in range(60000)), 'are no config'),
    'more than a megabyte': ('a: ' + 'x' * 2**21, 'are no config'),
    'int of a mapping': ('a: !!int {}', 'x.yaml'),
    'bad version': ('%YAML 9.9\n---\na: 1', None),
    'bad escape in a tag': ('a: !<%ff> 1', 'x.yaml'),
}


@pytest.mark.parametrize('name', sorted(YAMLS))
def test_yaml_is_refused_in_bounded_time_and_memory(name):
    text, match = YAMLS[name]
    done = guarded(parse_yaml, text, 'x.yaml', allowed=ConfigError, seconds=15, megabytes=400)
    if match is not None:
        assert done.error is not None, repr(done.value)[:200]
        assert match in str(done.error) and len(str(done.error)) < 1000


def test_aliases_cannot_outgrow_the_limit_of_the_text():
    """Ten times as much with every line, until the next line would be too much; and no value is shared."""
    deepest = max(n for n in range(12) if guarded(parse_yaml, laughs('[x, y]', lambda a: f'[{a}]', n), 'x.yaml',
                                                  allowed=ConfigError).error is None)
    data = parse_yaml(laughs('[x, y]', lambda a: f'[{a}]', deepest), 'x.yaml')
    assert deepest == 3 and len(str(data[f'a{deepest}'])) < 3 * MAX_TEXT
    data['a1'][0][0] = 'z'
    assert data['a0'] == data['a1'][1] == data['a2'][0][0] == ['x', 'y']


def test_merges_still_mean_what_they_did():
    text = 'b: &b {x: 1, y: {z: 2}}\nc: &c {x: 5, w: 0}\na: {<<: [*b, *c], y: 3}\nd: {<<: {<<: *b, x: 7}}\n'
    data = parse_yaml(text, 'x')
    assert data['a'] == {'x': 1, 'w': 0, 'y': 3} and data['d'] == {'x': 7, 'y': {'z': 2}}


OVERRIDES = ['__class__=x', 'model.__class__=x', 'model.__init__.__globals__=x', '__init__.__globals__.os=x',
             'model.name.__class__=str', 'a.' * 50000 + 'b=1',
             'dataloader.train.dataset.transforms.' + '9' * 5000 + '=1',
             'custom_config.²=1', 'custom_config.٣=1', 'custom_config.-1=1', 'custom_config.1e9=1',
             'custom_config.99999999999999999=1', '=1', '.=1', 'x', 'epochs=' + '9' * 5000, 'epochs=' + '[' * 5000,
             'epochs.__add__=1', '_base_=/etc/passwd', 'model._base_=x', 'model._delete_=true',
             'custom_config.0.__dict__=1',
             'model.backbone.__dict__.x=1', 'a' * 100000 + '=1', 'epochs=\0', 'epochs=\udc80',
             'epochs={format.__globals__}']


@pytest.mark.parametrize('text', OVERRIDES)
def test_overrides_reach_settings_only(text):
    cfg = moco('x', custom_config=[{'name': 'VisualHook'}])
    done = guarded(apply_overrides, cfg, [text], allowed=ConfigError, seconds=3, megabytes=100)
    if done.error is None:          # a setting of a component, which its constructor refuses when it is built
        dump_config(done.value)
        assert text.startswith(('model.__class__=', 'custom_config.0.__dict__=', 'epochs={'))
    else:
        assert len(str(done.error)) < 3000


def test_a_setting_with_a_name_of_pythons_is_refused_by_the_component(tmp_path, make_images, capsys):
    data = write_data(str(tmp_path), make_images)
    for text in ('model.backbone.__class__=os.system', 'model.backbone.__dict__={}', 'optimizer.__init__=3'):
        refused_training(moco(data), capsys, ['has no setting'], '-o', text)


def test_files_that_include_one_another_without_end(tmp_path):
    for i in range(30):
        (tmp_path / f'{i}.yaml').write_text(f'_base_: [{", ".join([f"{i + 1}.yaml"] * 5)}]\nseed: 1\n')
    (tmp_path / '30.yaml').write_text('seed: 1\n')
    done = guarded(load_config, str(tmp_path / '0.yaml'), allowed=ConfigError, seconds=10)
    assert 'leads to more than 100 files' in str(done.error)
    os.mkfifo(tmp_path / 'pipe.yaml')
    (tmp_path / 'a.yaml').write_text('_base_: pipe.yaml\n')
    done = guarded(load_config, str(tmp_path / 'a.yaml'), allowed=ConfigError, seconds=2)
    assert 'a device or a pipe' in str(done.error)
    done = guarded(load_config, '/dev/zero', allowed=ConfigError, seconds=5, megabytes=100)
    assert done.error is not None


# ------------------------------------------------------------------------------------------------------- list files

@pytest.fixture
def root(tmp_path, make_images):
    make_images(tmp_path / 'root' / 'in', 2)
    make_images(tmp_path / 'secret', 2)
    os.symlink(tmp_path / 'secret', tmp_path / 'root' / 'link')
    return tmp_path / 'root'


def listed(root, *lines, raw=None, **options):
    file = root.parent / 'list.txt'
    file.write_bytes(raw if raw is not None else '\n'.join(lines).encode())
    return build_dataset({'name': 'ImageList', 'dataroot': str(root), 'list_file': str(file), **options})


@pytest.mark.parametrize('name', ['../secret/0000.png', 'in/../../secret/0000.png', '/etc/hostname', '..',
                                  '../../../etc/passwd',
                                  './../secret/0000.png', 'link/../../secret/0000.png', '//etc/passwd',
                                  '../root2/x.png'])
def test_names_that_leave_the_folder(root, name):
    with pytest.raises(DataError, match='name 2 of .*lies outside dataroot.*allow_outside: true'):
        listed(root, 'in/0000.png', name)
    assert paths_in('r', ['a', name], 'x', allow_outside=True)[1] == os.path.join('r', name)


def test_absolute_names_inside_links_and_the_way_out(root):
    outside = str(root.parent / 'secret' / '0000.png')
    data = listed(root, str(root / 'in' / '0000.png'), 'in/../in/0001.png', 'link/0001.png', 'in/a..b.png', max_bad=1.0)
    assert data.samples == [str(root / p) for p in ('in/0000.png', 'in/0001.png', 'link/0001.png', 'in/a..b.png')]
    assert data.load(2).shape == (32, 32, 3)            # the owner of the folder put the link there
    assert listed(root, outside, '../secret/0001.png', allow_outside=True).load(1).shape == (32, 32, 3)
    # what was checked is what is opened: a link followed by '..' leads elsewhere for the system
    assert paths_in('r', ['link/../0000.png'], 'x') == ['r/0000.png']
    with pytest.raises(ConfigError, match="allow_outside' must be true or false, not 'yes'"):
        listed(root, 'in/0000.png', allow_outside='yes')


@pytest.mark.parametrize('raw, match', [
    (b'in/0000.png 0\nin/0001.png 999999999999999999999\n', 'line 2.*labels number the classes'),
    (b'in/0000.png ' + b'9' * 5000, 'line 1.*labels number the classes'),
    (b'in/0000.png %d\n' % MAX_CLASSES, 'labels number the classes'),
    (b'in/0000.png 2147483647\n', 'labels number the classes'),
    ('in/0000.png ²\n'.encode(), 'do not exist'),
    (b'in/00\x0000.png\n', 'line 1.*zero byte'),
    (b'\xff\xfe\n', 'no utf-16 text'),
    (b'', 'names no images'),
    (b'in/0000.png 1\nin/0001.png\n', 'lines 1 .* and 2 '),
])
def test_lists_with_hostile_lines(root, raw, match):
    with pytest.raises(DataError, match=match):
        listed(root, raw=raw)


def test_lists_that_are_no_files(root):
    os.mkfifo(root.parent / 'pipe')
    for file in (root.parent / 'pipe', '/dev/zero', root):
        done = guarded(build_dataset, {'name': 'ImageList', 'dataroot': str(root), 'list_file': str(file)},
                       allowed=DataError, seconds=3, megabytes=50)
        assert 'list_file' in str(done.error)


@pytest.mark.parametrize('name', ['../secret', '/etc', '..', '.', 'in/..', 'a\0b'])
def test_class_names_that_are_paths(root, name):
    (root.parent / 'classes.txt').write_text(f'in\n{name}\n')
    for classes in ([name], str(root.parent / 'classes.txt')):
        with pytest.raises(DataError, match='no class folder|zero byte'):
            build_dataset({'name': 'ImageFolder', 'dataroot': str(root), 'classes': classes})


# ------------------------------------------------------------------------------------------- consent to run code

CODE = 'open({canary!r}, "w").close()\n'


@pytest.fixture
def data(tmp_path, make_images):
    return write_data(str(tmp_path), make_images)


def code_beside(folder):
    canary = os.path.join(folder, 'canary')
    for name in ('own.py', 'other.py'):
        with open(os.path.join(folder, name), 'w') as f:
            f.write(CODE.format(canary=canary))
    return canary


@pytest.mark.parametrize('named', ['own.py', ['own.py'], ['no_such_module_xyz'], ['own.py', 'other.py']])
def test_a_config_alone_runs_no_code(data, capsys, named):
    canary = code_beside(data)
    first = named if isinstance(named, str) else named[0]
    wanted = os.path.join(data, 'own.py') if first == 'own.py' else first
    cfg = moco(data, custom_imports=named)
    refused_training(cfg, capsys, ['asks to run Python code', wanted, '--allow-imports'])
    refused_training(cfg, capsys, ['--allow-imports'], '-o', 'epochs=1', '-o', 'model.m=0.5')
    refused_training(cfg, capsys, ['--allow-imports'], '--export', 'x.pdparams')
    if isinstance(named, list):     # changing an item of the file's list allows nothing
        refused_training(cfg, capsys, ['--allow-imports'], '-o', 'custom_imports.0=own.py')
    assert not os.path.exists(canary) and not os.path.exists(os.path.join(data, 'out'))


def test_a_base_file_runs_no_code_either(data, capsys):
    canary = code_beside(data)
    path = write_config(moco(data, custom_imports='own.py'), 'base')
    with open(os.path.join(data, 'top.yaml'), 'w') as f:
        f.write(f'_base_: {os.path.basename(path)}\n')
    done = call(train_main, ['-c', os.path.join(data, 'top.yaml')], capsys)
    assert done.code == 2 and '--allow-imports' in done.err and not os.path.exists(canary)


def test_the_users_word_runs_it(data, capsys):
    for argv in (['--allow-imports'], ['-o', 'custom_imports=own.py'], ['-o', 'custom_imports=[own.py]']):
        canary = code_beside(data)
        cfg = moco(data, epochs=1, **{'custom_imports': 'own.py'} if '--allow-imports' in argv else {})
        os.rename(os.path.join(data, 'own.py'), os.path.join(data, f'own{time.time_ns()}.py'))
        name = [n for n in os.listdir(data) if n.startswith('own')][0]
        argv = [a.replace('own.py', name) for a in argv]
        if 'custom_imports' in cfg:
            cfg['custom_imports'] = name
        train(cfg, capsys, *argv, '--overwrite')
        assert os.path.exists(canary)
        os.remove(canary)
        os.remove(os.path.join(data, name))
    # -o custom_imports=null takes what the file names away
    train(moco(data, epochs=1, custom_imports='gone.py'), capsys, '-o', 'custom_imports=null', '--overwrite')


def test_resuming_and_loading_never_run_what_a_checkpoint_names(data, capsys):
    canary = code_beside(data)
    cfg = moco(data, epochs=1)
    folder, _ = train(cfg, capsys)
    path = os.path.join(folder, 'epoch_1.pdparams')
    state = load_file(path)
    state['config']['custom_imports'] = [os.path.join(data, 'own.py')]
    state['config']['custom_config'] = [{'name': 'x', '__class__': 'os.system'}]
    save_file(state, path)
    train(moco(data, epochs=2), capsys, '--resume', path, '--allow-changes')
    assert len(records(folder)) == 6
    assert not os.path.exists(canary)


@pytest.mark.parametrize('change, field', [
    ({'saved_files': ['../../precious.txt']}, 'saved_files'), ({'saved_files': ['/etc/passwd']}, 'saved_files'),
    ({'saved_files': ['latest.pdparams']}, 'saved_files'), ({'saved_files': [['epoch_1.pdparams']]}, 'saved_files'),
    ({'saved_files': ['epoch_1.pdparams\n']}, 'saved_files'), ({'iteration': 'x'}, 'iteration'),
    ({'iteration': -1}, 'iteration'),
    ({'iteration': 2**80}, 'iteration'), ({'iters_per_epoch': 0}, 'iters_per_epoch'), ({'seed': None}, 'seed'),
    ({'seed': True}, 'seed'), ({'state_dict': []}, 'state_dict'), ({'optimizer': 3}, 'optimizer'),
    ({'optimizer': {}}, 'optimizer'),
    ({'lr_scheduler': {}}, 'lr_scheduler'), ({'config': 'x'}, 'config'), ({'scaler': [1]}, 'scaler'),
])
def test_fields_of_a_checkpoint_are_checked_before_use(data, capsys, change, field):
    """`saved_files` of a hostile checkpoint would be removed by retention."""
    from passl.engine.checkpoint import check_fields
    good = {'iteration': 3, 'iters_per_epoch': 3, 'seed': 0, 'epoch': 1, 'state_dict': {},
            'optimizer': {'name': 'Momentum', 'slots': {}}, 'lr_scheduler': {'last_epoch': 3},
            'saved_files': ['epoch_1.pdparams', 'iter_7.pdparams']}
    check_fields(good, 'x')
    with pytest.raises(CheckpointError, match=f"'x' is not a checkpoint as.*'{field}'"):
        check_fields({**good, **change}, 'x')


def test_with_defaults_and_dump_take_what_parse_gives():
    cfg = parse_yaml('model: {name: "x\\ty\\u2028"}\nseed: 3', 'x')
    assert parse_yaml(dump_config(with_defaults(cfg)), 'y')['model'] == cfg['model']
