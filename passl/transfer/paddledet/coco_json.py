"""The annotations of a COCO set as our reader has understood them, written anew for PaddleDetection."""

import json
from typing import Any

from ...datasets.labelled.coco import CocoDetection
from ...utils.errors import DataError
from ...utils.files import whole_file
from .masks import outlines


def write_coco(found: CocoDetection, path: str, redraw: bool) -> list[str]:
    """Write a clean file, which PaddleDetection gets in place of the user's.

    It keeps one annotation per id, takes 0 for 'no match', drops boxes whose `area` is 0 and takes `iscrowd` for
    granted: ids count from 1 here, and nothing is missing. Objects have segmentations only if the masks are wanted.

    Args:
        found: the set.
        path: of the new file.
        redraw: run-length masks become outlines, the only ones that PaddleDetection trains from; crowds stay.

    Returns:
        list of sentences for the log.

    Raises:
        DataError: a mask that cannot be drawn.
    """
    file, redrawn, holes = found.file, 0, 0
    annotations: list[dict[str, Any]] = []
    for k, image_id in enumerate(file.image_ids):
        boxes, target = found.exact_boxes(k), found.target(k)
        for (x0, y0, x1, y1), label, crowd, number in zip(boxes.tolist(), target['labels'].tolist(),
                                                          target['crowd'].tolist(), found.objects_of(k).tolist()):
            size = round(x1 - x0, 4), round(y1 - y0, 4)
            new = {'id': len(annotations) + 1, 'image_id': image_id, 'category_id': found.category_ids[label],
                   'iscrowd': int(crowd), 'bbox': [x0, y0, *size], 'area': file.areas[number] or size[0] * size[1]}
            if found.with_masks:
                try:
                    shape, filled = _segmentation(file.segments, number, file.sizes[k], redraw and not crowd)
                except DataError as e:
                    raise DataError(f"'{file.path}': annotation {number}: {e}.") from None
                if not shape:                       # run lengths without a single pixel
                    continue
                redrawn, holes = redrawn + (filled is not None), holes + bool(filled)
                new['segmentation'] = shape
            annotations.append(new)
    content = {'info': {}, 'licenses': [], 'annotations': annotations,
               'images': [{'id': i, 'file_name': name, 'height': h, 'width': w}
                          for i, name, (h, w) in zip(file.image_ids, file.names, file.sizes)],
               'categories': [{'id': i, 'name': name} for i, name in zip(found.category_ids, found.classes)]}
    with whole_file(path, 'w', encoding='utf-8') as f:
        json.dump(content, f)
    said = [f'{redrawn} run-length masks were turned into outlines for the training ({holes} of them had holes, which '
            'outlines fill); the evaluation uses the masks themselves'] if redrawn else []
    return said


def _segmentation(segments, number, size, redraw):
    """(what COCO's format has for an object, None or, where run lengths were redrawn, whether holes were filled)."""
    runs = segments.runs(number)
    if runs is None:
        return [p.ravel().tolist() for p in segments.polygons(number)], None
    runs = {'size': list(size), 'counts': runs if isinstance(runs, str) else runs.tolist()}
    return outlines(runs) if redraw else (runs, None)
