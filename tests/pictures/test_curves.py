"""The numbers behind the pictures, and the messages where there is nothing to draw."""

import json
import math

import numpy as np
import pytest

from passl.pictures import curves
from passl.utils.errors import DataError


def test_running_mean_against_a_loop():
    values = np.random.RandomState(0).rand(40)
    for window in (1, 3, 7, 50):
        loop = [np.mean(values[max(0, i - window + 1):i + 1]) for i in range(40)]
        np.testing.assert_allclose(curves.running_mean(values, window), loop, rtol=1e-12)


def test_running_mean_leaves_out_nan_and_inf():
    np.testing.assert_allclose(curves.running_mean([np.nan, 2, np.inf, 4], 2), [np.nan, 2, 2, 4])


def figure_of(monkeypatch, call):
    """The figure that `call` would have saved."""
    figures = []
    monkeypatch.setattr(curves, 'save', lambda figure, path: figures.append(figure))
    call()
    return figures[0]


def write_log(folder, records):
    folder.mkdir()
    (folder / 'log.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
    return folder / 'log.jsonl'


def test_loss_figure_holds_the_logged_values(run_dir, monkeypatch):
    steps = [{'mode': 'train', 'iteration': i, 'lr': 0.1 / i, 'loss': 5.0 + i, 'loss_global': 4.0 + i,
              'loss_dense': 'nan' if i == 2 else 6.0 + i, 'acc1': 10.0 * i, 'acc1_dense': 5.0 * i} for i in (1, 2, 3)]
    log = write_log(run_dir, steps + [{'mode': 'val', 'iteration': 3, 'acc1': 42.0}])
    (run_dir / 'config.yaml').write_text('model: {K: 99}\n')
    figure = figure_of(monkeypatch, lambda: curves.plot_loss(log, 'unused.png'))
    loss, accuracy, lr = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_allclose(lines['loss'], [6, 7, 8])
    np.testing.assert_allclose(lines['global'], [5, 6, 7])
    np.testing.assert_allclose(lines['dense'], [7, np.nan, 9])
    guess = [line for line in loss.lines if line.get_label().startswith('guessing')][0]
    assert guess.get_ydata()[0] == pytest.approx(math.log(100))
    np.testing.assert_allclose([li.get_ydata() for li in accuracy.lines if li.get_label() == 'validation'], [[42]])
    np.testing.assert_allclose(lr.lines[0].get_ydata(), [0.1, 0.05, 0.1 / 3])
    assert [a.get_ylabel() for a in figure.axes] == ['loss', 'top-1 accuracy, %', 'learning rate']
    assert lr.get_xlabel() == 'iteration'


def test_no_chance_line_without_a_queue(run_dir, monkeypatch):
    log = write_log(run_dir, [{'mode': 'train', 'iteration': 1, 'lr': 1.0, 'loss': 2.0, 'acc1': 3.0}])
    figure = figure_of(monkeypatch, lambda: curves.plot_loss(log, 'unused.png'))
    assert [line.get_label() for line in figure.axes[0].lines][1:] == ['loss']
    assert 'training' in [line.get_label() for line in figure.axes[1].lines]


def test_nothing_to_draw(run_dir, tmp_path):
    with pytest.raises(DataError, match='No log'):
        curves.plot_loss(tmp_path / 'none.jsonl', tmp_path / 'a.png')
    with pytest.raises(DataError, match='no logged step'):
        curves.plot_loss(write_log(run_dir, [{'note': 'empty'}]), tmp_path / 'a.png')


def test_the_steps_that_a_resumed_run_repeats_are_drawn_once(tmp_path, monkeypatch):
    records = [{'mode': 'train', 'iteration': i, 'loss': loss, 'lr': 0.1}
               for i, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 4.0), (3, 3.0), (4, 2.0))]
    write_log(tmp_path / 'run', records)
    figure = figure_of(monkeypatch, lambda: curves.plot_loss(str(tmp_path / 'run' / 'log.jsonl'), 'x.png'))
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == [1, 2, 3, 4] and list(y) == [5, 4, 3, 2]
