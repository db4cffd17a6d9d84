"""`passl pretrain` in two processes: one plan for both, and the speed that process 0 measures."""

import json
import os
import re

import pytest

from passl.utils.config import load_config

from .test_two_processes import launch, logged

pytestmark = pytest.mark.slow
FEW = ('--backbone', 'resnet18', '--no-cuda', '-o', 'dataloader.train.loader.num_workers=0')
SMALL = ('-o', 'dataloader.train.dataset.transforms.0.size=32', '-o', 'best_config.check=off')

# tools/pretrain.py with three timed steps instead of fourteen
SOON = '''import sys
from passl.cli import pretrain_main
from passl.planning import training
training.SPEED_STEPS, training._WARM = 3, 1
sys.exit(pretrain_main())
'''


def test_hours_in_two_processes(tmp_path, make_images):
    """The plan is that of the speed of process 0; both train it; a resume finds it, and nothing to do."""
    images, out = tmp_path / 'images', tmp_path / 'runs' / 'own'
    make_images(images, 36, size=40)
    (tmp_path / 'soon.py').write_text(SOON)
    launch(tmp_path / 'log', tmp_path / 'soon.py', images, '--out', out, '--hours', 0.0005, *FEW, *SMALL)
    steps = load_config(str(out) + '.yaml', training=True)['total_iters']
    records = logged(out)
    assert steps >= 1 and records[-1]['iteration'] == steps
    with open(str(out) + '.yaml', encoding='utf-8') as f:
        assert re.search(rf'^#   steps +{steps} +0.0005 h at [0-9.]+ s per step', f.read(), re.M)
    text = (out / 'log.txt').read_text()
    assert 'cpu, 2 process(es)' in text and text.count(f'Done after {steps} steps.') == 1
    assert {'backbone.pdparams', 'summary.json'} <= set(os.listdir(out))
    assert not [name for name in os.listdir(out.parent) if 'speed' in name]
    with open(out / 'status.json') as f:
        assert json.load(f)['state'] == 'done'
    launch(tmp_path / 'log2', 'tools/pretrain.py', images, '--out', out, '--resume', *FEW[:3])
    assert len(logged(out)) == len(records)
