"""Run by the launcher in two processes: checks of what is exchanged. Writes <out>/rank<r>.json."""

import json
import os
import sys
import types

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.utils.paddle_env import require_paddle  # noqa: E402

paddle = require_paddle()

import numpy as np  # noqa: E402
import paddle.nn.functional as F  # noqa: E402

from passl.engine.consistency import check_data  # noqa: E402
from passl.modeling import build_model  # noqa: E402
from passl.modules import batch_shuffle  # noqa: E402
from passl.modules.contrastive_loss import nt_xent  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402
from passl.utils.errors import DataError  # noqa: E402
from tests.engine import small  # noqa: E402, F401  registers SmallNet


def model_of(name):
    paddle.seed(0)
    model = build_model({
        'name': name, 'dim': 16, 'K': 16, 'm': 0.9, 'backbone': {'name': 'SmallNet'},
        'neck': {'name': {'DenseCL': 'DenseCLNeck', 'MoCo': 'NonLinearNeckV1'}[name], 'in_channels': 16,
                 'hid_channels': 32, 'out_channels': 16},
        'head': {'name': 'ContrastiveHead', 'temperature': 0.2}})
    model.train()
    return model


def collectives():
    r = dist.rank()
    x = paddle.to_tensor(np.float32([[r, 10 * r]]))
    return {'gathered': dist.all_gather(x).numpy().tolist(), 'sum': dist.sum_over_processes([1.5 + r, 2]),
            'object': dist.broadcast_object({'from': r}), 'objects': dist.gather_objects([r])}


def complaint():
    """What is said where process 1 sees an image less."""
    images = [0] * (26 - dist.rank())
    try:
        check_data({'train': types.SimpleNamespace(dataset=images), 'val': None})
    except DataError as e:
        return {'complaint': str(e)}


def gradient_of_the_gather():
    """|difference| of the NT-Xent gradient to that of one process with all samples."""
    rng = np.random.RandomState(0)
    z1, z2 = (F.normalize(paddle.to_tensor(rng.randn(6, 5).astype('float32')), axis=1).numpy() for _ in range(2))
    lo, hi = dist.rank() * 3, dist.rank() * 3 + 3
    mine = [paddle.to_tensor(z[lo:hi], stop_gradient=False) for z in (z1, z2)]
    loss, _, _ = nt_xent(*mine, *[dist.all_gather_with_grad(z) for z in mine], dist.rank(), 0.5)
    loss.backward()
    alone = [paddle.to_tensor(z, stop_gradient=False) for z in (z1, z2)]
    whole, _, _ = nt_xent(*alone, *alone, 0, 0.5)
    whole.backward()
    # data-parallel training averages over the 2 processes: mean_r(local gradients) is the whole one
    diff = max(float((m.grad / 2 - a.grad[lo:hi]).abs().max()) for m, a in zip(mine, alone))
    return {'gradient': diff, 'loss': abs(dist.sum_over_processes([float(loss)])[0] / 2 - float(whole))}


def losses(model, views):
    out = model(*views)
    model._waiting = []
    return np.float64([float(out[k]) for k in ('loss', 'loss_global', 'loss_dense')])


def shuffling():
    """With BN in eval mode every sample is encoded alone, so shuffling must not change a loss."""
    model = model_of('DenseCL')
    model.eval()
    rng = np.random.RandomState(dist.rank() + 1)
    # blotches, not noise: an untrained network sees all noise as the same
    views = [paddle.to_tensor(np.kron(rng.randn(4, 3, 4, 6), np.ones((1, 1, 4, 4))).astype('float32'))
             for _ in range(2)]
    model.step = 5
    shuffled = losses(model, views)
    permutation = batch_shuffle.shared_permutation
    batch_shuffle.shared_permutation = lambda n, seed, step: np.arange(n)
    plain = losses(model, views)
    batch_shuffle.shared_permutation = permutation

    # a planted bug: dense keys stay in shuffled order
    unshuffle = batch_shuffle.BatchShuffle.unshuffle

    def forgets_dense(self, parts, shared):
        local, everything = unshuffle(self, parts, shared)
        local[2] = parts[2]
        return local, everything
    batch_shuffle.BatchShuffle.unshuffle = forgets_dense
    broken = losses(model, views)
    batch_shuffle.BatchShuffle.unshuffle = unshuffle
    moved = batch_shuffle.BatchShuffle(4, 0, 5).forward_index.tolist()
    return {'shuffle_changes': float(np.abs(shuffled - plain).max()), 'permutation': moved,
            'bug_changes': np.abs(broken - plain).tolist()}


def blotches(rank, n=4):
    """Two views, float [n, 3, 16, 24] of whole numbers 0 .. 255, of this process."""
    rng = np.random.RandomState(rank + 1)
    return [np.kron(rng.randint(0, 256, (n, 3, 4, 6)), np.ones((1, 1, 4, 4))).astype('float32') for _ in range(2)]


def normalise(x):
    return (x.astype('float32').transpose([0, 3, 1, 2]) - 120.0) / 60.0


def step_traffic():
    """What one step of DenseCL and of MoCo exchanges, from float and from uint8 images, and its losses."""
    results = {}
    for name in ('DenseCL', 'MoCo'):
        model = model_of(name)
        parallel = dist.wrap(model)
        model.input_transform, model.step = normalise, 5
        raw = [paddle.to_tensor(v.transpose(0, 2, 3, 1).astype('uint8')) for v in blotches(dist.rank())]
        start = {k: v.numpy() for k, v in model.state_dict().items()}
        for kind, images in (('float32', [normalise(x) for x in raw]), ('uint8', raw)):
            model.set_state_dict({k: paddle.to_tensor(v) for k, v in start.items()})
            with dist.traffic() as counted:
                out = parallel(*images, mode='train')
                out['loss'].backward()
                model.flush_queues()
            parallel.clear_gradients()
            results[f'{name} {kind}'] = {'counted': counted, 'loss': float(out['loss']),
                                         'queue': model.queue.numpy()[:, :8].tolist(),
                                         'gradient': dist.gradient_traffic(parallel)}
        results[f'{name} parameters'] = sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)
    return results


def main(out):
    paddle.set_device('cpu')
    dist.init()
    result = {'rank': dist.rank(), **collectives(), **complaint(), **gradient_of_the_gather(), **shuffling(),
              'steps': step_traffic()}
    with open(os.path.join(out, f'rank{dist.rank()}.json'), 'w') as f:
        json.dump(result, f)


if __name__ == '__main__':
    main(sys.argv[1])
