"""Two processes cannot hold a lock at once, and a dead one holds none."""

import errno
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from passl.utils import file_lock
from passl.utils.file_lock import FileLock, LockedError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOLD = 'import sys, time; from passl.utils.file_lock import FileLock; lock = FileLock(sys.argv[1]).acquire(); ' \
       'print("held", flush=True); time.sleep(60)'


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
        patch.setattr(file_lock, 'time', types.SimpleNamespace(
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
    monkeypatch.setattr(file_lock.fcntl, 'lockf', cannot)
    FileLock(tmp_path / 'lock').acquire().release()
    assert 'No lock on' in caplog.text and 'no second run' in caplog.text


@pytest.mark.parametrize('text', ['', 'nonsense', '[]', '{"pid": "x"}', '{"pid": 1, "host": "a", "since": 1e99}'])
def test_a_damaged_text_does_not_matter(tmp_path, text):
    assert file_lock._describe(text) == 'another process'


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / 'no' / 'lock').acquire()
