"""`passl check-data --segmentation / --detection`: counts, faults, exit codes."""

import json
import os

import numpy as np
import pytest

from passl import cli
from tests.datasets.labelled.render import render_coco, render_folder, render_voc, write_image


def check(*words):
    return cli.check_main([str(w) for w in words])


def checked(tmp_path, *words, code):
    """The JSON report of a call."""
    file = tmp_path / 'report.json'
    assert check(*words, '--json', file, '--overwrite') == code
    return json.loads(file.read_text())


@pytest.mark.parametrize('workers', [1, 2])
def test_counts_of_masks(tmp_path, capsys, workers):
    scenes = render_folder(tmp_path / 'set')
    report = checked(tmp_path, tmp_path / 'set', '--segmentation', 'folder', '--split', 'train', '--workers', workers,
                     code=0)
    masks = [s.mask for n, s in scenes.items() if n < '0100']
    every = np.concatenate([m.ravel() for m in masks])
    valid = every[every != 255]
    assert report['images'] == 6 and report['split'] == 'train'
    assert report['unusable'] == report['problems'] == []
    assert report['ignored'] == pytest.approx((every == 255).mean())
    for k, entry in enumerate(report['classes']):
        assert entry['pixels'] == (every == k).sum() and entry['share'] == pytest.approx((valid == k).mean())
        assert entry['images'] == sum((m == k).any() for m in masks)
    text = capsys.readouterr().out
    assert 'No problems.' in text and f"{100 * (valid == 0).mean():.2f} %" in text


def test_faults_of_masks(tmp_path, capsys):
    root = tmp_path / 'set'
    scenes = render_folder(root)
    write_image(f'{root}/masks/train/0002.png', np.full((48, 64), 9, np.uint8))
    write_image(f'{root}/masks/train/0003.png', scenes['0003'].mask[:40])
    write_image(f'{root}/masks/train/0004.png', np.zeros((48, 64, 3), np.uint8))
    with open(root / 'images/train/0005.jpg', 'wb') as f:
        f.write(b'no image')
    report = checked(tmp_path, root, '--segmentation', 'folder', '--split', 'train', code=1)
    reasons = {b['id']: b['reason'] for b in report['unusable']}
    assert set(reasons) == {'0002', '0003', '0004', '0005'} and report['problems'] == ['unusable']
    assert 'value 9' in reasons['0002'] and '64 x 40' in reasons['0003'] and 'colours' in reasons['0004']
    assert report['classes'][0]['images'] == 2
    assert '4 of 6 images cannot be used' in capsys.readouterr().out
    before = sorted(os.listdir(root / 'masks/train'))
    assert check(root, '--segmentation', 'folder', '--split', 'val') == 0
    assert sorted(os.listdir(root / 'masks/train')) == before


def test_boxes(tmp_path, capsys):
    scenes = render_coco(tmp_path / 'coco')
    report = checked(tmp_path, tmp_path / 'coco', '--detection', 'coco', '--option', 'masks=true', code=0)
    labels = [c for n, s in scenes.items() if int(n) <= 4 for c in s.classes]
    assert [c['objects'] for c in report['classes']] == [labels.count(k) for k in (1, 2, 3)]
    assert report['empty'] == 1 and report['images'] == 4 and report['split'] == 'train2017'
    render_voc(tmp_path / 'voc')
    path = tmp_path / 'voc/Annotations/2007_000001.xml'
    text = path.read_text()
    path.write_text(text[:text.index('<object>')] + '<object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin>'
                    '<xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>')
    report = checked(tmp_path, tmp_path / 'voc', '--detection', 'voc', '--split', 'train', code=1)
    assert [b['id'] for b in report['bad_boxes']] == ['2007_000001'] and report['problems'] == ['bad_boxes']
    assert report['empty'] == 1 and len(report['absent']) == sum(c['objects'] == 0 for c in report['classes']) > 0
    assert '1 boxes have no area' in capsys.readouterr().out


@pytest.mark.parametrize('words, said', [
    (['--segmentation', 'folder', '--val', 'x'], '--val belongs to the check of images'),
    (['--segmentation', 'folder', '--unlabelled'], '--labelled belongs'),
    (['other', '--segmentation', 'folder'], 'needs one PATH'),
    (['--segmentation', 'foldr'], "Did you mean 'folder'"),
    (['--segmentation', 'folder', '--option', 'maks=x'], "Did you mean 'masks'"),
    (['--segmentation', 'folder', '--option', 'split=x'], 'has a flag'),
    (['--segmentation', 'folder', '--option', 'exif=true', '--option', 'exif=false'], 'twice'),
    (['--split', 'train'], '--split and --option belong to'),
    (['--segmentation', 'folder', '--json', 'exists'], 'exists. Give another name'),
    (['--segmentation', 'voc'], 'missing: JPEGImages'),
])
def test_wrong_calls(tmp_path, monkeypatch, capsys, words, said):
    render_folder(tmp_path / 'set', train=1, val=1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'exists').write_text('kept')
    assert check('set', *words) == 2
    assert said in capsys.readouterr().err and (tmp_path / 'exists').read_text() == 'kept'


def test_both_tasks_at_once_are_refused(capsys):
    with pytest.raises(SystemExit):
        check('x', '--segmentation', 'voc', '--detection', 'voc')
    assert 'not allowed with' in capsys.readouterr().err
