"""The folder of a run: where it is, whether it is free, what to resume from."""

import os
import re
import time

from ..utils import dist
from ..utils.checkpoint import load_file
from ..utils.errors import CheckpointError, ConfigError
from ..utils.logger import get_logger

CHECKPOINT = re.compile(r'(epoch|iter)_(\d+)\.pdparams$')


def run_folder(cfg, config_path):
    """`<output_dir>/<stem of the config file>[-time]`, the same on every process."""
    stem = os.path.splitext(os.path.basename(config_path))[0]
    if cfg.get('timestamp'):
        stem += time.strftime('-%Y%m%d-%H%M%S')
    return dist.broadcast_object(os.path.join(cfg['output_dir'], stem))


def checkpoints(folder):
    """Names of the checkpoints in `folder`, newest first."""
    names = [n for n in os.listdir(folder) if CHECKPOINT.fullmatch(n)] if os.path.isdir(folder) else []
    return sorted(names, key=lambda n: os.stat(os.path.join(folder, n)).st_mtime_ns, reverse=True)


def _has_steps(folder):
    """Whether the log of `folder` has a training step."""
    path = os.path.join(folder, 'log.jsonl')
    if not os.path.exists(path):
        return False
    with open(path, encoding='utf-8', errors='replace') as f:
        return any('"mode": "train"' in line for line in f)


def claim(folder, overwrite=False, saves=None):
    """Make `folder` ready for a new run.

    A folder that holds a run (a checkpoint or a logged step) is refused, or with `overwrite` moved aside
    to `<folder>.bak-N`. Files of an evaluation or of a run that failed before its first step are no obstacle.

    Args:
        folder: the run folder.
        overwrite: move a former run aside.
        saves: `checkpoint.out_dir`; may be any folder, so one with checkpoints is refused, never moved.
    """
    message = None
    if dist.is_main() and (checkpoints(folder) or _has_steps(folder)):
        if overwrite:
            n = 1
            while os.path.exists(f'{folder}.bak-{n}'):
                n += 1
            os.rename(folder, f'{folder}.bak-{n}')
            get_logger().info("Moved the former run to '%s.bak-%d'.", folder, n)
        else:
            message = (f"'{folder}' already holds a run. Continue it with --resume auto, or start anew with "
                       '--overwrite (the old run is moved aside), with another -o output_dir=DIR, or with '
                       '-o timestamp=true.')
    if dist.is_main() and not message and saves and saves != folder and checkpoints(saves):
        message = (f"'checkpoint.out_dir' is '{saves}', which holds {checkpoints(saves)[0]} of another run: it would "
                   'be replaced. Choose another with -o checkpoint.out_dir=DIR, or continue that run with '
                   '--resume auto.')
    message = dist.broadcast_object(message)
    if message:
        raise ConfigError(message)
    if dist.is_main():
        try:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f'no permission to write in {folder}')
        except OSError as e:
            message = f"Cannot write to the run folder '{folder}': {e}. Choose another with -o output_dir=DIR."
    message = dist.broadcast_object(message)
    if message:
        raise ConfigError(message)


def find_resume(resume, folder):
    """The checkpoint that `--resume` means, the same on every process; None for 'auto' with nothing there.

    Args:
        resume: a file, or 'auto': the newest checkpoint in `folder` that can be read.
    """
    found, error = None, None
    if dist.is_main():
        if resume != 'auto':
            found = resume if os.path.exists(resume) else None
            if not found:
                here = checkpoints(os.path.dirname(resume) or '.')
                hint = f'That folder has {", ".join(here[:5])}.' if here else \
                    'Use --resume auto for the newest one of the run folder.'
                error = f"--resume: no file '{resume}'. {hint}"
        else:
            for name in checkpoints(folder):
                path = os.path.join(folder, name)
                try:
                    load_file(path)
                except CheckpointError as e:
                    get_logger().warning('Damaged checkpoint left aside: %s', e)
                    continue
                found = path
                break
    found, error = dist.broadcast_object((found, error))
    if error:
        raise CheckpointError(error)
    return found
