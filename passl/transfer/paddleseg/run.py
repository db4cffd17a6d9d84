"""From the flags of `passl transfer-seg` to PaddleSeg's trainer, evaluator and predictor."""

import contextlib
import copy
import json
import os
import random
import sys
import tempfile
import time

from ...utils import dist
from ...utils.config import dump_config
from ...utils.errors import ConfigError, DataError, PasslError
from ...utils.logger import get_logger, setup_logger
from ...utils.seed import derive_seed, seed_everything
from . import config, layout, library

STATUS, CONFIG = 'status.json', 'config.yml'


def run(args):
    """Train, or with --evaluate-only or --predict use a trained model.

    Args:
        args: Namespace of `options.build_seg_parser()`.
    Raises:
        PasslError: what the user can mend.
    """
    setup_logger(rank=dist.rank())
    using = args.evaluate_only or args.predict
    _check_flags(args, using)
    paddleseg = library.load()
    from ...engine.device import select_device
    select_device(None, args.no_cuda)
    cfg = config.read(args.config_file, args.override, args.iters, args.data)
    start = None if using or args.resume else config.take_pretrained(cfg, args.pretrained)
    if using or args.resume:        # the weights come with the whole model
        config.take_pretrained(cfg, 'none')
    if _plain(cfg):
        from .resnet import MEAN, STD
        config.set_normalize(cfg, MEAN, STD)
    folder = args.output or os.path.join('output_dir', os.path.splitext(os.path.basename(args.config_file))[0])
    with tempfile.TemporaryDirectory(prefix='passl_seg_') as scratch:
        parts = () if args.predict else ('val_dataset',) if args.evaluate_only else config.DATASETS
        sizes = {part: layout.check(cfg, part, scratch) for part in parts}
        job = _Job(args, cfg, folder, scratch, paddleseg)
        with job.recorded():
            return job.predict() if args.predict else job.evaluate() if args.evaluate_only else job.train(start, sizes)


def _check_flags(args, using):
    """ConfigError for flags that do not go together."""
    if using and not args.weights:
        raise ConfigError('--evaluate-only and --predict need a trained model: --weights FILE (a model.pdparams).')
    for flag in ('pretrained', 'iters', 'resume', 'save_interval') if using else ('weights',):
        if getattr(args, flag) is not None:             # noqa: B009  destinations of the parser
            raise ConfigError(f"--{flag.replace('_', '-')} has no effect "
                              + ('on a trained model.' if using else 'on a training; did you mean --pretrained?'))
    if args.resume and args.pretrained:
        raise ConfigError('--resume continues with the weights of the former training; leave out --pretrained.')
    if args.num_workers < 0 or args.seed < 0:
        raise ConfigError(f'--num-workers ({args.num_workers}) and --seed ({args.seed}) must be 0 or more.')


def _plain(cfg):
    """Whether the backbone is one of ours, pre-trained with ImageNet's normalisation."""
    from .resnet import PLAIN
    backbone = cfg['model'].get('backbone')
    return isinstance(backbone, dict) and backbone.get('type') in {b.__name__ for b in PLAIN}


