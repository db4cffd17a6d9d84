"""`passl pretrain` from an installed wheel: no clone, another folder, a home that cannot be written to."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
pytestmark = pytest.mark.slow


def run(*words, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'PADDLE_'))}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=500,
                          env=dict(env, **settings.pop('env', {})), **settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def _builds_wheels():
    if importlib.util.find_spec('wheel'):
        return True
    version = importlib.metadata.version('setuptools').split('.')
    return [int(n) for n in version[:2]] >= [70, 1]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The folder of programs of an environment with the wheel; all else comes from the environment of the tests."""
    root = tmp_path_factory.mktemp('wheel')
    for name in ('passl', 'configs'):
        shutil.copytree(os.path.join(ROOT, name), root / 'clone' / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'setup.cfg', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(os.path.join(ROOT, name), root / 'clone')
    # an older setuptools needs the package `wheel`: then pip fetches what builds wheels, from where it is set up to
    alone = ['--no-build-isolation', '--no-index'] if _builds_wheels() else []
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', *alone, '-w', root / 'dist', root / 'clone')
    run(sys.executable, '-m', 'venv', '--without-pip', root / 'env')
    python = root / 'env' / 'bin' / 'python'
    place = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').stdout.strip()
    with open(os.path.join(place, 'rest.pth'), 'w') as f:           # its folder alone, not what its own .pth files name
        f.write(sysconfig.get_path('purelib') + '\n')
    wheel, = (root / 'dist').iterdir()
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel)
    shutil.rmtree(root / 'clone')
    return root / 'env' / 'bin'


def test_the_wheel_brings_the_bases(installed, tmp_path):
    code = 'import passl, os; from passl.planning.config import bases_folder; print(passl.__file__, bases_folder())'
    module, bases = run(installed / 'python', '-c', code, cwd=tmp_path).stdout.split()
    assert module.startswith(str(installed.parent))
    assert bases == os.path.join(os.path.dirname(module), 'planning', '_base_')
    own = os.path.join(ROOT, 'configs', '_base_')
    names = [os.path.relpath(os.path.join(here, n), own) for here, _, files in os.walk(own) for n in files]
    assert sorted(names) == sorted(os.path.relpath(os.path.join(here, n), bases)
                                   for here, _, files in os.walk(bases) for n in files)
    for name in names:
        with open(os.path.join(own, name)) as one, open(os.path.join(bases, name)) as other:
            assert one.read() == other.read()


def test_pretrain_in_any_folder(installed, tmp_path, make_images):
    make_images(tmp_path / 'images', 20, size=40)
    (tmp_path / 'here').mkdir()
    done = run(installed / 'passl', 'pretrain', '../images', '--backbone', 'resnet18', '--epochs', 1, '--no-cuda',
               '-o', 'dataloader.train.loader.num_workers=0', cwd=tmp_path / 'here',
               env={'HOME': '/proc', 'LC_ALL': 'C'})            # not even root can write there
    folder = tmp_path / 'here' / 'output_dir' / 'pretrain_images'
    with open(folder / 'summary.json') as f:
        summary = json.load(f)
    assert summary['weights'] == 'output_dir/pretrain_images/backbone.pdparams'
    assert (folder / 'backbone.pdparams').stat().st_size > 40 * 2**20 and (folder / 'loss.png').is_file()
    assert set(summary['stages']) == {'conv1', 'layer1', 'layer2', 'layer3', 'layer4'}
    assert 'Done after 2 steps.' in done.stdout and 'Traceback' not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ['here', 'images'] and os.listdir(tmp_path / 'here') == ['output_dir']
