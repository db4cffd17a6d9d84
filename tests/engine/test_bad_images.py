"""The number of unreadable images in the log, and their names in the run folder."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import paddle
import pytest

from passl.engine.builder import build_trainer
from passl.hooks.bad_images_hook import NAMES_FILE, add_names
from passl.utils.config import merge, with_defaults
from passl.utils.weights import load_into, load_weights

from .small import clas, moco, records, refused_training, train, write_config

ODD = 'a\nb \x1b.png'


@pytest.fixture
def images(tmp_path, make_images):
    """12 images, of which 3 are broken."""
    files = make_images(tmp_path / 'flat', 11)
    for i in (2, 7):
        with open(files[i], 'wb') as f:
            f.write(b'broken')
    with open(tmp_path / 'flat' / ODD, 'wb'):
        pass
    return tmp_path


def config(root, workers, **changes):
    return moco(str(root), dataloader={'train': {'loader': {'num_workers': workers}, 'dataset': {'max_bad': 0.5}}},
                **changes)


def names(run):
    with open(os.path.join(run, NAMES_FILE)) as f:
        lines = f.read().splitlines()
    assert len(set(lines)) == len(lines)
    return sorted(os.path.basename(json.loads(line)) for line in lines)


def log_of(run):
    with open(os.path.join(run, 'log.txt'), encoding='utf-8') as f:
        return f.read()


@pytest.mark.parametrize('workers', [0, 2])
def test_log_and_file_after_a_run_and_a_resumed_one(images, capsys, workers):
    run, _ = train(config(images, workers), capsys)
    assert names(run) == ['0002.png', '0007.png', ODD]
    said = 'Unreadable images so far: 3 of 12 (in training replaced by others; names in bad_images.txt).'
    assert log_of(run).count(said) == 3                     # two epochs and the end
    shutil.copy(images / 'flat' / '0001.png', images / 'flat' / '0002.png')       # mended
    with open(images / 'flat' / '0003.png', 'wb') as f:
        f.write(b'worse')
    train(config(images, workers, epochs=3), capsys, '--resume', 'auto')
    assert names(run) == ['0002.png', '0003.png', '0007.png', ODD]
    assert log_of(run).splitlines()[-1].endswith('small') and 'so far: 4 of 12' in log_of(run)


def test_without_bad_images_one_line_says_so(tmp_path, make_images, capsys):
    make_images(tmp_path / 'flat', 12)
    run, _ = train(moco(str(tmp_path)), capsys)
    assert log_of(run).count('Unreadable images: none of 12.') == 1 == log_of(run).count('Unreadable')
    assert not os.path.exists(os.path.join(run, NAMES_FILE))


def test_those_of_the_validation_count_too(tmp_path, make_images, capsys):
    make_images(tmp_path / 'train', 4, classes=3)
    files = make_images(tmp_path / 'val', 3, classes=3, seed=1)
    with open(files[4], 'wb'):
        pass
    cfg = clas(str(tmp_path), custom_config=[{'name': 'EvaluateHook'}], epochs=1)
    cfg = merge(cfg, {'dataloader': {'val': {'dataset': {'max_bad': 0.5}}}})
    run, _ = train(cfg, capsys)
    assert names(run) == [os.path.basename(files[4])] and 'so far: 1 of 21' in log_of(run)
    assert 'Unreadable image left out of the evaluation: ' in log_of(run) and 'replaced by another' not in log_of(run)
    assert '1 of 9 validation images could not be read; the figures are of the others.' in log_of(run)


def test_the_figures_of_an_evaluation_are_of_the_images_that_can_be_read(tmp_path, make_images, capsys):
    """They were of other images in their place, with the labels of those."""
    make_images(tmp_path / 'train', 4, classes=3)
    files = make_images(tmp_path / 'val', 3, classes=3, seed=1)
    cfg = clas(str(tmp_path), custom_config=[{'name': 'EvaluateHook'}], epochs=1)
    cfg = merge(cfg, {'dataloader': {'val': {'dataset': {'max_bad': 0.5}, 'loader': {'num_workers': 2}}}})
    whole, _ = train(cfg, capsys)
    for i in (0, 4, 8):
        with open(files[i], 'wb'):
            pass
    cfg['output_dir'] += '2'
    run, _ = train(cfg, capsys)
    record = records(run, 'val')[-1]
    trainer = build_trainer(with_defaults(cfg), training=False)
    load_into(trainer.model, load_weights(os.path.join(run, 'epoch_1.pdparams')))
    trainer.model.eval()
    dataset, right = trainer.val_loader.dataset, 0
    assert [int(dataset[i][1]) for i in range(9)] == [-1, 0, 0, 1, -1, 1, 2, 2, -1]
    for i in (1, 2, 3, 5, 6, 7):
        with paddle.no_grad():
            image, label = dataset[i]
            right += int(trainer.model(paddle.to_tensor(image[None]), mode='test').numpy().argmax() == label)
    assert record['acc1'] == pytest.approx(100 * right / 6) and record['num_samples'] == 6
    assert records(whole, 'val')[-1]['num_samples'] == 9
    with open(files[1], 'wb'):
        pass
    cfg['dataloader']['val']['dataset']['max_bad'] = 0.2
    cfg['output_dir'] += '3'
    refused_training(cfg, capsys, ['of 9 images are unreadable, more than max_bad: 0.2 allows (1)'])


KILLED = """
import os, signal, sys
import tests.engine.small
from passl.cli import train_main
from passl.hooks import HOOKS, Hook

