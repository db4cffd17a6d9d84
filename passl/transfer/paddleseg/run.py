"""From the flags of `passl transfer-seg` to PaddleSeg's trainer, evaluator and predictor."""

import contextlib
import os
import random
import sys

from ...utils.distributed import dist
from ...utils.errors import ConfigError, DataError, PasslError
from ...utils.logger import get_logger, setup_logger
from ...utils.misc import IMAGENET_MEAN, IMAGENET_STD
from ...utils.seed import derive_seed, seed_everything
from . import config, library
from .data import for_paddleseg, read_parts
from .run_folder import RunFolder


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
    import paddle

    from ...engine.device import select_device
    select_device(None, args.no_cuda)
    cfg = config.read(args.config_file, args.override, args.iters, args.data)
    start = None if using or args.resume else config.take_pretrained(cfg, args.pretrained)
    if using or args.resume:        # the weights come with the whole model
        config.drop_pretrained(cfg)
    config.set_normalize(cfg, IMAGENET_MEAN, IMAGENET_STD, change=_plain(cfg))
    folder = args.output or os.path.join('output_dir', os.path.splitext(os.path.basename(args.config_file))[0])
    parts = () if args.predict else ('val_dataset',) if args.evaluate_only else config.DATASETS
    job = _Job(args, cfg, folder, read_parts(cfg, parts))
    job.record.update(config=args.config_file, seed=args.seed, device=job.device, processes=dist.world_size(),
                      paddle=paddle.__version__, paddleseg=paddleseg.__version__)
    doing = 'predict' if args.predict else 'evaluate' if args.evaluate_only else 'train'
    with RunFolder(folder, doing, job.record).claimed(args, cfg):
        return job.predict() if args.predict else job.evaluate() if args.evaluate_only else job.train(start)


def _check_flags(args, using):
    """ConfigError for flags that do not go together."""
    if using and not args.weights:
        raise ConfigError('--evaluate-only and --predict need a trained model: --weights FILE (a model.pdparams).')
    for flag in ('pretrained', 'iters', 'resume', 'save_interval') if using else ('weights',):
        if getattr(args, flag) is not None:
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
    """One run: its settings, the labelled pairs and the parts that PaddleSeg builds.

    `record`: what is told of it afterwards.
    """

    def __init__(self, args, cfg, folder, pairs):
        import paddle
        self.args, self.cfg, self.folder, self.record, self.device = args, cfg, folder, {}, paddle.get_device()
        self.pairs = pairs

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

    def train(self, start):
        """PaddleSeg's trainer; its evaluations are kept in the record."""
        from paddleseg.core import train

        from . import mends
        from .weights import load_backbone
        with refusals():
            builder, model = self._builder()
            data, val_data, losses = *(self._data(builder, part) for part in config.DATASETS), builder.loss
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
        self.record.update(iters=iters, images={part: len(d) for part, d in zip(config.DATASETS, (data, val_data))},
                           resumed=self.args.resume)
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
            get_logger().warning('The protocol has %d images per step, this run %d: set -o batch_size=%g, or change '
                                 'the learning rate in proportion.', wanted, batch * processes, wanted / processes)

    def _check_resume(self, iters):
        number = os.path.basename(os.path.normpath(self.args.resume)).rpartition('_')[2]
        if number.isdigit() and int(number) >= iters:
            raise ConfigError(f"'{self.args.resume}' has all of the {iters} steps already. Give --iters N to go on.")

    def _keep(self, figures):
        pairs, iou = self.pairs['val_dataset'], figures['class_IoU']
        self.record.update(figures, class_IoU=dict(zip(pairs.classes, iou)) if pairs is not None else iou)

    def evaluate(self):
        """PaddleSeg's evaluator on the weights."""
        from paddleseg.core import evaluate

        from . import mends
        with refusals():
            builder, model = self._builder()
            data = self._data(builder, 'val_dataset')
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
