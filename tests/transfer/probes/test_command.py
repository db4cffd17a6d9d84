"""`passl evaluate` as a user calls it."""

import csv
import json
import os

import numpy as np
import pytest

from passl.cli import evaluate_main
from passl.transfer.probes import jobs
from tests.engine.small import call, refused

from .sets import write_voc

SMALL = ['--image-size', '32', '--no-cuda']


def evaluate(capsys, *argv):
    done = call(evaluate_main, [*argv, *SMALL], capsys)
    assert done.code == 0, done.err
    return done


def content(folder):
    with open(os.path.join(folder, 'comparison.json'), encoding='utf-8') as f:
        return json.load(f)


def cell(folder, task, figure, name, setting=None):
    row, = [r for r in content(folder)['rows'] if (r['task'], r['figure'], r['setting']) == (task, figure, setting)]
    return row['cells'][name]


@pytest.mark.slow
def test_one_table_of_all_tasks(backbone_file, classes, masks, tmp_path, capsys):
    out = tmp_path / 'out'
    done = evaluate(capsys, '--tasks', 'linear,knn,svm,lowshot,finetune,linear-seg,knn-seg', '--weights', backbone_file,
                    'random', '--names', 'mine', 'start', '--data', classes, '--seg-data', masks, '--output', out,
                    '--seeds', 2, '--labels-at', '10,100', '--finetune-at', '10', '--finetune-steps', 2,
                    '--stages', '1,2')
    whole = content(out)
    assert [w['name'] for w in whole['weights']] == ['mine', 'start'] and whole['weights'][0]['depth'] == 18
    # colours are told apart even by random features
    for name in ('mine', 'start'):
        assert cell(out, 'linear', 'top1', name)['mean'] > 90
        assert cell(out, 'knn', 'top1_k10', name)['mean'] > 90
        assert cell(out, 'svm', 'map', name)['mean'] > 90
        assert cell(out, 'lowshot', 'map', name, 32)['mean'] > 90
        assert cell(out, 'knn-seg', 'pixel_accuracy', name, 100)['mean'] > 60
    assert cell(out, 'linear', 'top1', 'mine')['kind'] == 't95' and cell(out, 'knn', 'top1_k10', 'mine')['half'] is None
    shots = cell(out, 'lowshot', 'map', 'mine', 1)
    assert shots['kind'] == 'sd' and len(shots['values']) == 5
    assert shots['half'] == pytest.approx(np.std(shots['values'], ddof=1))
    assert len(cell(out, 'finetune', 'top1', 'mine', 10)['values']) == 2
    text = (out / 'comparison.txt').read_text(encoding='utf-8')
    assert text in done.out
    rows = [line.split('  ')[0] for line in text.splitlines()]
    assert 'linear-seg mIoU, 10 % labels' in rows and 'knn top-1, k 20' in rows and 'svm mAP' in rows
    with open(out / 'comparison.csv', encoding='utf-8') as f:
        lines = list(csv.DictReader(f))
    wanted = ('lowshot', 'map', 'mine', '1')
    mine, = [x for x in lines if (x['task'], x['figure'], x['weights'], x['setting']) == wanted]
    assert [float(v) for v in mine['values'].split()] == shots['values'] and float(mine['mean']) == shots['mean']
    assert (out / 'comparison.png').read_bytes()[:4] == b'\x89PNG'


def test_a_second_run_measures_only_what_is_new(backbone_file, masks, tmp_path, capsys, monkeypatch):
    out, ran = tmp_path / 'out', []
    measure = jobs.Bench.measure
    monkeypatch.setattr(jobs.Bench, 'measure', lambda self, run: ran.append(run) or measure(self, run))
    words = ['--tasks', 'knn-seg', '--weights', backbone_file, '--data', masks, '--output', out, '--labels-at', '50',
             '--seeds', 2]
    evaluate(capsys, *words)
    first = content(out)['rows']
    assert len(ran) == 2
    evaluate(capsys, *words)
    assert len(ran) == 2 and content(out)['rows'] == first
    evaluate(capsys, *words[:-1], 3)
    assert [r.seed for r in ran] == [0, 1, 2]
    evaluate(capsys, *words, '--stages', '4')                       # another setting, all anew
    assert len(ran) == 5
    os.rename(out / 'comparison.txt', tmp_path / 'kept')
    evaluate(capsys, *words, '--overwrite')
    assert len(ran) == 7 and (tmp_path / 'out.bak-1' / 'results.jsonl').exists()
    assert content(out)['rows'] == first                            # bit for bit


def test_a_killed_run_goes_on(backbone_file, masks, tmp_path, capsys, monkeypatch):
    out = tmp_path / 'out'
    measure, done = jobs.Bench.measure, []

    def killed(self, run):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(run)
        return measure(self, run)
    words = ['--tasks', 'knn-seg', '--weights', backbone_file, '--data', masks, '--output', out, '--labels-at', '50',
             '--seeds', 2]
    monkeypatch.setattr(jobs.Bench, 'measure', killed)
    assert call(evaluate_main, [*words, *SMALL], capsys).code == 130
    with open(out / 'results.jsonl', 'a') as f:
        f.write('{"key": "torn')
    done.clear()
    monkeypatch.setattr(jobs.Bench, 'measure', lambda self, run: done.append(run) or measure(self, run))
    evaluate(capsys, *words)
    assert [r.seed for r in done] == [1]
    assert len(cell(out, 'knn-seg', 'miou', 'some', 50)['values']) == 2


