"""Run by the launcher: exchanges of several types and permutations. Writes <out>/rank<r>.json."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.utils.paddle_env import require_paddle  # noqa: E402

paddle = require_paddle()

import numpy as np  # noqa: E402

from passl.utils import dist  # noqa: E402


def main(out, n=3):
    paddle.set_device('cpu')
    dist.init()
    me, size = dist.rank(), dist.world_size()
    everything = np.random.RandomState(0).randint(0, 200, (size * n, 2, 2))
    backwards = np.arange(size * n)[::-1].copy()
    orders = [np.random.RandomState(i).permutation(size * n) for i in range(3)] + [backwards, np.arange(size * n)]
    wrong, names, total = [], set(), 0
    for i, order in enumerate(orders):
        for kind in ('uint8', 'float32', 'int64', 'bfloat16'):
            x = paddle.to_tensor(everything[me * n:(me + 1) * n].astype('float32')).astype(kind)
            with dist.traffic() as counted:
                got = dist.Exchange(order, n).move(x)
            names |= set(counted)
            want = everything[order[me * n:(me + 1) * n]]
            if got.dtype != x.dtype or not np.array_equal(got.astype('float32').numpy(), want):
                wrong.append([i, kind])
        total = dist.sum_over_processes([1])[0]
    with open(os.path.join(out, f'rank{me}.json'), 'w') as f:
        json.dump({'rank': me, 'wrong': wrong, 'sum': total, 'counted': sorted(names)}, f)


if __name__ == '__main__':
    main(sys.argv[1])
