"""The data of a detection run: read by `datasets.labelled`, and put into the config. Needs no PaddleDetection."""

import os
import re
from collections.abc import Sequence
from typing import Any, Optional
from xml.sax.saxutils import escape

from ...datasets.folder import check_folder
from ...datasets.labelled import build_detection
from ...datasets.labelled.checked import check_pairs
from ...datasets.labelled.voc_objects import LABEL_LIST
from ...datasets.labelled.voc_xml import read_annotation
from ...datasets.listing import scan
from ...datasets.text import read_lines
from ...utils.errors import ConfigError, DataError
from .coco_json import write_coco

SECTIONS = {'train': 'TrainDataset', 'eval': 'EvalDataset'}


def prepare_data(cfg: dict[str, Any], data: Optional[str], folder: str,
                 parts: Sequence[str] = ('train', 'eval'), memory: Optional[str] = None) -> tuple[list[str], list[str]]:
    """Check the data that a config names and complete the config with what was found.

    `num_classes: from_data` is replaced by the number of classes. Files that PaddleDetection needs beside the
    user's own are written to `folder`; the data's folder is never written to.

    Args:
        cfg: plain config; changed in place.
        data: folder that replaces every `dataset_dir`, or None.
        folder: where the lists, completed annotations and the names of the classes are written.
        parts: which of 'train' and 'eval' are needed.
        memory: folder where it is remembered which images were read, see `check_pairs`.

    Returns:
        (names of the classes, list of sentences for the log).

    Raises:
        DataError: the layout, a file or an annotation is wrong.
        ConfigError: the number of classes differs from the config's.
    """
    for part in parts:
        section = cfg.get(SECTIONS[part])
        if not isinstance(section, dict):
            raise ConfigError(f"The config has no '{SECTIONS[part]}'.")
        root = data or section.get('dataset_dir')
        if not root:
            raise DataError("Where are the images? Give --data FOLDER, or 'dataset_dir' in the config.")
        section['dataset_dir'] = os.path.abspath(check_folder(root, '--data'))
    os.makedirs(folder, exist_ok=True)
    prepare = _prepare_voc if cfg['metric'] == 'VOC' else _prepare_coco
    prepared, said = [prepare(cfg, os.path.abspath(folder), part, memory) for part in parts], []
    classes = prepared[0][0]
    for found, sentences in prepared:
        said += sentences
        if found != classes:
            raise DataError(f"The annotations of training and evaluation have different classes: "
                            f"{', '.join(classes[:20])} against {', '.join(found[:20])}. Both must list the same.")
    if cfg.get('num_classes') == 'from_data':
        cfg['num_classes'] = len(classes)
    if cfg.get('num_classes') != len(classes):
        raise ConfigError(f"'num_classes' is {cfg.get('num_classes')!r}, the data have {len(classes)} classes: "
                          f"{', '.join(classes[:20])}. Write num_classes: from_data to take what is there.")
    with open(os.path.join(folder, LABEL_LIST), 'w', encoding='utf-8') as f:
        f.writelines(f'{name}\n' for name in classes)
    return classes, said


def _prepare_voc(cfg, folder, part, memory):
    """Write PaddleDetection's list of the images and XML files of a part."""
    options = dict(cfg.get('voc') or {})
    entries = {p: options.pop(p, None) for p in SECTIONS}[part]
    if not isinstance(entries, list) or not entries:
        raise ConfigError("VOC data need the setting 'voc' with the lists to use: voc: {train: [VOC2007/trainval], "
                          'eval: [VOC2007/test]}')
    section = cfg[SECTIONS[part]]
    root, lines, classes, filled = section['dataset_dir'], [], None, 0
    clean = os.path.join(folder, f'{part}_xml')
    os.makedirs(clean, exist_ok=True)
    for entry in entries:
        found = build_detection('voc', root, entry, **options)
        if classes not in (None, found.classes):
            raise DataError(f"'{entries[0]}' and '{entry}' have different classes. Give one {LABEL_LIST} in '{root}'.")
        classes = found.classes
        filled += _check(found, f'{part} ({entry})', memory)
        for k, image in enumerate(found.images):
            xml = os.path.join(clean, f'{len(lines):06d}.xml')
            _write_xml(found, k, xml)
            names = [os.path.relpath(path, root) for path in (image, xml)]
            if any(len(name.split()) != 1 for name in names):
                raise DataError(f"'{image}', '{xml}': PaddleDetection cannot read names with spaces below '{root}'. "
                                'Rename the file or folder.')
            lines.append(' '.join(names) + '\n')
    _enough(cfg, part, len(lines), filled)
    path = os.path.join(folder, f'{part}.txt')
    with open(path, 'w', encoding='utf-8') as f:
        f.writelines(lines)
    section.update(anno_path=path, image_dir='', label_list=os.path.join(folder, LABEL_LIST))
    return classes, [f"{part}: {len(lines)} images of {', '.join(entries)}"]


