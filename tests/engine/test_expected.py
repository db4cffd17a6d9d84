"""What is known of a recipe beforehand: said at the start, compared at its iterations, data beside the configs."""

import glob
import os
import types

import pytest

from passl.hooks import ExpectedHook, build_hook
from passl.utils.config import load_config
from passl.utils.errors import ConfigError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
POINTS = [{'iteration': 10, 'key': 'loss', 'between': [6, 8], 'means': 'Low.'},
          {'iteration': 30, 'key': 'std', 'between': [0.5, 1], 'means': 'Wide.'}]


def drive(hook, records, start=0, batch=256):
    """Give the hook {iteration: record} of log steps, with a step between them that is none."""
    trainer = types.SimpleNamespace(iteration=start, global_batch_size=batch, is_log_step=False, record={})
    hook.run_begin(trainer)
    for iteration, record in records.items():
        trainer.iteration, trainer.is_log_step, trainer.record = iteration - 1, False, {'loss': 99.0}
        hook.train_iter_end(trainer)
        trainer.iteration, trainer.is_log_step, trainer.record = iteration, True, record
        hook.train_iter_end(trainer)


def test_each_milestone_is_judged_once_at_the_first_log_step(said):
    drive(ExpectedHook(256, POINTS), {8: {'loss': 1.0}, 16: {'loss': 6.5}, 24: {'loss': 9.0}, 32: {'std': 0.25}})
    assert said == [
        ('INFO', 'On track at iteration 16: loss 6.500, expected 6 to 8. Low.'),
        ('WARNING', 'Off track at iteration 32: std 0.250, expected 0.5 to 1. Wide. docs/LOSS_CURVE.md names '
         'likely causes.')]


@pytest.mark.parametrize('loss, level', [(5.999, 'WARNING'), (6.0, 'INFO'), (8.0, 'INFO'), (8.001, 'WARNING')])
def test_the_bounds_belong_to_it(said, loss, level):
    drive(ExpectedHook(256, POINTS[:1]), {10: {'loss': loss}})
    assert [x[0] for x in said] == [level]


def test_after_a_resume_and_with_another_batch(said):
    drive(ExpectedHook(256, POINTS), {40: {'loss': 1.0, 'std': 0.75}}, start=20)
    assert [x[1][:27] for x in said] == ['On track at iteration 40: s']
    said.clear()
    drive(ExpectedHook(256, POINTS), {40: {'loss': 1.0, 'std': 0.75}}, batch=64)
    assert said == [('INFO', 'The figures expected of this recipe hold for 256 images per step, not for 64: they are '
                             'not compared.')]
    said.clear()
    drive(ExpectedHook(None, POINTS[1:]), {40: {'loss': 1.0}}, batch=64)        # a figure that the run does not have
    assert said == []


def test_results_and_cost_are_told(said):
    drive(ExpectedHook(results=['AP 1 (here)', 'mIoU 2'], cost='3 days'), {})
    assert said == [('INFO', 'Expected of this recipe: AP 1 (here). mIoU 2. A run takes 3 days.')]


@pytest.mark.parametrize('change', [{'iteration': '10'}, {'between': [8, 6]}, {'between': 6}, {'more': 1},
                                    {'means': 1}])
def test_wrong_milestones(change):
    with pytest.raises(ConfigError, match="'expected.milestones' must be a list of {iteration: N"):
        build_hook({'name': 'ExpectedHook', 'milestones': [{**POINTS[0], **change}]}, 'expected')


def test_the_recipes_that_have_figures():
    """Milestones rise and lie within the run; the figures are those at the head of the config."""
    found = {}
    for path in glob.glob(os.path.join(ROOT, 'configs', 'densecl', '*.yaml')):
        cfg = load_config(path)
        if 'expected' in cfg:
            hook = build_hook({'name': 'ExpectedHook', **cfg['expected']}, 'expected')
            images = {'ImageNet': 1281167}.get(cfg['dataloader']['train']['dataset']['name'], 118287)
            steps = [m['iteration'] for m in hook.milestones]
            assert steps == sorted(steps) and steps[-1] <= cfg['epochs'] * (images // 256)
            with open(path, encoding='utf-8') as f:
                head = ' '.join(f.read().replace('#', '').split())
            assert all(figure in head for result in hook.results for figure in result.split(' (')[0].split(', '))
            found[os.path.basename(path)] = steps
    assert found == {'densecl_r50_coco.yaml': [50, 200, 1000, 365000],
                     **{f'densecl_{name}.yaml': [50, 200, 1000] for name in ('r50', 'r101', 'r50_vd')}}
