"""From the flags of `passl transfer-seg` to PaddleSeg's trainer, evaluator and predictor."""

import argparse
import contextlib
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional, Union

from ...datasets.labelled.checked import FOLDER
from ...engine.run_folder import STATUS, RunFolder, folder_of, on_main
from ...utils.config import dump_config
from ...utils.distributed import dist
from ...utils.errors import CheckpointError, ConfigError, DataError, PasslError
from ...utils.logger import get_logger, setup_logger
from ...utils.misc import IMAGENET_MEAN, IMAGENET_STD
from ...utils.seed import derive_seed, seed_everything
from ...utils.weights.checkpoint import load_file
from ..lost import lost
from ..predictions import readable
from . import config, library
from .data import check_parts, for_paddleseg, read_parts

if TYPE_CHECKING:
    from ...datasets.labelled import Joined, Segmentation


def run(args: argparse.Namespace) -> None:
    """Train, or with --evaluate-only or --predict use a trained model.

    Args:
        args: Namespace of `options.build_seg_parser()`.
    Raises:
        PasslError: what the user can mend.
    """
    setup_logger(rank=dist.rank())
    using, began = args.evaluate_only or args.predict, time.time()
    _check_flags(args, using)
    paddleseg = library.load()
    import paddle

    from ...engine.device import select_device
    select_device(None, args.no_cuda)
    cfg = config.read(args.config_file, args.override, args.iters, args.data)
    start = None if using or args.resume else config.take_pretrained(cfg, args.pretrained)
    config.set_normalize(cfg, IMAGENET_MEAN, IMAGENET_STD, change=_plain(cfg))
    doing = 'predict' if args.predict else 'evaluate' if args.evaluate_only else 'train'
    dist.init()
    with SegFolder(args.output or folder_of(args.config_file), resumes=True) as folder:
        parts = () if args.predict else ('val_dataset',) if args.evaluate_only else config.DATASETS
        pairs = read_parts(cfg, parts)
        on_main(check_parts, pairs, os.path.join(os.path.dirname(os.path.abspath(folder.folder)), FOLDER))
        resume = folder.prepare(doing, args)
        if args.resume == 'auto' and not resume:
            start = config.take_pretrained(cfg, args.pretrained)
        elif using or resume:           # the weights come with the whole model
            config.drop_pretrained(cfg)
        job = _Job(args, cfg, folder.folder, pairs)
        job.record.update(job=doing, config=args.config_file, seed=args.seed, device=job.device,
                          processes=dist.world_size(), paddle=paddle.__version__, paddleseg=paddleseg.__version__)
        if using:
            job.predict() if args.predict else job.evaluate()
            folder.write_json(f'{doing}.json', dict(job.record, seconds=round(time.time() - began, 1)))
            return
        folder.facts = job.record
        folder.write_config(dump_config(cfg), 'config.yml')
        folder.tell('running')
        job.train(start, resume)
        job.record['seconds'] = round(time.time() - began, 1)
        folder.tell('done', 0)
        get_logger().info("How it went is in '%s'.", os.path.join(folder.folder, STATUS))


class SegFolder(RunFolder):
    """The folder of a run of PaddleSeg, whose checkpoints are folders iter_N with two files."""

    def prepare(self, doing: str, args: argparse.Namespace) -> Optional[str]:
        """Make the folder ready to 'train', 'evaluate' or 'predict'; the checkpoint to go on from, or None."""
        if doing == 'train':
            return self.start(args.resume, args.overwrite, [('--pretrained', args.pretrained), ('--data', args.data)])
        self.add(rf'{doing}\.json' + r'|\w+_prediction' * (doing == 'predict'), args.overwrite)
        return None

    def states(self, folder: str) -> list[str]:
        names = [n for n in os.listdir(folder) if re.fullmatch(r'iter_\d+', n)] if os.path.isdir(folder) else []
        return sorted(names, key=lambda n: int(n[5:]), reverse=True)

    def _newest(self):
        for name in self.states(self.folder):
            path = os.path.join(self.folder, name)
            try:
                for file in ('model.pdparams', 'model.pdopt'):
                    load_file(os.path.join(path, file))
                return path
            except CheckpointError as e:
                get_logger().warning('Damaged checkpoint left aside: %s', e)
        return None


