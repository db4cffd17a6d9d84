"""Own parts: from a file or a module that the config names, or from an installed package's entry point."""

import os
import sys
import textwrap
from importlib import metadata

import pytest

from passl.cli import train_main

from .small import call, clas, moco, records, refused_training, train, write_config

PARTS = '''
import os
import numpy as np
from paddle import nn
from passl.datasets.builder import DATASETS
from passl.datasets.base import ImageDataset
from passl.datasets.preprocess.builder import TRANSFORMS
from passl.hooks import HOOKS, Hook, Priority
from passl.modeling.backbones import BACKBONES


@HOOKS.register()
class {prefix}Hook(Hook):
    """Adds a figure to the log, which comes after it, and writes a file at the end."""

    priority = Priority.NORMAL

    def __init__(self, file, priority=None):
        super().__init__(priority)
        self.file = file

    def train_iter_end(self, trainer):
        trainer.outputs['own_figure'] = trainer.outputs['loss'].detach() * 2

    def run_end(self, trainer):
        with open(os.path.join(trainer.run_dir, self.file), 'w') as f:
            f.write(str(trainer.iteration))


@BACKBONES.register()
class {prefix}Net(nn.Layer):
    def __init__(self, width=16):
        super().__init__()
        self.conv1 = nn.Conv2D(3, width, 8, stride=8)

    def forward(self, x):
        return self.conv1(x)


@TRANSFORMS.register()
class {prefix}Invert:
    def __call__(self, image):
        return 255 - image


@DATASETS.register()
class {prefix}Data(ImageDataset):
    def __init__(self, number, return_label=False, return_two_sample=False, transforms=None):
        super().__init__(return_label, return_two_sample, transforms)
        self.samples = list(range(number))
        self._filled()

    def load(self, index):
        return np.full((32, 32, 3), index, np.uint8)
'''


def config_with(prefix, data, out):
    """A MoCo config all whose registered parts are the user's own."""
    cfg = moco(data, **out, epochs=1, custom_config=[{'name': f'{prefix}Hook', 'file': 'mark.txt'}],
               model={'backbone': {'name': f'{prefix}Net'}})
    cfg['dataloader']['train']['dataset'] = {
        'name': f'{prefix}Data', 'number': 8, 'return_two_sample': True,
        'transforms': [{'name': f'{prefix}Invert'}, {'name': 'ToTensor'}]}
    return cfg


def check(folder):
    with open(os.path.join(folder, 'mark.txt')) as f:
        assert f.read() == '2'
    logged = records(folder)
    assert len(logged) == 2
    assert all(r['own_figure'] == pytest.approx(2 * r['loss'], rel=1e-5) for r in logged)


def test_custom_imports_from_a_file_beside_the_config(data, out, tmp_path, capsys):
    """The path is relative to the config file, not to the working folder."""
    (tmp_path / 'parts').mkdir()
    (tmp_path / 'parts' / 'mine.py').write_text(PARTS.format(prefix='File'))
    cfg = config_with('File', data, out)
    cfg['custom_imports'] = 'parts/mine.py'
    folder, done = train(cfg, capsys, '--allow-imports')
    check(folder)
    assert 'own_figure' in done.out
    train(cfg, capsys, '--overwrite', '--allow-imports')       # a second run in this process: registered once


def test_custom_imports_of_a_module(data, out, tmp_path, capsys, monkeypatch):
    (tmp_path / 'my_module_of_parts.py').write_text(PARTS.format(prefix='Module'))
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = config_with('Module', data, out)
    cfg['custom_imports'] = ['my_module_of_parts']
    folder, _ = train(cfg, capsys, '--allow-imports')
    check(folder)


def test_entry_point(data, out, tmp_path, capsys, monkeypatch):
    """As a package declares it: entry_points={'passl.plugins': ['mine = package_of_parts']}."""
    (tmp_path / 'package_of_parts.py').write_text(PARTS.format(prefix='Plugin'))
    monkeypatch.syspath_prepend(str(tmp_path))
    real = metadata.entry_points
    mine = metadata.EntryPoint('mine', 'package_of_parts', 'passl.plugins')

    def entry_points(*args, **kwargs):
        if kwargs.get('group', 'passl.plugins') != 'passl.plugins':
            return real(*args, **kwargs)
        if args or kwargs or sys.version_info >= (3, 12) or hasattr(metadata, 'EntryPoints'):
            return metadata.EntryPoints([mine])
        return {'passl.plugins': [mine]}

    monkeypatch.setattr(metadata, 'entry_points', entry_points)
    folder, _ = train(config_with('Plugin', data, out), capsys)
    check(folder)


def test_own_parts_give_the_nearest_name_too(data, out, tmp_path, capsys):
    (tmp_path / 'mine.py').write_text(PARTS.format(prefix='Another'))
    cfg = config_with('Another', data, out)
    cfg['custom_imports'] = 'mine.py'
    cfg['custom_config'][0]['name'] = 'AnotherHok'
    refused_training(cfg, capsys, ["'custom_config.0.name'", "Did you mean 'AnotherHook'?"], '--allow-imports')
    cfg['custom_config'] = [{'name': 'AnotherHook', 'fil': 'x'}]
    refused_training(cfg, capsys, ["has no setting 'fil'", "Did you mean 'file'?"], '--allow-imports')
    cfg['custom_config'] = [{'name': 'AnotherHook'}]
    refused_training(cfg, capsys, ['AnotherHook needs file'], '--allow-imports')


def test_own_hook_in_place_of_a_standard_one(data, out, tmp_path, capsys):
    (tmp_path / 'quiet.py').write_text(textwrap.dedent('''
        from passl.hooks import HOOKS, LogHook

        @HOOKS.register()
        class LastOnlyLogHook(LogHook):
            def _due(self, trainer, iteration):
                return iteration == trainer.max_iters
    '''))
    cfg = moco(data, **out, custom_imports='quiet.py', log_config={'name': 'LastOnlyLogHook'})
    folder, _ = train(cfg, capsys, '--allow-imports')
    assert [r['iteration'] for r in records(folder)] == [6]


def test_a_broken_custom_file_keeps_its_traceback(data, out, tmp_path):
    """The user's own bug: they need to see where it is."""
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        train_main(['-c', write_config(moco(data, **out, custom_imports='broken.py')), '--allow-imports'])


def test_evaluate_only_and_export_import_own_parts_too(data, out, tmp_path, capsys):
    (tmp_path / 'mine.py').write_text(PARTS.format(prefix='Used'))
    cfg = clas(data, **out, custom_imports='mine.py', model={'backbone': {'name': 'UsedNet'}}, epochs=1)
    folder, _ = train(cfg, capsys, '--allow-imports')
    weights = os.path.join(folder, 'latest.pdparams')
    for argv in (['--evaluate-only', '--load', weights], ['--export', weights]):
        assert call(train_main, ['-c', write_config(cfg), '--allow-imports', *argv], capsys).code == 0
