"""The unit tests of what a step computes, on the fake accelerator: `python -m pytest --device fake ...`."""

import os
import re
import subprocess
import sys

import pytest

from . import plugin

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(plugin.build()[0] is None, reason=plugin.build()[1] or 'it can be built')]

HOOKS = [f'tests/engine/test_{name}.py' for name in ('hooks', 'no_sync', 'numerics', 'evaluator', 'amp', 'amp_resume')]
# Left to whoever runs all of it, for their time: names and sizes of backbones, logged rates and pruned checkpoints, the
# same anywhere; recompute, which test_training.py has, too.
TESTS = ['tests/modeling', 'tests/modules', 'tests/solver', *HOOKS, '--ignore-glob=*/test_resnet*.py',
         '--ignore-glob=*/test_recompute.py', '--ignore-glob=*/test_bfloat16.py',
         '-k', 'not logged_lr and not interval_and_pruning']
PASS, SKIPPED = 525, 9          # so many at least; at most, those marked cpu_only


def test_they_pass(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTEST_', 'COV_', 'PADDLE_', 'FLAGS_'))}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '--device', 'fake', *TESTS, '-q', '-p', 'no:cacheprovider', '-n', '2',
         '--dist', 'load', '--basetemp', str(tmp_path / 'own')],
        cwd=plugin.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    counts = {what: int(n) for n, what in re.findall(r'(\d+) (passed|skipped)', done.stdout)}
    assert counts['passed'] >= PASS, done.stdout[-500:]
    assert counts.get('skipped', 0) <= SKIPPED, done.stdout[-500:]
