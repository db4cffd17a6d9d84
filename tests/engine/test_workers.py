"""Data workers end with their epoch: left behind, they pile up and fill the memory."""

import multiprocessing
import os

from passl.cli import train_main
from passl.hooks import HOOKS, Hook
from tests.tiny import densecl_config, write_config


@HOOKS.register()
class CountWorkers(Hook):
    seen = []

    def train_iter_end(self, trainer):
        self.seen.append(('step', len(multiprocessing.active_children())))

    def train_epoch_end(self, trainer):
        self.seen.append(('end', len(multiprocessing.active_children())))


def test_no_worker_outlives_its_epoch(tmp_path, make_images):
    make_images(tmp_path / 'images', 12)
    files = set(os.listdir('/dev/shm')) if os.path.isdir('/dev/shm') else set()
    cfg = densecl_config(tmp_path / 'images', tmp_path / 'out', workers=2, epochs=2,
                         custom_config=[{'name': 'CountWorkers'}])
    CountWorkers.seen = []
    assert train_main(['-c', write_config(cfg, tmp_path), '--allow-imports']) == 0
    assert [n for point, n in CountWorkers.seen if point == 'end'] == [0, 0]
    assert max(n for point, n in CountWorkers.seen if point == 'step') <= 2
    assert multiprocessing.active_children() == []
    if files:
        mine = [f for f in set(os.listdir('/dev/shm')) - files if f'_{os.getpid()}_' in f]
        assert mine == []
