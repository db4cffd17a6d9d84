"""The report of runs: what it says, that it holds nothing foreign, and that texts of a run stay texts."""

import base64
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from passl import cli
from passl.report import page, write_report
from passl.report import run as run_room
from passl.utils.errors import ConfigError, DataError
from passl.utils.health import CODES

VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\' onload=\'alert(3)&amp;'
CONFIG = """\
model:
  name: DenseCL
  K: 99
  m: 0.99
  backbone: {name: ResNet, depth: 18}
  correspondence: {name: Regions}
  negatives: {name: batch}
dataloader:
  train:
    sampler: {batch_size: 64}
    dataset: {name: ImageList, dataroot: photographs, transforms: [{name: RandomResizedCrop, size: 112}]}
total_iters: 1000
lr_scheduler: {name: CosineWarmup, learning_rate: 0.06}
output_dir: somewhere
seed: 0
"""
LOG = """\
[2026-01-01 10:00:00] INFO: PASSL 1.2.0, Paddle 3.3.1, Python 3.11.7, cpu, 1 process(es)
[2026-01-01 10:00:01] INFO: DenseCL: 11.83 M trained parameters; 3872 images; batch 64 in all; 60 iterations per epoch
[2026-01-01 10:00:09] WARNING: a warning of the log
"""
COMPARISON = {
    'settings': {'data': 'masks'}, 'weights': [{'name': 'random'}, {'name': 'ours'}],
    'rows': [{'task': 'linear-seg', 'setting': 100, 'figure': 'miou', 'label': 'linear-seg mIoU, 100 % labels',
              'cells': {
        'random': {'values': [24.0, 26.0], 'mean': 25.0, 'half': 1.0, 'kind': 't95'},
        'ours': {'values': [49.0, 51.0], 'mean': 50.0, 'half': 2.0, 'kind': 't95'}}},
             {'task': 'linear-seg', 'setting': 100, 'figure': 'pixel_accuracy', 'label': 'not shown', 'cells': {}}]}


