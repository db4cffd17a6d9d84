"""Images per second and core of the two-view pipeline, beside torchvision's and PASSL v1's."""

import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from passl.utils.paddle_env import usable_cores

from . import baselines_data as baselines
from . import common

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


class Worker:
    """torchvision in another Python; `seconds(paths)` is its CPU time."""

    def __init__(self, python):
        self.process = subprocess.Popen([python, baselines.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"--torch-python: '{python}' cannot run torchvision (see above).")
        self.version = json.loads(line)

    def seconds(self, paths):
        self.process.stdin.write(json.dumps(paths) + '\n')
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def speed(folder, args, rounds):
    """Times of every pipeline on batches of the same files, in turns; (table, raw figures)."""
    dataset = own_dataset(folder)
    paths = list(dataset.samples)
    n, turn, worker = 8 if args.quick else 32, {}, None
    own = {OURS: own_case(folder, 'float32'), OURS_UINT8: own_case(folder, 'uint8')}
    others = {PIL: baselines.batch, V1: baselines.passl_v1_batch()}
    try:
        if args.torch_python:
            worker = Worker(args.torch_python)
        else:
            others[TORCHVISION] = baselines.torchvision_batch()
    except ImportError:
        pass

    def indices(name):
        turn[name] = turn.get(name, -1) + 1
        return np.arange(turn[name] * n, (turn[name] + 1) * n) % len(paths)

    cases = {name: functools.partial(lambda name, f: baselines.cpu_seconds(f, indices(name)), name, f)
             for name, f in own.items()}
    for name, f in others.items():
        cases[name] = functools.partial(
            lambda name, f: baselines.cpu_seconds(f, [paths[i] for i in indices(name)]), name, f)
    if worker:
        cases[TORCHVISION] = lambda: worker.seconds([paths[i] for i in indices(TORCHVISION)])
    try:
        times = common.interleave(cases, rounds)
    finally:
        if worker:
            worker.close()
    rows = []
    for name in cases:
        rows.append([name, common.text(common.summary([n / t for t in times[name]]), 0)]
                    + [common.text(common.ratio(times[name], times[own_name]), 2) for own_name in own])
    size = np.mean([os.path.getsize(p) for p in paths]) / 1024
    title = f'Two 224-pixel views per image, one core ({len(paths)} JPEGs of {size:.0f} KiB)'
    header = ['pipeline', 'images/s/core', 'CPU time / ours (float32)', 'CPU time / ours (uint8)']
    return (title, header, rows), {'seconds_per_image': {k: [t / n for t in v] for k, v in times.items()},
                                   'torchvision': worker.version if worker else None}


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


def workers(folder, many, args):
    """Wall-clock images/s of the loader with one and two worker processes; `many` is an empty folder."""
    from passl.datasets import build_dataloader
    rows, raw, n = [], {}, 16
    paths = [os.path.abspath(p) for p in own_dataset(folder).samples]
    for k in range(256 if args.quick else 1024):
        os.symlink(paths[k % len(paths)], os.path.join(many, f'{k:04d}.jpg'))
    for transport in ('float32', 'uint8'):
        for count in (1, 2):
            loader = build_dataloader({'loader': {'num_workers': count, 'transport': transport},
                                       'sampler': {'batch_size': n, 'shuffle': True},
                                       'dataset': {**recipe(), 'name': 'UnlabelledFolder', 'dataroot': many}})
            loader.handed_over = True           # as in training: the model normalises
            times = []
            for _ in loader:
                times.append(time.perf_counter())
            skip = 3 * count                    # their start, and what they prepared meanwhile
            raw[f'{transport} {count}'] = rate = (len(times) - 1 - skip) * n / (times[-1] - times[skip])
            rows.append([transport, count, f'{rate:.0f}'])
    title = f'Images per second of the loader (wall clock, {usable_cores()} cores)'
    return (title, ['transport', 'workers', 'images/s'], rows), raw


def big_images(folder, args, rounds):
    """CPU time with and without reduced decoding, and how far the views are apart."""
    from passl.datasets import SampleKey
    for k in range(2 if args.quick else 6):
        render(os.path.join(folder, f'{k}.jpg'), 4000, 3000, k)
    last = {}
    sets = {name: own_dataset(folder, reduced_decoding=on) for name, on in (('in full', False), ('reduced', True))}
    for dataset in sets.values():
        dataset.leave_normalisation()

    def run(name):
        last[name] = [sets[name][SampleKey(i, 0)] for i in range(len(sets[name]))]
    times = common.interleave({name: functools.partial(baselines.cpu_seconds, run, name) for name in sets}, rounds, 0)
    apart = np.mean([np.abs(np.subtract(a, b, dtype=np.int16)).mean()
                     for a, b in zip(last['in full'], last['reduced'])])
    n = len(sets['reduced'])
    rows = [[name, common.text(common.summary([t / n * 1e3 for t in times[name]]), 1),
             common.text(common.ratio(times['in full'], times[name]), 1)] for name in sets]
    title = f'JPEGs of 4000 x 3000: views differ by {apart:.2f} levels on average'
    return (title, ['decoding', 'CPU ms per image', 'gain'], rows), {'seconds': times, 'mean_difference': float(apart)}


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
        big, many = os.path.join(folder, 'big'), os.path.join(folder, 'many')
        os.makedirs(big)
        os.makedirs(many)
        tables, raw = [], {}
        for name, measured in (('speed', speed(images, args, rounds)), ('stages', stages(images, args, rounds)),
                               ('workers', workers(images, many, args)),
                               ('big_images', big_images(big, args, min(rounds, 3)))):
            tables.append(measured[0])
            raw[name] = measured[1]
    finally:
        shutil.rmtree(folder)
    return {'tables': tables, **raw}
