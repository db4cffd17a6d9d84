"""Worker processes that are forked while the parent has garbage whose end needs the parent's threads."""

import gc
import mmap
import os
import sys
import time

import numpy as np
import pytest

from passl.datasets import build_dataloader
from passl.datasets.check import look
from passl.datasets.labelled import statistics

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='fork')
HANG = 20.0
hung = mmap.mmap(-1, 1)      # shared with all processes: has one of them come to wait?
unlucky = []


def collect_at_once():
    """What may happen in any forked process, sooner or later."""
    if unlucky and gc.isenabled():
        gc.collect()


os.register_at_fork(after_in_child=collect_at_once)


class Finaliser:
    """Its end waits in a forked process, as that of a data loader of Paddle's does, for a thread that is not there."""

    def __init__(self):
        self.owner, self.cycle = os.getpid(), self

    def __del__(self):
        if os.getpid() != self.owner:
            hung[0] = 1
            time.sleep(HANG)


@pytest.fixture
def garbage():
    """Old garbage of this process, which it will not collect by itself soon."""
    kept = Finaliser()
    gc.collect()
    del kept
    unlucky.append(True)
    yield
    assert not hung[0] and gc.isenabled()
    unlucky.clear()
    gc.collect()


def test_the_finaliser_hangs_a_process_that_is_forked_plainly(garbage):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, b'done')               # not reached in time: `collect_at_once` ran before
        os._exit(0)
    os.set_blocking(reader, False)
    end = time.monotonic() + 60
    while not hung[0] and time.monotonic() < end:
        time.sleep(0.05)
    assert hung[0]
    with pytest.raises(BlockingIOError):
        os.read(reader, 4)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    hung[0] = 0


def collecting(path):
    gc.collect()
    return (look.OK, 1, 0, 1, 1, 1, bytes(16), *look._NONE), ''


def test_check_data(garbage):
    records, _ = look.look_at_all([f'fine {i}' for i in range(40)], 2, lambda n: None, collecting)
    assert (records['state'] == look.OK).all()


@pytest.mark.parametrize('persistent', [False, True])
def test_image_loader(garbage, persistent):
    loader = build_dataloader({'loader': {'num_workers': 2, 'persistent_workers': persistent},
                               'sampler': {'batch_size': 4, 'shuffle': False},
                               'dataset': {'name': 'Synthetic', 'size': 16, 'num_images': 16}})
    load = loader.dataset.load

    def collect_and_load(index):
        gc.collect()
        return load(index)
    loader.dataset.load = collect_and_load
    assert sum(1 for _ in loader) == 4
    loader.close()


class Collecting:
    """Image k has the class k."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        gc.collect()
        return None, np.array([index]), str(index)

    def turned(self, index):
        return False


def test_label_statistics(garbage):
    rows, bad, _ = statistics._collect(Collecting(), np.ravel, 40, 2, lambda n: None, None)
    assert rows[:, :40].argmax(1).tolist() == list(range(40)) and rows.sum() == 40 and not bad