def test_the_file_format_of_the_weights_does_not_matter(backbone_file, masks, tmp_path, capsys):
    from passl.utils.weights.extract import extract_weight
    other = str(tmp_path / 'other.safetensors')
    extract_weight(backbone_file, other, remove_prefix=True)
    out = tmp_path / 'out'
    evaluate(capsys, '--tasks', 'knn-seg', '--weights', backbone_file, other, '--data', masks, '--output', out,
             '--labels-at', '100', '--seeds', 1)
    a, b = content(out)['weights']
    assert a['backbone'] == b['backbone'] and a['name'] != b['name']
    first, second = (cell(out, 'knn-seg', 'miou', w['name'], 100) for w in (a, b))
    assert first == second
    with open(out / 'results.jsonl') as f:
        assert len(f.readlines()) == 1


def test_several_labels_per_image_as_in_voc07(backbone_file, tmp_path, capsys):
    root, out = write_voc(tmp_path / 'VOC2007'), tmp_path / 'out'
    words = ['--weights', backbone_file, '--data', root, '--data-format', 'voc', '--train-split', 'trainval',
             '--val-split', 'test', '--output', out]
    evaluate(capsys, '--tasks', 'svm,lowshot', *words)
    # 18 classes are in no image; they have no AP
    assert cell(out, 'svm', 'map', 'some')['mean'] > 90
    assert cell(out, 'lowshot', 'map', 'some', 32)['mean'] > 90 and 'top1' not in str(content(out)['rows'])
    refused(call(evaluate_main, ['--tasks', 'svm,knn', *words, *SMALL], capsys), 'one label per image')


def test_a_test_split_with_several_labels_is_refused_too(backbone_file, tmp_path, capsys):
    """Its scores would be compared with nothing, and be 0."""
    root = write_voc(tmp_path / 'VOC2007')
    for path in (tmp_path / 'VOC2007/ImageSets/Main').glob('*_trainval.txt'):
        label = 1 if path.name.startswith('aeroplane') else -1
        path.write_text(''.join(f'{line.split()[0]} {label}\n' for line in path.read_text().splitlines()))
    words = ['--tasks', 'knn', '--weights', backbone_file, '--data', root, '--data-format', 'voc', '--train-split',
             'trainval', '--val-split', 'test', '--output', tmp_path / 'out']
    refused(call(evaluate_main, [*words, *SMALL], capsys), 'one label per image')


WRONG = [
    (['--tasks', 'knn-seg', '--weights', 'random', '--data', '{masks}'], ['--depth']),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{masks}'], ["no folder 'train'", 'images, masks']),
    (['--tasks', 'knn-seg', '--weights', '{file}', '--data', '{classes}'], ['images']),
    (['--tasks', 'knn,knn-seg', '--weights', '{file}', '--data', '{classes}'], ['--seg-data']),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{classes}', '--seg-data', 'x'], ['--seg-data']),
    (['--tasks', 'knn-seg', '--weights', '{file}', '--data', '{masks}', '--seg-format', 'voc'], ['--seg-format']),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{classes}', '--data-format', 'coco'], ['folder or voc']),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{classes}', '--val-split', 'train'], ['learned by heart']),
    (['--tasks', 'knn', '--weights', '{file}', '{file}', '--names', 'a', '--data', '{classes}'], ['1 names for 2']),
    (['--tasks', 'knn', '--weights', '{file}', '{file}', '--names', 'a', 'a', '--data', '{classes}'], ['must differ']),
    (['--tasks', 'knn', '--weights', 'none.pdparams', '--data', '{classes}'], ["no file 'none.pdparams'"]),
    (['--tasks', 'knn-seg', '--weights', '{file}', '--data', '{masks}', '--cache-gb', '0.000001'], ['--cache-gb']),
    (['--tasks', 'knnn', '--weights', '{file}', '--data', '{classes}'], ["unknown task 'knnn'"]),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{classes}', '--labels-at', '0'], ['no share of the labels']),
    (['--tasks', 'knn', '--weights', '{file}', '--data', '{classes}', '--stages', '5'], ['no stage']),
    (['--tasks', 'knn,knn', '--weights', '{file}', '--data', '{classes}'], ['twice'])]


@pytest.mark.parametrize('words, parts', WRONG)
def test_mistakes_are_named(words, parts, backbone_file, classes, masks, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [w.replace('{file}', backbone_file).replace('{classes}', classes).replace('{masks}', masks) for w in words]
    refused(call(evaluate_main, [*words, *SMALL], capsys), *parts)


def test_image_size_must_fit_the_stages(backbone_file, classes, capsys):
    words = ['--tasks', 'knn', '--weights', backbone_file, '--data', classes, '--image-size', '100']
    refused(call(evaluate_main, words, capsys), 'multiple of 32')


def test_a_file_with_a_missing_tensor_is_refused(backbone_file, masks, tmp_path, capsys):
    from passl.utils.weights.checkpoint import load_file, save_file
    state = load_file(backbone_file)['state_dict']
    del state['encoder_q.0.layer3.1.bn2.bias']
    save_file(state, str(tmp_path / 'cut.pdparams'))
    done = call(evaluate_main, ['--tasks', 'knn-seg', '--weights', str(tmp_path / 'cut.pdparams'), '--data', masks,
                                '--output', str(tmp_path / 'out'), *SMALL], capsys)
    refused(done, 'layer3.1.bn2.bias', 'cut.pdparams')
