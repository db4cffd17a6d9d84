"""The folder of a run: whether it is free, the config in it, and the record of how the run ended."""

import contextlib
import json
import os
import time

from ...utils.distributed import dist
from ...utils.config import dump_config
from ...utils.errors import ConfigError
from ...utils.logger import get_logger
from ...utils.misc import replace_text

STATUS, CONFIG = 'status.json', 'config.yml'


class RunFolder:
    """One run's folder; only process 0 writes to it.

    Args:
        folder: path.
        doing: 'train', 'evaluate' or 'predict'. A training writes status.json, the others <doing>.json.
        record: dict that goes into that file, changed by the run meanwhile.
    """

    def __init__(self, folder, doing, record):
        self.folder, self.doing, self.record = folder, doing, record
        self.name = STATUS if doing == 'train' else f'{doing}.json'
        record['job'] = doing

    @contextlib.contextmanager
    def claimed(self, args, cfg):
        """The folder belongs to this run; afterwards its record tells how the run ended.

        Raises:
            ConfigError: results of another run would be replaced (unless args.overwrite or args.resume).
        """
        began = time.time()
        if dist.is_main():
            self._claim(args)
            if self.doing == 'train':
                replace_text(os.path.join(self.folder, CONFIG), dump_config(cfg))
        self._tell('running')
        try:
            yield
        except BaseException as e:
            self._tell('failed', message=f'{type(e).__name__}: {e}', seconds=round(time.time() - began, 1))
            raise
        self._tell('done', seconds=round(time.time() - began, 1))
        if dist.is_main():
            get_logger().info("How it went is in '%s'.", os.path.join(self.folder, self.name))

    def _claim(self, args):
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise ConfigError(f"'{self.folder}' is a file. Choose another run folder with --output DIR.")
        held = [name for name in (os.listdir(self.folder) if os.path.isdir(self.folder) else ()) if self._mine(name)]
        if held and not args.resume:
            more = ', or go on with --resume DIR/iter_N' if self.doing == 'train' else ''
            if not args.overwrite:
                raise ConfigError(f"'{self.folder}' holds {', '.join(sorted(held)[:4])} of a former run. Choose "
                                  f'another folder with --output DIR, or move this one aside with --overwrite{more}.')
            self._set_aside(args.weights)
        os.makedirs(self.folder, exist_ok=True)

    def _mine(self, name):
        """Whether a run of this kind wrote this file, and more than the record of its failure."""
        if name == self.name:
            with open(os.path.join(self.folder, name), encoding='utf-8', errors='replace') as f:
                return '"state": "failed"' not in f.read()
        return (self.doing == 'train' and (name.startswith('iter_') or name == 'best_model')
                or self.doing == 'predict' and name.endswith('_prediction'))

    def _set_aside(self, weights):
        if weights and os.path.realpath(weights).startswith(os.path.realpath(self.folder) + os.sep):
            raise ConfigError(f"--overwrite would move '{weights}' aside too: choose another folder with --output DIR.")
        number = 1
        while os.path.lexists(f'{self.folder}.bak-{number}'):
            number += 1
        os.rename(self.folder, f'{self.folder}.bak-{number}')
        get_logger().info("Moved the former run to '%s.bak-%d'.", self.folder, number)

    def _tell(self, state, **more):
        if dist.is_main():
            self.record.update(state=state, time=time.strftime('%Y-%m-%dT%H:%M:%S%z'), **more)
            replace_text(os.path.join(self.folder, self.name),
                         json.dumps(self.record, indent=1, ensure_ascii=False) + '\n')
