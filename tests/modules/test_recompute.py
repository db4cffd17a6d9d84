"""Recomputation changes the memory of a step and nothing else."""

import gc
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.backbones import build_backbone
from passl.modules import recompute as module
from passl.modules.recompute import recompute
from passl.utils.errors import ConfigError
from tests.modeling.tiny import Narrow, narrow, values, views
from tests.modules.test_channels_last import host_memory

ROOT = os.path.join(os.path.dirname(__file__), '..', '..')


def two_micro_batches(backbone, **model):
    """(losses, accumulated gradients, state dict) after two forward and backward passes of DenseCL."""
    built = narrow(backbone=backbone, **model)
    losses = []
    for step in range(2):
        built.step = step
        loss = built(*views(4, 32, 32, seed=step))['loss']
        loss.backward()
        losses.append(float(loss))
    gradients = {n: p.grad.numpy() for n, p in built.named_parameters() if p.grad is not None}
    return losses, gradients, values(built)


def assert_same(a, b):
    assert a[0] == b[0]
    for one, other in zip(a[1:], b[1:]):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('frozen, splits, stages', [(-1, 2, True), (2, 1, True), (0, 2, [0, 1, 3])])
def test_loss_gradients_and_statistics_are_bit_for_bit_the_same(frozen, splits, stages):
    """Two micro-batches: gradients accumulate, and the second one sees the statistics the first has left."""
    plain = two_micro_batches({'frozen_stages': frozen}, bn_splits=splits)
    assert_same(plain, two_micro_batches({'frozen_stages': frozen, 'recompute': stages}, bn_splits=splits))


def test_bottleneck_blocks_and_a_classifier():
    results = []
    for choice in (False, True):
        paddle.seed(0)
        net = Narrow(50, num_classes=3, with_pool=True, recompute=choice)
        net.train()
        loss = (net(paddle.randn([2, 3, 32, 32])) ** 2).mean()
        loss.backward()
        results.append(([float(loss)], {n: p.grad.numpy() for n, p in net.named_parameters() if not p.stop_gradient},
                        values(net)))
    assert len(results[0][1]) == 161
    assert_same(*results)


