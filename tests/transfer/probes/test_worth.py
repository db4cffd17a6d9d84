"""Whether weights help: the statistics against closed forms and simulations, and the command in both languages."""

import json
import math

import numpy as np
import pytest

from passl.cli import evaluate_main
from passl.transfer.probes import jobs, worth
from passl.transfer.probes.metrics import confusion, segmentation_figures, t_quantile
from passl.transfer.probes.paired import compare, image_counts, image_values, mean_iou
from passl.utils.language import language
from tests.engine.small import call, refused


def test_without_seeds_it_is_the_interval_of_matched_pairs():
    """Agresti and Min: half a pair is added to each of the four cells; b pairs for us, c for them of n."""
    ours, theirs = np.zeros((2, 1, 40), np.uint8)
    ours[0, :12], theirs[0, 8:14] = 1, 1                            # b = 8, c = 2
    b, c, n = 8 + .5, 2 + .5, 42
    error = 100 * math.sqrt(b + c - (b - c)**2 / n) / n
    found = compare(ours, theirs)
    assert found.difference == pytest.approx(100 * 6 / 40)
    assert found.high - found.difference == pytest.approx(t_quantile(39) * error)
    assert found.smallest == pytest.approx((t_quantile(39) + t_quantile(39, 0.6)) * error)
    assert (found.images, found.seeds, found.seeds_matter) == (40, 1, False)


def test_where_only_the_seeds_move_it_is_their_t_interval():
    """Of each seed all images are right with us: no image says more than another."""
    theirs = np.zeros((3, 4000), np.uint8)
    ours = np.zeros_like(theirs)
    for seed, share in enumerate((0.1, 0.2, 0.5)):
        ours[seed] = np.random.RandomState(seed).rand(4000) < share
    found, each = compare(ours, theirs), 100 * ours.mean(1)
    assert found.seeds_matter and found.difference == pytest.approx(each.mean())
    half = t_quantile(2) * each.std(ddof=1) / math.sqrt(3)
    assert found.high - found.difference == pytest.approx(half, rel=0.01)
    assert found.verdict == 'open'                                  # 27 points, and three seeds that differ so much


def test_equal_predictions_prove_nothing_on_few_images_and_something_on_many():
    few, many = (compare(x, x) for x in (np.ones((3, 8), np.uint8), np.ones((3, 2000), np.uint8)))
    assert (few.verdict, many.verdict) == ('open', 'useless') and few.high > 20 and 0 < many.high < 1


def simulated(rng, images, seeds, seed_effect, shift=0.0):
    """Outcomes of two columns as probes have them: images are easy or hard for both, seeds are good or bad."""
    ease, out = rng.randn(images), []
    for bonus in (shift, 0.0):
        own = math.sqrt(.5) * ease + math.sqrt(.5) * rng.randn(images)
        score = own + 0.3 * rng.randn(seeds, images) + seed_effect * rng.randn(seeds, 1)
        out.append((score + bonus > 0).astype(np.uint8))
    return out


@pytest.mark.parametrize('images, seeds, seed_effect',
                         [(40, 1, 0), (100, 3, 0), (100, 3, .1), (60, 3, .3), (200, 5, .1)])
def test_weights_that_do_nothing_are_hardly_ever_said_to_help(images, seeds, seed_effect):
    rng, cases = np.random.RandomState(0), 600
    found = [compare(*simulated(rng, images, seeds, seed_effect)).verdict for _ in range(cases)]
    assert found.count('helps') <= 0.05 * cases and found.count('worse') <= 0.05 * cases
    if not seed_effect and seeds == 1:
        assert found.count('helps') + found.count('worse') >= 0.02 * cases          # and not never


@pytest.mark.parametrize('images, seeds, seed_effect', [(100, 1, 0), (150, 3, 0), (200, 5, .05)])
def test_the_smallest_difference_is_told_in_four_of_five_cases(images, seeds, seed_effect):
    rng = np.random.RandomState(1)
    smallest = np.median([compare(*simulated(rng, images, seeds, seed_effect)).smallest for _ in range(100)])
    scale = math.sqrt(1 + 0.09 + seed_effect**2)
    shift = scale * _normal_quantile(0.5 + smallest / 100)          # moves the accuracy from 50 % by so many points
    found = [compare(*simulated(rng, images, seeds, seed_effect, shift)).verdict for _ in range(400)]
    assert 0.72 <= found.count('helps') / 400 <= 0.9


