"""Saving: what is kept and removed, and what happens when a file cannot be written."""

import errno
import os
import shutil
import types

import numpy as np
import paddle
import pytest

from passl.cli import train_main
from passl.hooks import HOOKS, Hook, checkpoint_hook
from passl.hooks.checkpoint_hook import CheckpointHook, point, remove_own
from passl.utils.weights import checkpoint
from passl.utils.weights.checkpoint import load_file, read_note, save_file
from passl.utils.config import merge
from passl.utils.errors import CheckpointError

from .small import assert_same_state, call, moco, records, refused, refused_training, saved, train, write_config


@HOOKS.register()
class Meanwhile(Hook):
    """Calls `action[iteration]` after that step, before the checkpoint."""

    action = {}

    def train_iter_end(self, trainer):
        self.action.get(trainer.iteration, lambda: None)()


@pytest.fixture
def meanwhile():
    """{iteration: function}; and the config that calls them."""
    Meanwhile.action = {}
    yield Meanwhile.action
    Meanwhile.action = {}


WITH = {'custom_config': [{'name': 'Meanwhile'}]}


@pytest.fixture
def clock(monkeypatch):
    """A clock for the hook that only its own sleep and `clock[0] += s` move."""
    now = [1000.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

        @staticmethod
        def sleep(seconds):
            now[0] += seconds
    monkeypatch.setattr(checkpoint_hook, 'time', Clock)
    return now


# ---------------------------------------------------------------------------------------------- what is kept

ONE_STEP = {'dataloader': {'train': {'sampler': {'batch_size': 8}}}}           # per epoch


@pytest.mark.parametrize('change, expected', [
    ({'interval': 3}, ['epoch_3', 'epoch_5']),                  # 3 does not divide 5: the last is saved
    ({'interval': 2, 'max_keep_ckpts': 2}, ['epoch_4', 'epoch_5']),
    ({'max_keep_ckpts': -1}, [f'epoch_{i}' for i in range(1, 6)]),
    ({'max_keep_ckpts': 1, 'keep_every': 2}, ['epoch_2', 'epoch_4', 'epoch_5']),
    ({'max_keep_ckpts': 2, 'keep_every': 4}, ['epoch_4', 'epoch_5']),
    ({'keep_every': 4}, [f'epoch_{i}' for i in range(1, 6)]),               # without a limit all are kept
    ({'by_epoch': False, 'interval': 4, 'max_keep_ckpts': 2}, ['iter_12', 'iter_15']),
    ({'by_epoch': False, 'interval': 5, 'max_keep_ckpts': 0}, ['iter_5', 'iter_10', 'iter_15']),
    ({'by_epoch': False, 'interval': 2, 'max_keep_ckpts': 1, 'keep_every': 8}, ['iter_8', 'iter_15']),
])
def test_what_is_saved_and_kept(data, out, capsys, change, expected):
    cfg = moco(data, **out, epochs=5, checkpoint=change)
    folder, _ = train(merge(cfg, ONE_STEP) if change.get('by_epoch', True) else cfg, capsys)
    assert saved(folder) == sorted(f'{n}.pdparams' for n in expected)
    assert os.readlink(os.path.join(folder, 'latest.pdparams')) == f'{expected[-1]}.pdparams'


def test_retention_over_a_resume(data, out, capsys):
    cfg = moco(data, **out, **ONE_STEP, epochs=6, checkpoint={'max_keep_ckpts': 2, 'keep_every': 3})
    for epochs in ('2', '4', '6'):
        folder, _ = train(cfg, capsys, '--resume', 'auto', '-o', f'epochs={epochs}')
    assert saved(folder) == ['epoch_3.pdparams', 'epoch_5.pdparams', 'epoch_6.pdparams']


def test_files_of_others_are_not_removed(data, out, capsys):
    """Nor one in the place of an own one: the run knows that it wrote epoch_1, but that file is another one now."""
    cfg = moco(data, **out, **ONE_STEP, epochs=3, checkpoint={'max_keep_ckpts': 1})
    folder, _ = train(merge(cfg, {'epochs': 1}), capsys)
    path, foreign = (os.path.join(folder, f'epoch_{i}.pdparams') for i in (1, 99))
    save_file(load_file(path), os.path.join(folder, 'iter_1.pdparams'), read_note(path))
    for name in path, foreign:
        save_file({'mine': np.zeros(3, 'f4')}, name)
        os.utime(name, (1, 1))
    _, done = train(cfg, capsys, '--resume', 'auto')
    assert list(load_file(path)) == list(load_file(foreign)) == ['mine']
    assert 'epoch_1.pdparams\' was not written by this run and is not removed' in done.out
    assert saved(folder) == ['epoch_1.pdparams', 'epoch_3.pdparams', 'epoch_99.pdparams', 'iter_1.pdparams']


def test_names_in_a_hostile_checkpoint_remove_nothing(data, out, tmp_path, capsys):
    cfg = moco(data, **out, epochs=3, checkpoint={'max_keep_ckpts': 1})
    folder, _ = train(merge(cfg, {'epochs': 1}), capsys)
    path = os.path.join(folder, 'epoch_1.pdparams')
    state, note = load_file(path), read_note(path)
    victims = [tmp_path / 'victim', tmp_path / 'out' / 'small' / 'notes.txt', tmp_path / 'epoch_7.pdparams']
    for v in victims[:2]:
        v.write_text('mine')
    save_file({'x': 1}, victims[2], note)
    state['saved_files'] = ['../../victim', str(victims[0]), 'notes.txt', '../../epoch_7.pdparams', str(victims[2])]
    save_file(state, path, note)
    refused_training(cfg, capsys, ["'saved_files' is missing or not what it should be"], '--resume', 'auto')
    assert all(v.exists() for v in victims)


def test_remove_own(tmp_path, caplog):
    note = {'run_id': 'a'}
    for name in ('epoch_1.pdparams', 'iter_2.pdparams', 'mine.pdparams'):
        save_file({'x': 1}, tmp_path / name, note)
    os.symlink('mine.pdparams', tmp_path / 'epoch_3.pdparams')
    for name in ('epoch_1.pdparams', 'mine.pdparams', 'epoch_3.pdparams', 'epoch_9.pdparams'):
        remove_own(str(tmp_path), name, 'a')
    remove_own(str(tmp_path), 'iter_2.pdparams', 'b')
    assert sorted(os.listdir(tmp_path)) == ['epoch_3.pdparams', 'iter_2.pdparams', 'mine.pdparams']


def test_latest_leaves_files_of_others(tmp_path):
    link = str(tmp_path / 'latest.pdparams')
    point(link, 'epoch_1.pdparams')
    point(link, 'epoch_2.pdparams')
    assert os.readlink(link) == 'epoch_2.pdparams' and os.listdir(tmp_path) == ['latest.pdparams']
    os.unlink(link)
    save_file({'mine': 1}, link)
    point(link, 'epoch_3.pdparams')
    assert load_file(link) == {'mine': 1}
    os.unlink(link)
    os.mkdir(link)
    point(link, 'epoch_3.pdparams')
    assert os.listdir(tmp_path) == ['latest.pdparams'] and os.path.isdir(link)


def test_latest_where_links_cannot_be_made(tmp_path, monkeypatch):
    for n in (1, 2):
        save_file({'n': n}, tmp_path / f'epoch_{n}.pdparams', {'run_id': 'a'})

    def cannot(*_):
        raise OSError(errno.EPERM, 'no links')
    monkeypatch.setattr(os, 'symlink', cannot)
    for n in (1, 2):
        point(str(tmp_path / 'latest.pdparams'), f'epoch_{n}.pdparams')
    assert load_file(tmp_path / 'latest.pdparams') == {'n': 2} and len(os.listdir(tmp_path)) == 3


# ------------------------------------------------------------------------------------------------ when

def test_every_minutes_within_an_epoch(data, out, capsys, clock, meanwhile):
    for i in range(1, 7):
        meanwhile[i] = lambda: clock.__setitem__(0, clock[0] + 31.0)
    cfg = moco(data, **out, **WITH, checkpoint={'every_minutes': 1, 'interval': 100})
    folder, _ = train(cfg, capsys)
    assert saved(folder) == ['epoch_2.pdparams', 'iter_2.pdparams', 'iter_4.pdparams']


@pytest.mark.parametrize('change', [{'by_epoch': False, 'interval': 1}, {'every_minutes': 1e-9, 'interval': 100}])
def test_a_file_of_an_epochs_last_step_holds_its_end(data, out, capsys, change):
    """The schedule's step of that epoch is part of the state; without it the next epoch would have the old rate."""
    cfg = moco(data, **out, lr_config={'unit': 'epoch'})
    whole, _ = train(cfg, capsys, name='whole')
    cfg['checkpoint'] = {'name': 'CheckpointHook', **change}
    folder, _ = train(dict(merge(cfg, {'epochs': None}), total_iters=3), capsys)
    assert load_file(os.path.join(folder, 'latest.pdparams'))['iteration'] == 3
    train(cfg, capsys, '--resume', 'auto')
    last = os.readlink(os.path.join(folder, 'latest.pdparams'))
    assert_same_state(os.path.join(whole, 'epoch_2.pdparams'), os.path.join(folder, last))
    assert [r['lr'] for r in records(whole)] == [r['lr'] for r in records(folder)]


# ------------------------------------------------------------------------------------ what cannot be written

@pytest.fixture
def disk(monkeypatch):
    """{'full': bool}; while it is, nothing can be made durable."""
    state, real = {'full': False}, os.fsync

    def fsync(fd):
        if state['full']:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)
    monkeypatch.setattr(checkpoint.os, 'fsync', fsync)
    return state


