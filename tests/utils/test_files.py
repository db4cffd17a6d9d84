"""Files are whole or not there; two processes cannot hold a lock at once, and a dead one holds none."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
import time
import types

import pytest

from passl.utils import files
from passl.utils.files import (FileLock, LockedError, free_name, remove_leftovers, replace_text, settle, whole,
                               whole_file)
from tests.test_imports import sources

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOLD = 'import sys, time; from passl.utils.files import FileLock; lock = FileLock(sys.argv[1]).acquire(); ' \
       'print("held", flush=True); time.sleep(60)'


def test_a_file_is_written_through_before_it_has_its_name(tmp_path, monkeypatch):
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, 'fsync', lambda fd: done.append(os.readlink(f'/proc/self/fd/{fd}')) or fsync(fd))
    monkeypatch.setattr(os, 'replace', lambda a, b: done.append(a) or replace(a, b))
    replace_text(tmp_path / 'a.txt', 'new')
    assert done[0] == done[1] and re.fullmatch(r'\.a\.txt\.\d+\.tmp', os.path.basename(done[0]))
    assert done[2:] == [str(tmp_path)] and (tmp_path / 'a.txt').read_text() == 'new'
    assert os.listdir(tmp_path) == ['a.txt']


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'full'), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize('where', ['block', 'fsync', 'replace'])
def test_an_error_leaves_the_older_file(tmp_path, monkeypatch, where, error):
    def fails(*_):
        raise error
    (tmp_path / 'a').write_text('old')
    if where != 'block':
        monkeypatch.setattr(os, where, fails)
    with pytest.raises(type(error)), whole_file(tmp_path / 'a', 'w') as f:
        f.write('new')
        where == 'block' and fails()
    assert (tmp_path / 'a').read_text() == 'old' and os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('links', [True, False])
def test_a_file_that_has_appeared_meanwhile_stays(tmp_path, monkeypatch, links):
    def cannot(*_):
        raise OSError(errno.EPERM, 'no links')
    if not links:
        monkeypatch.setattr(os, 'link', cannot)
    with whole_file(tmp_path / 'a', 'w', replace=False) as f:
        f.write('mine')
    with pytest.raises(FileExistsError), whole(tmp_path / 'a', replace=False) as place:
        with open(place, 'w') as f:
            f.write('other')
    assert (tmp_path / 'a').read_text() == 'mine' and os.listdir(tmp_path) == ['a']


def test_links_and_folders_get_their_name_too(tmp_path):
    for name in ('a', 'b'):
        with whole(tmp_path / 'link') as place:
            os.symlink(name, place)
    assert os.readlink(tmp_path / 'link') == 'b'
    (tmp_path / 'made').mkdir()
    settle(tmp_path / 'made', tmp_path / 'folder')
    assert sorted(os.listdir(tmp_path)) == ['folder', 'link']


def test_leftovers_of_killed_processes(tmp_path):
    """What is older than an hour goes with the next write of that file; what a pattern names, when asked."""
    old, fresh, other = (tmp_path / n for n in ('.x.json.1.tmp', '.x.json.2.tmp', '.y.json.1.tmp'))
    for p in (old, fresh, other, tmp_path / 'x.json.3.tmp'):
        p.write_text('')
        os.utime(p, (1, 1))
    os.utime(fresh)
    replace_text(tmp_path / 'x.json', 'text')
    assert sorted(os.listdir(tmp_path)) == ['.x.json.2.tmp', '.y.json.1.tmp', 'x.json', 'x.json.3.tmp']
    for folder in (tmp_path, tmp_path / 'missing'):
        remove_leftovers(folder, re.compile(r'x\.json|z'))
    assert sorted(os.listdir(tmp_path)) == ['.y.json.1.tmp', 'x.json', 'x.json.3.tmp']


def test_free_name(tmp_path):
    (tmp_path / 'run.bak-1').mkdir()
    os.symlink('nowhere', tmp_path / 'run.bak-2')
    assert free_name(f'{tmp_path}/run.bak-') == f'{tmp_path}/run.bak-3'
    assert free_name(f'{tmp_path}/run.bak-', '.yaml') == f'{tmp_path}/run.bak-1.yaml'


def test_only_this_module_gives_files_their_names():
    """Elsewhere only the run folder renames: what it moves aside."""
    found = set()
    for module, _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ('os.replace', 'os.rename', 'tempfile.mkstemp',
                                                                         'shutil.move'):
                found.add((module, ast.unparse(node)))
    assert found == {('passl.utils.files', 'os.replace'), ('passl.engine.run_folder', 'os.rename')}


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/lock."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / 'lock')], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.wait()


def test_the_holder_is_named_and_a_killed_one_holds_nothing(tmp_path, holder):
    with pytest.raises(LockedError, match=f"process {holder.pid} on '.+', since 20"):
        FileLock(tmp_path / 'lock').acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = FileLock(tmp_path / 'lock').acquire()
    assert str(os.getpid()) in (tmp_path / 'lock').read_text()
    lock.release()
    lock.release()


def test_patience_waits_for_one_that_is_ending(tmp_path, holder, monkeypatch):
    naps = []
    with monkeypatch.context() as patch:
        patch.setattr(files, 'time', types.SimpleNamespace(
            **{**vars(time), 'sleep': naps.append, 'monotonic': lambda: sum(naps)}))
        with pytest.raises(LockedError):
            FileLock(tmp_path / 'lock').acquire(patience=0.5)
    assert sum(naps) >= 0.5
    os.kill(holder.pid, signal.SIGTERM)
    FileLock(tmp_path / 'lock').acquire(patience=10).release()


def test_a_released_lock_is_free_for_others(tmp_path):
    FileLock(tmp_path / 'lock').acquire().release()
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / 'lock')], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'held\n'
    finally:
        process.kill()
        process.wait()


def test_forked_children_do_not_keep_it(tmp_path):
    """As data workers, which may live a moment longer than a killed main process."""
    code = HOLD.replace('time.sleep(60)', 'import os; child = os.fork(); child or time.sleep(60); '
                        'print(child, flush=True); os.kill(os.getpid(), 9)')
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'lock')], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout.readline() == 'held\n'
    child = int(process.stdout.readline())
    process.wait()
    try:
        os.kill(child, 0)                       # it lives
        FileLock(tmp_path / 'lock').acquire().release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def cannot(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(files.fcntl, 'lockf', cannot)
    FileLock(tmp_path / 'lock').acquire().release()
    assert 'No lock on' in caplog.text and 'no second run' in caplog.text


@pytest.mark.parametrize('text', ['', 'nonsense', '[]', '{"pid": "x"}', '{"pid": 1, "host": "a", "since": 1e99}'])
def test_a_damaged_text_does_not_matter(tmp_path, text):
    assert files._describe(text) == 'another process'


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / 'no' / 'lock').acquire()
