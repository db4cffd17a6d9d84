"""Small parts and configs for the tests of the engine: a run of a few steps takes a second."""

import json
import os
import time
from collections import namedtuple

import numpy as np
import yaml
from paddle import nn

from passl.cli import extract_main, train_main
from passl.hooks import HOOKS, Hook
from passl.modeling.backbones import BACKBONES, ResNet
from passl.utils.weights.checkpoint import load_file
from passl.utils.config import merge

Done = namedtuple('Done', 'code out err')
KEYS = dict(in_channels=16, hid_channels=8, out_channels=8)


@BACKBONES.register()
class SmallNet(nn.Layer):
    """Two convolutions with BN: [N, 3, H, W] -> [N, 16, H/8, W/8]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 8, 3, stride=4, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(8)
        self.conv2 = nn.Conv2D(8, 16, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv2(nn.functional.relu(self.bn1(self.conv1(x))))


@BACKBONES.register()
class ShortResNet(ResNet):
    """A ResNet with one block per stage."""

    def _vary(self):
        for stage in 'layer1', 'layer2', 'layer3', 'layer4':
            setattr(self, stage, nn.Sequential(getattr(self, stage)[0]))


@HOOKS.register()
class LongSteps(Hook):
    """Every step takes long enough for a signal to come in the middle of it, and nothing of the processor."""

    def __init__(self, seconds, priority=None):
        super().__init__(priority)
        self.seconds = seconds

    def train_forward_end(self, trainer):
        time.sleep(self.seconds)


def moco(root, **changes):
    """Config of MoCo on the flat folder `root`/flat: 12 images, 3 steps per epoch. Its checkpoints are not measured
    unless `best_config` is given: that takes as long as all the rest of a run."""
    cfg = {
        'epochs': 2, 'output_dir': os.path.join(root, 'out'), 'seed': 3, 'device': 'cpu', 'image_shape': [3, 32, 32],
        'model': {'name': 'MoCo', 'dim': 8, 'K': 16, 'backbone': {'name': 'SmallNet'},
                  'neck': {'name': 'NonLinearNeckV1', **KEYS}, 'head': {'name': 'ContrastiveHead', 'temperature': 0.2}},
        'dataloader': {'train': {
            'loader': {'num_workers': 0},
            'sampler': {'batch_size': 4, 'shuffle': True, 'drop_last': True},
            'dataset': {'name': 'UnlabelledFolder', 'dataroot': os.path.join(root, 'flat'), 'return_two_sample': True,
                        'transforms': [{'name': 'RandomResizedCrop', 'size': 32}, {'name': 'ToTensor'}]}}},
        'lr_scheduler': {'name': 'CosineAnnealingDecay', 'learning_rate': 0.1,
                         'T_max': max(2, changes['epochs'] if isinstance(changes.get('epochs'), int) else 2)},
        'optimizer': {'name': 'Momentum', 'weight_decay': 0.0001},
        'log_config': {'name': 'LogHook', 'interval': 1},
        'best_config': {} if 'best_config' in changes else {'check': 'off'},
    }
    return merge(cfg, changes)


def densecl(root, **changes):
    """As `moco`, with the dense branch."""
    return merge(moco(root, model={'name': 'DenseCL', 'neck': {'name': 'DenseCLNeck'}}), changes)


def dense_parts(root, correspondence, negatives, **changes):
    """As `densecl`, with these parts and a data set that carries what they need."""
    parts = {'model': {'correspondence': correspondence, 'negatives': negatives}, 'custom_imports': ['tests.carrying'],
             'dataloader': {'train': {'dataset': {'name': 'CarryingFolder'}}}}
    return merge(densecl(root, **parts), changes)


def clas(root, **changes):
    """Config of a classifier on `root`/train (3 classes x 4 images) and `root`/val (3 x 3, batches of 4: 4, 4, 1)."""
    def part(name, training):
        return {'loader': {'num_workers': 0}, 'sampler': {'batch_size': 4, 'shuffle': training, 'drop_last': False},
                'dataset': {'name': 'ImageFolder', 'dataroot': os.path.join(root, name), 'return_label': True,
                            'transforms': [{'name': 'ToTensor'}]}}
    cfg = moco(root, epochs=changes.get('epochs', 2))
    cfg['model'] = {'name': 'Classification', 'backbone': {'name': 'SmallNet'},
                    'head': {'name': 'ClasHead', 'with_avg_pool': True, 'in_channels': 16, 'num_classes': 3}}
    cfg['dataloader'] = {'train': part('train', True), 'val': part('val', False)}
    return merge(cfg, changes)


def write_data(root, make_images):
    """The folders that the configs name."""
    make_images(os.path.join(root, 'flat'), 12)
    make_images(os.path.join(root, 'train'), 4, classes=3)
    make_images(os.path.join(root, 'val'), 3, classes=3, seed=1)
    return str(root)


def write_config(cfg, name='small', folder=None):
    """Write `cfg` as YAML; the run folder is then `<output_dir>/<name>`."""
    folder = folder or os.path.dirname(cfg['output_dir'])
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f'{name}.yaml')
    with open(path, 'w') as f:
        yaml.safe_dump(cfg, f)
    return path


def call(main, argv, capsys):
    """Run a command line in this process."""
    capsys.readouterr()
    try:
        code = main([str(a) for a in argv])
    except SystemExit as e:         # argparse
        code = e.code
    return Done(code, *capsys.readouterr())


def train(cfg, capsys, *argv, name='small', folder=None):
    """`passl train -c <cfg> ...`, which must succeed; returns (run folder, Done)."""
    done = call(train_main, ['-c', write_config(cfg, name, folder), *argv], capsys)
    assert done.code == 0, done.err
    return os.path.join(cfg['output_dir'], name), done


def refused(done, *parts):
    """Check that a command ended with exit code 2 and one message that holds `parts`, and without a traceback."""
    assert done.code == 2, done
    assert 'Traceback' not in done.err + done.out
    for part in parts:
        assert str(part) in done.err, f'{part!r} is not in: {done.err}'


def refused_training(cfg, capsys, parts, *argv, name='small'):
    """`passl train -c <cfg> ...` must be refused with `parts` in the message."""
    done = call(train_main, ['-c', write_config(cfg, name), *argv], capsys)
    refused(done, *parts)
    return done


def records(run_dir, mode='train'):
    """The objects of a run's log.jsonl that have this mode."""
    with open(os.path.join(run_dir, 'log.jsonl')) as f:
        return [r for r in map(json.loads, f) if r['mode'] == mode]


def saved(folder):
    """Names of the checkpoints in `folder`, without the second names that some have."""
    return sorted(n for n in os.listdir(folder) if n.endswith('.pdparams')
                  and n not in ('latest.pdparams', 'best.pdparams'))


def extract(argv, capsys):
    """`passl extract-weight ...`."""
    return call(extract_main, argv, capsys)


def flat(node, prefix=''):
    """{dotted path: leaf} of nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    out = {}
    for k, v in items:
        out.update(flat(v, f'{prefix}{k}.') if isinstance(v, (dict, list, tuple)) else {f'{prefix}{k}': v})
    return out


def assert_same_state(a, b, at_least=20):
    """Two checkpoints hold the same, bit for bit: more than `at_least` tensors, optimizer, schedule, counters."""
    a, b = load_file(a), load_file(b)
    for part in ('state_dict', 'optimizer', 'lr_scheduler', 'iteration', 'epoch'):
        left, right = (flat(x[part]) if isinstance(x[part], dict) else {part: x[part]} for x in (a, b))
        assert left.keys() == right.keys(), part
        for key in left:
            assert np.array_equal(np.asarray(left[key]), np.asarray(right[key])), f'{part}.{key}'
    assert len(a['state_dict']) > at_least
