"""The judge of a training's figures, rule by rule, and its words."""

import json
import math
import re

import pytest

from passl.utils.health import CODES, MIN_STD, Judge, Run, advice, sentence, verdict

RUN = Run(16, True, {'': 1024}, 0.2)
BOTH = Run(16, True, {'': 1024, '_dense': 1024}, 0.2)
FLOOR = math.log(1 + 1024 * math.exp(-5))
CHANCE = math.log(1025)


def steps(count, first=20, epoch=1, **values):
    figures = {'loss': 5.0, 'loss_global': 5.0, 'std': 0.8, 'acc1': 40.0, **values}
    return [{**figures, 'iteration': first + i, 'epoch': epoch} for i in range(count)]


def dense(count, first=20, **values):
    return steps(count, first, **{'loss_dense': 5.0, 'std_dense': 0.8, 'acc1_dense': 40.0, **values})


def codes(records, run=RUN, **settings):
    judge = Judge(**settings)
    return [judge.see(record, run)[0] for record in records]


def turns(records, run=RUN, **settings):
    """[(iteration, code)] where the code changes to another one."""
    found = []
    for record, code in zip(records, codes(records, run, **settings)):
        if code is not None and (not found or found[-1][1] != code):
            found.append((record['iteration'], code))
    return found


def test_nothing_is_blamed_while_the_queue_fills():
    records = steps(17, first=1, std=0.0)
    assert codes(records, patience=1) == ['filling'] * 16 + ['collapsing']
    assert codes(records, RUN._replace(queue=False), patience=1) == [None] * 16 + ['collapsing']
    assert Judge().see(dict(records[0], queue_fill=6.25), RUN) == (
        'filling', {'until': 16, 'queue_fill': 6.25, 'loss': 5.0})


def test_healthy_is_said_after_five_log_steps_and_stays():
    assert codes(steps(8)) == [None] * 4 + ['healthy'] * 4
    # four signs in a row are noise, five are not; so are five without it
    assert turns(steps(9) + steps(4, 29, std=0.0) + steps(3, 33)) == [(24, 'healthy')]
    assert turns(steps(9) + steps(9, 29, std=0.05) + steps(9, 38)) == [
        (24, 'healthy'), (33, 'collapsing'), (42, 'healthy')]


def test_a_loss_at_chance_is_never_healthy():
    assert turns(steps(30, loss_global=CHANCE * 0.991)) == [(39, 'guessing')]
    assert turns(steps(30, loss_global=CHANCE * 0.989)) == turns(steps(30, loss_global=CHANCE * 0.971)) == []
    assert turns(steps(30, loss_global=CHANCE * 0.969)) == [(24, 'healthy')]
    assert turns(steps(19, loss_global=CHANCE)) == []
    up_and_down = [dict(r, loss_global=CHANCE + (-1) ** i) for i, r in enumerate(steps(60))]
    assert (39, 'guessing') in turns(up_and_down)
    assert turns(steps(30, loss_global=CHANCE, std=0.0)) == [(24, 'collapsing')]         # one cause, not two


def test_high_accuracy_late_in_a_run_is_no_shortcut_unless_all_negatives_are_told_apart():
    assert turns(steps(30, epoch=50, acc1=99.5, loss_global=FLOOR * 1.2)) == [(24, 'healthy')]
    assert turns(steps(30, epoch=50, acc1=99.5, loss_global=FLOOR * 1.05)) == [(24, 'shortcut')]
    assert turns(steps(30, epoch=2, acc1=99.0, loss_global=FLOOR * 1.2)) == [(24, 'shortcut')]
    assert turns(steps(30, epoch=2, acc1=98.9, loss_global=0.0)) == [(24, 'healthy')]


def test_position_is_a_dense_accuracy_that_the_keys_of_the_same_place_do_not_share():
    by_place = dict(acc1_dense=96.0, acc1_place=2.0, match_true=59.0, match_chance=34.0)
    assert turns(dense(9, **by_place), BOTH) == [(24, 'position')]
    judge = Judge(patience=1)
    assert judge.see(dense(1, **by_place)[0], BOTH) == ('position', by_place)
    assert turns(dense(9, **{**by_place, 'acc1_place': 90.0}), BOTH) == [(24, 'healthy')]
    assert turns(dense(9, **{**by_place, 'acc1_dense': 79.0}), BOTH) == [(24, 'healthy')]       # not solved yet
    assert turns(dense(9, **{**by_place, 'acc1_dense': 100.0}), BOTH) == [(24, 'position')]     # and no shortcut too
    assert turns(dense(9, acc1_dense=100.0, acc1_place=100.0), BOTH) == [(24, 'shortcut')]
    assert turns(dense(9, acc1_dense=100.0), BOTH) == [(24, 'shortcut')]                # of a method without the figure


