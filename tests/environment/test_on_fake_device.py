"""`passl env --check` on a device that is not the CPU (tests/fake_device): what a GPU takes, as far as it goes."""

import os
import subprocess
import sys

import pytest

from tests.fake_device import plugin

pytestmark = pytest.mark.slow
CHECK = """
import argparse, sys
from passl.environment import command
checks = command.FIRST + command.AMP + ('small copies',)
sys.exit(command.env(argparse.Namespace(check=True, no_cuda=False), 'fake:0', checks))
"""
SPEED = """
from passl.utils.paddle_env import require_paddle
paddle = require_paddle()
paddle.set_device('fake:0')
from passl.environment import timing
timing.SLOW = 1e9               # a busy machine is no reason to leave it out
for method in ('MoCo', 'DenseCL'):
    print(timing.speed(method, depth=18, side=32, images=4, keys=64, steps=2)[1])
"""
PAIR = """
from passl.environment import pair
pair.paddle.set_device('fake:0')
pair.dist.init()
for name in ('exchange', 'gathers', 'no_sync'):
    print(*pair.CHECKS[name]())
"""


@pytest.fixture(scope='module', autouse=True)
def built():
    _, reason = plugin.build()
    if reason:
        pytest.skip(reason)


def test_the_check_ends_with_words(project_root):
    """The arithmetic is right. The device says it has half precision but has no operators for it, and Paddle's launcher
    gives the second process a device that does not exist: both are told."""
    done = subprocess.run([sys.executable, '-c', CHECK], cwd=project_root, capture_output=True, text=True, timeout=300,
                          env={**os.environ, **plugin.environment()})
    block, lines, verdict = done.stdout.split('\n\n')
    assert 'device:       fake:0' in block and 'plug-ins: fake' in block
    states = {line[:19].strip(): line[20:28].strip() for line in lines.splitlines()}
    words = {line[:19].strip(): line[29:] for line in lines.splitlines()}
    for name in ('convolution', 'batch norm', 'ResNet-18 step', 'momentum update', 'queue', 'contrastive loss',
                 'collapsed features', 'versions'):
        assert states[name] == 'ok', words[name]
    assert states['GPU generation'] == states['TF32'] == states['small copies'] == 'not here'
    for level in ('O1', 'O2'):
        for kind in ('float16', 'bfloat16'):
            name = f'AMP {level} {kind}'
            assert states[name] == 'refused' or states[name] == 'no' and 'use_amp: false' in words[name], words[name]
    assert done.returncode == 1 and '  Training in float32: works.' in verdict
    assert '  Mixed precision: ' in verdict and 'AMP O1 float16: ' in verdict and 'Traceback' not in done.stdout


def test_two_processes(project_root):
    for out in plugin.run([sys.executable, '-c', PAIR], processes=2):
        assert [line.split()[0] for line in out.splitlines() if line.startswith(('ok', 'no'))] == ['ok'] * 3, out


def test_the_speed_is_told():
    out, = plugin.run([sys.executable, '-c', SPEED])
    lines = [line for line in out.splitlines() if 'steps/s' in line]
    assert len(lines) == 2 and all('ResNet-18, 32 px, 4 images, float32' in line for line in lines)
