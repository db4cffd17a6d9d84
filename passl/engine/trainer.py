"""The loop and nothing else; everything around a step is a hook."""

import contextlib
import secrets
import time
from typing import Any, Iterable, Iterator, Optional, Sequence

import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler

from ..datasets.loader import ImageLoader
from ..hooks.hook import Hook
from ..modeling.architectures.base import Architecture
from ..utils.distributed import dist
from ..utils.weights import checkpoint
from ..utils.distributed.agreement import Agreement
from ..utils.errors import ConfigError
from ..utils.logger import get_logger
from ..utils.seed import derive_seed, seed_everything
from .amp import AutoCast
from .evaluator import evaluate
from .label_free import structure
from .signals import StopSignals
from .checkpoint import averaged_statistics, note_of, training_state


MEET_EVERY = 10         # steps: with several accelerators a signal is granted after so many to twice as many


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
        is_log_step: whether the current step is logged; a hook wants it (see `Hook.wants_log`).
        record: what the log says of the current step: iteration, epoch, lr and what hooks add on log steps.
        run_dir: folder of the run.
        last_checkpoint: path of the last one that was written; None before.
        run_id: text that names the run, the same on all processes and after a resume.
        stopping: True once a signal ends the run before max_iters; run_end follows.
        agreement: see `passl.utils.distributed.agreement`; to be asked on steps at which `all_wait` is True.
    """

    # of a trainer that only evaluates the first four are None: nothing there asks for them
    train_loader: Any           # an ImageLoader, whose sampler has more than Paddle's types know
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    scaler: paddle.amp.GradScaler
    auto_cast: AutoCast

    def __init__(self, cfg: dict[str, Any], model: Architecture, run_dir: Optional[str] = None,
                 train_loader: Optional[ImageLoader] = None, val_loader: Optional[ImageLoader] = None,
                 optimizer: Optional[Optimizer] = None, lr_scheduler: Optional[LRScheduler] = None,
                 scaler: Optional[paddle.amp.GradScaler] = None, auto_cast: Optional[AutoCast] = None,
                 hooks: Iterable[Hook] = (), max_iters: int = 0, accumulate_steps: int = 1, seed: int = 0,
                 signals: Optional[StopSignals] = None) -> None:
        self.cfg, self.model, self.run_dir, self.seed = cfg, model, run_dir, seed
        self.train_loader, self.val_loader = train_loader, val_loader
        parts: Any = optimizer, lr_scheduler, scaler, auto_cast
        self.optimizer, self.lr_scheduler, self.scaler, self.auto_cast = parts
        self.hooks = sorted(hooks, key=lambda h: h.priority)
        self.accumulate_steps = accumulate_steps
        self.iters_per_epoch = len(train_loader) // accumulate_steps if train_loader is not None else 0
        self.max_iters = max_iters
        self.parallel = dist.wrap(model) if train_loader is not None else model
        self.iteration, self.epoch, self.loaded_epoch = 0, 1, 0
        self.outputs: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        self.val_results: dict[str, float] = {}
        self.saved_files: list[str] = []
        self.last_checkpoint: Optional[str] = None
        self.on_cpu, self.met, self.is_log_step = paddle.get_device() == 'cpu', False, False
        self.signals, self.stopping = signals or StopSignals(), False
        self.run_id = dist.broadcast_object(secrets.token_hex(8))
        self.agreement = Agreement(self.run_id)
        model.seed = seed

    @property
    def all_wait(self) -> bool:
        """Whether in the current step the processes have waited for each other, or there is only one.

        On the CPU they do in every step; on an accelerator, where a host is ahead of its device, every MEET_EVERY steps
        (the hosts for each other, not for the devices) and where a log step reads a value.
        """
        return dist.world_size() == 1 or self.met or self.is_log_step

    @property
    def max_epochs(self) -> int:
        """Number of epochs that max_iters touches."""
        return -(-self.max_iters // self.iters_per_epoch)

    @property
    def finished_epochs(self) -> int:
        """Whole epochs done; without training data, those of the checkpoint that was loaded."""
        return self.iteration // self.iters_per_epoch if self.iters_per_epoch else self.loaded_epoch

    @property
    def global_batch_size(self) -> int:
        """Samples per step over all processes."""
        return self.train_loader.batch_sampler.batch_size * dist.world_size() * self.accumulate_steps

    @property
    def steps_to_fill(self) -> int:
        """Steps after which the queue holds real keys only, while which the loss rises; 0 without a queue."""
        model: Any = self.model
        return -(-model.negatives // self.global_batch_size) if hasattr(model, 'queues') else 0

    def call(self, point: str) -> None:
        """Call `point` of every hook, in order of priority."""
        for hook in self.hooks:
            getattr(hook, point)(self)

    def run(self) -> None:
        """Train from where the state stands to `max_iters`, or until a signal stops it."""
        try:
            self.call('run_begin')
            self.signals.armed = True
            while self.iteration < self.max_iters and not self.stopping:
                self.train_epoch()
            self.call('run_end')
            self.signals.armed = False
        except BaseException:
            self.call('run_abort')
            raise

    def train_epoch(self) -> None:
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
                if self.stopping:
                    break
        finally:
            if hasattr(batches, 'close'):       # ends the workers, also after an error
                batches.close()
        if self.iteration % self.iters_per_epoch == 0:
            self.call('train_epoch_end')

    def train_step(self, batches: Iterator[Sequence[paddle.Tensor]]) -> None:
        """One optimizer step on the next `accumulate_steps` micro-batches."""
        # every random number of a step follows from (seed, step, rank): resuming needs no generator state
        seed_everything(derive_seed(self.seed, self.iteration, dist.rank()))
        self.lr = self.optimizer.get_lr()
        self.is_log_step = self.model.with_metrics = any(hook.wants_log(self) for hook in self.hooks)
        self.record = {'mode': 'train', 'iteration': self.iteration + 1, 'epoch': self.epoch, 'lr': self.lr}
        self.call('train_iter_begin')
        self.data_time, self.met = 0.0, self.on_cpu or self.iteration % MEET_EVERY == 0
        for micro in range(self.accumulate_steps):
            start = time.perf_counter()
            dist.progress('waiting for data', self.iteration)
            batch = self.batch = next(batches)
            self.data_time += time.perf_counter() - start
            if self.on_cpu or self.met and micro == 0:      # gloo's collectives, which follow, wait for 30 s only
                dist.meet()
            dist.progress('training')
            self.model.step = self.iteration * self.accumulate_steps + micro
            with dist.no_sync(self.parallel, micro < self.accumulate_steps - 1):
                with self.auto_cast():
                    self.outputs = self.parallel(*batch, mode='train')
                self.call('train_forward_end')
        self.iteration += 1
        dist.progress('training', self.iteration)       # before it is logged: what is said of a lost process agrees
        self.call('train_iter_end')
        if self.all_wait and self.agreement.due('stop', self.signals.received is not None):
            self.stopping = True

    def evaluate(self, **kwargs: Any) -> dict[str, float]:
        """Evaluate on the val data, every sample once over all processes.

        Returns:
            dict of figures, equal on every process; {} if a signal is ending the run.
        """
        if self.stopping:
            return {}
        if self.val_loader is None:
            raise ConfigError("Evaluation needs 'dataloader.val' in the config: {sampler: {batch_size: ...}, dataset: "
                              '{name: ..., dataroot: ..., return_label: true, transforms: [...]}}. '
                              'See configs/moco/moco_clas_r50.yaml.')
        dist.progress('evaluating')
        self.call('val_begin')
        with averaged_statistics(self.model) if self.train_loader is not None else contextlib.nullcontext():
            results = evaluate(self.model, self.val_loader, self.auto_cast, interrupted=self._interrupted, **kwargs)
        if results is None:
            get_logger().warning('The evaluation was interrupted.')
            self.stopping = True
            return {}
        self.val_results = results
        self.call('val_end')
        return self.val_results

    def structure(self, images: int = 64, side: Optional[int] = None) -> dict[str, float]:
        """The label-free estimate of the dense features, see `passl.engine.label_free`; for one process alone."""
        return structure(self, images, side)

    def _interrupted(self):
        """Whether an evaluation is to be left: alone a process need not ask the others."""
        return dist.world_size() == 1 and self.signals.received is not None

    def save_checkpoint(self, path: str, with_optimizer: bool = True) -> None:
        """Write the full training state (process 0 writes; every process must call)."""
        dist.progress('saving')
        with averaged_statistics(self.model) as statistics:
            if dist.is_main():
                state = training_state(self, with_optimizer, statistics)
                checkpoint.save_file(state, path, note_of(state))
