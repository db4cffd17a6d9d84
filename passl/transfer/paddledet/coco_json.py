"""COCO json files: checked before anything starts, and completed for PaddleDetection in a copy."""

import json
import os

from ...datasets.labelled.coco import image_paths
from ...datasets.labelled.coco_json import CocoFile, read_json
from ...utils.errors import DataError, listed
from .masks import outlines


def read_coco(path):
    """(content, CocoFile) of an annotation file.

    Raises:
        DataError: missing, no JSON, without images or annotations, or with an entry that is wrong.
    """
    if not os.path.isfile(path):
        raise DataError(f"Cannot read the annotations '{path}': there is no such file.")
    content = read_json(path)
    file = CocoFile(path, content)
    for key in ('images', 'annotations'):
        if not content[key]:
            raise DataError(f"'{path}' has no {key}.")
    return content, file


def check_coco(file, image_dir):
    """Compare a CocoFile with the image folder.

    Returns:
        list of sentences about what PaddleDetection will leave out (boxes without area); empty if nothing.

    Raises:
        DataError: images that do not exist or lie outside the folder.
    """
    if not os.path.isdir(image_dir):
        raise DataError(f"No image folder '{image_dir}' for '{file.path}'. Give its parent with --data, and the "
                        "folder's name in the config (TrainDataset.image_dir, EvalDataset.image_dir).")
    absent = [n for n, p in zip(file.names, image_paths(image_dir, file)) if not os.path.isfile(p)]
    if absent:
        raise DataError(f"{len(absent)} of {len(file.names)} images of '{file.path}' are not in '{image_dir}': "
                        f'{listed(sorted(absent))}.')
    flat = [n for n, objects in zip(file.names, file.objects) if any(min(box[2:]) <= 0 for _, box, _, _ in objects)]
    return [f"'{file.path}': boxes without area in {len(flat)} images are left out: {listed(sorted(flat))}"] if flat \
        else []


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
