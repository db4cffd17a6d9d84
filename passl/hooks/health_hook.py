"""Stops a run whose numbers break, before they reach the weights, and keeps the images of the step."""

import math
from typing import Any, Literal, Optional, TYPE_CHECKING

import paddle

from ..utils.config.kinds import Count
from ..utils.distributed.dist import gather_objects, rank, sum_over_processes, world_size
from ..utils.errors import CheckpointError, PasslError, listed
from ..utils.numerics import (any_nonfinite, as_array, bad_count, bad_tensors, describe_bad, gradients_of,
                              sum_of_squares)
from .builder import HOOKS
from .hook import Hook, Order, Priority
from .step_record import image_names, losses_of, save_step, scale_of

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

WAY_OUT = ('Lower lr_scheduler.learning_rate, add optimizer.grad_clip, or look for broken images in the data. Then go '
           'on with --resume auto: nothing of this step has reached the weights, and older checkpoints are intact.')


@HOOKS.register()
class HealthHook(Hook):
    """Looks at the loss and the gradients after backward and before anything is changed by them.

    A value that is nan or inf ends the run with a PasslError that names losses, ranks, tensors and images. The images
    of the step are saved as `<run folder>/nonfinite_iter_N.pdparams`, see `passl.hooks.step_record`.

    Args:
        check: 'step' reads a sum of squares of the gradients and the loss in every step. 'log' keeps on the device
            which step was the first bad one and reads it on log steps: no waiting for an accelerator in between.
            'auto': 'step' on the CPU, where reading costs nothing, else 'log'. 'off': neither.
        max_skipped: float16 only. The loss scaler skips steps whose gradients overflow and halves its scale. After so
            many in a row the run ends: from the usual 2**16 the scale is below 1 after 17, so 25 are no overflow.
            (This, and the loss of a skipped step, are looked at with 'off' too: the scaler has read them.)
    """

    priority = Priority.HEALTH

    def __init__(self, check: Literal['auto', 'step', 'log', 'off', False] = 'auto', max_skipped: Count = 25,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.check, self.max_skipped = check or 'off', max_skipped         # YAML reads a bare off as false

    def run_begin(self, trainer: 'Trainer') -> None:
        self.mode = self.check
        if self.check == 'auto':
            self.mode = 'step' if paddle.get_device() == 'cpu' else 'log'
        self.first_bad = paddle.full([1], -1, dtype='int64') if self.mode == 'log' else None
        self.skipped = self.skipped_in_a_row = 0

    def train_iter_begin(self, trainer: 'Trainer') -> None:
        self.batches: list[Any] = []
        self.outputs: list[dict[str, Any]] = []

    def train_forward_end(self, trainer: 'Trainer') -> None:
        self.batches.append(trainer.batch)
        self.outputs.append(trainer.outputs)

    def train_iter_end(self, trainer: 'Trainer') -> None:
        if trainer.scaler.is_enable():
            self._look_at_scaler(trainer)
        elif self.mode == 'step':
            self._look(trainer)
        elif self.mode == 'log':
            self._note(trainer)
        self.batches, self.outputs = [], []
        if trainer.is_log_step and self.skipped:
            trainer.record['skipped_steps'] = self.skipped          # in this process's run

    def run_abort(self, trainer: 'Trainer') -> None:
        self.batches, self.outputs = [], []         # what can be large

    def _look(self, trainer):
        """Decide now. The averaged gradients are equal on all processes, so that all decide alike; a process's own
        loss counts where the processes can agree on it: on log steps, and in a run of one process."""
        gradients = gradients_of(trainer.model)
        bad = bool(gradients) and not math.isfinite(float(sum_of_squares([g for _, g in gradients]))) \
            and bool(bad_tensors(gradients))
        if world_size() == 1 or trainer.is_log_step:
            own = any(not math.isfinite(float(o['loss'])) for o in self.outputs)
            bad = sum_over_processes([float(own or bad)])[0] > 0
        if bad:
            raise self._failure(trainer, 'gave a loss or gradients that are nan or inf')

    def _note(self, trainer):
        """Keep the first bad step on the device; read it on log steps."""
        gradients = [g for _, g in gradients_of(trainer.model)]
        total = sum(o['loss'].detach().astype('float32').reshape([1]) for o in self.outputs)
        with paddle.no_grad():
            bad = ~paddle.isfinite(total)
            if gradients:
                bad = bad | any_nonfinite(gradients)
            is_first = (self.first_bad < 0) & bad
            self.first_bad = paddle.where(is_first, paddle.full([1], trainer.iteration, dtype='int64'), self.first_bad)
        if not trainer.is_log_step:
            return
        mine = int(self.first_bad[0])
        if sum_over_processes([float(mine >= 0)])[0] == 0:
            return
        first = min(i for i in gather_objects(mine) if i >= 0)
        if first == trainer.iteration:
            raise self._failure(trainer, 'gave a loss or gradients that are nan or inf')
        raise PasslError(
            f'Since iteration {first} the loss or the gradients are nan or inf (seen at the log step '
            f'{trainer.iteration}, epoch {trainer.epoch}, lr {trainer.lr:.3e}). The weights in memory are lost; '
            f'checkpoints of before iteration {first} are intact. To see which tensor broke, look at every step up to '
            'there: the same command with --resume auto -o health_config.check=step (every random number follows from '
            'the seed and the iteration, so the step comes again; on a GPU to the last bit only in a run with '
            'deterministic: true). To go on without: lower lr_scheduler.learning_rate or add optimizer.grad_clip, and '
            '--resume auto.')

    def _look_at_scaler(self, trainer):
        """Count the steps that the scaler is about to skip. (It reads this flag from the device in every step.)"""
        trainer.scaler.unscale_(trainer.optimizer)
        if not bool(trainer.scaler._found_inf):
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        own = any(not math.isfinite(float(o['loss'])) for o in self.outputs)
        if sum_over_processes([float(own)])[0] > 0:
            # its keys may be broken too: one such column of the queue would break every later loss
            raise self._failure(trainer, 'gave a loss that is nan or inf before scaling')
        if self.skipped_in_a_row >= self.max_skipped:
            raise self._failure(trainer, f'is skipped by the loss scaler, with those before it {self.skipped_in_a_row} '
                                         'in a row (health_config.max_skipped), at scale '
                                         f'{scale_of(trainer):g}')

    def _failure(self, trainer, what):
        """The PasslError; the step is saved after the processes have told each other what they saw."""
        own = {'losses': [losses_of(o) for o in self.outputs],
               'gradients': bad_tensors(gradients_of(trainer.model)),
               'state': bad_tensors(trainer.model.state_dict().items())}     # queues not written, weights not stepped
        all_own = gather_objects(own)
        try:
            path = save_step(trainer, self.batches, own)
            saved = f"The images of the step are saved in '{path}'." if path else \
                'Nothing is saved, since this run has no folder.'
        except CheckpointError as e:
            saved = f'The images of the step could not be saved: {e}'
        lines = [f'Iteration {trainer.iteration} (epoch {trainer.epoch}, lr {trainer.lr:.3e}) {what}.']
        for r, seen in enumerate(all_own):
            at = f'rank {r}: ' if world_size() > 1 else ''
            broken = sorted({k for o in seen['losses'] for k, v in o.items() if not math.isfinite(v)})
            lines.append(f"  {at}losses: {', '.join(broken) or 'all finite'}"
                         + (f' ({_values(seen["losses"])})' if broken else ''))
        images = _broken_images(trainer, self.batches)
        if images:
            lines.append(f'  images with pixels that are nan or inf: {listed(images)}')
        seen = all_own[rank()]
        lines.append(f"  gradients: {describe_bad(seen['gradients']) if seen['gradients'] else 'all finite'}")
        statistics = {n: c for n, c in seen['state'].items() if n.endswith(('._mean', '._variance'))}
        before = {n: c for n, c in seen['state'].items() if n not in statistics}
        lines.append(f"  weights and queues before the step: {describe_bad(before) if before else 'all finite'}")
        if statistics:
            lines.append(f'  BN statistics, which this forward pass has moved: {describe_bad(statistics)}')
        return PasslError('\n'.join(lines) + f'\n{saved}\n{WAY_OUT}')


def _broken_images(trainer, batches):
    """Names of this process's images that hold values which are no numbers."""
    names = image_names(trainer, len(batches))
    return [names[i][row] if names else f'image {row} of the batch' for i, batch in enumerate(batches)
            for row in range(batch[0].shape[0])
            if any(any(bad_count(as_array(x[row]))) for x in batch if x.is_floating_point())]


def _values(losses):
    return '; '.join(', '.join(f'{k} {v:g}' for k, v in o.items()) for o in losses)
