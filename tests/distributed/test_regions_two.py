"""Regions of images in two processes: one computes, the other waits for longer than `dist_timeout`."""

import json
import os

import pytest

from .region_checks import LIMIT
from .test_two_processes import HERE, launch

pytestmark = pytest.mark.slow


def test_one_process_computes_for_both(tmp_path, make_images):
    make_images(tmp_path / 'images', 60)
    launch(tmp_path / 'log', os.path.join(HERE, 'region_checks.py'), tmp_path / 'images', tmp_path)
    first, second = (json.loads((tmp_path / f'rank{r}.json').read_text()) for r in (0, 1))
    assert [first['made'], second['made']] == [1, 0]
    assert first['path'] == second['path'] and 'of rank 0' in first['path']
    assert min(first['seconds'], second['seconds']) > LIMIT         # else nothing was shown about waiting
    assert first['regions'] == second['regions'] and max(map(max, first['regions'][0])) > 0
    assert first['error'] == second['error'] == ['ConfigError', 'planted in process 0']
