"""The geometry of curves against numbers worked out by hand."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from passl.report import charts
from passl.report.charts import HEIGHT, POINTS, WIDTH


def run_of(records, val=(), quality=(), chance=None, name='run'):
    return SimpleNamespace(log={'train': records, 'val': list(val), 'quality': list(quality)}, chance=chance, name=name)


def points(path):
    """[(x, y)] of each piece of a path."""
    return [[tuple(map(float, p.split())) for p in re.split('L', piece)] for piece in path.split('M')[1:]]


@pytest.mark.parametrize('low, high, expected', [
    (0, 1000, [0, 200, 400, 600, 800, 1000]), (0, 1.08, [0, .5, 1]), (2.9, 7.6, [3, 4, 5, 6, 7]), (3, 3, [3]),
    (0, 0.06, [0, .02, .04, .06]), (-20, 30, [-20, -10, 0, 10, 20, 30])])
def test_ticks_are_round_numbers_within(low, high, expected):
    np.testing.assert_allclose(charts.ticks(low, high), expected, atol=1e-12)


@pytest.mark.parametrize('value, text', [
    (6750.4, '6,750'), (47.24, '47.2'), (0.97297, '0.973'), (7.6251, '7.63'), (2.3e-7, '2.3e-07'), (0.0, '0'),
    (100.0, '100'), (3e9, '3.0e+09'), (float('nan'), '–'), (0.5, '0.5'), (-5.25, '-5.25')])
def test_numbers_are_short(value, text):
    assert charts.short(value) == text


@pytest.mark.parametrize('steps, text', [(0, '0'), (750, '750'), (7500, '7,500'), (75000, '75k'), (1.5e6, '1.5M')])
def test_steps_are_short(steps, text):
    assert charts.steps(steps) == text


def test_thinning_keeps_order_ends_and_spikes():
    y = np.sin(np.arange(20000) / 500)
    y[7777], y[123] = 50, np.nan
    kept = charts.thin(y)
    assert len(kept) <= POINTS and list(kept) == sorted(set(kept))
    assert 7777 in kept and kept[0] < 80 and kept[-1] > 19920
    assert y[kept].max() == 50 and y[kept].min() == np.nanmin(y)
    assert list(charts.thin(np.arange(POINTS))) == list(range(POINTS))


def test_a_path_goes_through_the_values_and_leaves_gaps():
    drawn, rest = charts.charts([run_of([{'iteration': i, 'lr': v} for i, v in
                                         ((1, 0.0), (2, 1.0), (3, 'nan'), (4, 0.5))])])
    assert rest == [] and [c['title'][0] for c in drawn] == ['Learning rate']
    line, = drawn[0]['lines']
    assert line['thin'] is None and line['text'] == '0.5'
    # the axis goes from step 0 to 4, and from 0 to 8 % above the largest value
    (first, second), (last,) = points(line['thick'])
    assert first == (250, 300) and second == pytest.approx((500, 300 - 300 / 1.08), abs=0.06)
    assert last == pytest.approx((WIDTH, HEIGHT - 0.5 / 1.08 * HEIGHT), abs=0.06)
    assert drawn[0]['x_ticks'] == [(25.0 * i, str(i)) for i in range(5)]


def test_columns_tell_the_values_of_all_curves_at_their_step():
    """Each reaches half-way to the next; a curve that has no value there is left out."""
    records = [{'iteration': 10, 'std': 0.5, 'std_dense': 0.25}, {'iteration': 20, 'std': 'nan', 'std_dense': 0.3},
               {'iteration': 40, 'std': 0.75}]
    chart = charts.charts([run_of(records)])[0][0]
    assert chart['columns'] == [(0, 375, '10: images 图像 0.5, cells 格子 0.25'), (375, 375, '20: cells 格子 0.3'),
                                (750, 250, '40: images 图像 0.75')]
    both = [run_of([{'iteration': i, 'lr': v} for i, v in log], name=name) for name, log in (
        ('a', [(100, 0.1), (200, 0.2)]), ('b', [(140, 0.3), (10000, 0.4)]))]
    assert [words for _, _, words in charts.charts(both)[0][0]['columns']] == [
        '100: a 0.1', '140: a 0.1, b 0.3', '200: a 0.2, b 0.3', '10k: b 0.4']
    many = charts.charts([run_of([{'iteration': i, 'lr': 0.1} for i in range(1, 20001)])])[0][0]['columns']
    assert len(many) == charts.COLUMNS and many[0][2] == '1: 0.1' and many[-1][2] == '20k: 0.1'
    assert sum(width for _, width, _ in many) == pytest.approx(WIDTH)


def test_the_line_of_chance_lies_at_ln_of_k_plus_one():
    records = [{'iteration': i, 'loss': 5.0, 'loss_global': 6.0, 'loss_dense': 4.0} for i in (10, 20)]
    chart = charts.charts([run_of(records, chance=(99, np.log(100)))])[0][0]
    assert [line['name'][0] for line in chart['lines']] == ['global', 'dense', 'total']
    (place, text), = chart['guides']
    at = {line['key']: line['at'] for line in chart['lines']}
    assert text == 'ln(99 + 1) = 4.61'
    assert place == pytest.approx(at['loss_dense'] + (at['loss_global'] - at['loss_dense']) * (np.log(100) - 4) / 2)
    assert 'dashed' in chart['text'][0]
    several = charts.charts([run_of(records, chance=(99, np.log(100)), name=n) for n in 'ab'])[0]
    assert [(c['title'][0], len(c['guides'])) for c in several] == [('Loss: global', 1), ('Loss: dense', 0),
                                                                   ('Loss: total', 1)]
    assert [[line['name'][0] for line in c['lines']] for c in several] == [['a', 'b']] * 3


def test_without_a_dense_loss_the_loss_is_drawn_once():
    drawn, _ = charts.charts([run_of([{'iteration': 1, 'loss': 5.0, 'loss_global': 5.0}])])
    assert [line['key'] for line in drawn[0]['lines']] == ['loss']
    assert drawn[0]['lines'][0]['dot'] == pytest.approx((100, 50))     # one point is a dot, in the middle


def test_the_mean_is_that_of_a_twentieth_of_the_log():
    values = np.random.RandomState(0).rand(100)
    line = charts.charts([run_of([{'iteration': i + 1, 'std': v} for i, v in enumerate(values)])])[0][0]['lines'][0]
    assert line['last'] == pytest.approx(values[-5:].mean())


@pytest.mark.parametrize('number, window', [(1, 1), (50, 2), (400, 20), (1000, 30), (20000, 220)])
def test_the_window_of_the_mean(number, window):
    assert charts.window(number) == window


def test_what_has_no_chart_is_among_the_further_figures():
    records = [{'iteration': 1, 'lr': 0.1, 'pairs': 5.0, 'memory_mb': 3.0, 'health': 'healthy', 'epoch': 1, 'time': 1.0,
                'note': 'text', 'many': [1, 2], 'huge': 1e300}]
    drawn, rest = charts.charts([run_of(records, [{'iteration': 1, 'acc1': 60.0, 'num_samples': 5}],
                                        [{'iteration': 1, 'dse': 0.5, 'best': True}, {'iteration': 2, 'miou': 30.0}])])
    assert [(c['title'][0], [line['key'] for line in c['lines']]) for c in drawn] == [
        ('Dense structure, without labels', ['dse']), ('Measured with labels', ['miou']), ('Validation', ['acc1']),
        ('Learning rate', ['lr'])]
    assert [c['title'][0] for c in rest] == ['pairs', 'memory_mb']


def test_labels_at_the_ends_keep_apart_and_in_order():
    lines = [{'at': at} for at in (99.0, 98.5, 98.0, 10.0, 10.0)]
    charts._apart(lines)
    places = sorted(line['at'] for line in lines)
    assert np.diff(places).min() >= 9 - 1e-9 and places[-1] <= 98 and places[0] == 10
    assert lines[2]['at'] < lines[1]['at'] < lines[0]['at']


def test_the_band_of_health():
    codes = 'filling', 'filling', None, 'healthy', 'no code of ours', ['x'], 'healthy'
    records = [{'iteration': 10 * (i + 1), 'health': code} for i, code in enumerate(codes)]
    assert charts.band(records, ['filling', 'healthy'], 100) == [
        (0, 20, 'filling'), (20, 10, None), (30, 10, 'healthy'), (40, 20, None), (60, 10, 'healthy')]
    assert charts.band([{'iteration': 0}], ['healthy'], 0) == []
