"""Pictures of a run: drawn on the side, and the training is the same to the last bit. `passl visualize`: what it finds
in a run folder, a config and a weight file, and what it refuses."""

import glob
import math
import os

import numpy as np
import pytest
from PIL import Image

from passl.cli import train_main, visualize_main
from passl.hooks import HOOKS, Hook
from passl.pictures import command, drawing, of_run
from passl.pictures.painter import Painter
from passl.utils.config import with_defaults

from .small import assert_same_state, call, densecl, moco, records, refused, train, write_config

SAID_BY = 'visual_hook'
BATCHES: dict = {}
NAMES = ['maps_0000000.png', 'maps_0000002.png', 'maps_0000003.png', 'matches_0000000.png', 'matches_0000002.png',
         'matches_0000003.png', 'neighbours_0000003.png', 'views.png']


@HOOKS.register()
class KeepBatches(Hook):
    """Keeps what the network was given, and its loss."""

    def train_forward_end(self, trainer):
        kept = [x.numpy() for x in trainer.batch] + [trainer.outputs['loss'].numpy()]
        BATCHES.setdefault(trainer.run_dir, []).append(kept)


@pytest.fixture(scope='module')
def ends(data, tmp_path_factory):
    """Folders of two runs of three steps, 'without' and 'with' pictures, and what the latter 'asked' for.

    DenseCL on a ResNet-18, whose fast paths of the CPU a picture could disturb.
    """
    found = {'asked': {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, 'draw', lambda self, kind, path, **given: found['asked'].update({path: given}))
        for name, settings in (('without', {'pictures': False}), ('with', {'interval': 2, 'by_epoch': False})):
            cfg = densecl(data, epochs=1, custom_config=[{'name': 'KeepBatches'}], visual_config=settings,
                          output_dir=str(tmp_path_factory.mktemp('run') / 'out'))
            cfg['model'].update(backbone={'name': 'ResNet', 'depth': 18})
            cfg['model']['neck'].update(in_channels=512)
            assert train_main(['-c', write_config(cfg, name)]) == 0
            found[name] = os.path.join(cfg['output_dir'], name)
    return found


@pytest.fixture
def asked(monkeypatch):
    """The pictures that a run asks for, {path: arguments}; nothing is drawn."""
    kept = {}
    monkeypatch.setattr(Painter, 'draw', lambda self, kind, path, **given: kept.update({path: given}))
    return kept


def test_a_run_is_the_same_with_and_without_pictures(ends):
    asked = ends['asked']
    assert {os.path.dirname(path) for path in asked} == {os.path.join(ends['with'], 'pictures')}
    assert sorted(map(os.path.basename, asked)) == NAMES
    with open(os.path.join(ends['with'], 'log.txt')) as f:
        assert 'No more pictures' not in f.read()
    without, with_ = (BATCHES[ends[name]] for name in ('without', 'with'))
    assert len(without) == 3
    for a, b in zip(without, with_):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    assert_same_state(*(os.path.join(ends[n], 'latest.pdparams') for n in ('without', 'with')))
    # the images stay, the features move
    first, last = (asked[os.path.join(ends['with'], 'pictures', f'matches_000000{n}.png')] for n in (0, 3))
    np.testing.assert_array_equal(first['second'], last['second'])
    assert first['features'].shape == (4, 2, 2, 2, 512) and (first['features'] != last['features']).any()
    assert last['start'] == first['start'] == drawing.share_right(first['features'], first['true'], first['valid'])[0]


@pytest.mark.slow
def test_the_pictures_are_drawn_and_shown_in_visualdl(data, out, capsys, said):
    folder, _ = train(densecl(data, **out, epochs=1, visual_config={'interval': 3, 'by_epoch': False}), capsys)
    found = glob.glob(os.path.join(folder, 'pictures', '*'))
    assert sorted(map(os.path.basename, found)) == [name for name in NAMES if '2' not in name]
    for path in found:
        with Image.open(path) as image:
            assert image.width > 200 and os.path.getsize(path) < 300_000
    assert [text for level, text in said if level == 'WARNING'] == []
    from visualdl import LogReader
    file, = glob.glob(os.path.join(folder, 'vdl', '*vdlrecords*'))
    assert [d.id for d in LogReader(file_path=file).get_data('image', 'pictures/matches')] == [0, 3]


def test_the_default_is_eight_times_a_run_and_never_in_a_trial():
    from passl.hooks import VisualHook

    class Run:
        iters_per_epoch = 10
    for steps, every in ((49, None), (50, 25), (201, 26), (1000, 125)):
        Run.max_iters = steps
        assert VisualHook()._every(Run) == every
    assert VisualHook(interval=2)._every(Run) == 20 and VisualHook(3, by_epoch=False)._every(Run) == 3
    assert VisualHook(2, pictures=False)._every(Run) is None


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), MemoryError('out of memory')])
def test_a_failure_is_one_warning_and_the_run_goes_on(error, data, out, capsys, said, asked, monkeypatch):
    def fail(*args):
        raise error
    monkeypatch.setattr(of_run.RunPictures, 'take', fail)
    folder, _ = train(densecl(data, **out, epochs=1, visual_config={'interval': 1, 'by_epoch': False}), capsys)
    warnings = [text for level, text in said if level == 'WARNING']
    assert len(warnings) == 1 and warnings[0].startswith('No more pictures of this run: ') and str(error) in warnings[0]
    assert len(records(folder)) == 3


def test_a_mistake_in_the_code_shows(data, out, capsys, asked, monkeypatch):
    def wrong(*args):
        return {}['x']
    monkeypatch.setattr(of_run.RunPictures, 'take', wrong)
    with pytest.raises(KeyError):
        train(densecl(data, **out, epochs=1, visual_config={'interval': 1}), capsys)


def test_a_recipe_that_cannot_be_followed_is_named(data, out, capsys, said, asked):
    cfg = densecl(data, **out, epochs=1, visual_config={'interval': 1})
    cfg['dataloader']['train']['dataset']['transforms'] = [{'name': 'Resize', 'size': [32, 32]}, {'name': 'ToTensor'}]
    train(cfg, capsys)
    assert any('No more pictures' in text and 'Resize' in text for _, text in said)


# --- passl visualize --------------------------------------------------------------------------------------------------

@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn, {path: arguments}."""
    kept = {}
    monkeypatch.setattr(command, 'draw', lambda kind, path, **given: kept.update({path: given}))
    return kept


@pytest.fixture
def run(ends):
    """The folder of a finished run of three steps."""
    return ends['without']


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
                                 '--side', 64, '--stage', 3, '--pictures', 'neighbours,matches,embedding',
                                 '--output', tmp_path], capsys)
    assert done.code == 0, done.err
    given, matches = (drawn[str(tmp_path / f'{kind}.png')] for kind in ('neighbours', 'matches'))
    assert given['labels'].tolist() == [0] * 4 + [1] * 4 + [2] * 4 and given['features'].shape == (12, 4, 4, 256)
    assert given['start'].shape == given['features'].shape and (given['start'] != given['features']).any()
    assert matches['features'].shape == (4, 2, 4, 4, 256) and '4 x 4 cells of layer3.' in matches['note']
    assert 'of layer3' in given['note'] and drawn[str(tmp_path / 'embedding.png')]['note'] == \
        'PCA of the mean features of layer3. '


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
