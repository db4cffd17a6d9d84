"""`passl replay-step`: repeats a saved step and tells in words where its numbers broke."""

import os
import sys

import paddle

from ..hooks.step_record import SETTINGS
from ..utils import dist
from ..utils.config import apply_overrides, load_config
from ..utils.errors import ConfigError
from ..utils.logger import get_logger, setup_logger
from ..utils.registry import import_plugins
from .device import KINDS, select_device
from .replay import Step
from .replay_file import own_file, read_record
from .replay_words import (about, batch_lines, broken_lines, gradient_lines, layer_lines, loss_lines, scan_lines,
                           verdict_lines)
from .run import permitted_imports


def replay_step(args):
    """Run what `passl replay-step` was asked for, and write the report to stdout (process 0's).

    Args:
        args: Namespace of `passl.utils.replay_options.build_replay_parser()`.
    Returns:
        0 if the step came out as recorded, else 1.
    Raises:
        PasslError: the file cannot be used.
    """
    setup_logger(rank=dist.rank())
    path, record = find_record(args.dump)
    cfg = config_of(args, record)
    kind = str(record.get('device')).split(':')[0]
    deterministic = bool(cfg.get('deterministic'))
    select_device(args.device or (kind if kind in KINDS else None), args.no_cuda, deterministic)
    if dist.world_size() > 1 and args.scan:
        raise ConfigError('--scan tries the images of one process: run it without the launcher, once per file.')
    dist.init()
    step = Step(record, cfg, path)
    outcome, seen = step.run(), step.watch()
    same, lines = verdict_lines(step, outcome, paddle.get_device(), differing(record, deterministic))
    report = about(record, path) + batch_lines(record) + loss_lines(record, outcome) + broken_lines(record) \
        + layer_lines(seen, args.layers) + gradient_lines(step, outcome)
    if args.scan:
        report += scan_lines(record, step.scan())
    sys.stdout.write('\n'.join(report + [''] + lines) + '\n')
    sys.stdout.flush()
    return 0 if all(dist.gather_objects(same)) else 1


def find_record(path):
    """(path, record) of this process: with several processes each takes the file with its own rank."""
    world = dist.world_size()
    if world == 1:
        return path, read_record(path)
    path = own_file(path, dist.rank())
    record = read_record(path)
    if record['world_size'] != world or record['rank'] != dist.rank():
        raise ConfigError(f"'{path}' is of process {record['rank']} of {record['world_size']}, and this is process "
                          f"{dist.rank()} of {world}. Start as many processes as the run had, or one without the "
                          'launcher.')
    return path, record


def config_of(args, record):
    """The config to build from. Code that the file's own config names never runs: the user must name the config."""
    if args.config_file is None:
        if record['config'].get('custom_imports'):
            get_logger().warning("The run's config names code of its own (custom_imports), which is not run from this "
                                 'file. If the model needs it: -c CONFIG --allow-imports.')
        return apply_overrides(record['config'], args.override)
    cfg = load_config(args.config_file, args.override)
    import_plugins(permitted_imports(args, cfg), os.path.dirname(os.path.abspath(args.config_file)))
    return cfg


def differing(record, deterministic):
    """['name: then -> now'] of what changes last bits: the version of Paddle, the device and its ways."""
    stored = record.get('settings')
    then = {'Paddle': record.get('paddle'), 'device': record.get('device'),
            **{k: stored.get(k) for k in SETTINGS if isinstance(stored, dict)}}
    now = {'Paddle': paddle.__version__, 'device': paddle.get_device(), **{k: os.environ.get(k) for k in SETTINGS}}
    found = [f'{k}: {_short(v)} -> {_short(now[k])}' for k, v in then.items() if v != now[k]]
    if not dist.on_cpu() and not deterministic:
        found.append("a GPU's convolutions may differ from call to call, without deterministic: true")
    return found


def _short(value):
    return str(value)[:40]
