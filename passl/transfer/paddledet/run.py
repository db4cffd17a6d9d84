"""One run of PaddleDetection's own trainer and evaluator: build, train, evaluate, predict."""

import argparse
import math
import os
import re
import time
from typing import TYPE_CHECKING, Any

from ...datasets.labelled.checked import FOLDER
from ...engine.device import select_device
from ...engine.run_folder import LOG, RunFolder, folder_of, on_main
from ...utils.distributed import dist
from ...utils.errors import ConfigError, DeviceError, PasslError
from ...utils.logger import get_logger, setup_logger
from ...utils.paddle_env import require_paddle
from ...utils.seed import seed_everything
from ..lost import lost
from ..predictions import readable
from .config import TAG, activate, check_config, read_config
from .data import images_at, known_classes, prepare_data
from .schedule import Budget, move_schedule
from .shim import import_ppdet, no_downloads
from .weights import load_backbone, load_detector, trained_flags

if TYPE_CHECKING:
    import paddle

METRICS, EVALUATION, PREDICTIONS, PICTURES = 'metrics.json', 'evaluation.json', 'predictions.json', 'predictions'


def transfer(args: argparse.Namespace) -> int:
    """What `tools/transfer_det.py` does; `args` are those of `command.build_transfer_det_parser`.

    Returns:
        0.

    Raises:
        PasslError: config, data, weights or output folder are not as they must be; nothing was trained then.
    """
    log = setup_logger(rank=dist.rank())
    cfg = read_config(args.config_file, args.override)
    paddle = require_paddle()
    import_ppdet()
    check_config(cfg)
    _start_device(paddle, cfg, args.no_cuda)
    result = PREDICTIONS if args.predict else EVALUATION if args.evaluate_only else None
    with RunFolder(os.path.abspath(args.output or folder_of(args.config_file))) as folder, no_downloads():
        if result is None:
            folder.claim(args.overwrite, [('--pretrained', args.pretrained), ('--data', args.data)])
            setup_logger(folder.folder, rank=dist.rank())
            folder.tell('running')
        else:
            folder.add(re.escape(result) + (f'|{PICTURES}' if args.predict else ''), args.overwrite)
        if args.predict:
            figures = _predict(cfg, args, folder.folder)
        else:
            parts = ('eval',) if args.evaluate_only else ('train', 'eval')
            for sentence in _prepare(cfg, args.data, os.path.join(folder.folder, 'data'), parts):
                log.info('%s', sentence)
            figures = (_evaluate if args.evaluate_only else _train)(cfg, args, folder.folder)
        if figures is not None:         # one process evaluates; the others are not needed for it
            folder.write_json(result or METRICS, figures)
        folder.tell('done', 0)
    return 0


def _start_device(paddle, cfg, no_cuda):
    """Choose the device, join the other processes, and set what PaddleDetection wants to know about it."""
    if not no_cuda and not paddle.is_compiled_with_cuda():
        raise DeviceError('This Paddle computes on the CPU only. Add --no-cuda to run there.')
    select_device('gpu', no_cuda)
    dist.init()
    cfg.update(use_gpu=not no_cuda, use_npu=False, use_mlu=False, use_xpu=False)
    seed = cfg.pop('seed', None)
    if seed is not None:
        seed_everything(seed + dist.rank())


def _prepare(cfg, data, folder, parts):
    """What to say of the data, on process 0, which writes the files; an error of it is known to all."""
    beside = os.path.dirname(os.path.dirname(os.path.abspath(folder)))          # of the run folder

    def prepare():
        return cfg, prepare_data(cfg, data, folder, parts, os.path.join(beside, FOLDER))[1]
    prepared, said = on_main(prepare, way_out='--output DIR')
    cfg.update(prepared)
    return said if dist.is_main() else []


def _activate(cfg, output):
    """PaddleDetection's config of the run. Its checkpoints go to `save_dir`/`filename`, which is the output folder."""
    world, total = dist.world_size(), cfg['total_batch']
    if total % world:
        raise ConfigError(f"'total_batch' is {total}; it must be a multiple of the number of processes, {world}.")
    if cfg.get('TrainReader'):
        cfg['TrainReader']['batch_size'] = total // world
    folder, name = os.path.split(output)
    plain = {k: v for k, v in cfg.items() if k not in ('iterations', 'total_batch', 'voc', 'masks')}
    return activate(dict(plain, save_dir=folder, filename=name, epoch=1,
                         output_eval=os.path.join(output, 'evaluation')))


def _model(active, weights):
    from ppdet.core.workspace import create
    model = create(active.architecture)
    load_detector(model, weights)
    return model


