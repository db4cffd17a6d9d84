"""The pieces of check-data: the worker processes, what is found in files."""

import errno
import multiprocessing
import multiprocessing.heap
import os
import signal
import socket
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from passl.datasets import pool
from passl.datasets.check import look
from passl.datasets.check.files import find_files
from passl.datasets.listing import list_trees
from passl.utils.errors import DataError


def picture(seed, height=120, width=160):
    """A smooth random image, as photographs are."""
    small = np.random.RandomState(seed).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def state(path):
    record, reason = look.look_at(str(path))
    return look.REASONS[record[0]], reason


def test_what_is_no_image_is_named_and_never_waited_for(tmp_path):
    good = tmp_path / 'good.jpg'
    cv2.imwrite(str(good), picture(0))
    data = good.read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(data[:len(data) // 2])
    (tmp_path / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'text.png').write_bytes(b'no picture')
    os.mkfifo(tmp_path / 'pipe.jpg')
    os.symlink('/dev/zero', tmp_path / 'zero.jpg')
    os.symlink('gone', tmp_path / 'gone.jpg')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tmp_path / 'socket.jpg'))
        states = {p.name: state(p)[0] for p in tmp_path.iterdir()}
    assert states == {'good.jpg': 'ok', 'cut.jpg': 'damaged', 'empty.jpg': 'empty', 'text.png': 'not an image',
                      'pipe.jpg': 'not a regular file', 'zero.jpg': 'not a regular file', 'gone.jpg': 'missing',
                      'socket.jpg': 'not a regular file'}
    assert all(reason and str(tmp_path) not in reason for reason in
               (state(tmp_path / n)[1] for n in states if n != 'good.jpg'))


def test_formats_and_modes(tmp_path):
    image = Image.fromarray(picture(1))
    image.convert('L').save(tmp_path / 'grey.jpg')
    image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    image.convert('RGBA').save(tmp_path / 'alpha.png')
    image.convert('P').save(tmp_path / 'palette.gif')
    image.save(tmp_path / 'animated.gif', save_all=True, append_images=[Image.fromarray(picture(2))])
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / 'turned.jpg', exif=exif)
    image.save(tmp_path / 'wrong ending.png', format='JPEG')
    cv2.imwrite(str(tmp_path / '16 bit.png'), picture(1).astype(np.uint16) * 257)
    Image.new('RGB', (50, 40), (9, 9, 9)).save(tmp_path / 'blank.png')
    for path in tmp_path.iterdir():
        record = look.look_at(str(path))[0]
        found = {name for name in look.FLAGS if record[2] & look.flag(name)}
        assert record[0] == look.OK and path.stem in found, (path.name, found)
        assert found - {path.stem} <= {'palette'}
        assert record[3:5] == ((50, 40) if path.stem == 'blank' else (160, 120))


def fake(path):
    """Stands for look_at: some names kill their process."""
    if path.startswith('kill'):
        os.kill(os.getpid(), signal.SIGKILL)
    if path.startswith('abort'):
        os._exit(3)
    return (look.OK, 1, 0, len(path), 1, int(path.split()[-1]), bytes(16), *look._NONE), \
        'odd' if path.endswith('7') else ''


@pytest.mark.parametrize('workers', [1, 3])
def test_a_file_that_kills_its_reader_is_named_and_survived(workers):
    names = [f'fine {i}' for i in range(150)]
    for number, kind in ((0, 'kill'), (33, 'abort'), (34, 'kill'), (149, 'kill')):
        names[number] = f'{kind} {number}'
    done = []
    records, reasons = look.look_at_all(names, workers, done.append, fake)
    crashed = np.flatnonzero(records['state'] == look.CRASH).tolist()
    assert crashed == [0, 33, 34, 149] and sum(done) == 150
    assert 'SIGKILL' in reasons[0] and 'code 3' in reasons[33]
    whole = [i for i in range(150) if i not in crashed]
    assert records['bytes'][whole].tolist() == whole
    assert set(reasons) == {i for i in range(150) if i % 10 == 7} | set(crashed)


def test_a_worker_killed_from_outside_costs_no_file():
    names = [f'fine {i}' for i in range(400)]
    killed = []

    def kill_one():
        time.sleep(0.3)
        for p in multiprocessing.active_children()[:1]:
            os.kill(p.pid, signal.SIGKILL)
            killed.append(p.pid)
    thread = threading.Thread(target=kill_one)
    thread.start()

    def slowly(path):
        time.sleep(0.004)
        return fake(path)
    records, _ = look.look_at_all(names, 2, lambda n: None, slowly)
    thread.join()
    assert killed and (records['state'] == look.OK).all() and records['bytes'].tolist() == list(range(400))


def test_files_are_those_that_training_lists(tmp_path, make_images):
    root = str(tmp_path / 'r')
    make_images(root, 2, size=8, classes=['b', 'a', 'a/deep', 'é 中', 'c.d'])
    make_images(root + '/.hidden', 1, size=8)
    for name in ('a/notes.txt', 'a/readme', 'b/._1.png'):
        open(os.path.join(root, name), 'w').close()
    os.symlink(root, os.path.join(root, 'b', 'loop'))
    files = find_files(root, labelled=False)
    assert list(files.paths) == list_trees([root])[0] and len(files.paths) == 10
    assert files.left_out.kinds == {'.txt': 1, '(none)': 1} and files.left_out.hidden == 2
    labelled = find_files(root)
    assert labelled.kind == 'classes' and labelled.classes == ['a', 'b', 'c.d', 'é 中']
    counts = np.bincount(labelled.labels).tolist()
    assert counts[0] == 4 and counts[2:] == [2, 2]
    assert len(find_files(root + '/a', recursive=False).paths) == 2


@pytest.mark.parametrize('started', [0, 1, 2])
def test_fewer_processes_than_were_asked_for(started, tmp_path, monkeypatch):
    for i in range(70):
        cv2.imwrite(str(tmp_path / f'{i}.jpg'), picture(i, 20, 20))
    paths = sorted(map(str, tmp_path.iterdir()))
    begin, made = pool._Worker.__init__, []

    def few(self, *arguments):
        if len(made) == started:
            raise OSError(errno.EMFILE, 'Too many open files')
        made.append(1)
        begin(self, *arguments)
    monkeypatch.setattr(pool._Worker, '__init__', few)
    if not started:
        with pytest.raises(DataError, match='Too many open files. Raise the number'):
            look.look_at_all(paths, 3, lambda n: None)
        return
    records, reasons = look.look_at_all(paths, 3, lambda n: None)
    assert len(records) == 70 and not reasons and {look.REASONS[r['state']] for r in records} == {'ok'}


def test_no_shared_memory_of_the_system_is_needed(tmp_path, monkeypatch):
    """multiprocessing's own values lie in files below /dev/shm, which a container may have read-only."""
    def read_only(*_, **__):
        raise OSError(errno.EROFS, 'Read-only file system')
    monkeypatch.setattr(multiprocessing.heap, 'Arena', read_only)
    cv2.imwrite(str(tmp_path / 'a.jpg'), picture(0))
    records, _ = look.look_at_all([str(tmp_path / 'a.jpg')], 1, lambda n: None)
    assert look.REASONS[records[0]['state']] == 'ok'
