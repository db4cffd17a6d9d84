"""SIGKILL at every point of a save and at random moments: `--resume auto` ends in the same numbers, bit for bit."""

import glob
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from passl.cli import train_main
from passl.utils.weights.checkpoint import load_file
from tests.tiny import densecl_config, with_long_steps
from tests.tiny import write_config as write_tiny

from .small import assert_same_state, densecl, records, saved, train, write_config

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OWN = {'cwd': ROOT, 'env': dict(os.environ, PYTHONPATH=ROOT), 'text': True}


@pytest.fixture(scope='module')
def run():
    """run(point, count, *arguments): exit code of a training that dies there, see killed.py."""
    server = subprocess.Popen([sys.executable, os.path.join(HERE, 'killed.py')], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **OWN)

    def ask(point, count, *arguments):
        server.stdin.write(json.dumps([point, count, list(arguments)]) + '\n')
        server.stdin.flush()
        return int(server.stdout.readline())
    yield ask
    server.stdin.close()
    server.stdout.close()
    server.wait(60)


@pytest.fixture(scope='module')
def whole(data, run, tmp_path_factory):
    """(config, run folder) of a run that nobody disturbs: 6 steps, saved and measured after every second."""
    tmp = tmp_path_factory.mktemp('whole')
    cfg = densecl(data, output_dir=str(tmp), checkpoint={'by_epoch': False, 'interval': 2, 'max_keep_ckpts': 1},
                  best_config={'check': 'auto'})
    assert run('none', 0, '-c', write_config(cfg, 'whole')) == 0
    return cfg, os.path.join(str(tmp), 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('point, count', [('write', 1), ('write', 2), ('fsync', 1), ('fsync', 2), ('replace', 2),
                                          ('replaced', 2), ('symlink', 1), ('symlink', 2), ('remove', 1),
                                          ('config', 1)])
def test_killed_while_saving(whole, run, out, capsys, point, count):
    cfg, folder = whole
    cfg = dict(cfg, **out)
    assert run(point, count, '-c', write_config(cfg, 'parts')) == -signal.SIGKILL
    parts = os.path.join(out['output_dir'], 'parts')
    for name in saved(parts):                               # whatever has its name is whole
        load_file(os.path.join(parts, name))
    train(cfg, capsys, '--resume', 'auto', name='parts')
    assert_same_state(os.path.join(folder, 'iter_6.pdparams'), os.path.join(parts, 'iter_6.pdparams'), 30)
    losses = {r['iteration']: r['loss'] for r in records(parts)}
    assert [losses[i] for i in range(1, 7)] == [r['loss'] for r in records(folder)]
    assert saved(parts) == saved(folder) == ['iter_6.pdparams']
    assert os.readlink(os.path.join(parts, 'latest.pdparams')) == 'iter_6.pdparams'
    assert [n for n in os.listdir(parts) if n.endswith('.tmp')] == []


def left_behind():
    """Files in shared memory of processes that are no more."""
    return {f for f in glob.glob('/dev/shm/paddle_*') if not os.path.exists(f"/proc/{f.split('_')[1]}")}


@pytest.mark.slow
def test_killed_at_random_moments_with_workers_and_accumulation(tmp_path, make_images):
    """Until the run gets through; what data workers hold in shared memory goes with them."""
    make_images(tmp_path / 'images', 40)
    cfg = densecl_config(tmp_path / 'images', tmp_path / 'out', workers=2, batch_size=2, epochs=2,
                         optimizer_config={'name': 'OptimizerHook', 'accumulate_steps': 2},
                         checkpoint={'name': 'CheckpointHook', 'by_epoch': False, 'interval': 1, 'max_keep_ckpts': 2})
    assert train_main(['-c', write_tiny(cfg, tmp_path, 'whole'), '--allow-imports']) == 0
    before = left_behind()
    parts, rng, kills = write_tiny(with_long_steps(cfg, 0.1), tmp_path, 'parts'), random.Random(5), 0
    folder = tmp_path / 'out' / 'parts'
    for _ in range(30):
        main = subprocess.Popen([sys.executable, 'tools/train.py', '-c', parts, '--allow-imports', '--resume', 'auto'],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **OWN)
        try:
            steps = 0
            wanted = rng.randrange(2, 6)
            for line in main.stdout:
                steps += 'Epoch [' in line
                if steps >= wanted and kills < 3:
                    time.sleep(rng.uniform(0, 0.3))
                    main.kill()
                    break
            rest = main.stdout.read()
            main.wait(60)
            kills += main.returncode == -signal.SIGKILL
            assert main.returncode in (0, -signal.SIGKILL), rest
        finally:
            main.kill()
            main.wait()
        if main.returncode == 0:
            break
    assert kills == 3 and main.returncode == 0
    assert_same_state(tmp_path / 'out' / 'whole' / 'iter_20.pdparams', folder / 'iter_20.pdparams', 33)
    losses = [{r['iteration']: r['loss'] for r in records(tmp_path / 'out' / n)} for n in ('whole', 'parts')]
    assert losses[0] == losses[1] and len(losses[0]) == 20
    until = time.monotonic() + 10
    while left_behind() - before and time.monotonic() < until:
        time.sleep(0.2)
    assert left_behind() - before == set()