def _check_flags(args, using):
    """ConfigError for flags that do not go together."""
    if using and not args.weights:
        raise ConfigError('--evaluate-only and --predict need a trained model: --weights FILE (a model.pdparams).')
    for flag in ('pretrained', 'iters', 'resume', 'save_interval') if using else ('weights',):
        if getattr(args, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')} has no effect "
                              + ('on a trained model.' if using else 'on a training; did you mean --pretrained?'))
    if args.resume not in (None, 'auto') and args.pretrained:
        raise ConfigError('--resume continues with the weights of the former training; leave out --pretrained.')
    if args.num_workers < 0 or args.seed < 0:
        raise ConfigError(f'--num-workers ({args.num_workers}) and --seed ({args.seed}) must be 0 or more.')


def _plain(cfg):
    """Whether the backbone is one of ours, pre-trained with ImageNet's normalisation."""
    from .resnet import PLAIN
    backbone = cfg['model'].get('backbone')
    return isinstance(backbone, dict) and backbone.get('type') in {b.__name__ for b in PLAIN}


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """PaddleSeg's own complaints about a config, as a ConfigError."""
    try:
        yield
    except PasslError:
        raise
    except (RuntimeError, AssertionError, ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise ConfigError(f'PaddleSeg refuses the config: {e}') from e


class _Job:
    """One run: its settings, the labelled pairs and the parts that PaddleSeg builds.

    `record`: what is told of it afterwards.
    """

    def __init__(self, args: argparse.Namespace, cfg: dict[str, Any], folder: str,
                 pairs: dict[str, Union[None, 'Segmentation', 'Joined']]) -> None:
        import paddle
        self.args, self.cfg, self.folder, self.pairs, self.device = args, cfg, folder, pairs, paddle.get_device()
        self.record: dict[str, Any] = {}

    def _builder(self):
        import paddle
        from paddleseg.cvlibs import SegBuilder
        seed_everything(self.args.seed)
        # the optimizer's state is stored by the names of parameters, which count layers: begin to count here
        paddle.utils.unique_name.switch()
        builder = SegBuilder(config.as_paddleseg(for_paddleseg(self.cfg)))
        return builder, builder.model

    def _data(self, builder, part):
        """PaddleSeg's data set of a part."""
        pairs, settings = self.pairs[part], self.cfg[part]
        if pairs is None:
            return getattr(builder, part)
        from .pairs import Pairs
        transforms = [builder.build_component(dict(t)) for t in settings.get('transforms') or []]
        return Pairs(pairs, 'val' if part == 'val_dataset' else 'train', transforms, bool(settings.get('edge')))

    def train(self, start: Optional[str], resume: Optional[str]) -> None:
        """PaddleSeg's trainer; its evaluations are kept in the record."""
        from paddleseg.core import train

        from . import mends
        from .weights import load_backbone
        with refusals():
            builder, model = self._builder()
            data, val_data, losses = *(self._data(builder, part) for part in config.DATASETS), builder.loss
        if start is not None:
            self.record['pretrained'] = load_backbone(model.backbone, start)
        elif resume:
            get_logger().info("Going on from '%s'%s.", resume, '; --pretrained is for a training from the beginning'
                              if self.args.pretrained else '')
        else:
            self.record['pretrained'] = None
            get_logger().info('--pretrained none: the backbone starts from random initialisation.')
        self._tell_batch(len(data))
        if self.device.startswith('gpu') and dist.world_size() > 1:
            import paddle
            paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        with refusals():
            optimizer = builder.optimizer
        iters = self.cfg['iters']
        self.record.update(iters=iters, images={part: len(d) for part, d in zip(config.DATASETS, (data, val_data))},
                           resumed=resume)
        if resume:
            self._check_resume(resume, iters)
        # PaddleSeg's flips draw from `random`, its crops from numpy; processes must not draw the same
        seed_everything(derive_seed(self.args.seed, dist.rank()))
        random.seed(derive_seed(self.args.seed, dist.rank(), 1))
        del mends.evaluations[:]
        sys.stdout.flush()
        train(model, data, val_dataset=val_data, optimizer=optimizer, save_dir=self.folder, iters=iters,
              batch_size=self.cfg['batch_size'], resume_model=resume,
              save_interval=self.args.save_interval or 1000, log_iters=self.args.log_iters,
              num_workers=self.args.num_workers, losses=losses, keep_checkpoint_max=2,
              test_config=dict(self.cfg.get('test_config') or {}),
              to_static_training=bool(self.cfg.get('to_static_training')))
        self._keep(mends.evaluations[-1])
        self.record['best_mIoU'] = max(e['mIoU'] for e in mends.evaluations)
        get_logger().info('mIoU %.4f after %d steps (best %.4f).', self.record['mIoU'], iters, self.record['best_mIoU'])

    def _tell_batch(self, images):
        processes, batch = dist.world_size(), self.cfg['batch_size']
        if batch * processes > images:
            raise DataError(f'batch_size {batch} x {processes} processes is more than the {images} training images: no '
                            'step is possible. Give -o batch_size=N.')
        self.record['batch'] = [batch, processes]
        wanted = self.cfg.get('total_batch')
        get_logger().info('Batch: %d images per process x %d = %d per step.', batch, processes, batch * processes)
        if wanted and wanted != batch * processes:
            get_logger().warning('The protocol has %d images per step, this run %d: set -o batch_size=%g, or change '
                                 'the learning rate in proportion.', wanted, batch * processes, wanted / processes)

    def _check_resume(self, resume, iters):
        number = os.path.basename(os.path.normpath(resume)).rpartition('_')[2]
        if number.isdigit() and int(number) >= iters:
            raise ConfigError(f"'{resume}' has all of the {iters} steps already. Give --iters N to go on.")

    def _keep(self, figures):
        pairs, iou = self.pairs['val_dataset'], figures['class_IoU']
        self.record.update(figures, class_IoU=dict(zip(pairs.classes, iou)) if pairs is not None else iou)

    def evaluate(self) -> None:
        """PaddleSeg's evaluator on the weights."""
        from paddleseg.core import evaluate

        from . import mends
        with refusals():
            builder, model = self._builder()
            data = self._data(builder, 'val_dataset')
        mends.load_model(model, self.args.weights)
        self.record['weights'] = self.args.weights
        result = evaluate(model, data, num_workers=self.args.num_workers, **(self.cfg.get('test_config') or {}))
        lost.check()
        self._keep(mends.as_figures(result))
        get_logger().info('mIoU %.4f on %d images.', self.record['mIoU'], len(data))

    def predict(self) -> None:
        """PaddleSeg's predictor: label maps and overlays as pictures."""
        import cv2
        from paddleseg.core import predict
        from paddleseg.transforms import Compose
        from paddleseg.utils import get_image_list
        try:
            images, root = get_image_list(self.args.predict)
        except (FileNotFoundError, RuntimeError, OSError) as e:
            raise DataError(f"--predict '{self.args.predict}': {e}") from None
        missing = [path for path in images if not os.path.isfile(path)]
        if missing:
            raise DataError(f"--predict '{self.args.predict}': there is no '{missing[0]}' ({len(missing)} missing).")
        # its pictures are drawn on what OpenCV reads
        images = readable(images, root or '', lambda path: cv2.imread(path) is not None)
        with refusals():
            builder, model = self._builder()
            transforms = Compose(builder.val_transforms)
        test = dict(self.cfg.get('test_config') or {})
        test['aug_pred'] = test.pop('aug_eval', False)
        known = ('aug_pred', 'scales', 'flip_horizontal', 'flip_vertical', 'is_slide', 'stride', 'crop_size')
        predict(model, self.args.weights, transforms, sorted(images), root, self.folder,
                **{key: value for key, value in test.items() if key in known})
        self.record.update(weights=self.args.weights, images=len(images))