def _normal_quantile(p):
    low, high = -6.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < p else (low, middle)
    return low


def masks_of(rng, images, skill, truth):
    """Counts of predictions that are right with the probability `skill`, which differs from image to image."""
    out = []
    for mask in truth:
        right = rng.rand(mask.size) < np.clip(skill + 0.15 * rng.randn(), 0, 1)
        out.append(image_counts(confusion(mask, np.where(right, mask, rng.randint(0, 4, mask.size)), 4)))
    return np.stack(out)


def test_mean_iou_of_counts_is_that_of_the_table():
    rng = np.random.RandomState(0)
    matrices = rng.randint(0, 50, (7, 4, 4))
    matrices[:, 2], matrices[:, :, 2] = 0, 0                        # a class that is nowhere
    counts = np.stack([image_counts(m) for m in matrices])
    assert mean_iou(counts.sum(0)) == pytest.approx(segmentation_figures(matrices.sum(0))['miou'])
    values = image_values(counts[None])
    left_out = [segmentation_figures(matrices.sum(0) - m)['miou'] for m in matrices]
    np.testing.assert_allclose(values[0], 7 * mean_iou(counts.sum(0)) - 6 * np.array(left_out))


def test_the_interval_of_mean_iou_is_that_of_the_bootstrap():
    rng = np.random.RandomState(0)
    truth = [rng.randint(0, 4, 100) for _ in range(80)]
    ours, theirs = masks_of(rng, 80, .7, truth), masks_of(rng, 80, .6, truth)
    found = compare(ours[None], theirs[None])
    weights = rng.multinomial(80, [1 / 80] * 80, 2000)
    flat = [(weights @ x.reshape(80, -1)).reshape(-1, 3, 4) for x in (ours, theirs)]
    deviation = np.std(mean_iou(flat[0]) - mean_iou(flat[1]))
    assert found.difference == pytest.approx(float(mean_iou(ours.sum(0)) - mean_iou(theirs.sum(0))))
    assert (found.high - found.low) / 2 == pytest.approx(t_quantile(79) * deviation, rel=0.06)
    assert found.verdict == 'helps'


def test_masks_that_are_no_better_are_hardly_ever_said_to_be():
    rng, verdicts = np.random.RandomState(2), []
    for _ in range(200):
        truth = [rng.randint(0, 4, 60) for _ in range(30)]
        verdicts.append(compare(*(masks_of(rng, 30, .6, truth)[None] for _ in 'ab')).verdict)
    assert verdicts.count('helps') <= 10


def test_the_language_is_that_of_the_first_variable_that_is_set(monkeypatch):
    for name in ('LC_ALL', 'LC_MESSAGES', 'LANG'):
        monkeypatch.delenv(name, raising=False)
    assert language() == 'en'
    monkeypatch.setenv('LANG', 'zh_CN.UTF-8')
    assert language() == 'zh'
    monkeypatch.setenv('LC_ALL', 'C')
    assert language() == 'en'


def row(**more):
    return {'task': 'linear', 'setting': None, 'figure': 'top1', 'weights': 'mine', 'against': 'random', 'images': 50,
            'verdict': 'open', 'difference': 1.25, 'low': -3.0, 'high': 5.5, 'smallest': 6.04, 'seeds': 3,
            'seeds_matter': False, **more}