class Page(html.parser.HTMLParser):
    """Elements of a page; `wrong` names what is badly nested."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ('p', 'div', 'dl', 'h2', 'h3', 'table', 'figure', 'pre') and 'p' in self.open:
            self.wrong.append(f'<{tag}> in <p>')
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f'</{tag}>')

    def handle_data(self, data):
        if not {'script', 'style'} & set(self.open[-1:]):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r'\s+', ' ', ' '.join(self.texts))


def checked(path):
    """The page of a file, once it is found to be whole and to need nothing else."""
    text = open(path, encoding='utf-8').read()
    found = Page(text)
    assert found.wrong == [] and found.open == []
    assert text.startswith('<!DOCTYPE html>\n' + page.MARK)
    ids = [a['id'] for _, a in found.elements if 'id' in a]
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in found.elements]
    assert tags.count('script') == 1 and tags.count('html') == tags.count('body') == 1
    assert not {'link', 'iframe', 'object', 'embed', 'base', 'form', 'audio', 'video', 'a'} & set(tags)
    for tag, attributes in found.elements:
        assert not [n for n in attributes if n.startswith('on') or n in ('href', 'srcset', 'action', 'xlink:href')]
        assert attributes.get('src', 'data:image/png;base64,').startswith('data:image/png;base64,')
        assert tag != 'img' or attributes['src'] and attributes['alt']
    assert not re.search(r'https?://|@import|url\(', text)
    script = re.search('<script>(.*?)</script>', text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = [a['content'] for _, a in found.elements if a.get('http-equiv') == 'Content-Security-Policy']
    assert policy == [f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"]
    return found


def make_run(folder, steps=40, config=CONFIG, log=LOG, **more):
    folder.mkdir(parents=True)
    (folder / 'config.yaml').write_text(config, encoding='utf-8')
    (folder / 'log.txt').write_text(log, encoding='utf-8')
    (folder / 'status.json').write_text(json.dumps({'state': 'done', 'code': 0, 'message': '', 'time': 'then'}))
    (folder / 'log.jsonl').write_text('\n'.join(json.dumps({
        'mode': 'train', 'iteration': 25 * i, 'epoch': 1 + i // 2, 'lr': 0.06, 'time': 2.0, 'loss': 5.0,
        'loss_global': 6.0, 'loss_dense': 4.0, 'acc1': 12.5, 'acc1_dense': 48.25, 'std': 0.9, 'ips': 47.0,
        'memory_mb': 1000.0, 'health': 'filling' if i < 11 else 'healthy', **more})
                                                for i in range(1, steps + 1)) + '\n')
    return folder


def add_pictures(folder, *names):
    (folder / 'pictures').mkdir(exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / 'pictures' / f'{name}.png'), np.full((8, 12, 3), 5 * i, np.uint8))


@pytest.fixture
def words_on_health(monkeypatch):
    """A stand-in for the room of the verdicts."""
    for name, function in (
            ('verdict', lambda records: (records[-1].get('health'), {'std': records[-1].get('std')})),
            ('sentence', lambda code, figures, language: f'{language}-words on {code}, std {figures["std"]}'),
            ('advice', lambda code, figures, language: f'{language}-advice')):
        monkeypatch.setattr(run_room, name, function)


def test_the_codes_are_those_of_the_verdicts():
    assert set(CODES) == set(run_room.CODES)


def test_the_report_of_a_run(run_dir, words_on_health):
    make_run(run_dir)
    (run_dir / 'summary.json').write_text(json.dumps({
        'weights': str(run_dir / 'b o.pdparams'), 'stages': {'conv1': 0.25, 'layer4': 1.5},
        'next': {'elsewhere': 'passl export x', 'help': 3, 'later': 'x'}}))
    add_pictures(run_dir, 'views', *(f'matches_{i:07d}' for i in (100, 200, 300, 400, 500)), 'maps_0000100', 'strange')
    assert cli.main(['report', str(run_dir)]) == 0
    found = checked(run_dir / 'report.html')
    text = found.text
    for words in ('En-words on healthy, std 0.9.', 'zh-words on healthy, std 0.9。', 'en-advice', 'zh-advice',
                  'Data 数据 photographs', 'Images 图像数 3,872', 'ResNet-18', 'Regions, batch',
                  'Crop (px) 裁剪（像素） 112', 'Queue K 队列 K 99', 'Steps done 已完成步数 1,000',
                  'Learning rate 学习率 0.06', 'ln(99 + 1) = 4.61',
                  '48.2 dense 稠密', 'Paddle 3.3.1', 'Training time 训练用时 0:33:20', 'a warning of the log',
                  'total_iters: 1000', 'conv1 25.0 %', 'layer4 150.0 %', 'step 300 第 300 步', 'passl export x'):
        assert words in text, words
    assert 'use elsewhere 用于其他库' in text and 'passl evaluate' not in text      # what the run said, as it said it
    shown = [a['alt'] for tag, a in found.elements if tag == 'img']
    assert shown == ['What the network sees', 'Matches, 100', 'Matches, 300', 'Matches, 500', 'Feature maps, 100']
    first = next(a['src'] for tag, a in found.elements if tag == 'img').partition(',')[2]
    assert base64.b64decode(first) == (run_dir / 'pictures' / 'views.png').read_bytes()
    bands = [a for tag, a in found.elements if tag == 'i' and 'style' in a]
    assert '25: global 全局 6, dense 稠密 4, total 总和 5' in text and '1,000: 0.06' in text            # on hover
    assert [(b['class'], b['style']) for b in bands] == [('h-filling', 'left:0.00%;width:25.00%'),
                                                         ('h-healthy', 'left:25.00%;width:75.00%')]


def test_both_languages_everywhere(run_dir, words_on_health):
    make_run(run_dir)
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    found = checked(run_dir / 'r.html')
    spans = [a['lang'] for tag, a in found.elements if tag == 'span' and 'lang' in a]
    assert len(spans) > 80 and spans.count('en') == spans.count('zh') - 1        # 第 ... 步 surrounds a number
    assert dict(found.elements)['html'] == {'lang': 'en'}                        # what is seen without the script


def test_runs_side_by_side(tmp_path, words_on_health):
    one = make_run(tmp_path / 'a' / 'densecl')
    two = make_run(tmp_path / 'b' / 'densecl', 20, CONFIG.replace('K: 99', 'K: 199').replace('somewhere', 'else'),
                   std=0.01, health='collapsing')
    assert cli.main(['report', str(one), str(two / 'log.jsonl'), str(one)]) == 0
    found = checked(tmp_path / 'report.html')
    assert '2 runs compared' in found.text and 'model.K 99 199' in found.text
    table = found.text.partition('Settings that differ')[2].partition('Curves')[0]
    assert 'output_dir' not in table and 'model.m' not in table
    assert 'En-words on healthy' in found.text and 'En-words on collapsing, std 0.01' in found.text
    assert 'ln(99 + 1) = 4.61' in found.text and 'ln(199 + 1) = 5.30' in found.text
    assert found.text.count('a/densecl') >= 4 and found.text.count('b/densecl') >= 4
    colours = [a['class'] for tag, a in found.elements if tag == 'path' and 'thick' in a.get('class', '')]
    assert set(colours) == {'thick s0', 'thick s1'} and colours.count('thick s0') == colours.count('thick s1')
    widths = [a['style'] for tag, a in found.elements if tag == 'i' and 'style' in a]
    assert widths[-1] == 'left:0.00%;width:50.00%'                  # of the longer run's steps


def test_evaluations_are_given_or_found(run_dir, tmp_path):
    make_run(run_dir)
    for folder, name in ((run_dir / 'evaluation', 'inside'), (tmp_path / 'given', 'given')):
        folder.mkdir()
        (folder / 'comparison.json').write_text(json.dumps({**COMPARISON, 'settings': {'data': name}}))
    write_report([str(run_dir)], str(tmp_path / 'r.html'), [str(tmp_path / 'given')])
    found = checked(tmp_path / 'r.html')
    for words in ('given random ours', 'inside random ours', 'linear-seg mIoU, 100 % labels 25.00 ± 1.00 50.00 ± 2.00',
                  'mean of 2 seeds'):
        assert words in found.text
    assert 'not shown' not in found.text
    bars = [a['style'] for tag, a in found.elements if tag == 'span' and a.get('class', '').startswith('bar')]
    assert bars == ['width:50.0%', 'width:100.0%'] * 2
    with pytest.raises(DataError, match='comparison.json'):
        write_report([str(run_dir)], str(tmp_path / 'r.html'), [str(tmp_path)])


def test_texts_of_a_run_stay_texts(tmp_path, words_on_health):
    """Names, settings, logs, results: whatever they hold, it is shown and nothing else."""
    folder = make_run(tmp_path / EVIL.replace('/', '|'), 3,
                      CONFIG + f'note: {json.dumps(EVIL)}\n"{{{{ config }}}}": 1\n',
                      LOG + f'[x] WARNING: {EVIL}\n[x] INFO: PASSL {EVIL}\n\x00\x1b[2J', **{EVIL: 3.0, 'health': EVIL})
    (folder / 'status.json').write_text(json.dumps({'state': EVIL, 'message': EVIL, 'time': [EVIL]}))
    (folder / 'summary.json').write_text(json.dumps({'weights': EVIL, 'stages': {EVIL: 1.0, 'x': EVIL},
                                                     'next': {'help': 'passl ' + EVIL, EVIL: 'x'}}))
    comparison = json.loads(json.dumps(COMPARISON).replace('linear-seg mIoU', 'LABEL').replace('ours', 'NAME'))
    comparison['settings']['data'] = comparison['weights'][1]['name'] = comparison['rows'][0]['label'] = EVIL
    (folder / 'comparison.json').write_text(json.dumps(comparison))
    other = make_run(tmp_path / 'other')
    for runs in ([folder], [folder, other]):
        output = tmp_path / f'{len(runs)}.html'
        write_report([str(r) for r in runs], str(output))
        found = checked(output)
        assert found.text.count('<script>alert(1)<') > 12 and found.text.count('{{ 7 * 7 }}') > 12
        assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f]', output.read_text(encoding='utf-8').replace('\n', ''))


DAMAGE = {'config.yaml': ['', '[', 'model: 3', b'\xff\xfe\x00',
                          'model: {K: 1.5, backbone: [1]}\ndataloader: {train: {dataset: {transforms: 4}}}'],
          'status.json': ['', '[1]', '{"state": {"a": 1}}', '{'], 'log.txt': ['', b'\xff\xfe\n INFO: PASSL \x00'],
          'summary.json': ['[]', '{"stages": [1], "next": {"a": 1}, "weights": 3}',
                           '{"stages": {"a": "b", "c": -1e999}}'],
          'comparison.json': ['[]', '{"weights": 3, "rows": []}',
                              '{"weights": [{"name": "a"}], "rows": [{"figure": "miou"}]}'],
          'pictures/views.png': ['no picture']}


@pytest.mark.parametrize('name, content', [(n, c) for n, every in DAMAGE.items() for c in every])
def test_damaged_files_cost_only_themselves(name, content, run_dir):
    make_run(run_dir)
    (run_dir / 'pictures').mkdir()
    (run_dir / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    found = checked(run_dir / 'r.html')
    assert '48.2 dense' in found.text and 'img' not in [tag for tag, _ in found.elements]
    if name != 'config.yaml':
        assert 'photographs' in found.text
    os.remove(run_dir / name)
    write_report([str(run_dir)], str(run_dir / 'r.html'))


def test_a_log_with_foreign_lines_and_a_resumed_run(run_dir):
    make_run(run_dir, 3)
    with open(run_dir / 'log.jsonl', 'a') as f:
        f.write('{"torn\n[1]\n{"mode": "train", "iteration": "x"}\n{"mode": "train", "iteration": 75, "loss": 2.0, '
                '"std": "high", "ips": 1e999, "lr": 5e300, "time": "nan"}\n')
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    assert 'Steps done 已完成步数 75' in checked(run_dir / 'r.html').text
    train = run_room.read_runs([str(run_dir)])[0].train
    assert [r['iteration'] for r in train] == [25, 50, 75] and train[-1]['loss'] == 2.0


def test_what_is_not_a_run_is_said_with_the_way_out(tmp_path, capsys):
    make_run(tmp_path / 'above' / 'run')
    with pytest.raises(DataError, match=r'no run folder.*above/run'):
        write_report([str(tmp_path / 'above')], str(tmp_path / 'r.html'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='Give the folder that a training has written'):
        write_report([str(tmp_path / 'empty')], str(tmp_path / 'r.html'))
    with pytest.raises(ConfigError, match='9 runs are given'):
        write_report([str(tmp_path)] * 9, str(tmp_path / 'r.html'))
    assert cli.main(['report', str(tmp_path / 'none')]) == 2
    assert capsys.readouterr().err.startswith("error: '")


def test_only_a_report_is_replaced(run_dir):
    make_run(run_dir)
    output = run_dir / 'report.html'
    output.write_text('<!DOCTYPE html>somebody wrote this')
    with pytest.raises(ConfigError, match='is not a report of ours'):
        write_report([str(run_dir)], str(output))
    assert output.read_text().endswith('somebody wrote this')
    output.unlink()
    write_report([str(run_dir)], str(output))
    before = output.read_text(encoding='utf-8')
    (run_dir / 'config.yaml').write_text(CONFIG.replace('K: 99', 'K: 199'))
    write_report([str(run_dir)], str(output))
    assert 'ln(199 + 1)' in output.read_text(encoding='utf-8') != before
    with pytest.raises(ConfigError, match='not a report of ours'):
        write_report([str(run_dir)], str(run_dir))
    assert sorted(os.listdir(run_dir)) == ['config.yaml', 'log.jsonl', 'log.txt', 'report.html', 'status.json']


def test_a_long_run_gives_a_small_file(run_dir):
    """20,000 records and pictures of 300 KB: below 5 MB."""
    make_run(run_dir, 20000)
    add_pictures(run_dir, 'views', 'schedule', *(f'{k}_{i:07d}' for k in ('matches', 'maps', 'neighbours')
                                                for i in (1, 2, 3, 4)))
    for path in (run_dir / 'pictures').iterdir():
        path.write_bytes((b'\x89PNG\r\n\x1a\n' + bytes(300 * 1024))[:300 * 1024])
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    found = checked(run_dir / 'r.html')
    assert 1e6 < os.path.getsize(run_dir / 'r.html') < 5e6
    paths = [a['d'] for tag, a in found.elements if tag == 'path']
    assert 250 <= max(p.count('L') for p in paths) <= 500
    assert len([1 for tag, _ in found.elements if tag == 'img']) >= 8
    stripes = [a for tag, a in found.elements if tag == 'rect']
    assert len(stripes) == 50 * len([1 for tag, _ in found.elements if tag == 'svg'])


CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium here')
@pytest.mark.parametrize('language', ['en', 'zh'])
def test_a_browser_shows_it(language, tmp_path, words_on_health):
    """The script runs (its hash is right), nothing is complained of, and what hides in a run's texts does not run."""
    folder = make_run(tmp_path / EVIL.replace('/', '|'), 5, CONFIG + f'note: {json.dumps(EVIL)}\n', **{EVIL: 3.0})
    output = tmp_path / 'r.html'
    write_report([str(folder)], str(output))
    done = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
                           '--disable-background-networking', '--disable-component-update', '--disable-sync',
                           '--disable-quic', f'--user-data-dir={tmp_path / "profile"}', '--enable-logging=stderr',
                           '--dump-dom', f'file://{output}#{language}'], capture_output=True, text=True, timeout=120)
    assert 'CONSOLE' not in done.stderr, done.stderr
    assert f'<html lang="{language}" class="js">' in done.stdout
    assert 'alert(1)' in done.stdout and done.stdout.count('<script>') == 1


def test_commands_of_a_run_that_has_not_ended(run_dir):
    make_run(run_dir)
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    text = checked(run_dir / 'r.html').text
    assert f'passl extract-weight {run_dir}/latest.pdparams --output {run_dir}/backbone.pdparams' in text
    assert f'passl evaluate --worth --weights {run_dir}/latest.pdparams' in text
    (run_dir / 'backbone.pdparams').write_bytes(b'')
    write_report([str(run_dir)], str(run_dir / 'r.html'))
    text = checked(run_dir / 'r.html').text
    assert 'extract-weight' not in text and f'passl evaluate --worth --weights {run_dir}/backbone.pdparams' in text
