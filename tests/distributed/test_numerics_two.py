"""A loss that breaks on one of two processes stops both, with one message and a file from each."""

import glob
import os

import numpy as np
import pytest

from passl.utils.weights.checkpoint import load_file
from tests.distributed.test_two_processes import HERE, launch
from tests.tiny import SMALL_NET, densecl_config, write_config

pytestmark = pytest.mark.slow


def test_one_broken_process_stops_both(tmp_path, make_images):
    make_images(tmp_path / 'images', 16, size=40)
    cfg = densecl_config(tmp_path / 'images', tmp_path / 'out', custom_config=[{'name': 'BreakRank1'}],
                         checkpoint={'by_epoch': False, 'interval': 1})
    with pytest.raises(AssertionError) as e:
        launch(tmp_path / 'log', 'tools/train.py', '-c', write_config(cfg, tmp_path, 'two'), '-o',
               f"custom_imports=[{SMALL_NET},{os.path.join(HERE, 'break_rank1.py')}]")
    folder = tmp_path / 'out' / 'two'
    assert 'gave a loss or gradients that are nan or inf' in str(e.value)
    said = ''.join(open(f, errors='replace').read() for f in glob.glob(str(tmp_path / 'log' / 'workerlog.*')))
    assert 'rank 0: losses: all finite' in said and 'rank 1: losses: loss, loss_' in said
    assert said.count('Traceback') == 0
    names = sorted(n for n in os.listdir(folder) if n.endswith('.pdparams') and n != 'latest.pdparams')
    assert names == ['iter_1.pdparams', 'nonfinite_iter_2_rank_0.pdparams', 'nonfinite_iter_2_rank_1.pdparams']
    files = [load_file(folder / n) for n in names[1:]]
    assert [f['rank'] for f in files] == [0, 1]
    assert not np.array_equal(files[0]['batches'][0][0], files[1]['batches'][0][0])
    assert files[0]['gradients'] == files[1]['gradients'] != {}
    assert not set(files[0]['images'][0]) & set(files[1]['images'][0])
