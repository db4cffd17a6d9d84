"""Images per second and core of the two-view pipeline, beside torchvision's and PASSL v1's."""

import functools
import os
import random
import shutil
import sys
import tempfile

import cv2
import numpy as np

from . import baselines_data as baselines
from . import common
from .jobs import Job, JobError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = os.path.join(ROOT, 'configs', '_base_', 'datasets', 'imagenet_two_view.yaml')
OURS, OURS_UINT8 = 'this project, float32', 'this project, uint8 transport'
PIL, V1, TORCHVISION = "torchvision's formulas on Pillow", 'recipe of PASSL v1', 'torchvision'


def add_arguments(parser):
    parser.add_argument('--images', metavar='DIR', help='photographs to use; rendered images of 500 x 375 if left out')
    parser.add_argument('--torch-python', metavar='FILE', help='a Python with torchvision, to compare with it')


def render(path, width, height, seed, quality=90):
    """Write a JPEG with the statistics of a photograph: edges, shading, and detail at all scales."""
    rng = np.random.RandomState(seed)
    img = np.full((height, width, 3), rng.randint(60, 190, 3), np.float32)
    for _ in range(12):
        centre, axes = rng.rand(2) * (width, height), (0.05 + 0.2 * rng.rand(2)) * width
        cv2.ellipse(img, tuple(map(int, centre)), tuple(map(int, axes)), float(rng.rand() * 360), 0, 360,
                    rng.randint(20, 230, 3).tolist(), -1, cv2.LINE_AA)
    cells = 3
    while cells < width / 2:
        rows = cells * height // width + 1
        noise = rng.randn(rows, cells, 1) + 0.3 * rng.randn(rows, cells, 3)
        img += (7 + 40 / cells) * cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    ok, data = cv2.imencode('.jpg', np.clip(img, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    with open(path, 'wb') as f:
        f.write(data.tobytes())
    return path


def recipe():
    """The dataset node of the shipped two-view configuration, without its name and folder."""
    from passl.utils.config import load_config
    node = dict(load_config(CONFIG)['dataloader']['train']['dataset'])
    return {k: v for k, v in node.items() if k not in ('name', 'dataroot')}


def own_dataset(folder, **more):
    from passl.datasets import build_dataset
    return build_dataset({**recipe(), 'name': 'UnlabelledFolder', 'dataroot': folder, **more})


def own_case(folder, transport):
    """The function indices -> batch of this project, as a worker of its loader computes it."""
    from passl.datasets import SampleKey
    from passl.datasets.base import generators_kept
    from passl.datasets.transport import build_transport
    dataset = own_dataset(folder)
    collate, _ = build_transport(dataset, transport, 'cpu', 'transport')

    def batch(indices):
        with generators_kept():
            return collate([dataset[SampleKey(int(i), 0)] for i in indices])
    return batch


def torchvision_job(python):
    """A worker with torchvision, or None where `python` has none."""
    try:
        return Job(TORCHVISION, [python, baselines.__file__], {'OMP_NUM_THREADS': '1'})
    except (JobError, OSError):
        return None


def speed(folder, args, rounds):
    """Times of every pipeline on batches of the same files, in turns; (table, raw figures)."""
    dataset = own_dataset(folder)
    paths = list(dataset.samples)
    n, turn = 8 if args.quick else 32, {}
    worker = torchvision_job(args.torch_python or sys.executable)
    own = {OURS: own_case(folder, 'float32'), OURS_UINT8: own_case(folder, 'uint8')}
    others = {PIL: baselines.batch, V1: baselines.passl_v1_batch()}

    def indices(name):
        turn[name] = turn.get(name, -1) + 1
        return np.arange(turn[name] * n, (turn[name] + 1) * n) % len(paths)

    cases = {name: functools.partial(lambda name, f: baselines.cpu_seconds(f, indices(name)), name, f)
             for name, f in own.items()}
    for name, f in others.items():
        cases[name] = functools.partial(
            lambda name, f: baselines.cpu_seconds(f, [paths[i] for i in indices(name)]), name, f)
    if worker:
        cases[TORCHVISION] = lambda: worker.ask('seconds', [paths[i] for i in indices(TORCHVISION)])
    try:
        times = common.interleave(cases, rounds)
    finally:
        if worker:
            worker.__exit__()
    rows = []
    for name in cases:
        rows.append([name, common.text(common.summary([n / t for t in times[name]]), 0)]
                    + [common.text(common.ratio(times[name], times[own_name]), 2) for own_name in own])
    size = np.mean([os.path.getsize(p) for p in paths]) / 1024
    title = f'Two 224-pixel views per image, one core ({len(paths)} JPEGs of {size:.0f} KiB)'
    header = ['pipeline', 'images/s/core', 'CPU time / ours (float32)', 'CPU time / ours (uint8)']
    return (title, header, rows), {'seconds_per_image': {k: [t / n for t in v] for k, v in times.items()},
                                   'torchvision': worker.facts['torchvision'] if worker else None}


def stages(folder, args, rounds):
    """Milliseconds of each step, always applied, on this project's and on Pillow's side."""
    from PIL import ImageOps

    from passl.datasets.image import read_image
    from passl.datasets.preprocess import TRANSFORMS, build_transforms
    from passl.datasets.preprocess.tensor import split_normalisation
    paths = list(own_dataset(folder).samples)[:8 if args.quick else 32]
    ours, theirs = [read_image(p) for p in paths], [baselines.decode(p) for p in paths]
    crop = TRANSFORMS.get('RandomResizedCrop')(size=baselines.SIZE, scale=baselines.SCALE)
    views, their_views = [crop(img) for img in ours], [baselines.crop(img) for img in theirs]
    last = split_normalisation(build_transforms(recipe()['view_trans1']).transforms)[1]
    steps = [('decode', read_image, paths, baselines.decode, paths),
             ('crop and resize', crop, ours, baselines.crop, theirs),
             ('colour jitter', TRANSFORMS.get('ColorJitter')(0.4, 0.4, 0.4, 0.1), views, baselines.jitter, their_views),
             ('greyscale', TRANSFORMS.get('RandomGrayscale')(p=1), views, baselines.grey, their_views),
             ('blur', TRANSFORMS.get('GaussianBlur')(sigma=[0.1, 2.0]), views, baselines.blur, their_views),
             ('flip', TRANSFORMS.get('RandomHorizontalFlip')(p=1), views, ImageOps.mirror, their_views),
             ('layout and normalise', last, views, baselines.finish, their_views)]
    rows, raw = [], {}
    for name, own, own_images, other, other_images in steps:
        def run(f, images):
            random.seed(0)
            return baselines.cpu_seconds(lambda: [f(img) for img in images]) / len(images) * 1e3
        times = common.interleave({'ours': lambda: run(own, own_images), 'Pillow': lambda: run(other, other_images)},
                                  rounds)
        raw[name] = times
        rows.append([name] + [common.text(common.summary(times[k]), 3) for k in ('ours', 'Pillow')]
                    + [common.text(common.ratio(times['Pillow'], times['ours']), 1)])
    return ('Milliseconds per image or view, each step always applied', ['step', 'ours', 'Pillow', 'ratio'], rows), raw


def run(args):
    sys.path.insert(0, ROOT)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    cv2.setNumThreads(0)
    from passl.utils.paddle_env import require_paddle
    require_paddle()
    rounds = args.rounds or (2 if args.quick else 9)
    folder = tempfile.mkdtemp()
    try:
        images = args.images
        if not images:
            images = os.path.join(folder, 'photos')
            os.makedirs(images)
            for k in range(16 if args.quick else 64):
                render(os.path.join(images, f'{k:02d}.jpg'), *((500, 375) if k % 4 else (375, 500)), k)
        tables, raw = [], {}
        for name, measured in (('speed', speed(images, args, rounds)), ('stages', stages(images, args, rounds))):
            tables.append(measured[0])
            raw[name] = measured[1]
    finally:
        shutil.rmtree(folder)
    left_out = [] if raw['speed']['torchvision'] else [
        f'data, {TORCHVISION}: it is not in {args.torch_python or "this Python"}; give another one with --torch-python '
        'FILE']
    return {'tables': tables, 'left_out': left_out, **raw}