def test_a_full_disk_does_not_end_a_run(data, out, capsys, disk, clock, meanwhile):
    """The save of epoch 1 fails, the one a minute later too, then there is space."""
    meanwhile[3] = lambda: disk.update(full=True)
    meanwhile[4] = lambda: clock.__setitem__(0, clock[0] + 61)
    meanwhile[5] = lambda: (disk.update(full=False), clock.__setitem__(0, clock[0] + 100))       # retried after 120 s
    meanwhile[7] = lambda: clock.__setitem__(0, clock[0] + 21)
    cfg = moco(data, **out, **WITH, epochs=4, checkpoint={'interval': 3})
    meanwhile[9] = lambda: disk.update(full=True)
    meanwhile[10] = lambda: disk.update(full=False)
    folder, done = train(cfg, capsys)
    assert saved(folder) == ['epoch_4.pdparams'] and 'Cannot write' in done.out
    assert done.out.count('No space left on device. Free some space') == 1
    assert 'The training goes on; saving is tried again in 1 minutes' in done.out


def test_retries_in_growing_intervals(data, out, capsys, disk, clock, meanwhile):
    meanwhile[1] = lambda: disk.update(full=True)
    for i in (2, 4, 5, 7):
        meanwhile[i] = lambda: clock.__setitem__(0, clock[0] + 61)
    meanwhile[8] = lambda: (clock.__setitem__(0, clock[0] + 300), disk.update(full=False))
    cfg = moco(data, **out, **WITH, epochs=5, checkpoint={'by_epoch': False, 'interval': 1000, 'every_minutes': 1})
    folder, done = train(cfg, capsys)
    # fails at 2 (61 s), again after 1 minute (4), then not before 2 more (7), then 4 (8: there is space again)
    waits = [line.split('tried again in ')[1].split()[0] for line in done.out.splitlines() if 'tried again in' in line]
    assert waits == ['1', '2', '4']
    assert saved(folder) == ['iter_15.pdparams', 'iter_8.pdparams']
    assert load_file(os.path.join(folder, 'iter_15.pdparams'))['saved_files'] == ['iter_8.pdparams', 'iter_15.pdparams']


