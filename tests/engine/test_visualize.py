"""`passl visualize`: what it finds in a run folder, a config and a weight file, and what it refuses."""

import math
import os

import numpy as np
import pytest

from passl.cli import visualize_main
from passl.pictures import command
from passl.utils.config import with_defaults

from .small import call, moco, records, refused, write_config
from .test_pictures import resnet


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn, {path: arguments}."""
    kept = {}
    monkeypatch.setattr(command, 'draw', lambda kind, path, **given: kept.update({path: given}))
    return kept


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """The folder of a finished run of three steps."""
    from passl.cli import train_main
    cfg = resnet(data, output_dir=str(tmp_path_factory.mktemp('run') / 'out'))
    assert train_main(['-c', write_config(cfg)]) == 0
    return os.path.join(cfg['output_dir'], 'small')


def test_a_run_folder_gives_weights_images_and_schedule(run, capsys, drawn):
    done = call(visualize_main, [run, '--no-cuda', '--count', 5], capsys)
    assert done.code == 0, done.err
    names = {os.path.relpath(path, os.path.join(run, 'pictures')): given for path, given in drawn.items()}
    assert set(names) == {'schedule.png', 'views.png', 'matches_0000003.png', 'maps_0000003.png',
                          'neighbours_0000003.png', 'embedding_0000003.png'}
    np.testing.assert_allclose(names['schedule.png']['rates'], [r['lr'] for r in records(run)])
    # crops of 32: input of 64, maps of 16, 8, 4 and 2 cells
    assert [m.shape for m in names['maps_0000003.png']['stages'].values()] == \
        [(4, 16, 16, 64), (4, 8, 8, 128), (4, 4, 4, 256), (4, 2, 2, 512)]
    matches = names['matches_0000003.png']
    assert matches['features'].shape == (4, 2, 2, 2, 512) and 0 <= matches['start'] <= 1
    assert len(names['neighbours_0000003.png']['images']) == len(names['embedding_0000003.png']['places']) == 5
    refused(call(visualize_main, [run, '--iteration', 2], capsys), 'no checkpoint of iteration 2. There are: 3')


def test_weights_with_class_folders_tell_the_classes(run, data, capsys, drawn, tmp_path):
    done = call(visualize_main, [os.path.join(run, 'latest.pdparams'), '--images', os.path.join(data, 'train'),
                                 '--side', 64, '--pictures', 'neighbours', '--output', tmp_path], capsys)
    assert done.code == 0, done.err
    given = drawn[str(tmp_path / 'neighbours.png')]
    assert given['labels'].tolist() == [0] * 4 + [1] * 4 + [2] * 4 and given['features'].shape == (12, 2, 2, 512)
    assert given['start'].shape == given['features'].shape and (given['start'] != given['features']).any()


def test_the_schedule_is_the_closed_form(data):
    cfg = with_defaults(moco(data, epochs=4, optimizer_config={'accumulate_steps': 2}))
    cfg['lr_scheduler']['T_max'] = 4
    given = command._schedule(cfg, 12)          # 3 batches per epoch, of which one step is made
    assert given['iters_per_epoch'] == 1
    np.testing.assert_allclose(given['rates'], [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)])
    cfg = with_defaults(moco(data, epochs=2, lr_config={'unit': 'epoch'}))
    rates = command._schedule(cfg, 12)['rates']
    np.testing.assert_allclose(rates, [0.1] * 3 + [0.05] * 3)


def test_what_is_refused(data, capsys, tmp_path, drawn):
    config = write_config(moco(data, output_dir=str(tmp_path / 'out')))
    refused(call(visualize_main, [config, '--pictures', 'maps'], capsys), '--pictures maps: there are no weights')
    refused(call(visualize_main, ['random', '--depth', 18], capsys), 'Which images?', '--images DIR')
    refused(call(visualize_main, [data], capsys), 'it is no run folder')
    refused(call(visualize_main, ['random', '--images', data, '--iteration', 3], capsys), 'SOURCE is none')
    done = call(visualize_main, [config, '--pictures', 'match'], capsys)
    assert done.code == 2 and "unknown picture 'match'; known: views" in done.err
    assert drawn == {}


def test_a_config_alone_gives_views_and_schedule(data, capsys, drawn, tmp_path):
    config = write_config(moco(data, output_dir=str(tmp_path / 'out')))
    assert call(visualize_main, [config, '--output', tmp_path], capsys).code == 0
    assert set(drawn) == {str(tmp_path / 'views.png'), str(tmp_path / 'schedule.png')}
    assert drawn[str(tmp_path / 'views.png')]['first'].shape == (8, 160, 160, 3)


def test_a_recipe_of_one_view_has_no_matches(data, capsys, drawn, tmp_path, monkeypatch):
    """Those of a classifier: left out, or refused where they are asked for."""
    one = {'name': 'UnlabelledFolder', 'dataroot': os.path.join(data, 'flat'), 'transforms': command._NORMALISE}
    monkeypatch.setattr(command, 'build_dataset', lambda node, build=command.build_dataset: build(one))
    words = ['random', '--depth', 18, '--images', os.path.join(data, 'flat'), '--side', 32, '--output', tmp_path]
    done = call(visualize_main, [*words, '--count', 3], capsys)
    assert done.code == 0 and 'No matches' in done.out + done.err
    assert sorted(map(os.path.basename, drawn)) == ['embedding.png', 'maps.png', 'neighbours.png', 'views.png']
    refused(call(visualize_main, [*words, '--pictures', 'matches'], capsys), 'Matches need two views')
