"""Run by the launcher in two processes: regions of images, computed by one. Writes <out>/rank<r>.json."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from passl.utils.paddle_env import require_paddle  # noqa: E402

paddle = require_paddle()

from passl.datasets import SampleKey, build_dataset, region_cache  # noqa: E402
from passl.utils.distributed import dist  # noqa: E402
from passl.utils.errors import ConfigError, PasslError  # noqa: E402

LIMIT = 6               # seconds: computing takes longer than the watch lets a process do nothing
superpixels = region_cache.superpixels


def slowly(img, settings):
    time.sleep(0.3)
    return superpixels(img, settings)


def main(images, out):
    paddle.set_device('cpu')
    dist.init(LIMIT)
    region_cache.superpixels = slowly
    region_cache.usable_cores = lambda: 2
    result = {'error': None}
    dataset = build_dataset({'name': 'UnlabelledFolder', 'dataroot': images, 'return_two_sample': True, 'transforms': [
        {'name': 'RandomResizedCrop', 'size': 16}, {'name': 'ToTensor'}]})
    made, make = [], region_cache._make
    region_cache._make = lambda *args: made.append(1) or make(*args)
    start = time.monotonic()
    dataset.carry(('regions',), os.path.join(out, f'of rank {dist.rank()}'))       # only the first one's counts
    result.update(seconds=time.monotonic() - start, made=len(made), path=dataset._region_cache.path,
                  regions=dataset[SampleKey(3, 1)][-1].tolist())
    dataset.regions = dataset.regions._replace(segments=4)
    region_cache._complete = fails
    try:
        dataset.carry(('regions',), os.path.join(out, 'other'))
    except PasslError as e:
        result['error'] = type(e).__name__, str(e)
    with open(os.path.join(out, f'rank{dist.rank()}.json'), 'w') as f:
        json.dump(result, f)
    dist.meet()
    dist.end_watch()


def fails(*_):
    raise ConfigError(f'planted in process {dist.rank()}')


if __name__ == '__main__':
    main(*sys.argv[1:])