def test_sentences():
    text = worth.lines([row(), row(verdict='helps', seeds=1), row(seeds_matter=True)], 'en')
    assert text[0] == 'linear top-1: mine instead of random: cannot be told with so few labelled test images. +1.2 ' \
        'points, 95 % interval -3.0 to +5.5.'
    assert text[1] == '  With 50 test images and 3 seeds a difference below 6.0 points is missed here more often ' \
        'than once in five. More test images would tell more.'
    assert ': helps. ' in text[2] and text[3].startswith('  With 50 test images a difference') and 'More' not in text[3]
    assert text[5].endswith('More --seeds would tell more.') and 'another run of it may differ' in text[6]
    theirs = worth.lines([row(verdict='useless')], 'zh')
    assert '没有帮助：提高不到 1 个百分点' in theirs[0] and '95 % 区间' in theirs[0] and '3 个种子' in theirs[1]
    assert worth.lines([], 'en') == []


@pytest.mark.slow
def test_the_command_compares_with_the_random_start_and_the_start(backbone_file, classes, tmp_path, capsys,
                                                                  monkeypatch):
    from passl.utils.weights.extract import extract_weight
    monkeypatch.setenv('LC_ALL', 'C')
    start, ran = str(tmp_path / 'begin.pdparams'), []
    extract_weight(backbone_file, start, remove_prefix=True)
    measure = jobs.Bench.measure
    monkeypatch.setattr(jobs.Bench, 'measure', lambda self, run: ran.append(run) or measure(self, run))
    words = ['--worth', '--weights', backbone_file, '--init', start, '--data', classes, '--image-size', '32', '--seeds',
             '2', '--no-cuda', '--output', str(tmp_path / 'out')]
    done = call(evaluate_main, words, capsys)
    assert done.code == 0, done.err
    with open(tmp_path / 'out/comparison.json', encoding='utf-8') as f:
        content = json.load(f)
    assert [w['name'] for w in content['weights']] == ['random', 'start', 'some']
    pairs = [(r['task'], r['figure'], r['weights'], r['against']) for r in content['worth']]
    assert pairs == [('knn', 'top1_k20', 'some', 'random'), ('knn', 'top1_k20', 'some', 'start'),
                     ('linear', 'top1', 'some', 'random'), ('linear', 'top1', 'some', 'start')]
    assert all(r['difference'] == 0 for r in content['worth'] if r['against'] == 'start')       # the same weights
    text = (tmp_path / 'out/worth.txt').read_text(encoding='utf-8')
    assert text in done.out and 'some instead of start: cannot be told with so few' in text
    assert len(ran) == 2 * 3                                        # nothing is measured twice, the start not at all
    again = call(evaluate_main, words, capsys)
    assert again.code == 0 and len(ran) == 6 and text in again.out
    (tmp_path / 'out/outcomes').rename(tmp_path / 'gone')
    monkeypatch.setenv('LC_ALL', 'zh_CN.UTF-8')
    chinese = call(evaluate_main, words, capsys)
    assert chinese.code == 0 and len(ran) == 12 and '用 some 代替 random' in chinese.out


def test_masks_are_judged_too(backbone_file, masks, tmp_path, capsys):
    done = call(evaluate_main, ['--worth', '--weights', backbone_file, '--data', masks, '--image-size', '32', '--seeds',
                                '1', '--no-cuda', '--output', str(tmp_path / 'out')], capsys)
    assert done.code == 0, done.err
    with open(tmp_path / 'out/comparison.json', encoding='utf-8') as f:
        content = json.load(f)
    for r in content['worth']:
        cells = next(x['cells'] for x in content['rows'] if (x['task'], x['figure']) == (r['task'], 'miou'))
        assert r['difference'] == pytest.approx(cells['some']['mean'] - cells['random']['mean'])
    assert [r['task'] for r in content['worth']] == ['knn-seg', 'linear-seg']


@pytest.mark.parametrize('words, part', [
    (['--weights', '{file}'], '--tasks'),
    (['--tasks', 'knn', '--weights', '{file}', '--init', 'a'], 'belongs to --worth'),
    (['--worth', '--tasks', 'svm', '--weights', '{file}'], 'judges'),
    (['--worth', '--weights', 'random'], 'at least one file')])
def test_mistakes_are_named(words, part, backbone_file, classes, capsys):
    words = [w.replace('{file}', backbone_file) for w in words] + ['--data', classes]
    refused(call(evaluate_main, words, capsys), part)
