"""`passl check-data` as a user calls it: what it finds, writes and returns."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import pytest

from passl import cli
from passl.datasets import build_dataset
from tests.datasets.test_check_files import picture

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def write(path, image, *options):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    done, data = cv2.imencode(os.path.splitext(path)[1], image, list(options))
    assert done
    with open(path, 'wb') as f:
        f.write(data)


@pytest.fixture(scope='module')
def planted(tmp_path_factory):
    """train/ and val/ of two classes, with one fault of each kind."""
    root = str(tmp_path_factory.mktemp('planted'))
    for part, first in (('train', 0), ('val', 50)):
        for k, name in enumerate(('cat', 'dog')):
            for i in range(6):
                write(f'{root}/{part}/{name}/{i}.jpg', picture(first + 10 * k + i))
    shutil.copy(f'{root}/train/cat/0.jpg', f'{root}/train/cat/copy.jpg')
    shutil.copy(f'{root}/train/cat/1.jpg', f'{root}/train/dog/other label.jpg')
    shutil.copy(f'{root}/train/cat/2.jpg', f'{root}/val/cat/leak.jpg')
    write(f'{root}/val/dog/again.jpg', cv2.resize(picture(13), (80, 60), interpolation=cv2.INTER_AREA))
    write(f'{root}/train/dog/5 small.jpg', picture(15), cv2.IMWRITE_JPEG_QUALITY, 40)
    with open(f'{root}/train/dog/broken.jpg', 'wb') as f, open(f'{root}/train/dog/3.jpg', 'rb') as g:
        f.write(g.read()[:500])
    os.mkfifo(f'{root}/train/dog/pipe.jpg')
    for i in range(40):
        write(f'{root}/train/cat/blank{i}.png', picture(0) * 0 + i)
    os.makedirs(f'{root}/train/empty')
    open(f'{root}/train/cat/notes.txt', 'w').close()
    return root


def check(*words):
    return cli.check_main([str(w) for w in words])


def checked(tmp_path, *words, code=1, name='r.json'):
    """The JSON report of a call."""
    assert check(*words, '--json', tmp_path / name) == code
    with open(tmp_path / name, encoding='ascii') as f:
        return json.load(f)


def snapshot(root):
    return {p: (os.lstat(p).st_size, os.lstat(p).st_mtime_ns) for d, _, names in os.walk(root)
            for p in (os.path.join(d, n) for n in names)}


def test_every_planted_fault_is_found(planted, tmp_path, capsys):
    before = snapshot(planted)
    report = checked(tmp_path, '--train', f'{planted}/train', '--val', f'{planted}/val', '--size', 100)
    train, cat, dog, val = report['train'], f'{planted}/train/cat/', f'{planted}/train/dog/', f'{planted}/val/'
    assert {u['file']: u['reason'] for u in train['unreadable']} == {
        dog + 'broken.jpg': 'damaged', dog + 'pipe.jpg': 'not a regular file'}
    assert report['exact_duplicates']['groups'] == [
        [cat + '0.jpg', cat + 'copy.jpg'], [cat + '1.jpg', dog + 'other label.jpg'],
        [cat + '2.jpg', val + 'cat/leak.jpg']]
    assert report['overlap'] == {'exact': [{'val': val + 'cat/leak.jpg', 'train': cat + '2.jpg'}]}
    assert report['two_labels'] == {'exact': [[{'file': cat + '1.jpg', 'class': 'cat'},
                                               {'file': dog + 'other label.jpg', 'class': 'dog'}]]}
    assert len(train['blank']) == 40 and report['class_difference'] == {'only_in_train': ['empty'], 'only_in_val': []}
    assert train['labels'] == {'images_per_class': {'cat': 47, 'dog': 10, 'empty': 0}, 'empty': ['empty'],
                               'imbalance': 4.7}
    assert report['val']['sizes']['too_small']['files'] == [val + 'dog/again.jpg']
    assert train['left_out']['by_ending'] == {'.txt': 1}
    assert report['problems'] == ['unreadable', 'overlap', 'two_labels', 'class_difference', 'empty_classes', 'blank']
    text = capsys.readouterr().out
    assert text.index('cannot be read') < text.index('in train as well') < text.index('note:')
    assert 'pipe.jpg' in text and len(text.splitlines()) < 60
    assert snapshot(planted) == before


def test_report_does_not_depend_on_workers(planted, tmp_path, monkeypatch):
    one = checked(tmp_path, f'{planted}/train', '--workers', 1, name='1')
    real = os.scandir

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass
    monkeypatch.setattr(os, 'scandir', lambda p: Backwards(sorted(real(p), key=lambda e: e.name, reverse=True)))
    assert checked(tmp_path, f'{planted}/train', '--workers', 3, name='3') == one


def test_a_clean_folder_is_clean(tmp_path, capsys):
    for i in range(5):
        write(f'{tmp_path}/fine/{i}.png', picture(i, 240, 320))
    assert check(tmp_path / 'fine') == 0
    assert 'No problems, 0 notes.' in capsys.readouterr().out


def test_written_list_is_what_training_reads(planted, tmp_path):
    out = tmp_path / 'good.txt'
    assert check(f'{planted}/train', '--write-list', out, '--drop-duplicates') == 1
    dataset = build_dataset({'name': 'ImageList', 'dataroot': f'{planted}/train', 'list_file': str(out),
                             'return_label': True, 'on_error': 'raise'})
    names = [os.path.relpath(p, f'{planted}/train') for p, _ in dataset.samples]
    labels = {n: label for n, (_, label) in zip(names, dataset.samples)}
    assert 'cat/0.jpg' in names and 'dog/5 small.jpg' in names
    # unreadable ones, copies, and what stands under two labels
    assert not {'dog/broken.jpg', 'dog/pipe.jpg', 'cat/copy.jpg', 'cat/1.jpg', 'dog/other label.jpg'} & set(names)
    assert len(names) == 47 - 2 + 10 - 3 and labels['cat/0.jpg'] == 0 and labels['dog/3.jpg'] == 1
    again = tmp_path / 'again.json'
    assert check(out, '--root', f'{planted}/train', '--json', again) == 1       # the blank ones and the empty class
    report = json.loads(again.read_text())
    assert report['problems'] == ['blank'] and report['train']['paths'][0]['read_as'] == 'list'
    assert not report['exact_duplicates']['groups']


def test_odd_names_survive_and_are_kept_out_of_lists(tmp_path, capsys):
    root = tmp_path / 'odd'
    odd = ['zwei\nZeilen.png', '图.png', 'a b.png', os.fsdecode(b'\xff\xfe.png'), ' front.png', 'x.png\u2028.png']
    for i, name in enumerate(odd):
        write(f'{root}/tmp.png', picture(i))
        os.rename(f'{root}/tmp.png', f'{root}/{name}')
    report = checked(tmp_path, root, '--write-list', tmp_path / 'l.txt', code=0)
    named = {os.path.basename(os.fsencode(n)) for n in report['train']['sizes']['too_small']['files']}
    assert named == {os.fsencode(n) for n in odd}
    read = build_dataset({'name': 'ImageList', 'dataroot': str(root), 'list_file': str(tmp_path / 'l.txt')})
    assert {os.path.basename(p) for p in read.samples} == {'图.png', 'a b.png', 'x.png\u2028.png'}
    assert '3 good images have names' in capsys.readouterr().out


@pytest.mark.parametrize('words, said', [
    ([], 'No images are named'), (['gone'], 'no folder'), (['train', '--json', 'mine'], '--overwrite'),
    (['train', '--drop-duplicates'], '--write-list'),
    (['train', '--json', 'x', '--write-list', 'x'], 'files of their own'), (['void'], 'holds no images'),
    (['train', '--json', 'gone/x'], "no folder 'gone'")])
def test_wrong_usage_is_2_and_touches_nothing(planted, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine').write_text('mine')
    (tmp_path / 'void').mkdir()
    os.symlink(f'{planted}/train', 'train')
    assert check(*words) == 2
    assert said in capsys.readouterr().err and (tmp_path / 'mine').read_text() == 'mine'
    assert sorted(os.listdir(tmp_path)) == ['mine', 'train', 'void']


def test_wrong_flags_are_2(capsys):
    for words in (['.', '--near', '4'], ['.', '--workers', '0'], ['.', '--siz', '3'],
                  ['.', '--labelled', '--unlabelled']):
        with pytest.raises(SystemExit) as e:
            check(*words)
        assert e.value.code == 2


def test_overwrite_replaces(planted, tmp_path):
    (tmp_path / 'r.json').write_text('old')
    assert checked(tmp_path, f'{planted}/val', '--overwrite', code=0)['val'] is None


def test_ctrl_c_ends_the_workers(tmp_path):
    image = cv2.resize(picture(0), (2500, 2500))
    write(f'{tmp_path}/many/0.png', image)
    for i in range(1, 300):
        os.link(f'{tmp_path}/many/0.png', f'{tmp_path}/many/{i}.png')
    process = subprocess.Popen([sys.executable, 'tools/check_data.py', str(tmp_path / 'many'), '--workers', '2',
                                '--json', str(tmp_path / 'r.json')], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    children = f'/proc/{process.pid}/task/{process.pid}/children'
    end, workers = time.monotonic() + 60, []
    while len(workers) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        with open(children) as f:
            workers = f.read().split()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and 'Traceback' not in err and len(workers) == 2
    assert not any(os.path.exists(f'/proc/{pid}') for pid in workers)
    assert os.listdir(tmp_path) == ['many']


def test_unlistable_folder_is_a_problem(planted, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith('dog'):
            raise PermissionError(13, 'Permission denied', path)
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    report = checked(tmp_path, f'{planted}/train')
    assert report['train']['folders_not_listed'] == [{'folder': f'{planted}/train/dog', 'reason': 'Permission denied'}]
    assert report['problems'][0] == 'folders_not_listed'


def test_content_is_compared_by_its_bytes(planted, tmp_path):
    """The groups are those of a plain hash of every file."""
    report = checked(tmp_path, f'{planted}/train')
    by_content = {}
    for folder, _, names in os.walk(f'{planted}/train'):
        for path in (os.path.join(folder, n) for n in names if n.endswith(('.jpg', '.png')) and 'pipe' not in n):
            with open(path, 'rb') as f:
                by_content.setdefault(hashlib.sha256(f.read()).hexdigest(), []).append(path)
    wanted = sorted(sorted(g) for g in by_content.values() if len(g) > 1)
    assert sorted(sorted(g) for g in report['exact_duplicates']['groups']) == wanted and len(wanted) == 2