def _train(cfg, args, output):
    from ppdet.core.workspace import create
    from ppdet.engine import Trainer

    from .record import Record
    log = get_logger()
    move_schedule(cfg, args.iters)
    active = _activate(cfg, output)
    model = create(active.architecture)
    if args.pretrained != 'none':
        load_backbone(model, args.pretrained)
    else:
        log.warning("The detector's backbone starts from random weights (--pretrained none).")
    flags = trained_flags(model)
    log.info('trained: %s', ', '.join('{} of {} {}'.format(*v, k) for k, v in flags.items()))
    active['model'] = model
    trainer = Trainer(active, mode='train')
    epoch, iterations = len(trainer.loader), cfg['iterations']
    if epoch < 1:
        raise PasslError(f"The training data have {len(trainer.dataset)} images, fewer than a batch of "
                         f"{cfg['total_batch']}. Set -o total_batch=... to a smaller one.")
    trainer.cfg.epoch = trainer.end_epoch = math.ceil(iterations / epoch)
    trainer.loader = Budget(trainer.loader, iterations)
    record = Record(trainer, os.path.join(output, LOG))
    trainer.register_callbacks([record])
    log.info('%d iterations of %d images (%d processes), %.1f passes over the data, learning rate %g', iterations,
             cfg['total_batch'], dist.world_size(), iterations / epoch, active['LearningRate']['base_lr'])
    start = time.time()
    trainer.train()
    seconds = time.time() - start
    if not dist.is_main():
        return None
    results = evaluate(active, trainer.model, output)
    return dict(config=os.path.basename(args.config_file), pretrained=args.pretrained, overrides=args.override,
                iterations=iterations, total_batch=cfg['total_batch'], trained=flags, train_seconds=round(seconds, 1),
                loss_first=record.first, loss_last=record.last, **results)


def _evaluate(cfg, args, output):
    active = _activate(cfg, output)
    return dict(weights=args.weights, **evaluate(active, _model(active, args.weights), output))


def evaluate(active: Any, model: 'paddle.nn.Layer', output: str) -> dict[str, dict[str, float]]:
    """Evaluate a detector with PaddleDetection's evaluator, in this process alone.

    Args:
        active: PaddleDetection's config (`config.activate`).
        model: the detector.
        output: the run's folder.

    Returns:
        {'bbox': {'AP': percent, 'AP50': ..., ...}, 'mask': the same for instance masks}.
    """
    from ppdet.engine import Trainer

    from .metrics import VOCStyleAP, as_percent
    active['model'] = model
    os.makedirs(active.output_eval, exist_ok=True)      # for the predictions as JSON
    trainer = Trainer(active, mode='eval')
    trainer._nranks = 1         # otherwise it wraps the model for several processes
    if active.metric == 'VOC':
        trainer._metrics = []
        trainer.register_metrics([VOCStyleAP(trainer.dataset.get_label_list(), active.num_classes, active.map_type)])
    found = {}

    def keep():                 # PaddleDetection resets its metrics at the end of an evaluation
        for metric in trainer._metrics:
            found.update(as_percent(metric.get_results()))
    reset = trainer._reset_metrics
    trainer._reset_metrics = lambda: (keep(), reset())
    trainer.evaluate()
    lost.check()
    for kind in ('bbox', 'mask') if active.architecture == 'MaskRCNN' else ('bbox',):
        values = found.setdefault(kind, {'AP': 0.0, 'AP50': 0.0, 'AP75': 0.0})       # nothing was detected at all
        get_logger().info('%s: %s', kind, ', '.join(f'{k} {v:.2f}' for k, v in values.items()))
    return found


def _predict(cfg, args, output):
    from ppdet.engine import Trainer
    images = readable(images_at(args.predict), '')
    classes, path = known_classes(args.weights)
    cfg['num_classes'] = len(classes)
    cfg['TestDataset'] = dict(cfg.get('TestDataset') or {TAG: 'ImageFolder'}, anno_path=path)
    active = _activate(cfg, output)
    active['model'] = _model(active, args.weights)
    trainer = Trainer(active, mode='test')
    pictures = os.path.join(output, PICTURES)
    results = trainer.predict(images, draw_threshold=args.threshold, output_dir=pictures)
    found = {}
    for image, result in zip(images, results):
        found[image] = [{'class': classes[int(c)], 'score': round(float(s), 4), 'box': [round(float(v), 1) for v in b]}
                        for c, s, *b in result['bbox'] if s >= args.threshold]
    get_logger().info("%d pictures with %d predictions in '%s'", len(images), sum(map(len, found.values())), pictures)
    return found
