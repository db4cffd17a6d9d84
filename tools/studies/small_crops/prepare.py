"""What the study makes of the data: the list of photographs without labels, and masks of eight classes."""

import os

import cv2
import numpy as np

from passl.utils.errors import DataError

POOL = (('clothing10', 'train'), ('ccp59', 'images', 'train'))
HELD_OUT = (('ccp59', 'images', 'val'),)
IGNORE = 255


def value_table(names, classes):
    """uint8 [256]: value in a mask of many classes -> number of the merged class, 255 for those that are in none.

    Args:
        names: the many classes, in the order of their values.
        classes: {merged class: [many classes]}.

    Raises:
        DataError: a class that is unknown, or in two merged classes.
    """
    table = np.full(256, IGNORE, np.uint8)
    for number, (merged, members) in enumerate(classes.items()):
        for name in members:
            if name not in names:
                raise DataError(f"The class '{name}' of '{merged}' is not in labels.txt of ccp59. Mend study.yaml.")
            if table[names.index(name)] != IGNORE:
                raise DataError(f"The class '{name}' is in '{merged}' and in another one. Mend study.yaml.")
            table[names.index(name)] = number
    return table


def files_below(data, folders):
    """Names, relative to `data`, of all images below the folders, sorted folder by folder. Raises DataError."""
    found = []
    for parts in folders:
        top = os.path.join(data, *parts)
        if not os.path.isdir(top):
            raise DataError(f"There is no folder '{top}': --data names the folder that holds clothing10, ccp59 and "
                            'nuclei (docs/BENCHMARKS.md).')
        for folder, _, names in sorted(os.walk(top)):
            found += [os.path.relpath(os.path.join(folder, n), data) for n in sorted(names)
                      if n.lower().endswith(('.jpg', '.jpeg', '.png'))]
    return found


def _write_list(path, names):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(''.join(f'{name}\n' for name in names))


def prepare(data, made, classes):
    """Write `pool.txt`, `held_out.txt` and the data set `ccp8` into the folder `made`.

    Returns:
        how many images the pool has.
    """
    os.makedirs(made, exist_ok=True)
    pool = files_below(data, POOL)
    _write_list(os.path.join(made, 'pool.txt'), pool)
    _write_list(os.path.join(made, 'held_out.txt'), files_below(data, HELD_OUT))
    with open(os.path.join(data, 'ccp59', 'labels.txt'), encoding='utf-8') as f:
        names = [line.split()[-1] for line in f if line.strip()]         # '19 hair'
    table, out = value_table(names, classes), os.path.join(made, 'ccp8')
    for name in files_below(data, [('ccp59', 'masks')]):
        target = os.path.join(out, os.path.relpath(name, 'ccp59'))
        if not os.path.isfile(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            mask = cv2.imread(os.path.join(data, name), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(target, table[mask])
    _write_list(os.path.join(out, 'labels.txt'), classes)
    if not os.path.exists(os.path.join(out, 'images')):
        os.symlink(os.path.abspath(os.path.join(data, 'ccp59', 'images')), os.path.join(out, 'images'))
    return len(pool)
