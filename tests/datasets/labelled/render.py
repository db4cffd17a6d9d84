"""Small data sets in the exact layouts and formats of VOC, Cityscapes, COCO, ADE20K and image/mask folders.

Every `render_*` function writes one below `root`, always the same, and returns what it holds: {id: Scene}. Objects are
rectangles, one colour per class on a noisy background, so that a small model can learn them.
"""

import io
import json
import os

import cv2
import numpy as np
from PIL import Image

COLOURS = np.array([[60, 60, 60], [220, 40, 40], [40, 200, 60], [50, 80, 230], [230, 210, 40], [200, 60, 210]])
BORDER = 255


class Scene:
    """image uint8 [H, W, 3]; classes [n]; boxes [n] of (x0, y0, x1, y1), ends exclusive; mask, instances [H, W]."""

    def __init__(self, seed, size=(48, 64), classes=2, objects=3):
        rng = np.random.RandomState(seed)
        height, width = size
        self.classes, self.boxes = [], []
        self.mask = np.zeros(size, np.uint8)
        self.instances = np.zeros(size, np.uint8)
        for k in range(objects):
            w, h = rng.randint(width // 6, width // 3), rng.randint(height // 6, height // 3)
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            self.classes.append(1 + (seed + k) % classes)
            self.boxes.append((x, y, x + w, y + h))
            self.mask[y:y + h, x:x + w] = self.classes[-1]
            self.instances[y:y + h, x:x + w] = k + 1
        noise = rng.randint(-30, 31, (height, width, 3))
        self.image = np.clip(COLOURS[self.mask % len(COLOURS)] + noise, 0, 255).astype(np.uint8)


def write_file(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb' if isinstance(data, bytes) else 'w') as f:
        f.write(data)


def write_image(path, image, **options):
    """By the ending of `path`; JPEG in a quality that keeps colours apart."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(image).save(path, **({'quality': 95, 'subsampling': 0} if path.endswith('.jpg') else {}), **options)


def palette_png(mask, colours=None):
    """The bytes of a palette PNG with the indices `mask`, coloured as VOC colours its masks."""
    if colours is None:
        k = np.arange(256)
        colours = np.stack([sum(((k >> (3 * j + c)) & 1) << (7 - j) for j in range(3)) for c in range(3)], 1)
    img = Image.fromarray(mask)
    img.putpalette(colours.astype(np.uint8).ravel().tolist())
    out = io.BytesIO()
    img.save(out, 'PNG')
    return out.getvalue()


def render_folder(root, train=6, val=3, size=(48, 64), flat=False):
    """images/<split>/*.jpg, masks/<split>/*.png, labels.txt: background, square (1), brick (2); some pixels are 255."""
    root, scenes = str(root), {}
    for split, number, first in (('train', train, 0), ('val', val, 100)):
        for i in range(number):
            scene, name = Scene(first + i, size), f'{first + i:04d}'
            scene.mask[:2] = BORDER
            part = '' if flat else split + '/'
            write_image(f'{root}/images/{part}{name}{".jpg" if i % 2 else ".png"}', scene.image)
            write_image(f'{root}/masks/{part}{name}.png', scene.mask)
            scenes[name] = scene
    write_file(f'{root}/labels.txt', 'background\nsquare\nbrick\n')
    return scenes


VOC_NAMES = ('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
             'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')


def voc_xml(scene, name, names=VOC_NAMES, difficult=()):
    """Annotation file of VOC: corners count from 1, both ends inclusive."""
    height, width = scene.mask.shape
    objects = ''.join(
        f'<object><name>{names[c]}</name><pose>Left</pose><truncated>0</truncated><difficult>{int(k in difficult)}'
        f'</difficult><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax>'
        '</bndbox></object>' for k, (c, b) in enumerate(zip(scene.classes, scene.boxes)))
    return (f'<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename><size><width>{width}</width>'
            f'<height>{height}</height><depth>3</depth></size><segmented>1</segmented>{objects}</annotation>')


def render_voc(root, train=4, val=2, aug=2, size=(48, 64)):
    """A folder VOC2012, with masks of SBD in SegmentationClassAug; the first object of the first image is difficult."""
    root, scenes, lists = str(root), {}, {'train': [], 'val': [], 'aug': []}
    for split, number in (('train', train), ('val', val), ('aug', aug)):
        for i in range(number):
            name = f'2007_{len(scenes):06d}'
            scene = scenes[name] = Scene(len(scenes), size, classes=20 if i % 2 else 2)
            scene.split = split
            edge = cv2.morphologyEx(scene.instances, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
            scene.mask[edge] = scene.instances[edge] = BORDER
            lists[split].append(name)
            write_image(f'{root}/JPEGImages/{name}.jpg', scene.image)
            write_file(f'{root}/Annotations/{name}.xml', voc_xml(scene, name, difficult=(0,) if name.endswith('000000')
                                                                 else ()))
            if split != 'aug':
                write_file(f'{root}/SegmentationClass/{name}.png', palette_png(scene.mask))
                write_file(f'{root}/SegmentationObject/{name}.png', palette_png(scene.instances))
            write_image(f'{root}/SegmentationClassAug/{name}.png', scene.mask)
    parts = {'train': lists['train'], 'val': lists['val'], 'trainval': lists['train'] + lists['val'],
             'trainaug': lists['train'] + lists['aug']}
    for split, ids in parts.items():
        if split != 'trainaug':
            write_file(f'{root}/ImageSets/Main/{split}.txt', ''.join(f'{i}\n' for i in ids))
            for c, name in enumerate(VOC_NAMES[1:], 1):
                write_file(f'{root}/ImageSets/Main/{name}_{split}.txt',
                           ''.join(f'{i} {_voc_label(scenes[i], i, c):2d}\n' for i in ids))
        write_file(f'{root}/ImageSets/Segmentation/{split}.txt', ''.join(f'{i}\n' for i in ids))
    return scenes


def _voc_label(scene, name, number):
    """1 present, -1 absent, 0 only as a difficult object."""
    where = [k for k, c in enumerate(scene.classes) if c == number]
    hard = name.endswith('000000') and where == [0]
    return 0 if hard else 1 if where else -1


# of the trained classes 0 - 18
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def render_cityscapes(root, train=3, val=2, size=(48, 96), train_ids=False):
    """leftImg8bit and gtFine; objects are road, person, car, ...; the rest is 'out of roi' (3), ignored in training.

    `scene.mask` has the classes 0 - 18 and 255; `train_ids`: write labelTrainIds as well.
    """
    root, scenes = str(root), {}
    for split, number, city in (('train', train, 'aachen'), ('val', val, 'munster')):
        for i in range(number):
            scene, name = Scene(len(scenes), size, classes=19), f'{city}_{i:06d}_000019'
            raw = np.array([3, *CITY_IDS], np.uint8)[scene.mask]
            scene.mask = (scene.mask - 1).astype(np.uint8)          # 0 becomes 255
            write_image(f'{root}/leftImg8bit/{split}/{city}/{name}_leftImg8bit.png', scene.image)
            write_image(f'{root}/gtFine/{split}/{city}/{name}_gtFine_labelIds.png', raw)
            if train_ids:
                write_image(f'{root}/gtFine/{split}/{city}/{name}_gtFine_labelTrainIds.png', scene.mask)
            scene.raw, scenes[f'{city}/{name}'] = raw, scene
    return scenes


def render_ade20k(root, train=4, val=2, size=(48, 64)):
    """images and annotations of ADEChallengeData2016 with objectInfo150.txt; `scene.mask` is that of the file."""
    root, scenes = str(root), {}
    for split, number, short in (('training', train, 'train'), ('validation', val, 'val')):
        for i in range(number):
            scene, name = Scene(len(scenes), size, classes=150, objects=4), f'ADE_{short}_{i + 1:08d}'
            write_image(f'{root}/images/{split}/{name}.jpg', scene.image)
            write_image(f'{root}/annotations/{split}/{name}.png', scene.mask)
            scenes[name] = scene
    rows = ''.join(f'{k}\t0.1\t10\t1\tthing {k}, object {k}\n' for k in range(1, 151))
    write_file(f'{root}/objectInfo150.txt', 'Idx\tRatio\tTrain\tVal\tName\n' + rows)
    return scenes


def run_lengths(mask):
    """Uncompressed RLE of COCO: column by column, lengths of runs, the first of zeros."""
    flat = np.concatenate([[0], np.asarray(mask, np.uint8).ravel('F'), [2]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()


def compressed(counts):
    """The text form of an RLE: differences to the last but one, 5 bits per character from '0' on."""
    out = ''
    for k, count in enumerate(counts):
        x = count - counts[k - 2] if k > 2 else count
        while True:
            low, x = x & 31, x >> 5
            more = not (x == -1 if low & 16 else x == 0)
            out += chr(48 + (low | 32 if more else low))
            if not more:
                break
    return out


COCO_CATEGORIES = ((1, 'person'), (3, 'car'), (18, 'dog'))          # numbers with gaps, as in COCO


def render_coco(root, train=4, val=2, size=(48, 64)):
    """train2017, val2017 and annotations/instances_*.json: polygons, both forms of RLE, crowds, an empty image.

    `scene.classes` are 1 - 3 in the order of the categories; the third object of every image is a crowd.
    """
    root, scenes, number = str(root), {}, 0
    for split, images in (('train2017', train), ('val2017', val)):
        content = {'info': {}, 'licenses': [], 'images': [], 'annotations': [],
                   'categories': [{'id': i, 'name': n, 'supercategory': 'x'} for i, n in COCO_CATEGORIES]}
        for i in range(images):
            number += 1
            last = i == images - 1
            scene = Scene(number, size, classes=3, objects=0 if last else 3)
            name = f'{number:012d}.jpg'
            write_image(f'{root}/{split}/{name}', scene.image)
            content['images'].append({'id': number, 'file_name': name, 'height': size[0], 'width': size[1]})
            for k, (c, (x0, y0, x1, y1)) in enumerate(zip(scene.classes, scene.boxes)):
                one = np.zeros(size, np.uint8)
                one[y0:y1, x0:x1] = 1
                runs = run_lengths(one)
                segmentation = [[[x0, y0, x1, y0, x1, y1, x0, y1]],
                                {'size': list(size), 'counts': compressed(runs)},
                                {'size': list(size), 'counts': runs}][k % 3]
                content['annotations'].append({
                    'id': 10 * number + k, 'image_id': number, 'category_id': COCO_CATEGORIES[c - 1][0],
                    'bbox': [x0, y0, x1 - x0, y1 - y0], 'area': float(one.sum()), 'iscrowd': int(k == 2),
                    'segmentation': segmentation})
            scenes[str(number)] = scene
        write_file(f'{root}/annotations/instances_{split}.json', json.dumps(content, default=int))
    return scenes
