"""COCO json files: checked before anything starts, and completed for PaddleDetection in a copy."""

import json
import os

from ...utils.errors import DataError
from .masks import outlines

_SHOWN = 5


def read_coco(path):
    """The content of an annotation file.

    Raises:
        DataError: missing, no JSON, or without images, annotations or categories.
    """
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
    except OSError as e:
        raise DataError(f"Cannot read the annotations '{path}': {e.strerror or e}.") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"'{path}' is no JSON file: {e}.") from None
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            raise DataError(f"'{path}' is no COCO annotation file: it needs a list '{key}' that is not empty.")
    return content


def check_coco(content, path, image_dir):
    """Compare the annotations with themselves and with the image folder.

    Returns:
        list of sentences about what PaddleDetection will leave out (boxes without area); empty if nothing.

    Raises:
        DataError: images that do not exist, annotations of unknown images or classes, missing entries.
    """
    if not os.path.isdir(image_dir):
        raise DataError(f"No image folder '{image_dir}' for '{path}'. Give its parent with --data, and the folder's "
                        'name in the config (TrainDataset.image_dir, EvalDataset.image_dir).')
    for kind, needed in (('images', ('id', 'file_name', 'width', 'height')), ('categories', ('id', 'name')),
                         ('annotations', ('image_id', 'category_id', 'bbox'))):
        for entry in content[kind]:
            lacking = [k for k in needed if not isinstance(entry, dict) or k not in entry]
            if lacking:
                raise DataError(f"'{path}': an entry of '{kind}' has no {' and no '.join(map(repr, lacking))}: "
                                f'{str(entry)[:100]}')
    images = {i['id']: i['file_name'] for i in content['images']}
    absent = sorted(name for name in images.values() if not os.path.isfile(os.path.join(image_dir, name)))
    if absent:
        raise DataError(f"{len(absent)} of {len(images)} images of '{path}' are not in '{image_dir}': "
                        f"{', '.join(absent[:_SHOWN])}{', ...' if len(absent) > _SHOWN else ''}.")
    classes = {c['id'] for c in content['categories']}
    flat = set()
    for a in content['annotations']:
        if a['image_id'] not in images or a['category_id'] not in classes:
            raise DataError(f"'{path}': an annotation names image {a['image_id']} and class {a['category_id']}; one of "
                            'them is not in the file.')
        if len(a['bbox']) != 4 or a['bbox'][2] <= 0 or a['bbox'][3] <= 0:
            flat.add(images[a['image_id']])
    return [f"'{path}': boxes without area in {len(flat)} images are left out: "
            f"{', '.join(sorted(flat)[:_SHOWN])}{', ...' if len(flat) > _SHOWN else ''}"] if flat else []


def complete_coco(content, path, folder, masks):
    """Write what PaddleDetection needs and the file lacks into a copy.

    It takes `area` and `iscrowd` for granted, and trains masks from polygons only: run-length masks become their
    outlines.

    Args:
        content: what `read_coco` gave.
        path: its file.
        folder: for the copy, created when needed.
        masks: the masks are wanted, too.

    Returns:
        (path to give to PaddleDetection: the file itself if it is complete, list of sentences for the log).

    Raises:
        DataError: masks are wanted and there are none.
    """
    changed, redrawn, holes, complete = 0, 0, 0, []
    for a in content['annotations']:
        new = dict(a)
        new.setdefault('iscrowd', 0)
        new.setdefault('area', max(0, a['bbox'][2]) * max(0, a['bbox'][3]))
        if masks and not new.get('segmentation'):
            raise DataError(f"'{path}': annotation {a.get('id')} of image {a['image_id']} has no 'segmentation'. For "
                            'boxes only, use a Faster R-CNN config.')
        if masks and isinstance(new['segmentation'], dict) and not new['iscrowd']:
            polygons, filled = outlines(new['segmentation'], path)
            redrawn, holes = redrawn + 1, holes + filled
            new['segmentation'] = polygons
            if not polygons:
                continue
        changed += new != a
        complete.append(new)
    if not changed and len(complete) == len(content['annotations']):
        return path, []
    os.makedirs(folder, exist_ok=True)
    copy = os.path.join(folder, os.path.basename(path))
    with open(copy, 'w', encoding='utf-8') as f:
        json.dump(dict(content, annotations=complete), f)
    said = [f"'{copy}' is a completed copy of '{path}' ({changed} annotations differ)"]
    if redrawn:
        said.append(f'{redrawn} run-length masks were turned into outlines for the training ({holes} of them had '
                    'holes, which outlines fill); the evaluation uses the masks themselves')
    return copy, said


def class_names(content):
    """Names of the classes, in the order in which PaddleDetection numbers them."""
    return [c['name'] for c in sorted(content['categories'], key=lambda c: c['id'])]
