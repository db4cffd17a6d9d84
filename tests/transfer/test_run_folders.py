"""One meaning of run folder, --overwrite, lock and status.json in train, evaluate, transfer-seg and transfer-det.

The work itself and what belongs to PaddleSeg and PaddleDetection are stubs; the rest is what users call.
"""

import contextlib
import json
import os
import types

import pytest

from passl.cli import evaluate_main, train_main, transfer_det_main, transfer_seg_main
from passl.engine.trainer import Trainer
from passl.transfer.paddledet import run as det
from passl.transfer.paddleseg import run as seg
from passl.transfer.probes import command as probes
from passl.transfer.probes.results import Results
from passl.utils.errors import DataError
from passl.utils.weights.checkpoint import save_file
from tests.conftest import ROOT
from tests.engine.small import call, moco, refused, write_config, write_data
from tests.engine.test_bad_input import content


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    return write_data(tmp_path_factory.mktemp('data'), make_images)


class Command:
    """A command whose work is `act(folder)`: it leaves what a run leaves, unless a test wants something else.

    Attributes:
        folder: its run folder. leaves: what it leaves there first, of which the refusal names the first three.
    """

    resumes, goes_on = False, False

    def __init__(self, tmp_path, data, monkeypatch, capsys):
        self.folder, self.data, self.capsys = str(tmp_path / 'out' / 'small'), data, capsys
        self.act, self.count = self.leave, 0
        self.stub(monkeypatch)

    def leave(self, folder):
        self.count += 1
        for name in self.leaves:
            with open(os.path.join(folder, name), 'w') as f:
                f.write(f'{self.count}\n')

    def flags(self):
        return ['--output', self.folder]

    def __call__(self, *flags):
        return call(self.main, [*self.flags(), *flags], self.capsys)

    def status(self):
        with open(os.path.join(self.folder, 'status.json'), encoding='utf-8') as f:
            return json.load(f)


class Train(Command):
    main, resumes, leaves = staticmethod(train_main), True, ['epoch_1.pdparams']

    def stub(self, monkeypatch):
        monkeypatch.setattr(Trainer, 'run', lambda trainer: (
            self.act(trainer.run_dir), setattr(trainer, 'iteration', 3),
            trainer.save_checkpoint(os.path.join(trainer.run_dir, 'epoch_1.pdparams'))))

    def flags(self):
        cfg = moco(self.data, output_dir=os.path.dirname(self.folder), epochs=1)
        return ['-c', write_config(cfg, folder=os.path.dirname(self.folder) + '_configs')]


class Evaluate(Command):
    main, goes_on, leaves = staticmethod(evaluate_main), True, ['comparison.csv', 'comparison.txt', 'results.jsonl']

    def stub(self, monkeypatch):
        monkeypatch.setattr(probes, 'find_sources', lambda *_: [])
        monkeypatch.setattr(probes, '_measure', lambda args, sources: self.act(args.output))

    def flags(self):
        return ['--tasks', 'knn', '--weights', 'x.pdparams', '--data', self.data, '--no-cuda', *super().flags()]


class Segmentation(Command):
    main, resumes, leaves = staticmethod(transfer_seg_main), True, ['best_model', 'iter_2', 'iter_4']

    def stub(self, monkeypatch):
        monkeypatch.setattr(seg.library, 'load', lambda: types.SimpleNamespace(__version__='2.8.0'))
        monkeypatch.setattr(seg.layout, 'check', lambda *_: 6)
        monkeypatch.setattr(seg._Job, 'train', lambda job, start, sizes, resume: (
            job.record.update(mIoU=0.5, resumed=resume), self.act(job.folder)))
        monkeypatch.setattr(seg._Job, 'predict', lambda job: os.makedirs(os.path.join(job.folder, 'added_prediction')))

    def leave(self, folder):
        for name in self.leaves:
            os.makedirs(os.path.join(folder, name), exist_ok=True)
            for file in ('model.pdparams', 'model.pdopt'):
                save_file({'w': 1}, os.path.join(folder, name, file))

    def flags(self):
        return ['-c', f'{ROOT}/configs/transfer/seg/custom.yml', '--no-cuda', *super().flags()]

    def __call__(self, *flags):
        more = [] if {'--pretrained', '--weights', '--resume'} & set(flags) else ['--pretrained', 'none']
        return super().__call__(*flags, *more)


