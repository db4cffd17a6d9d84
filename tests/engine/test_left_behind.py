"""A run that is killed with workers at work leaves no process and no batch in shared memory."""

import glob
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from .small import moco, write_config

CODE = 'import sys; import tests.engine.small; from passl.cli import train_main; sys.exit(train_main(sys.argv[1:]))'


def descendants(pid):
    """Children of `pid` that run."""
    found = set()
    for stat in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(stat) as f:
                state, parent = f.read().rsplit(')', 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != 'Z':
            found.add(int(stat.split('/')[2]))
    return found


def runs(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc and /dev/shm')
def test_killed_at_random_moments(tmp_path, make_images, project_root):
    make_images(tmp_path / 'flat', 24, size=96)
    draw, workers_seen, files_seen = random.Random(1), 0, 0
    for number, end in enumerate([signal.SIGKILL] * 3 + [signal.SIGTERM]):
        persistent = bool(number % 2)
        cfg = moco(str(tmp_path), epochs=5000, output_dir=str(tmp_path / f'out{number}'), log_config={'interval': 1},
                   checkpoint={'interval': 10**6}, dataloader={'train': {'loader': {
                       'num_workers': 2, 'persistent_workers': persistent}, 'dataset': {'transforms': [
                           {'name': 'RandomResizedCrop', 'size': 96}, {'name': 'ToTensor'}]}}})
        path = write_config(cfg, folder=str(tmp_path / str(number)))
        main = subprocess.Popen([sys.executable, '-c', CODE, '-c', path],
                                cwd=project_root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log, limit = os.path.join(cfg['output_dir'], 'small', 'log.jsonl'), time.time() + 90
        while time.time() < limit and not (os.path.exists(log) and os.path.getsize(log)):
            time.sleep(0.05)
        workers, until = set(), time.time() + draw.uniform(0, 1.5)
        while time.time() < until:
            workers |= descendants(main.pid)
        main.send_signal(signal.SIGSTOP)        # so that what exists at the end is known
        workers |= descendants(main.pid)
        files_seen += len([f for w in workers for f in glob.glob(f'/dev/shm/paddle_{w}_*')])
        workers_seen += len(workers)
        if end == signal.SIGKILL:
            main.kill()
        else:
            main.send_signal(end)
            main.send_signal(signal.SIGCONT)
        main.wait(timeout=60)
        limit = time.time() + 30
        while time.time() < limit and any(map(runs, workers)):
            time.sleep(0.05)
        assert not [w for w in workers if runs(w)], f'alive after {end.name} {number}'
        left = [f for w in {main.pid, *workers} for f in glob.glob(f'/dev/shm/paddle_{w}_*')]
        assert not left, f'left after {end.name} {number}'
    assert workers_seen >= 5 and files_seen >= 5, 'the kills met nothing'
