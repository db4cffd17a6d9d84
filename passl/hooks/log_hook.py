"""Console lines, log.jsonl and the progress bar."""

import math
import os
import sys
from typing import Any, Optional, TYPE_CHECKING

from ..utils.distributed.dist import is_main, sum_over_processes, world_size
from ..utils.config.kinds import Count, Flag
from ..utils.errors import PasslError
from ..utils.logger import COLUMNS, STAMP, JsonLines, get_logger
from ..utils.misc import AverageMeter, format_eta, peak_memory_mb, reset_peak_memory
from .builder import HOOKS
from .hook import Hook, Order, Priority

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

_OF_EVERY_STEP = 'mode', 'iteration', 'epoch', 'lr', 'time', 'data_time'


@HOOKS.register()
class LogHook(Hook):
    """Every `interval` iterations, at the last one, and (`by_epoch`) at the end of an epoch: one line, one JSON object.

    A terminal gets a short line; log.txt, and a console that is none, get all figures.

    Values are means over processes, but for what other hooks have added. They are read from the device on log steps
    only; the running mean of an epoch's loss is kept on the device.

    Args:
        interval: in iterations.
        by_epoch: write 'Epoch [1/200][50/5004]', and count within epochs; otherwise 'Iter [50/1000800]', for short
            epochs.
        progress_bar: None shows a bar where there is a terminal; True and False decide.
    """

    priority = Priority.LOG
    reads = 'time', 'data_time'
    writes = 'loss', 'loss_mean', 'ips', 'memory_mb', 'eta_seconds'

    def __init__(self, interval: Count = 50, by_epoch: Flag = True, progress_bar: Optional[Flag] = None,
                 priority: Optional[Order] = None) -> None:
        super().__init__(priority)
        self.interval, self.by_epoch, self.progress_bar = interval, by_epoch, progress_bar
        self.bar: Any = None
        self.json: Optional[JsonLines] = None
        self.step_time, self.unlogged = AverageMeter(), 0       # of the whole run: the estimate of the end

    def run_begin(self, trainer: 'Trainer') -> None:
        if is_main() and trainer.run_dir:
            self.json = JsonLines(os.path.join(trainer.run_dir, 'log.jsonl'))
        show = sys.stderr.isatty() if self.progress_bar is None else self.progress_bar
        if is_main() and show:
            from tqdm import tqdm
            self.bar = tqdm(total=trainer.max_iters, initial=trainer.iteration, unit='it', dynamic_ncols=True,
                            desc='train', smoothing=0.05)
        reset_peak_memory()         # the log tells the peak of steps, not of reading a checkpoint

    def train_epoch_begin(self, trainer: 'Trainer') -> None:
        self.loss_sum, self.loss_count = None, 0

    def wants_log(self, trainer: 'Trainer') -> bool:
        return self._due(trainer, trainer.iteration + 1)

    def _due(self, trainer, iteration):
        inner = iteration - (trainer.epoch - 1) * trainer.iters_per_epoch
        counted = inner if self.by_epoch else iteration
        ends = self.by_epoch and inner == trainer.iters_per_epoch
        return counted % self.interval == 0 or ends or iteration == trainer.max_iters

    def train_iter_end(self, trainer: 'Trainer') -> None:
        loss = trainer.outputs['loss'].detach().astype('float32')
        self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
        self.loss_count += 1
        self.unlogged += 1
        if self.bar is not None:
            self.bar.update(1)
        if trainer.is_log_step:
            self._write(trainer, self._read(trainer))

    def _read(self, trainer):
        """Means over processes of what the step gave; the only read from the device."""
        names = [k for k, v in trainer.outputs.items() if hasattr(v, 'astype')]
        values = [float(trainer.outputs[k].detach().astype('float32')) for k in names]
        values.append(float(self.loss_sum) / self.loss_count)
        values = [v / world_size() for v in sum_over_processes(values)]
        record = dict(zip(names, values))
        for name in names:
            if 'loss' in name and not math.isfinite(record[name]):
                raise PasslError(
                    f"'{name}' is {record[name]} at iteration {trainer.iteration} (epoch {trainer.epoch}, lr "
                    f'{trainer.lr:.3e}). The last checkpoint before it is intact. Lower lr_scheduler.learning_rate, '
                    'add optimizer.grad_clip, or look for broken images in the data.')
        return {**record, 'loss_mean': values[-1]}

    def _write(self, trainer, values):
        r, added = trainer.record, [k for k in trainer.record if k not in _OF_EVERY_STEP]
        self.step_time.update(r['time'], self.unlogged)
        self.unlogged = 0
        r.update(values, ips=trainer.global_batch_size / max(r['time'], 1e-9), memory_mb=peak_memory_mb(),
                 eta_seconds=self.step_time.avg * (trainer.max_iters - trainer.iteration))
        trainer.call('figures_read')
        if not is_main():
            return
        inner = trainer.iteration - (trainer.epoch - 1) * trainer.iters_per_epoch
        place = f'Epoch [{trainer.epoch}/{trainer.max_epochs}][{inner}/{trainer.iters_per_epoch}]' if self.by_epoch \
            else f'Iter [{trainer.iteration}/{trainer.max_iters}]'
        shown = [f"loss {r['loss']:.4f} ({r['loss_mean']:.4f})"]
        shown += [f'{k} {r[k]:{_format(k, r[k])}}' for k in (*values, *added) if k not in ('loss', 'loss_mean')]
        get_logger().info('%s  lr: %.3e, eta: %s, time: %.3f, data_time: %.3f, ips: %.1f, memory: %.0fM, %s', place,
                          trainer.lr, format_eta(r['eta_seconds']), r['time'], r['data_time'], r['ips'],
                          r['memory_mb'], ', '.join(shown),
                          extra={'short': short_line(r, trainer.max_iters, COLUMNS - STAMP)})
        if self.json is not None:
            self.json.write(r)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {r['loss']:.3f}", refresh=False)

    def val_end(self, trainer: 'Trainer') -> None:
        if not is_main():
            return
        r = trainer.val_results
        shown = ', '.join(f'{k} ({v:.4f})' for k, v in r.items() if k not in ('num_samples', 'time'))
        get_logger().info('Validate Epoch [%d] %s, %d samples in %.1f s', trainer.finished_epochs, shown,
                          r['num_samples'], r['time'])
        if self.json is None and trainer.run_dir:
            self.json = JsonLines(os.path.join(trainer.run_dir, 'log.jsonl'))
        if self.json is not None:
            self.json.write({'mode': 'val', 'iteration': trainer.iteration, 'epoch': trainer.finished_epochs, **r})

    def run_end(self, trainer: 'Trainer') -> None:
        if self.bar is not None:
            self.bar.close()
        if self.json is not None:
            self.json.close()
            self.json = None

    run_abort = run_end


def short_line(record: dict[str, Any], steps: int, columns: int) -> str:
    """What a person wants to know of a log step, in at most `columns` characters; what does not fit is left out.

    Args:
        record: of the step, as log.jsonl gets it.
        steps: of the whole run.
    """
    have = {k: v for k, v in record.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    line = f"step {record['iteration']:>{len(str(steps))}}/{steps}  loss {record['loss']:.3f}"
    parts = [('eta_seconds', lambda v: f'{format_eta(v)} left'),
             ('match_true', lambda v: f'true matches {v:.0f}%' + (
                 f" (chance {have['match_chance']:.0f}%)" if 'match_chance' in have else '')),
             ('acc1', lambda v: f'acc1 {v:.0f}%'), ('std', lambda v: f'std {v:.2f}'),
             ('time', lambda v: f'{v:.2f} s/step')]
    for key, words in parts:
        if key in have:
            more = '  ' + words(have[key])
            line += more if len(line) + len(more) <= columns else ''
    health = f"  {record['health']}" if isinstance(record.get('health'), str) else ''
    return line + (health if len(line) + len(health) <= columns else '')


def _format(name, value):
    return '' if not isinstance(value, float) else '.2f' if name.startswith('acc') else '.4f'
