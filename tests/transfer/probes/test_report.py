"""The table, the CSV and the picture of figures made up for the purpose."""

import numpy as np
import pytest

from passl.transfer.probes import report
from passl.transfer.probes.jobs import Run


@pytest.fixture
def rows():
    measured = [('a', Run('linear-seg', 10, s), {'miou': v, 'images': 4}) for s, v in enumerate((1., 2., 3.))]
    measured += [('a', Run('lowshot', 4, s), {'map': v, 'top1': 1.}) for s, v in enumerate((10., 20.))]
    measured += [('乙', Run('linear-seg', 10, 0), {'miou': 5., 'images': 4})]
    measured += [('乙', Run('knn', None, 0), {'top1_k20': 7.})]
    return report.rows_of(measured)


def test_table(rows):
    lines = report.table(rows, ['a', '乙'])
    assert lines[0].split() == ['percent', 'a', '乙']
    # t(2) = 4.3027 times 1 / sqrt(3); one seed has no interval; sample deviation of 10 and 20
    assert [w.strip() for w in lines[2].split('  ') if w] == ['linear-seg mIoU, 10 % labels', '2.00 ± 2.48', '5.00']
    assert '15.00 ± 7.07' in lines[3] and lines[3].endswith('-') and 'lowshot mAP, 4 per class' in lines[3]
    assert lines[4].startswith('knn top-1, k 20') and lines[4].split()[-2:] == ['-', '7.00']
    assert len({report.width(line) for line in lines[:5]}) == 1
    assert lines[5:] == ['± 95 % t interval of the mean of 3 seeds: linear-seg',
                         '± standard deviation of 2 draws: lowshot']


def test_csv_has_all_figures_in_full(rows):
    lines = report.csv_text(rows, ['a', '乙']).splitlines()
    assert len(lines) == 1 + 7                 # further figures too: images and top1
    assert 'linear-seg,10,miou,a,2.0,t95,' + repr(rows[0]['cells']['a']['half']) + ',3,1.0 2.0 3.0' in lines
    assert 'knn,,top1_k20,乙,7.0,none,,1,7.0' in lines


def test_bars_and_intervals_are_those_of_the_figures(rows, tmp_path, monkeypatch):
    from passl.pictures import curves
    kept = []
    monkeypatch.setattr(curves, 'save', lambda figure, path: kept.append(figure))
    drawn = [r for r in rows if report.shown(r)]
    curves.plot_comparison([(r['label'], [r['cells'].get(n) for n in ('a', '乙')]) for r in drawn], ['a', 'b'], 'x.png')
    axes, = kept[0].axes
    widths = sorted(bar.get_width() for bars in axes.containers if hasattr(bars, 'patches') for bar in bars.patches)
    np.testing.assert_allclose(widths, [2, 5, 7, 15])
    assert [t.get_text() for t in axes.get_yticklabels()] == [r['label'] for r in drawn]
    curves.pyplot().close(kept[0])
