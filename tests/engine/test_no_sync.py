"""A step reads nothing from the device, log steps excepted."""

import paddle
import pytest

from passl.engine.builder import build_trainer
from passl.hooks import Hook
from passl.modules.cpu.channels_last import why_not
from passl.utils.config import with_defaults
from tests.sync_counter import SyncCounter, reads_of_steps

from tests import carrying  # noqa: F401  a data set

from .small import clas, dense_parts, densecl, moco


def trainer_of(cfg, folder):
    why_not()           # the kernels' check of themselves at their first use reads: once in a process, not in a step
    cfg['checkpoint'] = {'interval': 1000}
    cfg['log_config'] = {'name': 'LogHook', 'interval': 1000}              # still logs the last step of an epoch
    cfg['health_config'] = {'check': 'log'}        # as on an accelerator
    if 'temperature' in cfg['model']['head']:
        # the loss as on a GPU: from 1/64 on there is another way on the CPU, which may look at what it summed
        cfg['model']['head']['temperature'] = 0.01
    trainer = build_trainer(with_defaults({k: v for k, v in cfg.items() if v is not None}), str(folder))
    trainer.model.to_input(paddle.zeros([1, 4, 4, 3], 'uint8'))        # copies constants of the recipe, once in a run
    return trainer


CASES = {
    'DenseCL': lambda root: densecl(root),
    'Regions, Batch': lambda root: dense_parts(root, 'Regions', 'batch'),
    'Geometric, Cells': lambda root: dense_parts(root, 'Geometric', 'cells'),
    'MutualNearest, Batch': lambda root: dense_parts(root, 'MutualNearest', 'batch'),
    'MoCo': lambda root: moco(root),
    'BN groups': lambda root: densecl(root, model={'bn_splits': 2}),
    'warm-up of lambda': lambda root: densecl(root, custom_config=[{'name': 'LossLambdaWarmupHook', 'start_iters': 2}]),
    'accumulation': lambda root: moco(root, optimizer_config={'accumulate_steps': 2},
                                      dataloader={'train': {'sampler': {'batch_size': 2}}}),
    'clipping': lambda root: moco(root, optimizer={'grad_clip': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1.0}}),
    'SimCLR with LARS': lambda root: moco(
        root, model={'name': 'SimCLR', 'dim': None, 'K': None, 'head': {'name': 'SimCLRContrastiveHead'}},
        optimizer={'name': 'LarsMomentumOptimizer', 'weight_decay': None}),
    'AdamW': lambda root: moco(root, optimizer={'name': 'AdamW'}),
    'Classification': lambda root: clas(root, total_iters=6, epochs=None),
}


@pytest.mark.parametrize('case', CASES)
def test_only_log_steps_read_from_the_device(data, tmp_path, case):
    cfg = CASES[case](data)
    for part in ('model', 'optimizer'):
        cfg[part] = {k: v for k, v in cfg[part].items() if v is not None}
    trainer = trainer_of(cfg, tmp_path)
    steps = reads_of_steps(trainer)
    logged = [i for i in steps if i % trainer.iters_per_epoch == 0 or i == trainer.max_iters]
    assert len(steps) == trainer.max_iters and len(logged) < len(steps)
    if case == 'BN groups':         # the order of the shuffle goes to the device, in one copy
        steps = {i: [r for r in reads if not r.startswith('to_tensor at exchange.py')] for i, reads in steps.items()}
    assert {i: reads for i, reads in steps.items() if reads and i not in logged} == {}
    assert all(steps[i] for i in logged)


class Reader(Hook):
    def train_iter_end(self, trainer):
        if trainer.outputs['loss'] > 1e9:
            raise AssertionError


def test_a_hook_that_reads_is_seen(data, tmp_path):
    trainer = trainer_of(moco(data), tmp_path)
    trainer.hooks.append(Reader())
    (read,) = reads_of_steps(trainer)[1]
    assert read.startswith('__bool__ at test_no_sync.py:') and read.endswith(' train_iter_end')


@pytest.mark.parametrize('read', [
    lambda x: x.numpy(), lambda x: x.item(), lambda x: x.tolist(), float, int, bool, str, lambda x: f'{x}',
    lambda x: [1, 2][x.astype('int64')], lambda x: x.cpu()])
def test_every_read_counts_once(read):
    x = paddle.to_tensor(1.0)
    with SyncCounter() as counter:
        read(x)
        (x + 1).astype('float32').reshape([1])
        assert len(counter.take()) == 1 and counter.take() == []
        with counter.paused():
            read(x)
        assert counter.take() == []
    read(x)
    assert counter.take() == []
