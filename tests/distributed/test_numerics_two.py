"""A loss that breaks on one of two processes stops both, with one message and a file from each."""

import glob
import os

import numpy as np
import pytest

from passl.cli import replay_main
from passl.utils.checkpoint import load_file
from tests.distributed.test_two_processes import HERE, launch
from tests.engine.small import call
from tests.tiny import densecl_config, write_config

pytestmark = pytest.mark.slow


def test_one_broken_process_stops_both(tmp_path, make_images, capsys):
    make_images(tmp_path / 'images', 16, size=40)
    cfg = densecl_config(tmp_path / 'images', tmp_path / 'out', custom_config=[{'name': 'BreakRank1'}],
                         checkpoint={'by_epoch': False, 'interval': 1})
    with pytest.raises(AssertionError) as e:
        launch(tmp_path / 'log', 'tools/train.py', '-c', write_config(cfg, tmp_path, 'two'), '--no-cuda', '-o',
               f"custom_imports={os.path.join(HERE, 'break_rank1.py')}")
    folder = tmp_path / 'out' / 'two'
    assert 'gave a loss or gradients that are nan or inf' in str(e.value)
    said = ''.join(open(f, errors='replace').read() for f in glob.glob(str(tmp_path / 'log' / 'workerlog.*')))
    assert 'rank 0: losses: all finite' in said and 'rank 1: losses: loss, loss_' in said
    assert said.count('Traceback') == 0
    names = sorted(n for n in os.listdir(folder) if n.endswith('.pdparams') and n != 'latest.pdparams')
    assert names == ['iter_1.pdparams', 'nonfinite_iter_2_rank_0.pdparams', 'nonfinite_iter_2_rank_1.pdparams']
    files = [load_file(folder / n) for n in names[1:]]
    assert [f['rank'] for f in files] == [0, 1] and {f['world_size'] for f in files} == {2}
    assert not np.array_equal(files[0]['batches'][0][0], files[1]['batches'][0][0])
    assert files[0]['bad_gradients'] == files[1]['bad_gradients'] != {}
    assert all(np.isfinite(f['state_dict']['queue']).all() for f in files)
    assert f'--nproc_per_node 2 tools/replay_step.py {folder}/nonfinite_iter_2_rank_0.pdparams' in said
    check_replay(tmp_path, folder / names[1], folder / names[2], capsys)


def check_replay(tmp_path, zero, one, capsys):
    """Two processes repeat all; one repeats its own part and says so."""
    launch(tmp_path / 'replay', 'tools/replay_step.py', zero, '--no-cuda')
    for r in (0, 1):
        with open(glob.glob(str(tmp_path / 'replay' / f'workerlog.{r}'))[0], errors='replace') as f:
            said = f.read()
        assert f'process {r} of 2' in said and 'Reproduced: all losses and' in said
        assert ('first that is not finite: encoder_q.1, output 1 (' in said) == (r == 1)
    done = call(replay_main, [str(one), '--no-cuda', '--scan'], capsys)
    assert done.code == 1 and 'Only a part could be repeated: the run had 2 processes' in done.out
    assert 'losses that are not finite are those of the run: loss, loss_dense' in done.out
    assert 'every one breaks the step' in done.out
    done = call(replay_main, [str(zero), '--no-cuda'], capsys)
    assert done.code == 1 and 'Only a part' in done.out and 'Gradients: all finite' in done.out