class Detection(Command):
    main, leaves = staticmethod(transfer_det_main), ['metrics.json', 'model_final.pdparams']

    def stub(self, monkeypatch):
        for name in ('import_ppdet', 'check_config', '_start_device'):
            monkeypatch.setattr(det, name, lambda *_: None)
        monkeypatch.setattr(det, 'no_downloads', contextlib.nullcontext)
        monkeypatch.setattr(det, '_prepare', lambda *_: [])
        monkeypatch.setattr(det, '_train', lambda cfg, args, folder: self.act(folder) or {'AP': 50.0})
        monkeypatch.setattr(det, '_predict', lambda cfg, args, folder: (
            os.makedirs(os.path.join(folder, 'predictions')), {'a.jpg': []})[1])

    def flags(self):
        return ['-c', f'{ROOT}/configs/transfer/det/faster_rcnn_r18_fpn_custom.yml', '--no-cuda', *super().flags()]

    def __call__(self, *flags):
        more = [] if {'--pretrained', '--weights'} & set(flags) else ['--pretrained', 'none']
        return super().__call__(*flags, *more)


@pytest.fixture(params=[Train, Evaluate, Segmentation, Detection])
def command(request, tmp_path, data, monkeypatch, capsys):
    return request.param(tmp_path, data, monkeypatch, capsys)


def fails(error):
    def act(folder):
        raise error
    return act


def test_a_former_run_is_refused_with_its_ways_out_or_moved_aside(command):
    assert command().code == 0
    first = content(command.folder)
    if command.goes_on:
        assert command().code == 0
        first = content(command.folder)
    else:
        done = command()
        refused(done, f"'{command.folder}' already holds a run ({', '.join(command.leaves)}", '--overwrite', 'DIR')
        assert ('--resume auto' in done.err) == command.resumes
        assert content(command.folder) == first
    assert command('--overwrite').code == 0 and content(command.folder + '.bak-1') == first
    second = content(command.folder)
    assert command('--overwrite').code == 0 and content(command.folder + '.bak-1') == first
    assert content(command.folder + '.bak-2') == second


def test_a_logged_step_and_the_run_of_another_command_count(command):
    for name, line in (('log.jsonl', '{"mode": "train"}\n'), ('iter_7.pdparams', ''), ('model_final.pdparams', '')):
        folder, command.folder = command.folder, f'{command.folder}_{name}'
        if isinstance(command, Train):          # it names its folder after the config
            command.folder = folder
        os.makedirs(command.folder)
        with open(os.path.join(command.folder, name), 'w') as f:
            f.write(line)
        refused(command(), f'already holds a run ({name}).')
        if isinstance(command, Train):
            os.rename(command.folder, f'{folder}_{name}')
        command.folder = folder


def test_other_files_are_no_obstacle_and_stay(command):
    os.makedirs(command.folder)
    for name in ('notes.txt', 'evaluate.json', 'log.jsonl'):
        with open(os.path.join(command.folder, name), 'w') as f:
            f.write('{"mode": "val"}\n')
    assert command('--overwrite').code == 0
    assert not os.path.exists(command.folder + '.bak-1')
    with open(os.path.join(command.folder, 'notes.txt')) as f:
        assert f.read() == '{"mode": "val"}\n'


def test_two_runs_in_one_folder_are_refused(command, occupied):
    assert command().code == 0
    before, pid = content(command.folder), occupied(command.folder)
    resumes = [['--resume', 'auto'], ['--resume', os.path.join(command.folder, command.leaves[-1])]]
    for flags in [[], ['--overwrite'], *(resumes if command.resumes else [])]:
        refused(command(*flags), f"'{command.folder}' is in use by another run (process {pid} on", 'DIR')
    assert content(command.folder) == before and not os.path.exists(command.folder + '.bak-1')


def test_the_status_tells_how_it_stands_and_how_it_ended(command):
    stood = []
    leave = command.act
    command.act = lambda folder: stood.append(command.status()['state']) or leave(folder)
    assert command().code == 0
    status = command.status()
    assert stood == ['running'] and list(status)[:4] == ['state', 'code', 'message', 'time']
    assert (status['state'], status['code'], status['message']) == ('done', 0, '')


@pytest.mark.parametrize('error, code, told', [
    (DataError('made to fail'), 2, ('failed', 2, 'made to fail')),
    (KeyboardInterrupt(), 130, ('stopped', 130, '')), (SystemExit(143), 143, ('stopped', 143, '')),
    (RuntimeError('a fault'), None, ('failed', 1, 'RuntimeError: a fault'))])
