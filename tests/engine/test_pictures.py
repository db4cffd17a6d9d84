"""Pictures of a run: drawn on the side, and the training is the same to the last bit."""

import glob
import os

import numpy as np
import pytest
from PIL import Image

from passl.hooks import HOOKS, Hook
from passl.pictures import drawing, of_run
from passl.pictures.painter import Painter

from .small import assert_same_state, densecl, records, train

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


def resnet(data, **changes):
    """DenseCL on a ResNet-18, whose fast paths of the CPU a picture could disturb."""
    cfg = densecl(data, epochs=1, custom_config=[{'name': 'KeepBatches'}], **changes)
    cfg['model'].update(backbone={'name': 'ResNet', 'depth': 18})
    cfg['model']['neck'].update(in_channels=512)
    return cfg


@pytest.fixture
def asked(monkeypatch):
    """The pictures that a run asks for, {path: arguments}; nothing is drawn."""
    kept = {}
    monkeypatch.setattr(Painter, 'draw', lambda self, kind, path, **given: kept.update({path: given}))
    return kept


def test_a_run_is_the_same_with_and_without_pictures(data, out, capsys, said, asked):
    ends = {}
    for name, settings in (('without', {'pictures': False}), ('with', {'interval': 2, 'by_epoch': False})):
        ends[name], _ = train(resnet(data, **out, visual_config=settings), capsys, name=name)
    assert {os.path.dirname(path) for path in asked} == {os.path.join(ends['with'], 'pictures')}
    assert sorted(map(os.path.basename, asked)) == NAMES
    assert [text for level, text in said if level == 'WARNING'] == []
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
    folder, _ = train(densecl(data, **out, epochs=1, visual_config={'interval': 2, 'by_epoch': False}), capsys)
    found = glob.glob(os.path.join(folder, 'pictures', '*'))
    assert sorted(map(os.path.basename, found)) == NAMES
    for path in found:
        with Image.open(path) as image:
            assert image.width > 200 and os.path.getsize(path) < 300_000
    assert [text for level, text in said if level == 'WARNING'] == []
    from visualdl import LogReader
    file, = glob.glob(os.path.join(folder, 'vdl', '*vdlrecords*'))
    assert [d.id for d in LogReader(file_path=file).get_data('image', 'pictures/matches')] == [0, 2, 3]


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
