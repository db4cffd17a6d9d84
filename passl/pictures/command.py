"""The command `passl visualize`."""

import argparse
import os
from typing import Any, NamedTuple, Optional

import numpy as np
import paddle

from ..datasets import build_dataset
from ..engine.builder import build_schedule
from ..engine.checkpoint import checkpoints
from ..engine.device import select_device
from ..engine.run_folder import CONFIG
from ..hooks.lr_scheduler_hook import LRSchedulerHook
from ..hooks.optimizer_hook import OptimizerHook
from ..transfer.probes.sources import RANDOM, Source, find_sources
from ..utils.config import load_config, with_defaults
from ..utils.errors import ConfigError, listed
from ..utils.logger import get_logger
from ..utils.misc import IMAGENET_MEAN, IMAGENET_STD
from ..utils.seed import derive_seed
from ..utils.weights.checkpoint import read_note
from . import drawing, look, numbers
from .of_network import Scene, shown
from .of_run import file_name
from .options import METHODS, OF_DATA, OF_NETWORK
from .painter import draw

_SHEET = 8
_NORMALISE: list[Any] = ['Transpose',
                         {'name': 'NormalizeImage', 'scale': 1 / 255, 'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}]
# of weights that come without a config; the side is chosen later
_RECIPE: list[Any] = [{'name': 'RandomResizedCrop', 'size': 224, 'scale': [0.2, 1.0]},
           {'name': 'RandomApply', 'p': 0.8, 'transforms': [{'name': 'ColorJitter', 'brightness': 0.4, 'contrast': 0.4,
                                                             'saturation': 0.4, 'hue': 0.1}]},
           {'name': 'RandomHorizontalFlip'}, *_NORMALISE]


class Subject(NamedTuple):
    """What a command line asks to look at."""
    cfg: Optional[dict[str, Any]]       # config of the run, with defaults
    weights: Optional[str]              # file, or 'random'
    iteration: Optional[int]            # that the weights are of
    output: str


def subject_of(args: argparse.Namespace) -> Subject:
    """The Subject of `args`.

    Raises:
        ConfigError: there is no such thing, or a flag does not fit it.
    """
    source, output = args.source, args.output
    if args.iteration and not os.path.isdir(source):
        raise ConfigError('--iteration chooses a checkpoint of a run folder; SOURCE is none.')
    if os.path.isdir(source):
        config = os.path.join(source, CONFIG)
        if not os.path.isfile(config):
            raise ConfigError(f"'{source}' holds no {CONFIG}: it is no run folder. Give one, a config, a weight file "
                              "or 'random'; images go behind --images.")
        weights, iteration = _checkpoint(source, args.iteration)
        output = output or os.path.join(source, 'pictures')
        return Subject(with_defaults(load_config(config)), weights, iteration, output)
    output = output or os.path.join('output_dir', 'pictures')
    if source.endswith(('.yaml', '.yml')):
        return Subject(with_defaults(load_config(source)), None, None, output)
    if not args.images:
        raise ConfigError(f"Which images? '{source}' is {'no run folder' if source == RANDOM else 'a weight file'}: "
                          'name a folder of images with --images DIR.')
    return Subject(None, source, None, output)


def _checkpoint(folder, wanted):
    """(path, iteration) of a checkpoint in a run folder, (None, None) if there is none and none is asked for."""
    found = []
    for name in checkpoints(folder):
        path = os.path.join(folder, name)
        iteration = read_note(path).get('iteration')
        if isinstance(iteration, int) and wanted in (None, iteration):
            return path, iteration
        found.append(iteration)
    if wanted:
        known = listed(sorted({f'{n}' for n in found if isinstance(n, int)}, key=int)) or 'none'
        raise ConfigError(f"'{folder}' has no checkpoint of iteration {wanted}. There are: {known}.")
    return None, None


def visualize(args: argparse.Namespace) -> int:
    """Draw what `args` (of `build_visualize_parser`) asks for.

    Raises:
        PasslError: no such source, images or checkpoint, or a picture that it does not allow.
    """
    subject = subject_of(args)
    select_device(no_cuda=args.no_cuda)
    wanted = _wanted(args.pictures, subject)
    recipe = _Data(subject.cfg, args.images)
    if 'schedule' in wanted:
        _write(subject, 'schedule', None, **_schedule(subject.cfg, len(recipe.dataset)))
    if set(wanted) == {'schedule'}:
        return 0
    scene = recipe.scene(args)
    if 'views' in wanted:
        _write(subject, 'views', None, **scene.views())
    if set(wanted) & set(OF_NETWORK):
        _of_network(args, subject, wanted, recipe, scene)
    return 0


def _wanted(asked, subject):
    possible = {*(OF_NETWORK if subject.weights else ()), 'views', *(('schedule',) if subject.cfg else ())}
    for word in asked or ():
        if word not in possible:
            why = 'there are no weights: give a run folder with a checkpoint, or a weight file' \
                if word in OF_NETWORK else 'there is no config: give a run folder or a config'
            raise ConfigError(f"--pictures {word}: {why}.")
    return [word for word in OF_DATA + OF_NETWORK if word in (asked or possible)]


class _Data:
    """The images, and the recipe of their views."""

    def __init__(self, cfg: Optional[dict[str, Any]], folder: Optional[str]) -> None:
        node = dict((((cfg or {}).get('dataloader') or {}).get('train') or {}).get('dataset') or {})
        if cfg is not None and not node:
            raise ConfigError('The config has no dataloader.train.dataset, whose images would be drawn.')
        own = node if cfg is not None and node.get('return_two_sample') else \
            {'transforms': _RECIPE, 'return_two_sample': True}
        if folder:
            views = {k: own[k] for k in ('return_two_sample', 'transforms', 'view_trans1', 'view_trans2',
                                         'value_range') if k in own}
            node = {'name': 'UnlabelledFolder', 'dataroot': folder, **views}
            if len(_folders(folder)) > 1:
                node.update(name='ImageFolder', return_label=True)
        self.dataset: Any = build_dataset(node)
        self.known = cfg is not None

    def scene(self, args: argparse.Namespace, count: int = _SHEET) -> Scene:
        """The Scene of `count` images."""
        recipe, normalise = self.dataset.recipe.split()
        scene = Scene(look.some_images(self.dataset, count), recipe, normalise, derive_seed(args.seed, 1), args.side)
        if not self.known:
            scene.crop = 0          # what they were trained with is not known
        return scene

    def labels(self, scene: Scene) -> Optional[np.ndarray]:
        """Class numbers of a scene's images, or None."""
        if not getattr(self.dataset, 'classes', None):
            return None
        return np.array([self.dataset.label(index) for index, _ in scene.images])


def _folders(folder):
    """Names of the folders directly in `folder`, [] beside images or if it is none."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        kinds = [(e.name, e.is_dir()) for e in entries if not e.name.startswith('.')]
    return [name for name, is_dir in kinds if is_dir] if all(is_dir for _, is_dir in kinds) else []


def _schedule(cfg, images):
    """Arguments of `drawing.schedule`: the rate of every step, by the scheduler that would run."""
    sampler = cfg['dataloader']['train']['sampler']
    batch = int(sampler['batch_size'])
    accumulate = OptimizerHook(**_without_name(cfg.get('optimizer_config'))).accumulate_steps
    per_epoch = max(1, (images // batch if sampler.get('drop_last') else -(-images // batch)) // accumulate)
    unit = LRSchedulerHook(**_without_name(cfg.get('lr_config'))).unit
    scheduler, steps, _ = build_schedule(cfg, per_epoch, unit)
    rates = np.empty(steps)
    for i in range(steps):
        rates[i] = scheduler()
        if unit == 'iter' or (i + 1) % per_epoch == 0:
            scheduler.step()
    return {'rates': rates, 'iters_per_epoch': per_epoch,
            'title': f'Learning rate of {steps} steps, from {rates[0]:.3g} over {rates.max():.3g} to {rates[-1]:.3g} '
                     f'(one process, {images} images)'}


def _without_name(node):
    return {k: v for k, v in (node or {}).items() if k != 'name'}


def _of_network(args, subject, wanted, data, scene):
    """The pictures that need weights."""
    source = find_sources([subject.weights], depth=args.depth)[0]
    net = source.build()
    start = None if subject.weights == RANDOM else Source(RANDOM, RANDOM, source.depth, kind=source.kind).build()
    name = source.name if subject.iteration is None else f'Iteration {subject.iteration}'
    with paddle.no_grad():          # both are in eval mode
        if 'matches' in wanted:
            try:
                given = scene.matches(net, name, args.stage)
                other = scene.matches(start, name, args.stage) if start is not None else None
            except ConfigError as e:
                if args.pictures:
                    raise
                get_logger().warning('No matches: %s', e)
            else:
                if other is not None:
                    given['start'] = drawing.share_right(other['features'], other['true'], other['valid'])[0]
                _write(subject, 'matches', subject.iteration, **given)
        if 'maps' in wanted:
            _write(subject, 'maps', subject.iteration, **scene.maps(net, name))
        if set(wanted) & {'neighbours', 'embedding'}:
            _of_many(args, subject, wanted, data, net, start, name)


def _of_many(args, subject, wanted, data, net, start, name):
    """The pictures of many images."""
    scene = data.scene(args, args.count)
    labels = data.labels(scene)
    given = scene.neighbours(net, name, labels, args.stage)
    if 'neighbours' in wanted:
        if labels is not None and start is not None:
            given['start'] = scene.neighbours(start, name, stage=args.stage)['features']
        _write(subject, 'neighbours', subject.iteration, **given)
    if 'embedding' in wanted:
        places = numbers.plane(given['features'].astype(np.float32).mean((1, 2)), args.embedding, args.seed)
        _write(subject, 'embedding', subject.iteration, images=shown(given['images'], 96), places=places,
               title=f'{name}: images that lie together are alike to the network',
               note=f'{METHODS[args.embedding]} of the mean features of layer{args.stage}. ')


def _write(subject, kind, iteration, **given):
    path = os.path.join(subject.output, f'{kind}.png' if iteration is None else file_name(kind, iteration))
    try:
        draw(kind, path, **given)
    except OSError as e:
        raise ConfigError(f"'{path}' cannot be written: {e.strerror or e}. Choose another folder with --output DIR.") \
            from None
    get_logger().info('Wrote %s', path)