def test_a_loss_without_weight_is_not_judged():
    guessed = dense(30, loss_dense=CHANCE)
    assert turns(guessed) == [(24, 'healthy')] and turns(guessed, BOTH) == [(39, 'guessing')]
    only = Run(16, True, {'_dense': 1024}, 0.2)
    assert turns(dense(30, loss_global=CHANCE), only) == [(24, 'healthy')]


def test_the_gravest_sign_is_told():
    many = dense(30, loss_global=CHANCE, std_dense=0.0, acc1_dense=99.9)
    judge = Judge()
    found = [judge.see(r, BOTH) for r in many][-1]
    assert found == ('collapsing', {'std_dense': 0.0, 'limit': MIN_STD, 'loss_dense': 5.0, 'chance': CHANCE})


def test_figures_that_are_missing():
    records = [{'iteration': 20 + i, 'epoch': 1, 'loss': 5.0} for i in range(30)]
    assert turns(records, RUN._replace(temperature=None)) == [(24, 'healthy')]


# ------------------------------------------------------------------------------------------------ of a whole run

def logged(*judged, **values):
    return [{'mode': 'train', 'iteration': 8 * i, 'epoch': 1, 'loss': 5.0, 'std': 0.75, **values,
             **({'health': code} if code else {})} for i, code in enumerate(judged, 1)]


def test_the_verdict_of_a_run_is_the_last_one_that_was_written():
    assert verdict([]) == (None, {}) == verdict(logged(None, None)) == verdict([{'mode': 'val', 'health': 'healthy'}])
    assert verdict(logged('filling', 'collapsing', None)) == ('collapsing', {'std': 0.75})
    assert verdict(logged('healthy', acc1=12.5)) == ('healthy', {'loss': 5.0, 'std': 0.75, 'acc1': 12.5})
    assert verdict(logged('filling', 'filling', queue_fill=12.5)) == (
        'filling', {'until': 128, 'queue_fill': 12.5, 'loss': 5.0})
    assert verdict(logged('guessing', loss_dense=6.0)) == ('guessing', {'loss_dense': 6.0})
    assert verdict(logged('position', acc1_dense=99.0, acc1_place=2.0))[1] == {'acc1_dense': 99.0, 'acc1_place': 2.0}
    assert verdict(logged('nonsense')) == (None, {})


# --------------------------------------------------------------------------------------------------------- words

FIGURES = {'filling': {'until': 256, 'queue_fill': 12.5}, 'healthy': {'std': 0.85, 'acc1': 12.5},
           'position': {'acc1_dense': 96.1, 'acc1_place': 1.6},
           'collapsing': {'std': 0.0312, 'limit': 0.1, 'chance': 7.6},
           'shortcut': {'acc1': 99.9, 'limit': 99.0}, 'guessing': {'loss': 7.63, 'chance': 7.62, 'negatives': 2048}}


def test_the_sentences():
    assert {code: sentence(code, FIGURES[code]) for code in CODES} == {
        'filling': 'queue filling (12 % of its keys are real): a rising loss is normal until step 256',
        'healthy': 'healthy: features are spread (std 0.85), and queries find their keys better than by guessing '
                   '(acc1 12.5 %)',
        'position': 'dense task solved by position: acc1_dense is 96 %, but a cell finds its key among the cells at '
                    'the same place of other images in 2 % only: the place of a cell gives the answer away, and the '
                    'dense loss teaches little',
        'collapsing': 'collapsing: std is 0.0312, below 0.1 (1: spread evenly, 0: the same vector for every image or '
                      'cell); chance is loss 7.600',
        'shortcut': 'shortcut: the task is too easy, acc1 is 99.90 %, at or above 99 %; such a network learns little',
        'guessing': 'guessing: loss is 7.630, at chance (7.620 for 2048 negatives): queries find their keys no better '
                    'than by guessing'}
    assert 'check-data' in advice('shortcut', {'acc1': 99.9}) != advice('shortcut', {'acc1_dense': 99.9})


@pytest.mark.parametrize('code', CODES)
def test_both_languages_say_the_same_figures_with_and_without(code):
    for figures in (FIGURES[code], {}):
        english, chinese = (sentence(code, figures, tongue) for tongue in ('en', 'zh'))
        numbers = [sorted(re.findall(r'\d+\.?\d*', re.sub('acc1', '', text))) for text in (english, chinese)]
        assert numbers[0] == numbers[1] and not re.search(r'[][{}]', english + chinese)
        assert not re.search(r'[\u4e00-\u9fff]', english) and re.search(r'[\u4e00-\u9fff]', chinese)
        assert bool(advice(code, figures)) == bool(advice(code, figures, 'zh')) == (code not in ('filling', 'healthy'))


def test_figures_are_plain_json():
    judge = Judge(patience=1)
    for record in dense(3, std=0.0), dense(3, acc1_dense=100.0, acc1_place=0.0), dense(3, acc1=100.0):
        code, figures = judge.see(record[0], BOTH)
        assert json.loads(json.dumps(figures)) == figures and figures and sentence(code, figures)