@contextlib.contextmanager
def refusals():
    """PaddleSeg's own complaints about a config, as a ConfigError."""
    try:
        yield
    except PasslError:
        raise
    except (RuntimeError, AssertionError, ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise ConfigError(f'PaddleSeg refuses the config: {e}') from e


class _Job:
    """One run with its folder, its parts and its record."""

    def __init__(self, args, cfg, folder, scratch, paddleseg):
        self.args, self.cfg, self.folder, self.scratch = args, cfg, folder, scratch
        import paddle
        self.device = paddle.get_device()
        self.doing = 'predict' if args.predict else 'evaluate' if args.evaluate_only else 'train'
        self.record = {'job': self.doing, 'config': args.config_file, 'seed': args.seed, 'device': self.device,
                       'processes': dist.world_size(), 'paddle': paddle.__version__,
                       'paddleseg': paddleseg.__version__}

    @contextlib.contextmanager
    def recorded(self):
        """The run folder is free, and afterwards tells in status.json how the run ended."""
        began = time.time()
        if dist.is_main():
            self._claim()
        self._tell('running')
        try:
            yield
        except BaseException as e:
            self._tell('failed', message=f'{type(e).__name__}: {e}', seconds=round(time.time() - began, 1))
            raise
        self._tell('done', seconds=round(time.time() - began, 1))
        if dist.is_main():
            get_logger().info("How it went is in '%s'.", self._status())

    def _status(self):
        return os.path.join(self.folder, STATUS if self.doing == 'train' else f'{self.doing}.json')

    def _claim(self):
        """Make the run folder; ConfigError if results would be replaced, or with --overwrite move it aside."""
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise ConfigError(f"'{self.folder}' is a file. Choose another run folder with --output DIR.")
        held = [n for n in (os.listdir(self.folder) if os.path.isdir(self.folder) else ())
                if n == os.path.basename(self._status())
                or self.doing == 'train' and (n.startswith('iter_') or n == 'best_model')
                or self.doing == 'predict' and n.endswith('_prediction')]
        if held and not self.args.resume:
            if not self.args.overwrite:
                raise ConfigError(f"'{self.folder}' holds {', '.join(sorted(held)[:4])} of a former run. Choose another "
                                  'folder with --output DIR, or move this one aside with --overwrite'
                                  + (', or go on with --resume DIR/iter_N.' if self.doing == 'train' else '.'))
            if self.args.weights and os.path.realpath(self.args.weights).startswith(
                    os.path.realpath(self.folder) + os.sep):
                raise ConfigError(f"--overwrite would move '{self.args.weights}' aside too: choose another folder with "
                                  '--output DIR.')
            number = 1
            while os.path.lexists(f'{self.folder}.bak-{number}'):
                number += 1
            os.rename(self.folder, f'{self.folder}.bak-{number}')
            get_logger().info("Moved the former run to '%s.bak-%d'.", self.folder, number)
        os.makedirs(self.folder, exist_ok=True)
        if self.doing == 'train':
            kept = copy.deepcopy(self.cfg)
            for part in config.DATASETS:        # lists that are made anew from the folders
                made = [k for k, v in kept[part].items() if str(v).startswith(self.scratch)]
                for key in made + ['separator'] * bool(made):
                    del kept[part][key]
            self._write(CONFIG, dump_config(kept))

    def _tell(self, state, **more):
        if dist.is_main():
            self.record.update(state=state, time=time.strftime('%Y-%m-%dT%H:%M:%S%z'), **more)
            self._write(os.path.basename(self._status()), json.dumps(self.record, indent=1, ensure_ascii=False) + '\n')

    def _write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(f'{path}.{os.getpid()}.tmp', 'w', encoding='utf-8') as f:
            f.write(text)
        os.replace(f.name, path)

    def _builder(self):
        import paddle
        from paddleseg.cvlibs import SegBuilder
        seed_everything(self.args.seed)
        # the optimizer's state is stored by the names of parameters, which count layers: begin to count here
        paddle.utils.unique_name.switch()
        builder = SegBuilder(config.as_paddleseg(self.cfg))
        return builder, builder.model

    def train(self, start, sizes):
        """PaddleSeg's trainer; its evaluations are kept in the record."""
        from paddleseg.core import train

        from . import mends
        from .weights import load_backbone
        with refusals():
            builder, model = self._builder()
            data, val_data, losses = builder.train_dataset, builder.val_dataset, builder.loss
        if start is not None:
            self.record['pretrained'] = load_backbone(model.backbone, start)
        elif not self.args.resume:
            self.record['pretrained'] = None
            get_logger().info('--pretrained none: the backbone starts from random initialisation.')
        self._tell_batch(len(data))
        if self.device.startswith('gpu') and dist.world_size() > 1:
            import paddle
            paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        with refusals():
            optimizer = builder.optimizer
        iters = self.cfg['iters']
        self.record.update(iters=iters, images=sizes, resumed=self.args.resume)
        if self.args.resume:
            self._check_resume(iters)
        # PaddleSeg's flips draw from `random`, its crops from numpy; processes must not draw the same
        seed_everything(derive_seed(self.args.seed, dist.rank()))
        random.seed(derive_seed(self.args.seed, dist.rank(), 1))
        del mends.evaluations[:]
        sys.stdout.flush()
        train(model, data, val_dataset=val_data, optimizer=optimizer, save_dir=self.folder, iters=iters,
              batch_size=self.cfg['batch_size'], resume_model=self.args.resume,
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
            get_logger().warning('The protocol has %d images per step, this run %d: set -o batch_size=%g, or change the '
                                 'learning rate in proportion.', wanted, batch * processes, wanted / processes)

    def _check_resume(self, iters):
        number = os.path.basename(os.path.normpath(self.args.resume)).rpartition('_')[2]
        if number.isdigit() and int(number) >= iters:
            raise ConfigError(f"'{self.args.resume}' has all of the {iters} steps already. Give --iters N to go on.")

    def _keep(self, figures):
        names = layout.read_labels(os.path.join(self.cfg['val_dataset'].get('dataset_root') or '', 'labels.txt'))
        iou = figures['class_IoU']
        named = names and len(names) == len(iou) == len(set(names))
        self.record.update(figures, class_IoU=dict(zip(names, iou)) if named else iou)

    def evaluate(self):
        """PaddleSeg's evaluator on the weights."""
        from paddleseg.core import evaluate

        from . import mends
        with refusals():
            builder, model = self._builder()
            data = builder.val_dataset
        mends.load_model(model, self.args.weights)
        self.record['weights'] = self.args.weights
        result = evaluate(model, data, num_workers=self.args.num_workers, **(self.cfg.get('test_config') or {}))
        self._keep(mends.as_figures(result))
        get_logger().info('mIoU %.4f on %d images.', self.record['mIoU'], len(data))

    def predict(self):
        """PaddleSeg's predictor: label maps and overlays as pictures."""
        from paddleseg.core import predict
        from paddleseg.transforms import Compose
        from paddleseg.utils import get_image_list
        try:
            images, root = get_image_list(self.args.predict)
        except (FileNotFoundError, RuntimeError, OSError) as e:
            raise DataError(f"--predict '{self.args.predict}': {e}") from None
        lost = [path for path in images if not os.path.isfile(path)]
        if lost:
            raise DataError(f"--predict '{self.args.predict}': there is no '{lost[0]}' ({len(lost)} are missing).")
        with refusals():
            builder, model = self._builder()
            transforms = Compose(builder.val_transforms)
        test = dict(self.cfg.get('test_config') or {})
        test['aug_pred'] = test.pop('aug_eval', False)
        known = ('aug_pred', 'scales', 'flip_horizontal', 'flip_vertical', 'is_slide', 'stride', 'crop_size')
        predict(model, self.args.weights, transforms, sorted(images), root, self.folder,
                **{key: value for key, value in test.items() if key in known})
        self.record.update(weights=self.args.weights, images=len(images))
