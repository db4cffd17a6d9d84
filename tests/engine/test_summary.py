"""What a training tells at its end: how far the weights moved, the loss, the next commands, in two languages."""

import json
import os
import shlex

import numpy as np
import pytest

from passl.engine import summary
from passl.engine.checkpoint import numpy_state_dict
from passl.hooks import HOOKS, Hook
from passl.transfer.paddleseg.options import build_seg_parser
from passl.transfer.probes.options import build_evaluate_parser
from passl.transfer.weights.command import build_export_parser
from passl.utils.next_commands import next_commands
from passl.utils.options import build_extract_parser

from .small import clas, moco, train

PARSERS = {'extract-weight': build_extract_parser, 'evaluate': build_evaluate_parser, 'export': build_export_parser,
           'transfer-seg': build_seg_parser}


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv('LC_ALL', 'C')


def test_sparkline():
    assert summary.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == '▁▂▃▄▅▆▇█'
    assert summary.sparkline([8.0, 6.0, 4.0, 2.0, 0.0, 0.0], width=3, bars='abc') == 'cba'       # means 7, 3, 0
    assert summary.sparkline([float('nan'), 2.0, 2.0]) == '▁▁' and summary.sparkline([]) == ''


def test_stage_changes():
    start = {'conv1.weight': np.float32([3, 4]), 'bn1.weight': np.float32([0]), 'bn1._mean': np.float32([9]),
             'layer1.0.conv1.weight': np.float32([[1, 0]]), 'layer1.0.bn1.bias': np.float32([0]),
             'layer2.0.bias': np.float32([0])}
    end = {**start, 'bn1.weight': np.float32([1]), 'bn1._mean': np.float32([0]),
           'layer1.0.conv1.weight': np.float32([[1, 2]]), 'layer2.0.bias': np.float32([5])}
    assert summary.stage_changes(start, end) == pytest.approx({'conv1': 0.2, 'layer1': 2.0, 'layer2': 0.0})
    assert summary.stage_changes({k: v for k, v in start.items() if k != 'bn1.weight'}, end) is None
    assert summary.stage_changes({**start, 'conv1.weight': np.float32([1])}, end) is None


@HOOKS.register()
class KeepsTheStart(Hook):
    """What the backbone was before the first step."""

    start: dict = {}

    def run_begin(self, trainer):
        type(self).start = numpy_state_dict(trainer.model.backbone)
        type(self).trainer = trainer


@pytest.mark.parametrize('backbone', [{'name': 'SmallNet'}, {'name': 'ShortResNet', 'depth': 18}])
def test_the_start_is_drawn_again_bit_for_bit(backbone, data, out, capsys):
    width = 512 if 'depth' in backbone else 16
    cfg = moco(data, **out, epochs=1, custom_config=[{'name': 'KeepsTheStart'}],
               model={'backbone': backbone, 'neck': {'in_channels': width}})
    folder, done = train(cfg, capsys)
    again = summary.start_weights(KeepsTheStart.trainer)
    assert again.keys() == KeepsTheStart.start.keys()
    assert all(np.array_equal(again[k], v) for k, v in KeepsTheStart.start.items())
    end = numpy_state_dict(KeepsTheStart.trainer.model.backbone)
    with open(os.path.join(folder, 'summary.json'), encoding='utf-8') as f:
        told = json.load(f)
    assert told['stages'] == summary.stage_changes(KeepsTheStart.start, end)
    assert all(share > 0 for share in told['stages'].values())
    # the queue of 16 keys is full after 4 steps of 4 images, and there are 3
    assert 'Done after 3 steps.' in done.out and 'loss     ' not in done.out


def test_a_training_without_labels_ends_with_a_summary(data, out, capsys):
    folder, done = train(moco(data, **out), capsys)
    with open(os.path.join(folder, 'summary.json'), encoding='utf-8') as f:
        told = json.load(f)
    latest = os.path.join(folder, 'latest.pdparams')
    assert list(told) == ['weights', 'health', 'figures', 'stages', 'next'] and told['weights'] == latest
    assert list(told['next']) == ['extract', 'help', 'see', 'report']
    assert told['next']['extract'] == f'passl extract-weight {latest} --output {folder}/backbone.pdparams'
    assert told['next']['report'] == f'passl report {folder}' and told['next']['see'] == f'passl visualize {folder}'
    records = map(json.loads, open(os.path.join(folder, 'log.jsonl'), encoding='utf-8'))
    losses = [r['loss'] for r in records if r['mode'] == 'train'][4:]
    assert f'loss     {losses[0]:.3f} -> {losses[1]:.3f}' in done.out and '(since the queue was full)' in done.out
    # what a resumed run started from, its command line may have known
    train(moco(data, **out, epochs=3), capsys, '--resume', 'auto', '--allow-changes')
    with open(os.path.join(folder, 'summary.json'), encoding='utf-8') as f:
        assert json.load(f)['stages'] is None