def test_the_last_save_waits_for_space(data, out, capsys, disk, clock, meanwhile, monkeypatch):
    meanwhile[6] = lambda: disk.update(full=True)
    real = checkpoint_hook.time.sleep

    def sleep(seconds):
        real(seconds)
        if clock[0] > 1100:
            disk['full'] = False
    monkeypatch.setattr(checkpoint_hook.time, 'sleep', staticmethod(sleep))
    cfg = moco(data, **out, **WITH, checkpoint={'interval': 100})
    folder, done = train(cfg, capsys)
    assert saved(folder) == ['epoch_2.pdparams'] and done.out.count('Trying again every 30 s') == 4


def test_the_last_save_gives_up_after_ten_minutes(data, out, capsys, disk, clock, meanwhile):
    meanwhile[6] = lambda: disk.update(full=True)
    cfg = moco(data, **out, **WITH, checkpoint={'by_epoch': False, 'interval': 4})
    done = call(train_main, ['-c', write_config(cfg)], capsys)
    refused(done, 'Cannot write', 'No space left on device. Free some space')
    assert 1560 <= clock[0] <= 1600
    folder = os.path.join(out['output_dir'], 'small')
    assert saved(folder) == ['iter_4.pdparams'] and load_file(os.path.join(folder, 'iter_4.pdparams'))['iteration'] == 4
    assert os.readlink(os.path.join(folder, 'latest.pdparams')) == 'iter_4.pdparams'
    disk['full'] = False
    meanwhile.clear()
    train(cfg, capsys, '--resume', 'auto')
    assert saved(folder) == ['iter_4.pdparams', 'iter_6.pdparams']


