"""The rules of thumb, by counts alone: from 20 images to 20 millions, one process to many."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.engine.doubts import doubts
from passl.planning.rules import (Facts, batch, bytes_per_image, crop_side, dense_loss, groups, length, momentum, plan,
                                  queue, rate)
from passl.utils.errors import DataError
from passl.utils.misc import evenly, power_of_two

GIB = 2**30
CPU, CARD = Facts(5000, 256, 'cpu', 20 * GIB, 1, 2), Facts(1_300_000, 400, 'gpu', 32 * GIB, 8, 8, 'float16')


def by_name(choices):
    return {c.what: c.value for c in choices}


@pytest.mark.parametrize('images, want', [
    (50, dict(batch=16, K=16, steps=2400, m=0.99)), (5000, dict(batch=64, K=2048, steps=62400, m=0.9984)),
    (1_300_000, dict(batch=64, K=65536, steps=4_062_400, m=0.999))])
def test_a_cpu_with_few_and_many_images(images, want):
    found = by_name(plan(CPU._replace(images=images), dense={'negatives': 'batch', 'why': 'x'}))
    assert {'batch': found['batch per process'], 'K': found['queue, K'], 'steps': found['steps'],
            'm': found['momentum, m']} == want
    assert found['crop'] == 112 and found['dense loss'] == {'negatives': 'batch'}


def test_eight_cards_get_the_papers_recipe():
    found = by_name(plan(CARD))
    assert (found['crop'], found['batch per process'], found['queue, K'], found['momentum, m'], found['rate'],
            found['BN groups'], found['precision']) == (224, 32, 65536, 0.999, 0.03, 1, 'float16')
    assert found['steps'] == 200 * (1_300_000 // 256)
    coco = by_name(plan(CARD._replace(images=118_287)))
    assert (coco['rate'], coco['steps'], coco['queue, K']) == (0.3, 800 * (118_287 // 256), 32768)


@pytest.mark.parametrize('side, device, want', [
    (512, 'gpu', 224), (200, 'gpu', 192), (64, 'gpu', 112), (512, 'cpu', 112), (32, 'cpu', 112), (130, 'gpu', 128)])
def test_crops(side, device, want):
    assert crop_side(CPU._replace(side=side, device=device))[0] == want


def test_memory_and_half_precision_decide_about_the_batch():
    one = CARD._replace(processes=1)
    assert batch(one, 224)[0] == 256 == batch(one._replace(memory=50 * GIB, half=None), 224)[0]
    assert batch(one._replace(memory=8 * GIB, half=None), 224)[0] == 32          # 64 images would take 5.5 GiB
    assert bytes_per_image(one, 112) == bytes_per_image(one, 224) // 4


def test_length():
    assert length(CPU, 64, hours=1, seconds=0.5)[0] == 7200
    assert length(CPU, 64, epochs=10)[0] == 780
    assert length(CPU._replace(images=100), 32)[0] == 2400 and length(CPU._replace(images=20), 8)[0] == 2000


def test_a_start_that_knows_something_gets_a_tenth_of_the_rate():
    assert rate(CPU, 64)[0] == 0.075 and rate(CPU._replace(started=True), 64)[0] == 0.0075


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 20_000_000), st.integers(1, 5000), st.sampled_from(['cpu', 'gpu']), st.integers(4, 80),
       st.sampled_from([1, 2, 8, 64]), st.sampled_from([18, 50, 152]), st.sampled_from(['densecl', 'moco', 'simclr']))
def test_every_plan_can_be_run_and_has_no_doubts(images, side, device, gib, processes, depth, method):
    facts = Facts(images, side, device, gib * GIB, processes, 2, None, depth)
    if images < 8 * processes:
        with pytest.raises(DataError, match=f'{images} images for {processes} process.*at least 8'):
            plan(facts, method)
        return
    choices = plan(facts, method)
    found = by_name(choices)
    per_step = found['batch per process'] * processes
    assert per_step <= images and found['steps'] >= 1 and all(c.why for c in choices)
    assert found['crop'] % 16 == 0 and 112 <= found['crop'] <= 224
    queued = found.get('queue, K')
    assert (queued is None) == (method == 'simclr')
    if queued:
        assert queued <= 65536 and found['batch per process'] % found['BN groups'] == 0
        assert 0.99 <= found['momentum, m'] <= 0.999
    assert doubts(images, found['crop'], per_step, found['steps'], found['rate'], method,
                  queued if queued != per_step else None) == []


@pytest.mark.parametrize('change, words', [
    (dict(queue_=5000), 'K = 5000 negatives, but only 5000 images.*model.K to 2048'),
    (dict(steps=30), '30 steps of 64 images hardly fill the queue of K = 2048 .it takes 32 steps'),
    (dict(side=96), '96 px give 3 x 3 cells'),
    (dict(rate_=10.0), 'rate 10 is far from the rule for 64 images per step'),
    (dict(rate_=0.0001), 'rate 0.0001 is far')])
def test_doubts(change, words):
    import re
    good = dict(images=5000, side=112, per_step=64, steps=2000, rate_=0.06, method='densecl', queue_=2048)
    assert doubts(**good) == []
    found = doubts(**{**good, **change})
    assert len(found) == 1 and re.search(words, found[0])
    assert doubts(**{**good, 'side': 96, 'method': 'moco'}) == []


@pytest.mark.parametrize('facts, regions, want', [
    (CARD, True, ('BackboneSimilarity', 'Pooled')), (CARD._replace(images=499_999), True, ('Regions', 'Batch')),
    (CARD._replace(side=160), True, ('Regions', 'Batch')), (CPU, False, ('Geometric', 'Cells'))])
def test_dense_loss(facts, regions, want):
    """The paper's where all else is the paper's, too."""
    found = dense_loss(facts, regions)
    assert (found['correspondence']['name'], found['negatives']['name']) == want


def test_evenly():
    assert evenly(3, 5).tolist() == [0, 1, 2] and evenly(11, 3).tolist() == [0, 5, 10] and evenly(1, 5).tolist() == [0]


def test_small_rules():
    assert [power_of_two(n) for n in (0.3, 1, 2, 3, 64, 100)] == [1, 1, 2, 2, 64, 64]
    assert momentum(2000)[0] == 0.99 and momentum(50_000)[0] == 0.998 and momentum(10**6)[0] == 0.999
    assert groups(CPU, 64)[0] == 4 and groups(CPU, 16)[0] == 2 and groups(CPU, 8)[0] == 1
    assert queue(CPU._replace(images=20), 8)[0] == 8