@HOOKS.register()
class KillInTheLastStep(Hook):
    priority = 75
    def train_iter_end(self, trainer):
        if trainer.iteration == trainer.iters_per_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

sys.exit(train_main(sys.argv[1:]))
"""


def test_a_kill_loses_no_name(images, project_root):
    """The file holds what the finished steps have met, before an epoch ends."""
    cfg = config(images, 2, custom_config=[{'name': 'KillInTheLastStep'}])
    done = subprocess.run([sys.executable, '-c', KILLED, '-c', write_config(cfg)], cwd=project_root, timeout=90,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert names(os.path.join(cfg['output_dir'], 'small')) == ['0002.png', '0007.png', ODD]


def test_names_are_added_once_behind_a_torn_line(tmp_path):
    path = str(tmp_path / NAMES_FILE)
    odd = os.fsdecode(b'gr\xfcn.png')
    assert add_names(path, ['b', odd, 'b']) == {'b', odd}
    with open(path, 'a') as f:
        f.write('"tor')
    assert add_names(path, ['a', 'b']) == {'a', 'b', odd}
    assert add_names(path, []) == {'a', 'b', odd}
    with open(path) as f:
        lines = f.read().split('\n')
    assert lines == ['"b"', '"gr\\udcfcn.png"', '"tor', '"a"', '']


def add_many(path, who):
    for i in range(150):
        add_names(path, [f'n{i}', f'{i} by {who}'])


def test_several_processes_add_each_name_once(tmp_path):
    path = str(tmp_path / NAMES_FILE)
    processes = [multiprocessing.get_context('fork').Process(target=add_many, args=(path, who)) for who in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(120)
    assert [p.exitcode for p in processes] == [0, 0]
    with open(path) as f:
        lines = f.read().splitlines()
    assert len(lines) == len(set(lines)) == 450


def test_a_folder_that_cannot_be_written_does_not_end_the_run(images, capsys):
    cfg = config(images, 0)
    os.makedirs(os.path.join(cfg['output_dir'], 'small', NAMES_FILE))
    run, _ = train(cfg, capsys, '--resume', 'auto')
    assert log_of(run).count('cannot be written') == 1
    assert 'so far: 3 of 12 (in training replaced by others).' in log_of(run)