@pytest.mark.parametrize('number, advice', [(errno.EROFS, 'Choose an output_dir that you may write to'),
                                            (errno.EDQUOT, 'quota is used up'), (errno.EIO, 'Choose another place')])
def test_other_reasons(data, out, capsys, monkeypatch, number, advice, clock):
    real = os.replace

    def cannot(a, b):
        if not str(b).endswith('.pdparams'):
            return real(a, b)
        raise OSError(number, os.strerror(number))
    folder, _ = train(moco(data, **out, epochs=1), capsys)
    before = open(os.path.join(folder, 'epoch_1.pdparams'), 'rb').read()
    monkeypatch.setattr(checkpoint.os, 'replace', cannot)
    done = call(train_main, ['-c', write_config(moco(data, **out)), '--resume', 'auto'], capsys)
    assert done.code == 2 and advice in done.err
    assert open(os.path.join(folder, 'epoch_1.pdparams'), 'rb').read() == before
    assert [n for n in os.listdir(folder) if n.endswith('.tmp')] == []


def test_a_vanished_folder_is_made_anew(data, out, capsys, meanwhile):
    folder = os.path.join(out['output_dir'], 'small')
    meanwhile[4] = lambda: shutil.rmtree(folder)
    _, done = train(moco(data, **out, **WITH), capsys)
    assert f"The folder '{folder}' has vanished" in done.out
    assert saved(folder) == ['epoch_2.pdparams']
    assert load_file(os.path.join(folder, 'epoch_2.pdparams'))['iteration'] == 6


def test_a_full_disk_does_not_end_the_log(data, out, capsys, monkeypatch, tmp_path):
    from passl.utils.logger import JsonLines, read_json_lines
    log = JsonLines(tmp_path / 'log.jsonl')
    log.write({'a': 1})
    real = log._file

    class Full:
        def write(self, line):
            raise OSError(errno.ENOSPC, 'No space left on device')
    log._file = Full()
    log.write({'a': 2})
    log.write({'a': 3})

    class Nearly:
        def write(self, line):
            return real.write(line[:4])         # a part fits
    log._file = Nearly()
    log.write({'a': 4})
    log._file = real
    log.write({'a': 5})
    log.close()
    assert [r['a'] for r in read_json_lines(tmp_path / 'log.jsonl')] == [1, 5]


def test_little_space_is_told_before_the_first_step(tmp_path, monkeypatch, caplog):
    """Of 4 MiB of weights and as much for the optimizer; with 2 to keep, 3 lie on the disk while one is removed."""
    trainer = types.SimpleNamespace(model=paddle.nn.Linear(1024, 1024), run_dir=str(tmp_path), iteration=0)
    for free, told in ((25, ''), (20, 'some 8 MiB, and 3 lie on the disk at a time'), (20, 'room for 2')):
        monkeypatch.setattr(checkpoint_hook, 'free_bytes', lambda _, free=free: free * 2**20)
        caplog.clear()
        CheckpointHook(max_keep_ckpts=2).run_begin(trainer)
        assert told in caplog.text and bool(told) == bool(caplog.text)
    monkeypatch.setattr(checkpoint_hook, 'free_bytes', lambda _: 5 * 2**20)
    with pytest.raises(CheckpointError, match='has 5 MiB free: nothing could be saved'):
        CheckpointHook().run_begin(trainer)


def test_the_failed_save_is_not_counted(data, out, capsys, disk, clock, meanwhile):
    """Retention never removes a good file for one that was not written."""
    meanwhile[4] = lambda: disk.update(full=True)
    meanwhile[9] = lambda: disk.update(full=True)
    cfg = moco(data, **out, **WITH, epochs=3, checkpoint={'max_keep_ckpts': 1})
    done = call(train_main, ['-c', write_config(cfg)], capsys)
    folder = os.path.join(out['output_dir'], 'small')
    assert done.code == 2 and saved(folder) == ['epoch_1.pdparams']
