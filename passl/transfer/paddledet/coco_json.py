"""COCO json files, completed for PaddleDetection in a copy."""

import json
import os

from ...datasets.labelled.coco_json import CocoFile, read_json
from ...utils.errors import DataError
from .masks import outlines


def complete_coco(file: CocoFile, folder: str, masks: bool) -> tuple[str, list[str]]:
    """Write what PaddleDetection needs and the file lacks into a copy.

    It takes `area` and `iscrowd` for granted, and trains masks from polygons only: run-length masks become their
    outlines.

    Args:
        file: CocoFile.
        folder: for the copy, created when needed.
        masks: the masks are wanted, too.

    Returns:
        (path to give to PaddleDetection: the file itself if it is complete, list of sentences for the log).
    """
    if not file.incomplete and not (masks and file.run_lengths):
        return file.path, []
    content, changed, redrawn, holes, complete = read_json(file.path), 0, 0, 0, []
    for a in content['annotations']:
        new = dict(a)
        new.setdefault('iscrowd', 0)
        new.setdefault('area', max(0, a['bbox'][2]) * max(0, a['bbox'][3]))
        if masks and isinstance(new['segmentation'], dict) and not new['iscrowd']:
            try:
                polygons, filled = outlines(new['segmentation'])
            except DataError as e:
                raise DataError(f"'{file.path}': annotation {a.get('id')}: {e}.") from None
            redrawn, holes = redrawn + 1, holes + filled
            new['segmentation'] = polygons
            if not polygons:
                continue
        changed += new != a
        complete.append(new)
    os.makedirs(folder, exist_ok=True)
    copy = os.path.join(folder, os.path.basename(file.path))
    with open(copy, 'w', encoding='utf-8') as f:
        json.dump(dict(content, annotations=complete), f)
    said = [f"'{copy}' is a completed copy of '{file.path}' ({changed} annotations differ)"]
    if redrawn:
        said.append(f'{redrawn} run-length masks were turned into outlines for the training ({holes} of them had '
                    'holes, which outlines fill); the evaluation uses the masks themselves')
    return copy, said