class Counting(nn.Layer):
    """A layer with BN and dropout that counts its calls and what it sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Dropout(0.5)
        self.calls, self.levels, self.fail = 0, [], False

    def forward(self, x):
        self.calls += 1
        self.levels.append(paddle.base.framework._dygraph_tracer()._amp_level)
        if self.fail and self.calls == 2:
            raise ValueError('planted')
        return self.drop(self.norm(self.conv(x)))


def image(trains=False):
    x = paddle.to_tensor(np.random.RandomState(0).randn(2, 3, 6, 6).astype('float32'))
    x.stop_gradient = not trains
    return x


@pytest.mark.cpu_only('the fake device draws from the generator of the CPU')
def test_the_replay_draws_the_same_random_numbers_and_leaves_the_generator_alone():
    results = []
    for wrapped in (False, True):
        paddle.seed(0)
        layer, x = Counting(), image(trains=True)
        paddle.seed(1)
        out = recompute(layer, x, [layer]) if wrapped else layer(x)
        (out ** 2).sum().backward()
        results.append([out.numpy(), x.grad.numpy(), layer.conv.weight.grad.numpy(), paddle.rand([4]).numpy()])
        assert layer.calls == 1 + wrapped
    for plain, again in zip(*results):
        np.testing.assert_array_equal(plain, again)


def test_used_twice_a_parameter_gets_one_gradient():
    """DataParallel exchanges a gradient when it arrives and takes a second arrival for an error."""
    arrivals, layer = [], Counting()
    layer.conv.weight._register_backward_hook(lambda *_: arrivals.append(1))
    (recompute(layer, image(), [layer]).sum() + recompute(layer, image() + 1, [layer]).sum()).backward()
    assert layer.calls == 4 and len(arrivals) == 1


def test_nothing_is_computed_twice_without_gradient():
    layer = Counting()
    with paddle.no_grad():
        assert recompute(layer, image(trains=True), [layer]).stop_gradient
    for p in layer.parameters():
        p.stop_gradient = True
    recompute(layer, image(), [layer])
    assert layer.calls == 2
    model = narrow(backbone={'recompute': True})
    calls = []
    for encoder in (model.encoder_q, model.encoder_k):
        encoder[0].layer2[1].register_forward_post_hook(lambda layer, *_: calls.append(layer))
    model(*views())['loss'].backward()
    assert [layer is model.encoder_k[0].layer2[1] for layer in calls].count(True) == 1 and len(calls) == 3
    model.eval()
    model.backbone(views()[0]).sum().backward()
    assert len(calls) == 4


def test_statistics_settings_come_back_after_an_error():
    layer = Counting()
    layer.fail = True
    out = recompute(layer, image(), [layer])
    with pytest.raises(Exception, match='planted'):
        out.sum().backward()
    assert layer.norm._momentum == 0.9
    mean = layer.norm._mean.numpy()
    layer(image())
    assert np.abs(layer.norm._mean.numpy() - mean).max() > 0


@pytest.mark.parametrize('level, dtype', [('O1', 'float16'), ('O2', 'bfloat16')])
def test_the_replay_runs_under_the_mixed_precision_of_the_first_pass(level, dtype, monkeypatch):
    """Paddle switches auto_cast off on the CPU, so the request is recorded here."""
    tracer, asked = paddle.base.framework._dygraph_tracer(), []
    auto_cast = paddle.amp.auto_cast

    def record(enable=True, **settings):
        asked.append((enable, settings))
        return auto_cast(enable=False)

    monkeypatch.setattr(module.paddle.amp, 'auto_cast', record)
    weight = paddle.create_parameter([2], 'float32')
    before = tracer._amp_level, tracer._amp_dtype
    tracer._amp_level, tracer._amp_dtype = getattr(paddle.base.core.AmpLevel, level), dtype
    try:
        settings = module._precision()
    finally:
        tracer._amp_level, tracer._amp_dtype = before
    monkeypatch.setattr(module, '_precision', lambda: settings)
    loss = recompute(lambda x: x * weight, paddle.ones([2]), [nn.Linear(1, 1)])
    loss.sum().backward()
    assert asked[0][0] and (asked[0][1]['level'], asked[0][1]['dtype']) == (level, dtype)
    assert not asked[1][0]                                  # the gradients are not cast a second time
    assert asked[0][1]['custom_white_list'] == tracer._get_amp_op_list()[0]


@pytest.mark.cpu_only('memory of the host')
def test_what_a_forward_pass_keeps():
    """Bytes that Paddle's allocator holds between forward and backward."""
    held = []
    for choice in (False, [0, 1], True):
        net = Narrow(18, recompute=choice)
        net.train()
        x = paddle.randn([8, 3, 64, 64])
        trained = sum(p.numel().item() for p in net.parameters() if not p.stop_gradient)
        gc.collect()                # or models of other tests may go while this one is measured
        before = host_memory()
        loss = (net(x) ** 2).mean()
        held.append(host_memory() - before)
        loss.backward()
        # gradients only: nothing of the forward pass lives as long as the loss does
        assert 4 * trained <= host_memory() - before < 4.05 * trained + 2**17
    assert held[1] < 0.6 * held[0] and held[2] < 0.35 * held[0], held


@pytest.mark.parametrize('value', ['all', [5], [-1], [True], 1, {'a': 1}])
def test_wrong_settings(value):
    with pytest.raises(ConfigError, match="'model.backbone.recompute' must be .*list of stages"):
        build_backbone({'name': 'ResNet', 'depth': 18, 'recompute': value})


TWO_PROCESSES = """if True:
    import sys
    sys.path.insert(0, {root!r})
    from passl.utils.paddle_env import require_paddle
    paddle = require_paddle()
    paddle.set_device('cpu')
    from passl.utils.distributed import dist
    from tests.modeling.tiny import narrow, views
    dist.init()
    gradients = []
    for recompute in (False, True):
        model = narrow(backbone={{'recompute': recompute}}, bn_splits=2)
        parallel = dist.wrap(model)
        for step in range(2):
            model.step = step
            with dist.no_sync(parallel, step == 0):
                parallel(*views(4, 32, 32, seed=2 * step + dist.rank()), mode='train')['loss'].backward()
        gradients.append({{n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}})
    plain, again = gradients
    assert plain.keys() == again.keys() and len(plain) > 60
    assert all((plain[n] == again[n]).all() for n in plain)
    everybody = dist.gather_objects([float(abs(again['encoder_q.0.conv1.weight']).sum())])
    assert everybody[0] == everybody[1], everybody
    """


@pytest.mark.cpu_only('a job on gloo')
@pytest.mark.slow
def test_two_processes_with_accumulation_and_two_groups(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(TWO_PROCESSES.format(root=os.path.abspath(ROOT)))
    env = {k: v for k, v in os.environ.items() if not k.startswith('PADDLE_')}
    done = subprocess.run([sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir',
                           str(tmp_path / 'log'), str(script)], cwd=str(tmp_path), capture_output=True, text=True,
                          timeout=300, env=dict(env, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
