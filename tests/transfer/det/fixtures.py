"""Pictures of coloured rectangles with annotations, in the layouts of VOC and COCO; and what makes a training tiny."""

import json
import os

import cv2
import numpy as np

COLOURS = {'red': (40, 40, 220), 'blue': (220, 60, 40)}
SMALL_IMAGES = '{target_size: [64, 96], interp: 1, keep_ratio: true}'


def draw(path, rng, height=60, width=80):
    """Write a picture of one to three rectangles; returns [(name of the class, (x1, y1, x2, y2))], ends exclusive."""
    picture = rng.randint(90, 160, (height, width, 3)).astype(np.uint8)
    objects = []
    for name in rng.choice(list(COLOURS), rng.randint(1, 4)):
        x, y = rng.randint(0, width - 40), rng.randint(0, height - 35)
        w, h = rng.randint(20, 40), rng.randint(20, 35)
        picture[y:y + h, x:x + w] = COLOURS[name]
        objects.append((str(name), (int(x), int(y), int(x + w), int(y + h))))
    assert cv2.imwrite(path, picture)
    return objects


def xml(objects, width=80, height=60):
    """VOC's XML of rectangles."""
    parts = [f'<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
             f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>' for n, (x1, y1, x2, y2), d in objects]
    return (f'<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>{"".join(parts)}'
            '</annotation>')


def write_voc(root, counts=(('VOC2007', 'trainval', 4), ('VOC2012', 'trainval', 2), ('VOC2007', 'test', 3))):
    """A VOCdevkit of rectangles whose classes are `red` and `blue`."""
    rng = np.random.RandomState(0)
    for year, split, count in counts:
        base = os.path.join(root, year)
        for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
            os.makedirs(os.path.join(base, folder), exist_ok=True)
        names = [f'{split}{i:04d}' for i in range(count)]
        for name in names:
            objects = draw(os.path.join(base, 'JPEGImages', name + '.jpg'), rng)
            with open(os.path.join(base, 'Annotations', name + '.xml'), 'w') as f:
                # VOC counts from 1
                f.write(xml([(n, (x1 + 1, y1 + 1, x2, y2), 0) for n, (x1, y1, x2, y2) in objects]))
        with open(os.path.join(base, 'ImageSets/Main', split + '.txt'), 'w') as f:
            f.writelines(name + '\n' for name in names)
    with open(os.path.join(root, 'label_list.txt'), 'w') as f:
        f.write('red\nblue\n')
    return str(root)


def run_length(mask):
    """COCO's uncompressed run-length encoding of a bool mask [H, W]."""
    flat = np.concatenate([[False], mask.flatten(order='F')])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {'size': list(mask.shape), 'counts': [int(c) for c in counts]}


def write_coco(root, counts=(('train', 6), ('val', 3))):
    """Rectangles in COCO json; masks are polygons and run lengths in turn. Class ids are 3 and 7."""
    rng = np.random.RandomState(1)
    ids = {'red': 3, 'blue': 7}
    os.makedirs(os.path.join(root, 'images'))
    os.makedirs(os.path.join(root, 'annotations'))
    for part, count in counts:
        images, annotations = [], []
        for i in range(count):
            name = f'{part}{i}.png'
            images.append({'id': i + 1, 'file_name': name, 'width': 80, 'height': 60})
            for n, (x1, y1, x2, y2) in draw(os.path.join(root, 'images', name), rng):
                mask = np.zeros((60, 80), bool)
                mask[y1:y2, x1:x2] = True
                outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
                annotations.append({'id': len(annotations) + 1, 'image_id': i + 1, 'category_id': ids[n], 'iscrowd': 0,
                                    'area': (x2 - x1) * (y2 - y1), 'bbox': [x1, y1, x2 - x1, y2 - y1],
                                    'segmentation': run_length(mask) if len(annotations) % 2 else outline})
        with open(os.path.join(root, 'annotations', f'instances_{part}.json'), 'w') as f:
            json.dump({'images': images, 'annotations': annotations,
                       'categories': [{'id': v, 'name': k} for k, v in ids.items()]}, f)
    return str(root)


def tiny(*more):
    """Command-line overrides for pictures of 64 px, few proposals and few regions."""
    transforms = [f'{reader}.sample_transforms.1={{Resize: {SMALL_IMAGES}}}' for reader in
                  ('TrainReader', 'EvalReader', 'TestReader')]
    few = '{min_size: 0.0, nms_thresh: 0.7, pre_nms_top_n: 50, post_nms_top_n: 12}'
    settings = [*transforms, 'total_batch=2', 'worker_num=0', 'log_iter=1', 'BBoxAssigner.batch_size_per_im=8',
                'seed=1', 'RPNHead.train_proposal.pre_nms_top_n=50', 'RPNHead.train_proposal.post_nms_top_n=12',
                f'RPNHead.test_proposal={few}', *more]
    return [word for s in settings for word in ('-o', s)]
