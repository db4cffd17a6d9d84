"""Gradient accumulation keeps the semantics of queue and key encoder."""

import contextlib

import numpy as np
import paddle
import pytest

from passl.engine.builder import build_hooks, momentum_hooks
from passl.engine.trainer import Trainer
from passl.hooks import CheckpointHook, Hook
from passl.modeling import build_model
from passl.solver import build_lr_scheduler, build_optimizer
from tests.tiny import densecl_config


class Batches:
    """`total` fixed samples in batches of `size`."""

    def __init__(self, total, size):
        rng = np.random.RandomState(0)
        # with a little noise: over an even area a ReLU near its threshold would turn for all pixels at once
        self.views = [(np.kron(rng.randn(total, 3, 4, 4), np.ones((1, 1, 16, 16)))
                       + 0.2 * rng.randn(total, 3, 64, 64)).astype('float32') for _ in range(2)]
        self.total, self.batch_size = total, size
        self.batch_sampler = self

    def set_epoch(self, epoch, start_batch=0):
        pass

    def __len__(self):
        return self.total // self.batch_size

    def __iter__(self):
        for i in range(0, self.total, self.batch_size):
            yield [paddle.to_tensor(v[i:i + self.batch_size]) for v in self.views]


class EvalBN(Hook):
    """BN as in eval mode, so that a sample's features do not depend on its batch; counts calls too."""

    def __init__(self):
        super().__init__()
        self.gradients, self.calls = [], []

    def train_epoch_begin(self, trainer):
        trainer.model.eval()

    def train_forward_end(self, trainer):
        self.calls.append(('forward', trainer.model.queue_ptr.item()))


class TakeGradient(Hook):
    priority = 15

    def __init__(self):
        super().__init__()
        self.gradients = []

    def train_iter_end(self, trainer):
        self.gradients.append({n: p.grad.numpy() for n, p in trainer.model.named_parameters() if p.grad is not None})


def run(size, accumulate):
    paddle.seed(0)
    cfg = densecl_config('.', '.', K=24, optimizer_config={'name': 'OptimizerHook', 'accumulate_steps': accumulate})
    model = build_model(cfg['model'])
    scheduler = build_lr_scheduler(0.01)
    eval_bn, gradients = EvalBN(), TakeGradient()
    hooks = [h for h in build_hooks(cfg) if not isinstance(h, CheckpointHook)]
    hooks += momentum_hooks(cfg, model) + [eval_bn, gradients]
    loader = Batches(16, size)
    trainer = Trainer(cfg, model, None, loader, None, build_optimizer(cfg['optimizer'], scheduler, model), scheduler,
                      paddle.amp.GradScaler(enable=False), contextlib.nullcontext, hooks, max_iters=2,
                      accumulate_steps=accumulate)
    trainer.run()
    assert trainer.iteration == 2 and trainer.global_batch_size == 8
    return model, gradients.gradients, eval_bn.calls


@pytest.fixture(scope='module')
def runs():
    return run(8, 1), run(2, 4)


def test_four_micro_batches_have_the_gradient_of_one_batch(runs):
    (_, whole, _), (_, parts, _) = runs
    assert len(whole) == len(parts) == 2
    for a, b in zip(whole, parts):
        assert len(a) == len(b) == 13
        for name in a:
            assert np.abs(a[name] - b[name]).max() < 2e-4 * np.abs(a[name]).max() + 1e-7, name


def test_queue_is_written_once_per_step_in_order(runs):
    (a, _, _), (b, _, calls) = runs
    for name in ('queue', 'queue2'):
        np.testing.assert_allclose(getattr(a, name).numpy(), getattr(b, name).numpy(), atol=1e-5)
    assert a.queue_ptr.item() == b.queue_ptr.item() == 16
    assert [ptr for _, ptr in calls] == [0] * 4 + [8] * 4       # all micro-batches of a step saw the same queue


def test_key_encoder_moves_once_per_step(runs):
    (a, _, _), (b, _, _) = runs
    theirs = dict(b.named_parameters())
    for name, p in a.named_parameters():
        if name.startswith('encoder_k') and not name.endswith(('_mean', '_variance')):
            np.testing.assert_allclose(p.numpy(), theirs[name].numpy(), atol=1e-5, err_msg=name)
