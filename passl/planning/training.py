"""The trainings that a plan leads to, in one process or several: some timed steps, the run, and what it ends with."""

import argparse
import functools
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

from ..utils.config import dump_config
from ..utils.distributed import dist
from ..utils.errors import PasslError
from ..utils.files import free_name, replace_text
from ..utils.logger import get_logger, quiet_terminal, read_json_lines
from ..utils.options import build_train_parser
from .rules import Facts

if TYPE_CHECKING:
    from ..engine.trainer import Trainer

SPEED_STEPS, _WARM = 14, 4          # steps that are timed for --hours, after those that are not


def join(no_cuda: bool) -> None:
    """Have the processes of a launcher meet before the plan, which must be the same on all."""
    if dist.world_size() > 1:
        from ..engine.device import select_device
        select_device(None, no_cuda)
        dist.init()


def agreed(facts: Facts) -> Facts:
    """Those of process 0, with the memory and the cores that every process of the job has."""
    known = dist.gather_objects(facts)
    return known[0]._replace(memory=min(f.memory for f in known), cores=min(f.cores for f in known))


def on_main(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns, or the PasslError that it raises, on process 0: on every process."""
    from ..engine.run_folder import on_main as on_main_of
    return on_main_of(function, *args, way_out='--out RUN')


def train(config: str, no_cuda: bool, more: Sequence[str] = (), ending: Optional[Callable[..., object]] = None) -> int:
    """As `passl train -c config`; the exit code."""
    from ..engine.run import train as train_it
    words = ['-c', config, *more] + ['--no-cuda'] * no_cuda
    return train_it(build_train_parser('passl pretrain').parse_args(words), ending)


def train_plan(args: argparse.Namespace, config: str, text: str, more: Sequence[str] = ()) -> int:
    """The run of a plan; the exit code.

    Args:
        args: of `passl pretrain`.
        config: path of the plan's file, which only process 0 need see. text: its content.
        more: words for `passl train`.
    """
    ending = functools.partial(end, args.data, config)
    if dist.is_main():
        return train(config, args.no_cuda, more, ending)
    with tempfile.TemporaryDirectory() as own:
        mine = os.path.join(own, os.path.basename(config))
        replace_text(mine, text)
        return train(mine, args.no_cuda, more, ending)


def measured_speed(cfg: dict[str, Any], place: str, no_cuda: bool) -> tuple[int, float]:
    """(exit code, seconds that a step of the run takes if that is 0): some are made in a folder that goes afterwards.

    It lies beside the run's, so that both share what is kept of the images. All processes make the steps, and the time
    of process 0 counts. A terminal sees nothing of them, since the run says the same again.
    """
    get_logger().info('How long does a step take? %d steps tell; then the run begins.', SPEED_STEPS)
    folder = free_name(place + '.speed')
    short = {**cfg, 'total_iters': SPEED_STEPS, 'output_dir': os.path.dirname(folder) or '.',
             'log_config': {**cfg['log_config'], 'interval': 1, 'progress_bar': False},
             'checkpoint': {'name': 'CheckpointHook', 'by_epoch': False, 'interval': 10 * SPEED_STEPS},
             'best_config': {**cfg.get('best_config', {'name': 'BestHook'}), 'check': 'off'}}
    try:
        with tempfile.TemporaryDirectory() as own, quiet_terminal():
            config = os.path.join(own, os.path.basename(folder) + '.yaml')
            replace_text(config, dump_config(short))
            code = train(config, no_cuda, ending=lambda *_: None)
        return (code, 0.0) if code else (0, on_main(_usual_time, folder))
    finally:
        if dist.is_main():
            shutil.rmtree(folder, ignore_errors=True)


def _usual_time(folder):
    times = [r['time'] for r in read_json_lines(os.path.join(folder, 'log.jsonl')) if r.get('mode') == 'train'][_WARM:]
    return float(sorted(times)[len(times) // 2])


def end(data: str, config: str, trainer: 'Trainer', _: Optional[str] = None) -> None:
    """The backbone's weights in a file of their own, the curve, and what can be done next; on process 0.

    Args:
        data: the folder of images. config: the run's config file.
    """
    from ..engine.summary import write_summary
    from ..hooks.checkpoint_hook import LATEST
    from ..pictures.curves import plot_loss
    from ..report import write_report
    from ..utils.next_commands import next_commands
    from ..utils.weights.extract import extract_weight
    place = trainer.run_dir
    assert place is not None
    weights = os.path.join(place, 'backbone.pdparams')
    extract_weight(os.path.join(place, LATEST), weights, remove_prefix=True, overwrite=True)
    plot_loss(os.path.join(place, 'log.jsonl'), os.path.join(place, 'loss.png'))
    write_summary(trainer, weights, next_commands(place, weights, config, trainer.cfg['model']['backbone'], data))
    try:
        write_report([place], os.path.join(place, 'report.html'))
        get_logger().info('The run as one page, for a browser: %s', os.path.join(place, 'report.html'))
    except PasslError as e:             # the run is complete without it
        get_logger().warning('No report of this run: %s', e)
