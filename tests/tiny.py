"""Configs of runs on random images, for processes of their own too: the small network comes in by `custom_imports`.

`passl train` needs --allow-imports for them.
"""

import os

from passl.utils.config import dump_config
from tests.engine.small import KEYS

SMALL_NET = 'tests.engine.small'
VIEW = [{'name': 'RandomHorizontalFlip'}, {'name': 'Transpose'},
        {'name': 'NormalizeImage', 'scale': '1.0/255.0', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}]


def view():
    """The shared end of both recipes; `scale` as a number, as the loader reads it."""
    return [dict(VIEW[0]), dict(VIEW[1]), dict(VIEW[2], scale=1.0 / 255.0)]


def densecl_config(dataroot, output_dir, batch_size=4, epochs=2, workers=0, size=32, K=16, **more):
    """Config dict of a tiny pre-training without pictures or figures of its checkpoints; `more` replaces or adds
    top-level keys."""
    cfg = {
        'epochs': epochs, 'output_dir': str(output_dir), 'seed': 3, 'device': 'cpu', 'custom_imports': [SMALL_NET],
        'model': {'name': 'DenseCL', 'backbone': {'name': 'SmallNet'}, 'neck': {'name': 'DenseCLNeck', **KEYS},
                  'head': {'name': 'ContrastiveHead', 'temperature': 0.2}, 'dim': 8, 'K': K, 'm': 0.9},
        'dataloader': {'train': {
            'loader': {'num_workers': workers},
            'sampler': {'batch_size': batch_size, 'shuffle': True, 'drop_last': True},
            'dataset': {'name': 'UnlabelledFolder', 'dataroot': str(dataroot), 'return_two_sample': True,
                        'transforms': [{'name': 'RandomResizedCrop', 'size': size, 'scale': [0.2, 1.0]}] + view()}}},
        'lr_scheduler': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.05, 'T_max': epochs},
        'optimizer': {'name': 'Momentum', 'weight_decay': 1e-4},
        'log_config': {'name': 'LogHook', 'interval': 1}, 'best_config': {'check': 'off'},
        'visual_config': {'pictures': False},
    }
    cfg.update(more)
    return cfg


def with_long_steps(cfg, seconds):
    """`cfg` of `densecl_config` with steps that take long enough for a signal to come in the middle of one."""
    return {**cfg, 'custom_config': [{'name': 'LongSteps', 'seconds': seconds}]}


def linear_config(train, val, output_dir, num_classes=2, batch_size=4, epochs=1, size=32, **more):
    """Config dict of a tiny linear evaluation on class folders."""
    def part(root, shuffle):
        return {'loader': {'num_workers': 0},
                'sampler': {'batch_size': batch_size, 'shuffle': shuffle, 'drop_last': shuffle},
                'dataset': {'name': 'ImageFolder', 'dataroot': str(root), 'return_label': True,
                            'transforms': [{'name': name, 'size': size} for name in ('Resize', 'CenterCrop')] + view()}}
    cfg = {
        'epochs': epochs, 'output_dir': str(output_dir), 'seed': 3, 'device': 'cpu', 'custom_imports': [SMALL_NET],
        'model': {'name': 'Classification', 'backbone': {'name': 'SmallNet'},
                  'head': {'name': 'ClasHead', 'with_avg_pool': True, 'in_channels': 16, 'num_classes': num_classes}},
        'dataloader': {'train': part(train, True), 'val': part(val, False)},
        'lr_scheduler': {'name': 'MultiStepDecay', 'learning_rate': 1.0, 'milestones': [10]},
        'optimizer': {'name': 'Momentum', 'weight_decay': 0.0},
        'log_config': {'name': 'LogHook', 'interval': 1},
        'custom_config': [{'name': 'EvaluateHook'}],
    }
    cfg.update(more)
    return cfg


def write_config(cfg, folder, name='tiny'):
    """Write `cfg` as <folder>/<name>.yaml and return the path."""
    os.makedirs(str(folder), exist_ok=True)
    path = os.path.join(str(folder), name + '.yaml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(dump_config(cfg))
    return path
