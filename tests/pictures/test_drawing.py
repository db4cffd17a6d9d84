"""What stands in the figures, how large the files become, and the process that draws."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from passl.pictures import canvas, drawing, painter


@pytest.fixture(autouse=True)
def closed():
    yield
    canvas.pyplot().close('all')


def test_cell_centres():
    # a 4 x 6 image in 2 x 3 cells of 2 x 2 pixels: the first cell covers pixels 0 and 1, centre 0.5
    expected = [[0.5, 0.5], [2.5, 0.5], [4.5, 0.5], [0.5, 2.5], [2.5, 2.5], [4.5, 2.5]]
    np.testing.assert_allclose(drawing.cell_centres(2, 3, 4, 6), expected)


def known_pair():
    """Features of 2 x 4 cells: each cell of the second view equals the true one of the first, but 4, which equals 3."""
    features = np.zeros((1, 2, 2, 4, 8), np.float16)
    features[0, 0].reshape(8, 8)[np.arange(8), np.arange(8)] = 1
    partner = np.array([7, 6, 5, 3, 4, 2, 1, 0])             # of each cell of the first view
    features[0, 1].reshape(8, 8)[partner, np.arange(8)] = 1
    true = partner.copy()
    true[7] = 2                                              # so 7, matched with 0, is wrong
    valid = np.array([1, 0, 1, 1, 1, 1, 1, 1])
    return features, true[None], valid[None], partner


def test_chosen_matches_and_their_colours(monkeypatch):
    features, true, valid, partner = known_pair()
    cells, found = drawing.chosen_matches(features[0], valid[0])
    assert sorted(cells) == [0, 2, 3, 4, 5, 6, 7] and found.tolist() == partner[cells].tolist()     # not 1: not valid
    image = np.zeros((1, 8, 16, 3), np.uint8)
    figure = drawing.matches(image, image, features, true, valid, 'net: {}', start=0.25)
    centres = drawing.cell_centres(2, 4, 8, 16)
    lines = {(tuple(a.xy1), tuple(a.xy2)): a for a in figure.artists}
    assert set(lines) == {(tuple(centres[c]), tuple(centres[partner[c]])) for c in cells}
    from matplotlib.colors import to_rgb
    for c in cells:
        colour = lines[tuple(centres[c]), tuple(centres[partner[c]])].get_edgecolor()[:3]
        assert colour == pytest.approx(to_rgb(drawing.WRONG if c == 7 else drawing.RIGHT))
    rings = [line.get_xydata()[0].tolist() for line in figure.axes[1].lines if line.get_color() == 'none']
    assert rings == [centres[2].tolist()]
    title, note = (t.get_text() for t in figure.texts)
    # chance: of the 7 valid cells' true places corners have 4 of 8 cells within one, others 6
    corners = sum(t % 4 in (0, 3) for t in true[0][valid[0] > 0])
    chance = (corners * 4 + (7 - corners) * 6) / 7 / 8
    assert title == f'net: {6 / 7:.0%} right, chance {chance:.0%}, before training 25%'
    assert '6 of 7 right' in note


def test_the_share_is_of_all_cells_in_the_overlap():
    features, true, valid, _ = known_pair()
    share, chance = drawing.share_right(features, true, valid)
    assert share == pytest.approx(6 / 7) and 0.5 < chance < 0.75
    assert np.isnan(drawing.share_right(features, true, np.zeros_like(valid))[0])


def test_neighbours_count_classes():
    pooled = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert drawing.same_class(pooled, np.array([0, 0, 1, 1]), 1) == (1, pytest.approx(1 / 3))
    assert drawing.same_class(pooled, np.array([0, 1, 0, 1]), 1)[0] == 0
    images, features = np.zeros((4, 8, 8, 3), np.uint8), pooled.reshape(4, 1, 1, 2)
    figure = drawing.neighbours(images, features, 'net:', labels=np.array([0, 0, 1, 1]), start=features[[0, 2, 1, 3]],
                                count=1)
    assert figure.texts[0].get_text() == \
        'net: 100% of the nearest images have the same class, chance 33%, before training 0%'


def test_the_crop_around_a_cell_stays_in_the_image():
    image = np.arange(64 * 64).reshape(64, 64, 1)
    assert drawing._around(image, 0, 8, 8)[[0, -1], [0, -1], 0].tolist() == [0, 39 * 64 + 39]         # 5 cells of 8 px
    assert drawing._around(image, 8 * 4 + 4, 8, 8)[0, 0, 0] == 16 * 64 + 16
    assert drawing._around(image, 63, 8, 8)[-1, -1, 0] == 64 * 64 - 1


def test_pngs_are_small_and_the_same_picture():
    noise = np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)
    noise[:, :75] = (200, 30, 30)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, 'PNG')
    small = canvas.smaller(content.getvalue(), 4_000)
    assert len(small) <= 4_000 < len(content.getvalue())
    left = np.asarray(Image.open(io.BytesIO(small)).convert('RGB'))[:, :20].reshape(-1, 3)
    assert np.abs(left.astype(int) - (200, 30, 30)).max() < 12
    assert canvas.smaller(small, 4_000) is small


def test_another_process_draws_and_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(painter.get_logger(), 'warning', lambda text, *args: said.append(text % args))
    (tmp_path / 'file').write_text('')
    p = painter.Painter()
    path, other = str(tmp_path / 'new' / 'maps.png'), str(tmp_path / 'schedule.png')
    p.draw('maps', path, images=np.zeros((1, 16, 16, 3), np.uint8), title='maps', note='none',
           stages={'layer1': np.random.RandomState(0).rand(1, 4, 4, 5)})
    for name in (str(tmp_path / 'file' / 'a.png'), other):
        p.draw('schedule', name, rates=np.linspace(1, 0, 9), title='rate', iters_per_epoch=3)
    assert p.finished(60) == [path, other] and p.finished() == []
    for name in (path, other):
        assert Image.open(name).width > 200 and os.path.getsize(name) < canvas.LARGEST
    assert len(said) == 1 and 'a.png is not drawn: ' in said[0] and 'Error' in said[0]


def test_arguments_arrive_as_they_were_given():
    kept = io.BytesIO()
    np.savez(kept, kind=np.asarray('maps'), path=np.asarray('a/b.png'), title=np.asarray('{} 1 %'),
             start=np.asarray(0.5), **{'stages/layer1': np.ones((2, 3)), 'images': np.zeros((1, 2), np.uint8)})
    kept.seek(0)
    kind, path, given = painter.unpacked(np.load(kept))
    assert (kind, path, given['title'], given['start']) == ('maps', 'a/b.png', '{} 1 %', 0.5)
    assert given['stages']['layer1'].shape == (2, 3) and given['images'].dtype == np.uint8
    assert set(given) == {'title', 'start', 'stages', 'images'}
