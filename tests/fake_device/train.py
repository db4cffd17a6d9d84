"""One process of a job: trains CASES with the code of `passl train`, on the CPU or on the fake device.

    python train.py DEVICE DATA OUT CASE...     writes {case: result} to OUT/rank<r>.json; DATA: see tests.engine.small
"""

import hashlib
import json
import math
import os
import sys

os.environ['PASSL_ONEDNN'] = '0'        # on the CPU too Paddle's own kernels

from passl.utils.paddle_env import require_paddle  # noqa: E402

paddle = require_paddle()

import numpy as np  # noqa: E402

from passl.cli import train_main  # noqa: E402
from passl.engine import run  # noqa: E402
from passl.modules import contrastive_loss  # noqa: E402
from passl.utils import dist  # noqa: E402
from passl.utils.checkpoint import load_file  # noqa: E402
from tests.engine.small import clas, dense_parts, densecl, flat, moco, records, write_config  # noqa: E402

BATCH = {1: 4, 2: 2, 3: 2}              # images per process; 12 in all
WEIGHT = 'encoder_q.0.conv1.weight'
HUGE = 2.0 ** 127                       # as scale of a loss above 2: inf


def simclr(root, **changes):
    cfg = moco(root, **changes)
    cfg['model'] = {'name': 'SimCLR', 'backbone': {'name': 'SmallNet'}, 'neck': cfg['model']['neck'],
                    'head': {'name': 'SimCLRContrastiveHead'}, 'sync_bn': False}      # which has no kernel on a CPU
    cfg['optimizer'] = {'name': 'LarsMomentumOptimizer'}
    return cfg


def evaluated(root):
    return clas(root, custom_config=[{'name': 'EvaluateHook'}])


def accumulating(root):
    cfg = moco(root, optimizer_config={'accumulate_steps': 2})
    cfg['dataloader']['train']['sampler']['batch_size'] = BATCH[dist.world_size()] // 2
    return cfg


def recomputing(root):
    return densecl(root, total_iters=2, epochs=None, custom_imports=['tests.modeling.tiny'], model={
        'backbone': {'name': 'Narrow', 'depth': 18, 'recompute': True}, 'neck': {'in_channels': 128}})


def amp(scale):
    """Mixed precision with a real loss scaler. Operators that would run in half precision, for which a CPU has no
    kernels, are in the black list."""
    def cfg(root):
        black = ['conv2d', 'einsum', 'linear_v2', 'matmul', 'matmul_v2', 'mul']
        return densecl(root, use_amp=True, checkpoint={'by_epoch': False, 'interval': 1},
                       AMP={'level': 'O1', 'dtype': 'float16', 'scale_loss': scale,
                            'auto_cast': {'custom_black_list': black}})
    return cfg


CASES = {
    'densecl': densecl, 'moco': moco, 'simclr with LARS': simclr, 'clas, evaluated': evaluated,
    'accumulating': accumulating, 'bn_splits': lambda root: densecl(root, model={'bn_splits': 2}),
    'recompute': recomputing,
    'regions': lambda root: dense_parts(root, 'Regions', 'batch'),
    'geometric': lambda root: dense_parts(root, 'Geometric', 'cells'),
    'workers': lambda root: densecl(root, dataloader={'train': {'loader': {'num_workers': 2}}}),
    'amp': amp(1024.0), 'amp, overflow': amp(HUGE),
}
RESUMED = ('densecl', 'regions', 'geometric', 'simclr with LARS', 'amp, overflow')


def digest(path, part=''):
    """SHA-256 over all tensors and numbers that a run needs to continue, or of those with `part` in the name.

    The loss scaler is left out: a CPU has none.
    """
    state, sha = load_file(path), hashlib.sha256()
    parts = {k: state[k] for k in ('state_dict', 'optimizer', 'lr_scheduler', 'statistics', 'iteration')
             if state.get(k) is not None}
    for name, value in sorted(flat(parts).items()):
        if part in name:
            sha.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


def train(cfg, name, *argv):
    """`passl train -c <cfg> ...`; the run folder."""
    path = dist.broadcast_object(write_config(cfg, name) if dist.is_main() else None)
    assert train_main(['-c', path, '--allow-imports', *argv]) == 0
    return os.path.join(cfg['output_dir'], name)


def result(folder):
    log, last = records(folder), os.path.join(folder, 'latest.pdparams')
    end = load_file(last)
    steps = [os.path.join(folder, f'iter_{r["iteration"]}.pdparams') for r in log]
    return {'state': digest(last), 'losses': [r['loss'] for r in log],
            'skipped': [r.get('skipped_steps', 0) for r in log], 'scaler': end['scaler'],
            'first_scale': (end['config'].get('AMP') or {}).get('scale_loss'),
            # a weight and its momentum after each step
            'weights': [digest(p, WEIGHT) for p in steps] if all(map(os.path.exists, steps)) else [],
            'val': [{k: v for k, v in r.items() if k != 'time'} for r in records(folder, 'val')]}


def try_case(case, data, out, parts_too):
    cfg = CASES[case](data)
    cfg['output_dir'] = os.path.join(out, 'runs')
    part = cfg['dataloader']['train']
    if case != 'accumulating':
        part['sampler']['batch_size'] = BATCH[dist.world_size()]
    part['loader']['transport'] = 'uint8'
    name = case.replace(' ', '_').replace(',', '')
    found = {'whole': result(train(cfg, name))}
    if case in RESUMED and parts_too:                       # stopped within the second epoch
        steps = 2 * len(found['whole']['losses']) // 3
        train(cfg, name + '_parts', '-o', 'epochs=null', '-o', f'total_iters={steps}')
        found['parts'] = result(train(cfg, name + '_parts', '--resume', 'auto'))
    return found


def main(device, data, out, *cases):
    def select(*_):
        paddle.set_device(device)
        return paddle.get_device()
    run.select_device = select                              # `device` of a config knows no fake one
    # a CPU cuts the queue otherwise, and sums unshifted logits: the device's way, on both
    contrastive_loss.CPU_BLOCK, contrastive_loss._UNSHIFTED_FROM = contrastive_loss.GPU_BLOCK, math.inf
    select()
    dist.init(600)
    found = {case: try_case(case, data, out, device != 'cpu') for case in cases}
    found['device'] = str(paddle.zeros([1]).place)
    with open(os.path.join(out, f'rank{dist.rank()}.json'), 'w') as f:
        json.dump(found, f, default=lambda x: np.asarray(x).tolist())


if __name__ == '__main__':
    main(*sys.argv[1:])