def _check(found, what, memory):
    """Read all images of a set; the number of those with objects."""
    return len(found) - check_pairs(found, what, memory)['empty']


def _enough(cfg, part, images, filled):
    """DataError if the images with objects, the only ones that PaddleDetection trains on, are fewer than a batch."""
    if part == 'train' and filled < cfg.get('total_batch', 1) and not cfg[SECTIONS[part]].get('allow_empty'):
        raise DataError(f'{filled} of the {images} images for training have an object, and only these are trained on: '
                        f"fewer than a batch of {cfg['total_batch']}. Label more images, or set -o total_batch=... "
                        'to a smaller one.')


def _write_xml(found, index, path):
    """The annotation of an image as our reader has understood it; PaddleDetection never gets the user's file.

    It reads fewer encodings, asks for a size and trains on boxes that were left out here.
    """
    height, width = found.sizes[index] if found.sizes[index].all() else found.load_image(index).shape[:2]
    _, objects = read_annotation(found.annotations[index])
    parts = [f'<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>']
    for number in found.objects_of(index):
        name, corners, difficult = objects[number - 1]
        box = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners))
        parts.append(f'<object><name>{escape(name)}</name><difficult>{int(difficult)}</difficult>'
                     f'<bndbox>{box}</bndbox></object>')
    with open(path, 'w', encoding='utf-8') as f:
        f.write('\n'.join([*parts, '</annotation>']))


def _prepare_coco(cfg, folder, part, memory):
    """Find the images of a part, and complete its annotations."""
    section = cfg[SECTIONS[part]]
    if not section.get('anno_path'):
        raise ConfigError(f"'{SECTIONS[part]}' has no 'anno_path', the annotation file below its 'dataset_dir'.")
    # what the config names may lie anywhere; what the annotations name may not leave the folder
    given = [os.path.normpath(os.path.join(section['dataset_dir'], section[key]))
             for key in ('anno_path', 'image_dir') if section.get(key)]
    root = os.path.commonpath([section['dataset_dir'], *given])
    file, *images = (os.path.relpath(p, root) for p in given)
    if not images and root != section['dataset_dir']:
        images = [os.path.relpath(section['dataset_dir'], root)]
    split = re.sub(r'^instances_|\.json$', '', os.path.basename(file))
    found = build_detection('coco', root, split, images=images[0] if images else None, annotations=file,
                            masks=bool(cfg.get('masks')))
    _enough(cfg, part, len(found), _check(found, part, memory))
    # the evaluator reads run-length masks itself, and exactly
    path = os.path.join(folder, f'{part}.json')
    more = write_coco(found, path, part == 'train')
    section.update(anno_path=path, image_dir=os.path.abspath(found.top))
    return found.classes, [f'{part}: {len(found)} images, {found.num_objects} objects', *more]


def images_at(path: str) -> list[str]:
    """The image files at a path, itself or (sorted) in the folder; DataError if there are none."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DataError(f"No image or folder '{path}'.")
    found = [os.path.join(path, name) for _, names in scan(path, recursive=False) for name in names]
    if not found:
        raise DataError(f"The folder '{path}' holds no images.")
    return found


def known_classes(weights: str) -> tuple[list[str], str]:
    """(names of the classes of a trained detector, the file with them that the training left beside its weights).

    Raises:
        DataError: there is none.
    """
    folder = os.path.dirname(os.path.abspath(weights))
    for path in (os.path.join(folder, LABEL_LIST), os.path.join(folder, 'data', LABEL_LIST)):
        if os.path.isfile(path):
            return [line for _, line in read_lines(path)], path
    raise DataError(f"No '{LABEL_LIST}' with the names of the classes beside '{weights}'. Put one there, a name a "
                    "line, in the order of the training's classes.")
