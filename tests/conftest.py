"""Settings for all tests and the fixtures they share."""

import os
import subprocess
import sys
import zlib  # noqa: F401  before Paddle: 2.6 exports zlib's symbols

os.environ['OMP_NUM_THREADS'] = '1'       # test processes share the cores; the parity run's last digits depend on it
os.environ.setdefault('MPLBACKEND', 'Agg')

from passl.utils.paddle_env import tune_cpu  # noqa: E402

tune_cpu()      # the maths library's path must be chosen before Paddle is imported; it changes last digits

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

cv2.setNumThreads(1)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def pytest_addoption(parser):
    parser.addoption('--device', choices=['cpu', 'fake'], default='cpu',
                     help='fake: run on the accelerator of tests/fake_device; tests marked cpu_only are skipped')


def pytest_configure(config):
    if config.getoption('--device') == 'fake':
        from tests.fake_device import plugin
        root, reason = plugin.build()
        if root is None:
            raise pytest.UsageError(f'--device fake: {reason}')
        if 'paddle' in sys.modules and 'CUSTOM_DEVICE_ROOT' not in os.environ:
            raise pytest.UsageError('--device fake: a conftest.py has imported Paddle, which now finds no device.')
        os.environ.update(plugin.environment())


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)    # the slow ones first: no worker ends alone
    if config.getoption('--device') != 'cpu':
        for item in items:
            marker = item.get_closest_marker('cpu_only')
            if marker:                  # skipped, not deselected: pytest-xdist would not count those
                item.add_marker(pytest.mark.skip(reason=f'cpu_only: {marker.args[0]}'))


@pytest.fixture(autouse=True)
def device_of_the_session(request, monkeypatch):
    """With --device every test begins there, and `device: cpu` of a config means it, too."""
    if request.config.getoption('--device') == 'cpu':
        return
    import paddle

    from passl.engine import run

    def select(*_):
        paddle.set_device('fake:0')
        return paddle.get_device()
    monkeypatch.setattr(run, 'select_device', select)
    select()


@pytest.fixture(scope='session')
def project_root():
    """The clone's folder."""
    return ROOT


@pytest.fixture(scope='session', autouse=True)
def kernels_of_a_training():
    """Networks compute as in a training, whichever test comes first."""
    from passl.modules import cpu
    cpu.register()


@pytest.fixture
def run_dir(tmp_path):
    """A folder for the files of one run, not yet there."""
    return tmp_path / 'run'


@pytest.fixture(autouse=True)
def log_of_its_own():
    """Every test finds the project's logger as nobody set it up, so that `caplog` sees it, and leaves it as it was."""
    from passl.utils.logger import get_logger
    logger = get_logger()
    before = logger.handlers[:], logger.level, logger.propagate, logger.disabled
    logger.handlers, logger.propagate, logger.disabled = [], True, False
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, _, logger.propagate, logger.disabled = before
    logger.setLevel(before[1])


def write_images(root, n, size=32, classes=None, seed=0, extension='.png'):
    """Write random images that differ from class to class.

    Args:
        root: folder to write to; created.
        n: number of images (in each class).
        size: side, or (height, width).
        classes: None for a flat folder, else a number or names of class folders.

    Returns:
        the files as sorted list of str.
    """
    height, width = (size, size) if isinstance(size, int) else size
    names = [f'class{i}' for i in range(classes)] if isinstance(classes, int) else classes or ['']
    rng = np.random.RandomState(seed)
    files = []
    for k, name in enumerate(names):
        folder = os.path.join(os.fspath(root), name)
        os.makedirs(folder, exist_ok=True)
        for i in range(n):
            image = rng.randint(0, 128, (height, width, 3)) + 127 * np.array([k & 1, k >> 1 & 1, k >> 2 & 1])
            files.append(os.path.join(folder, f'{i:04d}{extension}'))
            assert cv2.imwrite(files[-1], image.astype(np.uint8))
    return sorted(files)


@pytest.fixture(scope='session')
def make_images():
    """The function `write_images(root, n, size=32, classes=None, seed=0, extension='.png')`."""
    return write_images


@pytest.fixture
def occupied(monkeypatch):
    """A function: another process, whose number it returns, locks a run folder until the test ends. Nobody waits."""
    from passl.engine import run_folder
    from tests.utils.test_files import HOLD
    monkeypatch.setattr(run_folder, '_PATIENCE', 0.0)
    held = []

    def occupy(folder):
        os.makedirs(folder, exist_ok=True)
        held.append(subprocess.Popen([sys.executable, '-c', HOLD, os.path.join(folder, '.lock')], cwd=ROOT,
                                     stdout=subprocess.PIPE, text=True))
        assert held[-1].stdout.readline() == 'held\n'
        return held[-1].pid
    yield occupy
    for process in held:
        process.kill()
        process.wait()
