"""Two real processes on the CPU (gloo), started by paddle.distributed.launch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from passl.cli import train_main
from passl.utils.weights.checkpoint import load_file
from tests.tiny import SMALL_NET, densecl_config, linear_config, write_config

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
pytestmark = pytest.mark.slow


def launching(log_dir, script, *arguments, processes=2, **environment):
    """(command, settings for subprocess) of `script` in `processes` processes."""
    command = [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', str(processes),
               '--log_dir', str(log_dir)]
    env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
    return command + [str(script), *map(str, arguments)], {
        'cwd': ROOT, 'text': True, 'env': dict(env, OMP_NUM_THREADS='1', PYTHONPATH=ROOT, **environment)}


def launch(log_dir, script, *arguments, processes=2):
    """Run `script` in `processes` processes; its output if it fails."""
    command, settings = launching(log_dir, script, *arguments, processes=processes)
    done = subprocess.run(command, capture_output=True, timeout=300, **settings)
    logs = ''
    if os.path.isdir(str(log_dir)):
        for name in sorted(os.listdir(str(log_dir))):
            with open(os.path.join(str(log_dir), name), errors='replace') as f:
                logs += f'\n--- {name}\n' + f.read()[-3000:]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return done


def train(tmp, name, cfg, *flags):
    launch(tmp / f'log_{name}', 'tools/train.py', '-c', write_config(cfg, tmp, name), '--allow-imports', *flags)
    return os.path.join(cfg['output_dir'], name)


def train_here(tmp, name, cfg, *flags):
    """As `train`, in this one process."""
    assert train_main(['-c', write_config(cfg, tmp, name), '--allow-imports', *flags]) == 0
    return os.path.join(cfg['output_dir'], name)


def logged(folder, mode='train'):
    with open(os.path.join(folder, 'log.jsonl')) as f:
        return [r for r in map(json.loads, f) if r['mode'] == mode]


# 64 px and a low rate: BN over few values would blow rounding differences up
WELL_CONDITIONED = {'size': 64, 'lr_scheduler': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.005, 'T_max': 2}}
DUMP = {'custom_imports': [SMALL_NET, os.path.join(HERE, 'dump_hook.py')], 'custom_config': [{'name': 'DumpHook'}]}


@pytest.fixture(scope='module')
def checked(tmp_path_factory):
    out = tmp_path_factory.mktemp('checks')
    launch(out / 'log', os.path.join(HERE, 'checks.py'), out)
    results = []
    for r in range(2):
        with open(out / f'rank{r}.json') as f:
            results.append(json.load(f))
    return results


def test_collectives(checked):
    for r, result in enumerate(checked):
        assert result['rank'] == r
        assert result['gathered'] == [[0, 0], [1, 10]]
        assert result['sum'] == [4.0, 4.0]
        assert result['object'] == {'from': 0}
        assert result['objects'] == [[0], [1]]


def test_unlike_data_is_told_by_every_process(checked):
    for result in checked:
        assert "Processes 0 and 1 see different data in 'dataloader.train': 26 and 25 images." in result['complaint']


def test_gradient_comes_back_through_the_gather(checked):
    for result in checked:
        assert result['gradient'] < 1e-6
        assert result['loss'] < 1e-6


def test_shuffling_changes_nothing_without_batch_statistics(checked):
    assert checked[0]['permutation'] == checked[1]['permutation'] != list(range(8))
    for result in checked:
        assert result['shuffle_changes'] < 1e-6


def test_dense_keys_left_shuffled_are_noticed(checked):
    """The planted bug changes the dense loss (and the sum), and nothing else."""
    for result in checked:
        total, whole, dense = result['bug_changes']
        assert whole < 1e-6 and dense > 1e-4 and total > 5e-5


@pytest.mark.parametrize('kind, pixel', [('float32', 4), ('uint8', 1)])
@pytest.mark.parametrize('name', ['DenseCL', 'MoCo'])
def test_traffic_of_a_step(checked, name, kind, pixel):
    """Every image and every map travels once, to where it is needed; only what enters the queues goes to all."""
    n, dim, cells = 4, 16, 2 * 3
    order = np.array(checked[0]['permutation'])
    for rank, result in enumerate(checked):
        from_others = int((order[rank * n:(rank + 1) * n] // n != rank).sum())
        assert 0 < from_others < n
        image = 3 * 16 * 24 * pixel
        dense = (16 + dim) * cells * 4 if name == 'DenseCL' else 0
        vectors = (2 if name == 'DenseCL' else 1) * dim * 4
        crossing = from_others * (image + dense)                # as many rows leave as come, and all come back
        got = result['steps'][f'{name} {kind}']
        assert got['counted'] == {
            'exchange': {'calls': 2 if dense else 1, 'sent': crossing, 'received': crossing},
            'all_gather': {'calls': 1, 'sent': n * vectors, 'received': n * vectors}}
        # a ring over 2 processes moves every gradient once each way
        parameters = result['steps'][f'{name} parameters']
        backbone = 3 * 8 * 9 + 2 * 8 + 8 * 16 * 9 + 16
        assert parameters == backbone + (16 * 32 + 32 + 32 * 16 + 16) * (2 if dense else 1)
        assert got['gradient'] == {'calls': 1, 'sent': 4 * parameters, 'received': 4 * parameters}


def test_raw_images_train_as_normalised_ones(checked):
    for name in ('DenseCL', 'MoCo'):
        for result in checked:
            a, b = (result['steps'][f'{name} {kind}'] for kind in ('float32', 'uint8'))
            assert a['loss'] == b['loss'] and a['queue'] == b['queue']
            assert b['queue'] == checked[0]['steps'][f'{name} uint8']['queue']


@pytest.fixture(scope='module')
def two(tmp_path_factory, images):
    """Run folder of 6 steps of the paper's parts; a checkpoint after each."""
    tmp = tmp_path_factory.mktemp('two')
    return train(tmp, 'two', densecl_config(images, tmp / 'out', **DUMP, **WELL_CONDITIONED, checkpoint={
        'name': 'CheckpointHook', 'interval': 1, 'by_epoch': False}))


