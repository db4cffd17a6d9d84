"""The plan as a config, complete in itself."""

import argparse
import os
import textwrap
from typing import Any, Sequence

from ..utils.config import dump_config, read_config
from ..utils.errors import ConfigError
from .rules import Choice

BACKBONES = {f'resnet{depth}{vd}': (depth, 'ResNet' + vd) for vd in ('', '_vd') for depth in (18, 34, 50, 101, 152)}
PROBE_MODULE = 'passl.transfer.probes.best'      # it registers ProbeHook
_MODELS = {'densecl': 'densecl', 'moco': 'moco_v2', 'simclr': 'simclr'}
_HERE = os.path.dirname(os.path.abspath(__file__))
# a wheel brings the files along (setup.py), a clone has them once
_BASES = os.path.join(_HERE, '_base_'), os.path.join(os.path.dirname(os.path.dirname(_HERE)), 'configs', '_base_')


def bases_folder() -> str:
    """The folder `_base_`, from which a plan takes its models. Raises ConfigError where it is missing."""
    for folder in _BASES:
        if os.path.isdir(os.path.join(folder, 'models')):
            return folder
    raise ConfigError(f"A plan takes its models from '{_BASES[0]}' (of a wheel) or '{_BASES[1]}' (of a clone), and "
                      "both are missing: install PASSL anew, by pip install . or pip install -e '.[cpu]' in a clone.")


def config_of(args: argparse.Namespace, choices: Sequence[Choice]) -> dict[str, Any]:
    """The whole config of a plan, without any base file."""
    base = bases_folder()
    depth, name = BACKBONES[args.backbone]
    wide = 'r18' if depth < 50 and args.method != 'simclr' else 'r50'
    cfg = read_config(os.path.join(base, 'models', f'{_MODELS[args.method]}_{wide}.yaml'))
    cfg.update(read_config(os.path.join(base, 'datasets', 'small_two_view.yaml')))
    cfg.update(read_config(os.path.join(base, 'default_runtime.yaml')))
    width = 512 if depth < 50 else 2048
    cfg['model']['backbone'].update(name=name, depth=depth)
    cfg['model']['neck'].update(in_channels=width, hid_channels=width)
    if args.init:
        cfg['model']['backbone']['pretrained'] = args.init
    cfg['optimizer'] = {'name': 'Momentum', 'momentum': 0.9, 'weight_decay': 0.0001}
    value = {c.key: c.value for c in choices}
    data = cfg['dataloader']['train']
    data['dataset']['dataroot'] = value.get('dataroot', args.data)
    steps = value['total_iters']
    cfg['total_iters'] = steps
    data['dataset']['transforms'][0]['size'] = value['side']
    for view in ('view_trans1', 'view_trans2'):
        for step in data['dataset'][view]:
            if step.get('transforms', [{}])[0].get('name') == 'GaussianBlur':
                step['transforms'][0]['sigma'] = [0.1, 2.0 if value['side'] >= 192 else 1.0]
    data['sampler']['batch_size'] = value['dataloader.train.sampler.batch_size']
    data['loader']['num_workers'] = value['dataloader.train.loader.num_workers']
    if value['half'] != 'float32':
        cfg.update(use_amp=True, AMP={'dtype': value['half']})
    cfg['log_config'].update(interval=max(1, min(50, steps // 100)), by_epoch=False)
    cfg['checkpoint'] = {'name': 'CheckpointHook', 'by_epoch': False, 'interval': max(1, steps // 10),
                         'max_keep_ckpts': 3}
    for key in ('K', 'm', 'bn_splits'):
        if f'model.{key}' in value:
            cfg['model'][key] = value[f'model.{key}']
    if args.val:
        cfg['custom_imports'] = [PROBE_MODULE]
        cfg['best_config'] = {'name': 'ProbeHook', 'data': args.val}
    if 'model' in value:
        cfg['model'].update(value['model'])
    # lengths of a schedule are in epochs; T_max is left out and follows total_iters
    cfg['lr_scheduler'] = {'name': 'CosineWarmup', 'learning_rate': value['lr_scheduler.learning_rate'],
                           'warmup_steps': round(value['warm'] / value['steps of an epoch'], 6)}
    return cfg


def table(choices: Sequence[Choice], columns: int = 10**4) -> str:
    """The choices and their reasons, one line each, which is broken after so many columns."""
    shown = [(c.what, _shown(c.value), c.why) for c in choices]
    first, second = (max(len(row[i]) for row in shown) for i in (0, 1))
    left = 6 + first + second
    return '\n'.join(textwrap.fill(f'  {what:<{first}}  {value:<{second}}  {why}', max(columns, 2 * left),
                                   subsequent_indent=' ' * left, break_long_words=False,
                                   break_on_hyphens=False) for what, value, why in shown)


def _shown(value):
    if isinstance(value, list):
        return str(len(value))
    if isinstance(value, dict):
        return ', '.join(str(v.get('name', v)) if isinstance(v, dict) else str(v) for v in value.values())
    return str(value)


def config_text(cfg: dict[str, Any], choices: Sequence[Choice], words: Sequence[str]) -> str:
    """The config as a file that needs no other, with the reasons at its head."""
    head = ['Written by: ' + ' '.join(words),
            'It needs no other file: `passl train -c` and tools/train.py run it. Why each value:',
            *table(choices).splitlines()]
    return ''.join(f'# {line}\n' for line in head) + '\n' + dump_config(cfg)
