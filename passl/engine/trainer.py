"""The loop and nothing else; everything around a step is a hook."""

import time

from ..utils import checkpoint, dist
from ..utils.errors import ConfigError
from ..utils.seed import derive_seed, seed_everything
from .evaluator import evaluate
from .state import sync_statistics, training_state


class Trainer:
    """Runs a model over its data; see `passl.hooks.hook.Hook` for the points at which hooks are called.

    Built by `passl.engine.build_trainer`. What hooks may rely on:

    Attributes:
        cfg: the resolved config (a dict; not to be changed).
        model: the architecture; `parallel` is what is called: the same, or its wrapper over processes.
        optimizer, lr_scheduler, scaler: as built; `lr` is the rate that the current step uses.
        train_loader, val_loader: loaders; val_loader is None without `dataloader.val`.
        iteration: finished steps.
        epoch: the current epoch, from 1. finished_epochs: whole epochs done.
        iters_per_epoch, max_iters, max_epochs: lengths.
        batch: the last micro-batch; outputs: what the model returned for it.
        run_dir: folder of the run.
    """

    def __init__(self, cfg, model, run_dir=None, train_loader=None, val_loader=None, optimizer=None,
                 lr_scheduler=None, scaler=None, auto_cast=None, hooks=(), max_iters=0, accumulate_steps=1, seed=0):
        self.cfg, self.model, self.run_dir, self.seed = cfg, model, run_dir, seed
        self.train_loader, self.val_loader = train_loader, val_loader
        self.optimizer, self.lr_scheduler, self.scaler, self.auto_cast = optimizer, lr_scheduler, scaler, auto_cast
        self.hooks = sorted(hooks, key=lambda h: h.priority)
        self.accumulate_steps = accumulate_steps
        self.iters_per_epoch = len(train_loader) // accumulate_steps if train_loader is not None else 0
        self.max_iters = max_iters
        self.parallel = dist.wrap(model) if train_loader is not None else model
        self.iteration, self.epoch, self.loaded_epoch = 0, 1, 0
        self.outputs, self.val_results, self.saved_files = {}, {}, []
        model.seed = seed

    @property
    def max_epochs(self):
        """Number of epochs that max_iters touches."""
        return -(-self.max_iters // self.iters_per_epoch)

    @property
    def finished_epochs(self):
        """Whole epochs done; without training data, those of the checkpoint that was loaded."""
        return self.iteration // self.iters_per_epoch if self.iters_per_epoch else self.loaded_epoch

    @property
    def global_batch_size(self):
        """Samples per step over all processes."""
        return self.train_loader.batch_sampler.batch_size * dist.world_size() * self.accumulate_steps

    def call(self, point):
        """Call `point` of every hook, in order of priority."""
        for hook in self.hooks:
            getattr(hook, point)(self)

    def run(self):
        """Train from where the state stands to `max_iters`."""
        try:
            self.call('run_begin')
            while self.iteration < self.max_iters:
                self.train_epoch()
            self.call('run_end')
        except BaseException:
            self.call('run_abort')
            raise

    def train_epoch(self):
        """The rest of the current epoch."""
        self.epoch = self.finished_epochs + 1
        first = self.iteration % self.iters_per_epoch
        self.train_loader.batch_sampler.set_epoch(self.epoch, start_batch=first * self.accumulate_steps)
        self.model.train()
        self.call('train_epoch_begin')
        batches = iter(self.train_loader)
        try:
            for _ in range(first, min(self.iters_per_epoch, self.max_iters - self.iteration + first)):
                self.train_step(batches)
        finally:
            if hasattr(batches, 'close'):       # ends the workers, also after an error
                batches.close()
        if self.iteration % self.iters_per_epoch == 0:
            self.call('train_epoch_end')

    def train_step(self, batches):
        """One optimizer step on the next `accumulate_steps` micro-batches."""
        # every random number of a step follows from (seed, step, rank): resuming needs no generator state
        seed_everything(derive_seed(self.seed, self.iteration, dist.rank()))
        self.lr = self.optimizer.get_lr()
        self.call('train_iter_begin')
        self.data_time = 0.0
        for micro in range(self.accumulate_steps):
            start = time.perf_counter()
            batch = self.batch = next(batches)
            self.data_time += time.perf_counter() - start
            self.model.step = self.iteration * self.accumulate_steps + micro
            with dist.no_sync(self.parallel, micro < self.accumulate_steps - 1):
                with self.auto_cast():
                    self.outputs = self.parallel(*batch, mode='train')
                self.call('train_forward_end')
        self.iteration += 1
        self.call('train_iter_end')

    def evaluate(self, **kwargs):
        """Evaluate on the val data, every sample once over all processes.

        Returns:
            dict of figures, equal on every process.
        """
        self.call('val_begin')
        if self.train_loader is not None:
            sync_statistics(self.model)
        self.val_results = evaluate(self.model, self.need_val_loader(), self.auto_cast, **kwargs)
        self.call('val_end')
        return self.val_results

    def need_val_loader(self):
        """The val loader, or a ConfigError that says what to add."""
        if self.val_loader is None:
            raise ConfigError("Evaluation needs 'dataloader.val' in the config: {sampler: {batch_size: ...}, dataset: "
                              '{name: ..., dataroot: ..., return_label: true, transforms: [...]}}. '
                              'See configs/moco/moco_clas_r50.yaml.')
        return self.val_loader

    def save_checkpoint(self, path, with_optimizer=True):
        """Write the full training state (process 0 writes; every process must call)."""
        sync_statistics(self.model)
        if dist.is_main():
            checkpoint.save_file(training_state(self, with_optimizer), path)