def test_a_start_by_load(data, out, capsys):
    first, _ = train(moco(data, **out, epochs=1), capsys, name='first')
    cfg = moco(data, **out, epochs=1, custom_config=[{'name': 'KeepsTheStart'}])
    folder, _ = train(cfg, capsys, '--load', os.path.join(first, 'latest.pdparams'))
    end = numpy_state_dict(KeepsTheStart.trainer.model.backbone)
    with open(os.path.join(folder, 'summary.json'), encoding='utf-8') as f:
        assert json.load(f)['stages'] == summary.stage_changes(KeepsTheStart.start, end)


def test_a_file_that_is_gone_costs_the_stages_alone(data, out, capsys):
    first, _ = train(moco(data, **out, epochs=1), capsys, name='first')
    weights = os.path.join(first, 'epoch_1.pdparams')

    @HOOKS.register()
    class Removes(Hook):
        def run_begin(self, trainer):
            os.remove(weights)

    folder, done = train(moco(data, **out, epochs=1, custom_config=[{'name': 'Removes'}]), capsys, '--load', weights)
    assert 'How far the weights have moved is not known: ' in done.out and f"'{weights}'" in done.out
    with open(os.path.join(folder, 'summary.json'), encoding='utf-8') as f:
        assert json.load(f)['stages'] is None


def test_a_classifier_has_none(data, out, capsys):
    folder, done = train(clas(data, **out, epochs=1), capsys)
    assert 'Done after' not in done.out and not os.path.exists(os.path.join(folder, 'summary.json'))


@pytest.mark.parametrize('name, depth, targets', [('ResNet', 18, ['torchvision']), ('ResNet_vd', 50, ['paddleclas'])])
def test_the_next_commands_are_understood(name, depth, targets):
    found = next_commands('runs/my run', 'runs/my run/b.pdparams', 'runs/my run.yaml', {'name': name, 'depth': depth},
                          'data/my images', extracted=False)
    assert ('seg' in found) == (name == 'ResNet') and 'on' in found
    for command in found.values():
        words = shlex.split(command, comments=True)
        assert words[0] == 'passl' and any('my run' in w for w in words)
        if words[1] in PARSERS:
            args = PARSERS[words[1]]().parse_args(words[2:])
            if words[1] == 'export':
                assert [args.target] == targets and args.checkpoint == 'runs/my run/b.pdparams'
            if words[1] == 'transfer-seg':
                assert args.override == ['model.backbone.type=ResNet18'] and os.path.isfile(args.config_file)
    from passl.planning.command import build_pretrain_parser
    args = build_pretrain_parser().parse_args(shlex.split(found['on'], comments=True)[2:])
    assert (args.data, args.out, args.resume) == ('data/my images', 'runs/my run', True)
    assert next_commands('r', 'w', 'c', {'name': 'Own'}) == {
        'help': 'passl evaluate --worth --weights w --data LABELLED', 'see': 'passl visualize r',
        'report': 'passl report r'}


def test_the_text_in_both_languages(monkeypatch):
    facts = (120, 'r/b.pdparams', None, [3.0, 2.0, float('nan'), 1.0], {'conv1': 0.1234, 'layer1': 0.004},
             {'help': 'passl evaluate X'}, True)
    monkeypatch.setattr(summary, '_bars', lambda: summary._PLAIN)
    assert summary.summary_text(*facts).splitlines() == [
        'Done after 120 steps.', '  weights  r/b.pdparams', '  learnt?  not judged',
        '  loss     3.000 -> 1.000  @+_  (since the queue was full)',
        '  moved    conv1 12%, layer1 0.40% (of the length of the weights at the start)', '  next:', '    did it help?',
        '      passl evaluate X']
    monkeypatch.setenv('LC_ALL', 'zh_CN.UTF-8')
    assert summary.summary_text(*facts).splitlines()[:4] == [
        '完成，共 120 步。', '  权重      r/b.pdparams', '  学到了吗  未作判断',
        '  损失      3.000 -> 1.000  @+_  （自队列填满之后）']
    assert all(summary._WORDS['zh'].keys() == words.keys() for words in summary._WORDS.values())
