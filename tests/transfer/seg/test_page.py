"""The commands that the page on segmentation shows run, in its order, on small images."""

import os
import shlex
import subprocess
import sys

import pytest

from passl.cli import check_main, transfer_seg_main
from passl.utils.weights.checkpoint import save_file
from passl.utils.weights import backbone_weights, load_weights
from tests.conftest import ROOT
from tests.datasets.labelled.render import render_coco
from tests.test_docs import FENCE, read

SHORTER = {'240': '2', '300': '3', '--iters 200': '--iters 2', '112': '32', '128': '40'}
SMALL = ['--log-iters', '1', '--num-workers', '0']
TINY = ['-o', 'model.channels=8', '-o', 'model.aux_channels=4', '-o', 'train_dataset.transforms.0.short_size=40',
        '-o', 'train_dataset.transforms.2.crop_size=[32,32]', '-o', 'val_dataset.transforms.0.short_size=36']


def commands():
    """The page's commands for the tool and for the check of its data, without those that need GPUs."""
    for language, block in FENCE.findall(read('docs/TRANSFER_SEGMENTATION.md')):
        for line in block.splitlines() if language == 'bash' else ():
            if ('tools/transfer_seg.py' in line or 'tools/check_data.py' in line) and '--gpus' not in line:
                for long, short in SHORTER.items():
                    line = line.replace(long, short)
                yield shlex.split(line)


@pytest.mark.slow
def test_the_shown_commands_run(folders, whole18, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('tools', 'configs', 'passl'):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    os.mkdir('data')
    os.symlink(folders, 'data/my_seg')
    os.symlink(f'{folders}/images/val', 'photos')
    render_coco(tmp_path / 'data/nuclei20')
    save_file(backbone_weights(load_weights(whole18)), 'densecl_r18.pdparams')
    ran = []
    for words in commands():
        if 'tools/check_data.py' in words:
            assert check_main(words[2:]) == 0
            ran.append(words)
            continue
        more = list(SMALL)
        if any(w.startswith('configs/') for w in words):
            more += TINY
            more += [] if '--iters' in words else ['--iters', '2']
            more += [] if '-m' in words else ['-o', 'batch_size=2']
            words = [w.replace('batch_size=4', 'batch_size=1') for w in words]
        more += [] if '--no-cuda' in words else ['--no-cuda']
        if '-m' in words:
            env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
            code = subprocess.run([sys.executable, *words[1:], *more], env=dict(env, PYTHONPATH=ROOT),
                                  timeout=300).returncode
        else:
            code = transfer_seg_main(words[2:] + more)
        assert code == 0, ' '.join(words)
        ran.append(words)
    assert len(ran) == 9 and os.path.isfile('output_dir/seg_small/iter_3/model.pdparams')
    assert os.path.isfile('output_dir/seg_pictures/pseudo_color_prediction/a 0.png')
