"""Small labelled sets whose labels can be seen in the pixels, and files of random backbones."""

import os

import cv2
import numpy as np

COLOURS = np.array([[230, 40, 40], [40, 220, 60], [50, 70, 230], [230, 220, 60]], np.uint8)


def write_masks(root, train=12, val=6, classes=3, side=64, seed=0):
    """A segmentation set of kind 'folder': each quarter of an image is of one class, seen in its colour."""
    rng = np.random.RandomState(seed)
    for split, count in (('train', train), ('val', val)):
        for part in ('images', 'masks'):
            os.makedirs(os.path.join(root, part, split), exist_ok=True)
        for i in range(count):
            quarters = rng.randint(0, classes, (2, 2))
            quarters.flat[rng.randint(4)] = i % classes         # every class somewhere
            mask = np.kron(quarters, np.ones((side // 2, side // 2), int)).astype(np.uint8)
            image = np.clip(COLOURS[mask].astype(int) + rng.randint(-25, 26, mask.shape + (3,)), 0, 255)
            mask[:2] = 255
            cv2.imwrite(os.path.join(root, 'images', split, f'{i:03d}.png'), image[..., ::-1].astype(np.uint8))
            cv2.imwrite(os.path.join(root, 'masks', split, f'{i:03d}.png'), mask)
    with open(os.path.join(root, 'labels.txt'), 'w') as f:
        f.write(''.join(f'colour{c}\n' for c in range(classes)))
    return str(root)


def write_classes(root, train=12, val=6, classes=3, side=40, seed=0):
    """Class folders <root>/{train,val}/colour<k>: one colour each, with noise."""
    rng = np.random.RandomState(seed)
    for split, count in (('train', train), ('val', val)):
        for c in range(classes):
            folder = os.path.join(root, split, f'colour{c}')
            os.makedirs(folder, exist_ok=True)
            for i in range(count):
                image = np.clip(COLOURS[c].astype(int) + rng.randint(-60, 61, (side, side, 3)), 0, 255)
                cv2.imwrite(os.path.join(folder, f'{i:03d}.png'), image[..., ::-1].astype(np.uint8))
    return str(root)


def write_voc(root, train=24, val=12, side=40, seed=0):
    """VOC2007's folders and lists of several labels per image: a red half is an aeroplane, a green one a bicycle.

    Image 0 of each split shows a difficult bicycle.
    """
    from passl.datasets.labelled.voc import CLASSES
    rng = np.random.RandomState(seed)
    for folder in ('JPEGImages', 'ImageSets/Main', 'Annotations'):
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    first = 0
    for split, count in (('trainval', train), ('test', val)):
        ids = [f'{first + i:06d}' for i in range(count)]
        truth = np.full((count, len(CLASSES)), -1)
        for i, name in enumerate(ids):
            there = np.array([i % 4 in (1, 3), i % 4 in (2, 3)])
            image = rng.randint(0, 90, (side, side, 3))
            for c in np.flatnonzero(there):
                image[:, c * side // 2:(c + 1) * side // 2] = COLOURS[c]
            truth[i, :2] = np.where(there, 1, -1)
            cv2.imwrite(os.path.join(root, 'JPEGImages', f'{name}.jpg'), image[..., ::-1].astype(np.uint8))
        truth[0, 1] = 0
        with open(os.path.join(root, 'ImageSets/Main', f'{split}.txt'), 'w') as f:
            f.write('\n'.join(ids) + '\n')
        for c, label in enumerate(CLASSES):
            with open(os.path.join(root, 'ImageSets/Main', f'{label}_{split}.txt'), 'w') as f:
                f.write(''.join(f'{i} {v:2d}\n' for i, v in zip(ids, truth[:, c])))
        first += count
    return str(root)
