"""What is at hand: images and their sizes, devices and their memory."""

import os
from typing import Optional, Sequence

import numpy as np

from ..datasets.contents import FRAMES, LeftOut, holds_masks, is_video, without_masks
from ..datasets.folder import check_folder
from ..datasets.image import EXTENSIONS
from ..datasets.listing import list_trees
from ..utils.errors import DataError
from ..utils.logger import get_logger
from ..utils.misc import evenly
from ..utils.paddle_env import local_processes, memory_limit, usable_cores
from .rules import Facts

_SAMPLED = 300              # headers that are read, evenly over the set
_LOOKED_AT, _COLOURS = 20, 32       # images that are read; with so few colours one is no photograph
_OFF_THE_SMALL = 10         # percentile of the short sides: so few images are enlarged


def short_sides(paths: Sequence[str], sampled: int = _SAMPLED) -> np.ndarray:
    """Short sides, in pixels, of some of the images that can be opened: int64 [n], n <= `sampled`; headers alone."""
    from PIL import Image
    sides = []
    for i in evenly(len(paths), sampled):
        try:
            with Image.open(paths[i]) as img:
                sides.append(min(img.size))
        except Exception:           # told by name when it is met in training
            continue
    return np.asarray(sides, np.int64)


def look_at_images(data: str) -> tuple[int, int, list[str], int]:
    """(number of images below the folder `data`, short side in pixels of the small ones, the folders that hold them,
    how many images are left out since the names of their folders say masks).

    Raises:
        DataError: no such folder, no images, or none of them can be opened.
    """
    if os.path.isfile(data):
        how = f'a video: write its frames as images first ({FRAMES}), and name that folder' if is_video(data) else \
            'a file: name the folder that holds the images'
        raise DataError(f"DATA: '{data}' is {how}.")
    root, left_out = check_folder(data, 'DATA'), LeftOut()
    paths, counts = list_trees([root], left_out=left_out.add)
    if not int(counts.sum()):
        why = ''.join(f' {part}' for part in (left_out.words() and f'Left out: {left_out.words()}.',
                                              left_out.unread_pictures()) if part)
        raise DataError(f"'{root}' holds no images.{why} Name a folder with images, flat or nested; known endings: "
                        f"{' '.join(EXTENSIONS)}.")
    roots, masks = without_masks(paths, root)
    if masks:
        paths, counts = list_trees(roots)
    sides = short_sides(paths)
    if not len(sides):
        raise DataError(f"None of {min(len(paths), _SAMPLED)} files of '{root}' that were looked at is an image that "
                        f'can be opened. `passl check-data {data}` says what is wrong with each.')
    looked = min(len(paths), _SAMPLED)
    if len(sides) < looked:
        get_logger().warning('%d of %d files that were looked at cannot be opened; `passl check-data %s` names them.',
                             looked - len(sides), looked, data)
    doubt = masks_alone(paths, root)
    if doubt:
        get_logger().warning('%s', doubt)
    return int(counts.sum()), int(np.percentile(sides, _OFF_THE_SMALL)), roots, masks


def masks_alone(paths: Sequence[str], root: str) -> str:
    """A sentence if the images of the folder `root` seem to be masks, by its name or by their few colours; or ''.

    (Masks beside images are left out, or told by the training: see `datasets.contents`.)
    """
    from PIL import Image
    flat = looked = 0
    for i in evenly(len(paths), _LOOKED_AT):
        try:
            with Image.open(paths[i]) as img:
                pixels = np.asarray(img.convert('RGB').resize((64, 64), Image.Resampling.NEAREST)).reshape(-1, 3)
        except Exception:           # told elsewhere
            continue
        looked += 1
        flat += len(np.unique(pixels, axis=0)) <= _COLOURS
    if holds_masks(os.path.basename(os.path.abspath(root))):
        what = f"'{root}' is a folder of masks by its name"
    elif looked and 2 * flat > looked:
        what = f"'{root}' may hold masks or drawings: {flat} of {looked} images that were looked at have at most " \
               f'{_COLOURS} colours'
    else:
        return ''
    return f'{what}. A pre-training learns from photographs: name the folder of the images.'


def host_memory() -> int:
    """Bytes that are free on this machine (or in this container), over its processes of the job."""
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    try:
        with open('/proc/meminfo') as f:
            free = next(int(line.split()[1]) * 1024 for line in f if line.startswith('MemAvailable'))
    except (OSError, StopIteration, ValueError):
        pass
    return min(free, memory_limit() or free) // local_processes(os.environ)


def look_at_device(no_cuda: bool) -> tuple[str, int, Optional[str]]:
    """(name, bytes of memory for this process, half precision that is fast there or None)."""
    import paddle

    from ..engine.device import select_device
    from ..modules.cpu import bfloat16
    name = select_device(None, no_cuda)
    if not name.startswith('gpu'):
        half = 'bfloat16' if name == 'cpu' and not bfloat16.why_not() else None
        return name.partition(':')[0], host_memory(), half
    capability = paddle.device.cuda.get_device_capability()[0]
    half = 'bfloat16' if capability >= 8 else 'float16' if capability == 7 else None
    return 'gpu', paddle.device.cuda.get_device_properties().total_memory, half


def facts_of(data: str, started: bool, no_cuda: bool = False) -> Facts:
    """What the plan depends on, for this process of the job, but for the backbone's depth."""
    images, side, roots, masks = look_at_images(data)
    device, memory, half = look_at_device(no_cuda)
    processes = int(os.environ.get('PADDLE_TRAINERS_NUM') or 1)
    cores = max(1, usable_cores() // local_processes(os.environ))
    return Facts(images, side, device, memory, processes, cores, half, started=started, roots=tuple(roots), masks=masks)
