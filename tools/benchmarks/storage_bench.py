"""Storage: random reads from a folder and from a packed file, and the start with a scan or with an index."""

import contextlib
import ctypes
import gc
import importlib.util
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from . import common

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def add_arguments(parser):
    parser.add_argument('--images', metavar='DIR', help='folder of images; without it they are rendered')
    parser.add_argument('--count', type=int, metavar='N', help='images rendered (default: 1500, with --quick 300)')
    parser.add_argument('--reads', type=int, metavar='N', help='images per round (default: 400, with --quick 100)')
    parser.add_argument('--names', type=int, metavar='N',
                        help='empty files of the listed folder (default: 200000, with --quick 20000)')
    parser.add_argument('--latency', type=float, metavar='MS', default=2.0,
                        help='emulated time of opening a file, for one row of the table')
    parser.add_argument('--scratch', metavar='DIR',
                        help='folder on the disk to measure (default: the temporary folder)')


def render(folder, count, side=(375, 500)):
    """JPEGs of about 110 KB, as ImageNet has them: smooth shapes and some noise."""
    import cv2
    import numpy as np
    rng = np.random.default_rng(0)
    for k in range(count):
        base = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), side[::-1], interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 12, (*side, 3))
        image = np.clip(base + noise, 0, 255).astype(np.uint8)
        sub = os.path.join(folder, f'{k % 10:02d}')
        os.makedirs(sub, exist_ok=True)
        cv2.imwrite(os.path.join(sub, f'{k:06d}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


def resident(path):
    """(pages of the file in the system's cache, all of its pages); None where that cannot be asked."""
    size = os.path.getsize(path)
    if size == 0:
        return 0, 0
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(path, 'rb') as f, mmap.mmap(f.fileno(), size, mmap.MAP_PRIVATE) as view:
            first = ctypes.c_char.from_buffer(view)
            pages = -(-size // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * pages)()
            code = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), states)
            del first
            return (sum(s & 1 for s in states), pages) if code == 0 else None
    except (AttributeError, OSError, ValueError, TypeError):
        return None


def drop(paths):
    """Ask the system to forget the contents of `paths`, which must be on the disk (os.sync).

    Returns: the share of pages that it kept all the same (of some files, if they are many), or None if unknown.
    """
    if not hasattr(os, 'posix_fadvise'):
        return None
    for path in paths:
        with open(path, 'rb') as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = [resident(p) for p in (paths if len(paths) < 50 else paths[::len(paths) // 50])]
    if any(f is None for f in found):
        return None
    return sum(f[0] for f in found) / max(1, sum(f[1] for f in found))


def load_tool():
    spec = importlib.util.spec_from_file_location('pack_dataset', os.path.join(ROOT, 'tools', 'pack_dataset.py'))
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


class Reads:
    """Random reads of one data set: `kind` is 'folder' or 'packed'."""

    def __init__(self, kind, dataroot, reads):
        self.kind, self.dataroot, self.reads, self.turn = kind, dataroot, reads, 0
        self.open()

    def open(self):
        from passl.datasets import build_dataset
        name = 'UnlabelledFolder' if self.kind == 'folder' else 'PackedImages'
        self.dataset = build_dataset({'name': name, 'dataroot': self.dataroot})

    def files(self):
        return list(self.dataset.samples) if self.kind == 'folder' else [self.dataroot]

    def seconds(self, decode=False, latency=0.0):
        """Per image, of a new random choice each time; both kinds choose alike."""
        self.turn += 1
        count = len(self.dataset)
        order = random.Random(self.turn).choices(range(count), k=self.reads)
        call = self.dataset.load if decode else self.dataset.read_bytes
        start = time.perf_counter()
        for index in order:
            if latency and self.kind == 'folder':
                time.sleep(latency)
            call(index)
        return (time.perf_counter() - start) / self.reads

    def cold(self, kept):
        files = self.files()
        self.dataset = None
        gc.collect()                    # a file that is mapped somewhere stays in the cache
        kept.append(drop(files))
        self.open()
        return self.seconds()


def measure_reads(args, scratch):
    folder, rounds = args.images, args.rounds or (3 if args.quick else 7)
    if not folder:
        folder = os.path.join(scratch, 'images')
        render(folder, args.count or (300 if args.quick else 1500))
    packed = os.path.join(scratch, 'packed.lmdb')
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        code = load_tool().main([folder, '--unlabelled', '--output', packed])
    if code:
        raise SystemExit(code)
    seconds = time.perf_counter() - start
    reads = args.reads or (100 if args.quick else 400)
    getattr(os, 'sync', int)()
    both = {kind: Reads(kind, root, reads) for kind, root in (('folder', folder), ('packed', packed))}
    count = len(both['folder'].dataset)
    size = sum(os.path.getsize(p) for p in both['folder'].files())
    kept = []
    latency = args.latency / 1e3
    cases = {'bytes, in the cache of the system': lambda r: r.seconds(),
             'bytes and decoding, in the cache': lambda r: r.seconds(decode=True),
             'bytes, contents not in the cache': lambda r: r.cold(kept)}
    if latency > 0:
        cases[f'bytes, EMULATED: a sleep of {args.latency:g} ms for every opening of a file'] = \
            lambda r: r.seconds(latency=latency)
    raw, rows = {}, []
    for title, call in cases.items():
        times = common.interleave({k: lambda r=r, call=call: call(r) for k, r in both.items()}, rounds)
        raw[title] = times
        micro = {k: common.summary([t * 1e6 for t in v]) for k, v in times.items()}
        rows.append([title, common.text(micro['folder'], 0), common.text(micro['packed'], 0),
                     common.text(common.ratio(times['folder'], times['packed']), 2)])
    known = [k for k in kept if k is not None]
    if not known:
        note = 'whether the cache was emptied is unknown here, so that the third row means nothing'
    else:
        note = f'third row: at most {100 * max(known):.0f} % of the pages were cached; directories and inodes were'
    title = (f'Random reads of {count} images ({size / count / 1024:.0f} KiB each; us per image; {note}). Packing: '
             f'{seconds:.1f} s, {os.path.getsize(packed) / size:.3f} of the bytes of the folder')
    facts = {'images': count, 'bytes': size, 'packed_bytes': os.path.getsize(packed), 'packing_seconds': seconds,
             'kept_in_cache': known, 'seconds_per_image': raw}
    both.clear()
    return (title, ['', 'folder', 'packed', 'folder / packed'], rows), facts


CHILD = """
import gc, json, os, sys, time
sys.path.insert(0, sys.argv[1])
from passl.utils.paddle_env import require_paddle
require_paddle()
from passl.datasets import build_dataset

def private():
    with open('/proc/self/smaps_rollup') as f:
        return sum(int(line.split()[1]) for line in f if line.startswith('Private')) / 1024

def memory():
    try:
        return private()
    except OSError:
        return float('nan')

kind, root, file = sys.argv[2:5]
gc.collect()
before = memory()
start, cpu = time.perf_counter(), time.process_time()
samples = build_dataset({'name': 'ImageFolder', 'dataroot': root, 'index': file if kind == 'index' else False}).samples
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
if kind == 'list':
    samples = [(path, label) for path, label in samples]
gc.collect()
main, worker = memory() - before, float('nan')
if hasattr(os, 'fork'):                  # a worker that reads every entry once
    get, put = os.pipe()
    if os.fork() == 0:
        before = memory()
        for i in range(len(samples)):
            samples[i]
        os.write(put, repr(memory() - before).encode())
        os._exit(0)
    worker = float(os.read(get, 99))
print(json.dumps({'seconds': seconds, 'cpu': cpu, 'main': main, 'worker': worker, 'count': len(samples)}))
"""


def start_up(kind, root, file):
    import json
    done = subprocess.run([sys.executable, '-c', CHILD, ROOT, kind, root, file], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'), check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_index(args, scratch):
    names, rounds = args.names or (20000 if args.quick else 200000), args.rounds or (2 if args.quick else 5)
    root, file = os.path.join(scratch, 'names'), os.path.join(scratch, 'index.npz')
    folders = max(1, min(1000, names // 20))
    for k in range(folders):
        os.makedirs(os.path.join(root, f'n{k:08d}'))
    for i in range(names):
        k = i % folders
        path = os.path.join(root, f'n{k:08d}', f'n{k:08d}_{i // folders:05d}.JPEG')
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    time.sleep(2.1)                     # younger folders get no index
    start_up('index', root, file)
    found = {kind: [] for kind in ('list', 'scan', 'index')}
    for _ in range(rounds):
        for kind, figures in found.items():
            figures.append(start_up(kind, root, file))
    rows = []
    for kind, label in (('scan', 'scan'), ('index', 'index')):
        times = {k: common.summary([f[k] for f in found[kind]]) for k in ('seconds', 'cpu')}
        rows.append([label, common.text(times['seconds'], 2), common.text(times['cpu'], 2)])
    paths = [['list of (str, int)'], ['PathList']]
    for row, kind in zip(paths, ('list', 'scan')):
        row += [common.text(common.summary([f[k] for f in found[kind]]), 1) for k in ('main', 'worker')]
    return [(f'Start with {names} names in {folders} folders (directories in the cache; the index file has '
             f'{os.path.getsize(file) / 2**20:.1f} MiB)', ['', 'seconds', 'CPU seconds'], rows),
            ('Memory of these names (MiB; the second: what every forked worker copies on reading them all)',
             ['', 'main process', 'each worker'], paths)], {'names': names, 'starts': found}


def run(args):
    """{'tables', 'reads', 'index'}: see the tables' titles."""
    sys.path.insert(0, ROOT) if ROOT not in sys.path else None
    from passl.utils.paddle_env import require_paddle
    require_paddle()
    scratch = tempfile.mkdtemp(prefix='storage_bench_', dir=args.scratch)
    try:
        reads, read_facts = measure_reads(args, scratch)
        index, index_facts = measure_index(args, scratch)
    finally:
        shutil.rmtree(scratch)
    return {'tables': [reads, *index], 'reads': read_facts, 'index': index_facts}