def test_a_run_that_ends_early_says_so_and_occupies_nothing(command, error, code, told):
    command.act = fails(error)
    if code is None:
        with pytest.raises(RuntimeError, match='a fault'):
            command()
    else:
        assert command().code == code
    status = command.status()
    assert (status['state'], status['code'], status['message']) == told
    command.act = command.leave
    assert command().code == 0 and command.status()['state'] == 'done'      # the lock is free, nothing is in the way


def test_a_refused_run_leaves_the_status_of_the_other_one(command, tmp_path):
    command()
    before = command.status()
    command.act = fails(AssertionError('not refused'))
    if command.goes_on:
        os.unlink(os.path.join(command.folder, 'results.jsonl'))
    refused(command(), 'already holds a run')
    assert command.status() == before


def test_what_the_run_needs_is_not_moved_aside(command):
    command()
    inside = os.path.join(command.folder, 'weights.pdparams')
    save_file({'w': 1}, inside)
    for flag, path in (('--weights' if command.goes_on else '--pretrained', inside), ('--data', command.folder)):
        if flag == '--data' and isinstance(command, Train):     # its config names the data
            continue
        refused(command('--overwrite', flag, path), f"{flag} '{path}' lies in the run folder that --overwrite", 'DIR')
    assert os.path.exists(inside) and not os.path.exists(command.folder + '.bak-1')


def test_a_file_in_the_place_of_the_folder(command):
    os.makedirs(os.path.dirname(command.folder))
    with open(command.folder, 'w') as f:
        f.write('mine')
    refused(command('--overwrite'), f"'{command.folder}' is a file", 'DIR')


# ------------------------------------------------------------------------------------------- what not all of them have

@pytest.fixture
def of(tmp_path, data, monkeypatch, capsys):
    """A function: the command of a class."""
    return lambda kind: kind(tmp_path, data, monkeypatch, capsys)


def test_evaluate_goes_on_and_keeps_its_cache(of):
    command = of(Evaluate)
    rows = []

    def act(folder):
        with Results(folder) as results:
            rows.append(results.get('a'))
            results.add({'key': 'a', 'figures': {'x': 1.0}})
        os.makedirs(os.path.join(folder, 'cache'), exist_ok=True)
        with open(os.path.join(folder, 'cache', 'a.f16'), 'w') as f:
            f.write('maps')
    command.act = act
    for flags in ([], [], ['--overwrite']):
        assert command(*flags).code == 0
    assert [r and r['figures'] for r in rows] == [None, {'x': 1.0}, None]
    assert os.listdir(os.path.join(command.folder, 'cache')) == ['a.f16']
    assert not os.path.exists(os.path.join(command.folder + '.bak-1', 'cache'))


@pytest.mark.parametrize('kind, result, more', [(Segmentation, 'predict.json', 'added_prediction'),
                                                (Detection, 'predictions.json', 'predictions')])
def test_a_prediction_is_added_to_the_folder_of_a_training(of, kind, result, more):
    command = of(kind)
    command()
    before = content(command.folder)
    flags = ['--predict', 'photo.jpg', '--weights', os.path.join(command.folder, 'model.pdparams')]
    assert command(*flags).code == 0
    first = content(command.folder)
    assert first.items() >= before.items() and set(first) - set(before) == {result}
    refused(command(*flags), 'already holds', more, '--overwrite', '--output DIR')
    assert command(*flags, '--overwrite').code == 0
    assert set(os.listdir(os.path.join(command.folder, 'superseded-1'))) == {result, more}
    assert content(command.folder).items() >= before.items() and command.status()['state'] == 'done'


def test_segmentation_goes_on_from_the_newest_whole_checkpoint(of):
    command = of(Segmentation)
    assert command('--resume', 'auto').code == 2            # nothing is there, and no --pretrained
    assert command('--resume', 'auto', '--pretrained', 'none').code == 0
    assert command.status()['resumed'] is None
    assert command('--resume', 'auto').code == 0
    assert command.status()['resumed'] == os.path.join(command.folder, 'iter_4')
    with open(os.path.join(command.folder, 'iter_4', 'model.pdopt'), 'r+b') as f:
        f.truncate(10)
    done = command('--resume', 'auto')
    assert 'Damaged checkpoint left aside' in done.out and command.status()['resumed'].endswith('iter_2')
    old = os.path.join(command.folder, 'iter_2/')
    refused(command('--resume', old), 'newer checkpoints', 'iter_4', '--overwrite')
    assert command('--resume', old, '--overwrite').code == 0
    assert os.listdir(os.path.join(command.folder, 'superseded-1')) == ['iter_4']
    assert command.status()['mIoU'] == 0.5