def test_ranks_end_with_the_same_weights_and_queues(two):
    a, b = (np.load(os.path.join(two, f'rank{r}.npz')) for r in range(2))
    assert len(a.files) == 34
    own = [n for n in a.files if n.endswith(('._mean', '._variance'))]     # running statistics: each of its own data
    for name in set(a.files) - set(own):
        assert np.array_equal(a[name], b[name]), name
    state = load_file(os.path.join(two, 'latest.pdparams'))
    assert state['statistics']['names'] == own and len(own) == 4
    for values, dumped in zip(state['statistics']['values'], (a, b)):
        assert np.array_equal(values, np.concatenate([dumped[n].ravel() for n in own]))
    for name in own:        # what others read is the mean
        mean = (a[name].astype('float64') + b[name]) / 2
        assert np.array_equal(state['state_dict'][name], mean.astype('float32')), name
    records = logged(two)
    assert [r['iteration'] for r in records] == list(range(1, 7))        # 26 images, 2 x 4, drop_last: 3 per epoch
    assert int(a['queue_ptr'][0]) == 6 * 8 % 16 == int(a['queue2_ptr'][0])


@pytest.mark.parametrize('parts', [{}, {'correspondence': 'Regions', 'negatives': 'batch'},
                                   {'correspondence': 'MutualNearest', 'negatives': 'cells'}],
                         ids=['paper', 'regions', 'mutual'])
def test_two_processes_equal_one_with_two_bn_groups(tmp_path, images, two, parts):
    """2 processes x 4 images do what 1 process x 8 images with bn_splits 2 does: the same images, the same
    augmentation, the same shuffle, the same BN groups; so the same losses and the same averaged gradients.
    (Two steps: then the rounding differences of two orders of summation begin to grow.)

    With MutualNearest the processes have unequal numbers of pairs, and each takes the mean of its own: the queue and
    the global loss agree.
    """
    short = {'total_iters': 2, 'epochs': None, 'checkpoint': {'interval': 1, 'by_epoch': False}}
    folders = []
    for run, processes in ((train, 2), (train_here, 1)):
        cfg = {**densecl_config(images, tmp_path / 'out', batch_size=8 // processes, **WELL_CONDITIONED), **short}
        cfg['model'].update(parts, bn_splits=2 // processes)
        if parts:
            cfg['custom_imports'].append('tests.carrying')
            cfg['dataloader']['train']['dataset']['name'] = 'CarryingFolder'
        folders.append(run(tmp_path, run.__name__, cfg) if parts or processes == 1 else two)
    of_pairs = () if not parts else ('pairs',)
    if 'mutual' in str(parts).lower():
        a, b = (load_file(os.path.join(d, 'iter_1.pdparams'))['state_dict']['queue2'] for d in folders)
        assert np.abs(a - b).max() < 1e-5 < np.abs(a[:, :8] - a[:, 8:]).max()
        a, b = (logged(d)[0] for d in folders)
        assert a['pairs'] == b['pairs'] and a['loss_global'] == pytest.approx(b['loss_global'], rel=1e-5)
        return
    for a, b in zip(*map(logged, folders)):
        for key in ('loss', 'loss_global', 'loss_dense', 'lr', 'acc1', 'acc5', 'acc1_dense', *of_pairs):
            assert a[key] == pytest.approx(b[key], rel=1e-5), (a['iteration'], key)
    # after the first step the momentum buffer is the averaged gradient (plus weight decay)
    first = [load_file(os.path.join(d, 'iter_1.pdparams'))['optimizer']['slots'] for d in folders]
    assert len(first[0]) == len(first[1]) == 13
    for name in first[0]:
        a, b = (slots[name]['velocity_0'] for slots in first)
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max() + 1e-9, name


def test_evaluation_counts_every_sample_once(tmp_path, make_images):
    """13 val images over 2 processes in batches of 4: the same accuracy as on one process."""
    make_images(tmp_path / 'train', 8, classes=2)
    make_images(tmp_path / 'val', 7, classes=2)
    os.remove(sorted((tmp_path / 'val' / 'class1').iterdir())[0])
    cfg = linear_config(tmp_path / 'train', tmp_path / 'val', tmp_path / 'out')
    folder = train(tmp_path, 'linear', cfg)
    weights = os.path.join(folder, 'latest.pdparams')
    train_here(tmp_path, 'linear', cfg, '--evaluate-only', '--load', weights)
    two, one = logged(folder, 'val')
    assert one['num_samples'] == two['num_samples'] == 13 and one['acc1'] == two['acc1']
    assert one['acc1'] * 13 / 100 == pytest.approx(round(one['acc1'] * 13 / 100), abs=1e-9)
