"""Saving."""

import os

from ..utils.dist import is_main
from ..utils.errors import ConfigError, PasslError
from ..utils.logger import get_logger
from .builder import HOOKS
from .hook import Hook, Priority, check_count, check_flag

LATEST = 'latest.pdparams'


@HOOKS.register()
class CheckpointHook(Hook):
    """Saves `epoch_N.pdparams` (or `iter_N.pdparams`) and points `latest.pdparams` to it.

    The last step is always saved.

    Args:
        interval: in epochs, or iterations with `by_epoch: false`.
        by_epoch: unit of `interval`.
        save_optimizer: false leaves the optimizer's state out: smaller files, which `--load` takes and
            `--resume` refuses.
        out_dir: another folder than the run folder.
        max_keep_ckpts: keep the newest N files that this run wrote; None or a number <= 0 keeps all.
    """

    priority = Priority.CHECKPOINT

    def __init__(self, interval=1, by_epoch=True, save_optimizer=True, out_dir=None, max_keep_ckpts=None,
                 priority=None):
        super().__init__(priority)
        self.interval = check_count(interval, "'checkpoint.interval'")
        self.by_epoch = check_flag(by_epoch, "'checkpoint.by_epoch'")
        self.save_optimizer = check_flag(save_optimizer, "'checkpoint.save_optimizer'")
        if not isinstance(out_dir, (str, type(None))):
            raise ConfigError(f"'checkpoint.out_dir' is {out_dir!r}; it must be the name of a folder.")
        self.out_dir = out_dir
        if isinstance(max_keep_ckpts, bool) or not isinstance(max_keep_ckpts, (int, type(None))):
            raise ConfigError(f"'checkpoint.max_keep_ckpts' is {max_keep_ckpts!r}; it must be a whole number, or null "
                              'to keep all.')
        self.keep = max_keep_ckpts if max_keep_ckpts and max_keep_ckpts > 0 else None
        self.saved_iteration = None

    def run_begin(self, trainer):
        self.saved_iteration = trainer.iteration if trainer.iteration else None

    def train_iter_end(self, trainer):
        if not self.by_epoch and trainer.iteration % self.interval == 0:
            self.save(trainer, f'iter_{trainer.iteration}.pdparams')

    def train_epoch_end(self, trainer):
        if self.by_epoch and trainer.epoch % self.interval == 0:
            self.save(trainer, f'epoch_{trainer.epoch}.pdparams')

    def run_end(self, trainer):
        if self.saved_iteration == trainer.iteration:
            return
        whole = trainer.iteration % trainer.iters_per_epoch == 0
        self.save(trainer, f'epoch_{trainer.finished_epochs}.pdparams' if self.by_epoch and whole
                  else f'iter_{trainer.iteration}.pdparams')

    def save(self, trainer, name):
        """Save now, under `name`. Only process 0 writes; all must call (the others' state is gathered)."""
        folder = self.out_dir or trainer.run_dir
        if folder is None:          # a trainer that was built to write nothing
            return
        check_weights(trainer)
        trainer.saved_files = [f for f in trainer.saved_files if f != name] + [name]
        drop = trainer.saved_files[:-self.keep] if self.keep else []
        trainer.saved_files = trainer.saved_files[len(drop):]
        trainer.save_checkpoint(os.path.join(folder, name), with_optimizer=self.save_optimizer)
        self.saved_iteration = trainer.iteration
        if not is_main():
            return
        _point(os.path.join(folder, LATEST), name)
        for old in drop:
            path = os.path.join(folder, old)
            if os.path.exists(path):
                os.remove(path)
        get_logger().info('Saved %s', os.path.join(folder, name))


def check_weights(trainer):
    """Stop before weights that are no numbers take the place of good ones in the folder."""
    broken = [n for n, p in trainer.model.named_parameters()
              if not p.stop_gradient and not bool(p.astype('float32').isfinite().all())]
    if broken:
        raise PasslError(f"'{broken[0]}' and {len(broken) - 1} other weights are nan or inf after iteration "
                         f'{trainer.iteration} (epoch {trainer.epoch}, lr {trainer.lr:.3e}): not saved, older '
                         'checkpoints are kept. Lower lr_scheduler.learning_rate, or add optimizer.grad_clip.')


def _point(link, name):
    """Let `link` mean the file `name` of the same folder, atomically; a copy where links cannot be made."""
    temporary = link + '.tmp'
    if os.path.lexists(temporary):
        os.remove(temporary)
    try:
        os.symlink(name, temporary)
    except OSError:
        import shutil
        shutil.copyfile(os.path.join(os.path.dirname(link), name), temporary)
    os.replace(temporary, link)
