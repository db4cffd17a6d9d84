"""Meters, accuracy, ETA, memory, and seeds."""

import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from passl.utils.errors import ConfigError
from passl.utils.misc import AverageMeter, accuracy, format_eta, peak_memory_mb
from passl.utils.paddle_env import require_paddle
from passl.utils.seed import derive_seed, seed_everything

ROOT = os.path.join(os.path.dirname(__file__), '..', '..')
paddle = require_paddle()
paddle.set_device('cpu')


def test_average_meter_weighs_by_samples():
    meter = AverageMeter('loss')
    assert (meter.val, meter.avg, meter.sum, meter.count) == (0.0, 0.0, 0.0, 0)
    meter.update(2.0, n=3)
    meter.update(paddle.to_tensor(6.0))
    assert (meter.val, meter.avg, meter.sum, meter.count) == (6.0, 3.0, 12.0, 4)
    assert str(meter) == 'loss 6.0000 (3.0000)'
    meter.update(float('nan'), n=0)
    assert math.isnan(meter.val) and meter.avg == 3.0
    meter.reset()
    assert (meter.avg, meter.count) == (0.0, 0)
    assert str(AverageMeter(fmt='.1f')) == '0.0 (0.0)'


def numpy_accuracy(output, target, k):
    order = np.argsort(-output, axis=1)[:, :k]
    return 100.0 * np.mean([t in row for t, row in zip(target, order)])


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16'])
@pytest.mark.parametrize('column', [False, True])
def test_accuracy_against_numpy(dtype, column):
    rng = np.random.RandomState(0)
    output = np.stack([rng.permutation(20) for _ in range(37)]).astype(dtype)    # no ties
    target = rng.randint(0, 20, 37)
    labels = paddle.to_tensor(target[:, None] if column else target)
    got = accuracy(paddle.to_tensor(output), labels, topk=(1, 5, 20))
    expected = [numpy_accuracy(output, target, k) for k in (1, 5, 20)]
    np.testing.assert_allclose([float(a) for a in got], expected, rtol=1e-6)
    assert expected[2] == 100.0 and expected[0] < expected[1] < 100


def test_accuracy_by_hand_and_k_beyond_the_classes():
    output = paddle.to_tensor([[.1, .2, .7], [.5, .4, .1], [.3, .6, .1], [.3, .6, .1]])
    target = paddle.to_tensor([2, 1, 2, 1], dtype='int32')
    acc1, acc5 = accuracy(output, target)
    assert (float(acc1), float(acc5)) == (50.0, 100.0)
    assert float(accuracy(output, target, topk=(2,))[0]) == 75.0
    assert float(accuracy(paddle.ones([3, 1]), paddle.zeros([3], 'int64'))[1]) == 100.0


def test_accuracy_gives_plain_tensors():
    output = paddle.rand([4, 3])
    output.stop_gradient = False
    for acc in accuracy(output, paddle.to_tensor([0, 1, 2, 0])):
        assert acc.stop_gradient and list(acc.shape) == [] and acc.dtype == paddle.float32


@pytest.mark.parametrize('seconds, text', [
    (0, '0:00:00'), (3723.9, '1:02:03'), (90061, '1 day, 1:01:01'), (200000, '2 days, 7:33:20'),
    (-5, '0:00:00'), (None, '--'), (float('nan'), '--'), (float('inf'), '--'), (np.float32(61), '0:01:01')])
def test_format_eta(seconds, text):
    assert format_eta(seconds) == text


def test_peak_memory_keeps_the_highest_use():
    code = """if True:
        import numpy as np
        from passl.utils.misc import peak_memory_mb
        before = peak_memory_mb()
        block = np.ones(64 * 2**17)         # 64 MiB
        high = peak_memory_mb()
        del block
        print(before, high, peak_memory_mb())
        """
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, high, after = map(float, out.stdout.split())
    assert 5 < before < 500 and 55 < high - before < 90 and after > high - 1   # the kernel counts roughly
    assert peak_memory_mb() > before            # this process holds Paddle too


@pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason='the system keeps the peak')
def test_the_peak_of_the_start_can_be_forgotten():
    code = """if True:
        import numpy as np
        from passl.utils.misc import peak_memory_mb, reset_peak_memory
        kept = np.ones(64 * 2**17)          # 64 MiB
        block = np.ones(64 * 2**17)
        del block
        high = peak_memory_mb()
        reset_peak_memory()
        low = peak_memory_mb()
        again = np.ones(32 * 2**17)
        print(high, low, peak_memory_mb())
        """
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    high, low, again = map(float, out.stdout.split())
    assert 55 < high - low < 73 and low > 64 and 25 < again - low < 41


# ------------------------------------------------------------------ seeds

def test_derive_seed_is_fixed_for_ever():
    """Other values would change every run that is resumed after an update."""
    assert [derive_seed(0), derive_seed(1), derive_seed(1, 0), derive_seed(2**40, -1)] == \
        [1835504127, 1162687101, 1535796949, 2132061261]


def test_derive_seed_tells_numbers_orders_and_lengths_apart():
    keys = [(i, j) for i in range(60) for j in range(60)] + [(i,) for i in range(60)]
    keys += [(0,) * 3, (0,) * 4, (-1,), (2**32,), (2**32 + 1,), (2**64,), (2**64 - 1,)]
    keys += [(1, 0, 0), (0, 2**32), (-1, 0)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) >= len(keys) - 2         # 3700 of 2**31: a collision is a 0.3 % event
    assert all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds)
    assert abs(np.mean(seeds) / 2**31 - 0.5) < 0.02
    assert derive_seed(np.int64(3), np.int32(4)) == derive_seed(3, 4)


@pytest.mark.parametrize('numbers', [(), (1.0,), ('1',), (True,), (None,)])
def test_derive_seed_takes_integers_only(numbers):
    with pytest.raises(ConfigError, match='integer'):
        derive_seed(*numbers)


@pytest.mark.parametrize('seed', [0, 7, 2**40])
def test_seed_everything_repeats_all_generators(seed):
    def draw():
        return random.random(), np.random.rand(), paddle.rand([3]).tolist()
    seed_everything(seed)
    first = draw()
    second = draw()
    seed_everything(seed)
    assert draw() == first != second
    seed_everything(seed + 1)
    other = draw()
    assert all(a != b for a, b in zip(first, other))


@pytest.mark.parametrize('seed', [-1, 1.5, None, True])
def test_seed_everything_refuses(seed):
    with pytest.raises(ConfigError, match="'seed' must be an integer >= 0"):
        seed_everything(seed)
